from pathlib import Path

import pytest
import trustme

from bridge.errors import BadConfig
from tests.support.certificates import written
from tests.support.settings import MINIMUM, load, without_broker


def test_a_path_that_is_given_is_kept() -> None:
    settings = load({**MINIMUM, "BRIDGE_PBX_URL": "ws://pbx:8080/PBX1/APPS/websocket"})
    assert settings.pbx[0].full_url == "ws://pbx:8080/PBX1/APPS/websocket"


def test_pbxs_that_dial_are_one_table_and_one_for_each_app(tmp_path: Path) -> None:
    certificate, key = written(trustme.CA(), tmp_path, "bridge.example.com")
    settings = without_broker(
        tmp_path,
        f'[listen]\ncertificate_file = "{certificate}"\nkey_file = "{key}"\n'
        '[[listen.app]]\nname = "a"\npassword = "s3cret-1"\n'
        '[[listen.app]]\nname = "a"\ndomain = "d"\npassword = "two"\n',
    )
    assert settings.listen is not None
    assert [(app.name, app.domain, app.secret.reveal()) for app in settings.listen.app] == [
        ("a", None, "s3cret-1"),
        ("a", "d", "two"),
    ]
    assert "s3cret-1" not in str(settings.redacted())
    assert not list(settings.insecurities())


@pytest.mark.parametrize(("text", "words"), [
    ('[listen]\nhost = "127.0.0.1"\n', "listen.app: is missing"),
    ('[listen]\nhost = "127.0.0.1"\n[[listen.app]]\nname = "a"\n', "line 3: listen.app[0].password_file: is missing"),
    (
        '[listen]\n[[listen.app]]\nname = "a"\npassword = "x"\n',
        "certificate_file is missing. Without one accounts travel in the clear",
    ),
    (
        '[listen]\nhost = "127.0.0.1"\n[[listen.app]]\nname = "a"\npasword = "x"\n',
        "line 5: listen.app[0].pasword: there is no such key; did you mean 'password'?",
    ),
    (
        '[listen]\nhost = "127.0.0.1"\napp = [{name = "a", password = "x"}, {name = "a", password = "y"}]\n',
        "there are two entries for 'a' and the same domain",
    ),
    (
        '[listen]\nhost = "127.0.0.1"\nclient_ca_file = "/x"\napp = [{name = "a", password = "x"}]\n',
        "client_ca_file needs certificate_file",
    ),
    (
        ('[listen]\nhost = "127.0.0.1"\n[[listen.app]]\nname = "a"\npassword = "x"\n'
        f'client_fingerprint = "{"0" * 64}"\n'),
        "client_ca_file is missing",
    ),
    (
        '[listen]\nhost = "127.0.0.1"\n[[listen.app]]\nname = "a"\npassword = "x"\nclient_fingerprint = "0"\n',
        "must be a SHA-256 fingerprint",
    ),
    (
        '[listen]\nhost = "127.0.0.1"\nproxies = ["proxy.example"]\napp = [{name = "a", password = "x"}]\n',
        "'proxy.example' must be an address, or a network like 10.0.0.0/8",
    ),
    (
        '[listen]\nhost = "127.0.0.1"\nproxy_protocol = true\napp = [{name = "a", password = "x"}]\n',
        "proxies is missing: whose PROXY protocol is to be believed?",
    ),
    ('[listen]\ncertificate_file = "/none"\n[[listen.app]]\nname = "a"\npassword = "x"\n', "certificate_file: /none"),
])  # fmt: skip
def test_mistakes_about_pbxs_that_dial_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfig) as problem:
        without_broker(tmp_path, text)
    assert words in str(problem.value)
