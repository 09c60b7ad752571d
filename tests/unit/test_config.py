from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bridge.config import Settings
from bridge.errors import BadConfig
from tests.support.certificates import written

MINIMUM = {
    "BRIDGE_PBX_URL": "wss://pbx.example.com",
    "BRIDGE_PBX_APP": "acct-bridge",
    "BRIDGE_PBX_PASSWORD": "pl4nted-s3cret",
    "BRIDGE_RABBITMQ_URL": "amqp://bridge:br0ker-s3cret@broker/",
}


def load(environment: Mapping[str, str], text: str = "", tmp_path: Path | None = None) -> Settings:
    file = None
    if tmp_path is not None:
        file = tmp_path / "bridge.toml"
        file.write_text(text, "utf-8")
    return Settings.load(file, environment)


def mistakes(text: str, tmp_path: Path, environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(BadConfig) as problem:
        load(environment or {}, text, tmp_path)
    return [line.strip().replace(str(tmp_path), "") for line in str(problem.value).splitlines()[1:]]


def test_one_pbx_fits_into_the_environment() -> None:
    settings = load(MINIMUM)
    (pbx,) = settings.pbx
    assert (pbx.name, pbx.full_url, pbx.app) == ("pbx", "wss://pbx.example.com/PBX0/APPS/websocket", "acct-bridge")
    assert pbx.secret.reveal() == "pl4nted-s3cret"
    assert pbx.poll_interval_seconds == 120
    assert settings.rabbitmq.urls == ["amqp://bridge:br0ker-s3cret@broker/"]
    assert settings.store.path == Path("bridge.db")


def test_a_path_that_is_given_is_kept() -> None:
    settings = load({**MINIMUM, "BRIDGE_PBX_URL": "ws://pbx:8080/PBX1/APPS/websocket"})
    assert settings.pbx[0].full_url == "ws://pbx:8080/PBX1/APPS/websocket"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    text = '[rabbitmq]\nurl = "amqp://file/"\nexchange = "from.file"\n[log]\nlevel = "debug"\n'
    settings = load({**MINIMUM, "BRIDGE_RABBITMQ_EXCHANGE": "from.environment"}, text, tmp_path)
    assert (settings.rabbitmq.exchange, settings.log.level) == ("from.environment", "debug")
    assert settings.rabbitmq.urls == [MINIMUM["BRIDGE_RABBITMQ_URL"]]


def test_lists_come_from_the_environment_with_commas() -> None:
    assert load({**MINIMUM, "BRIDGE_PUBLISH_EXCLUDE": "emails, groups"}).publish.exclude == ("emails", "groups")


def test_a_secret_may_be_a_file_which_is_read_at_every_use(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("first\n")
    settings = load({**MINIMUM, "BRIDGE_PBX_PASSWORD_FILE": str(secret)})
    assert settings.pbx[0].secret.reveal() == "first"
    secret.write_text("second\n")
    assert settings.pbx[0].secret.reveal() == "second"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[rabbitmq]\nexchnage = 'x'", "line 2: rabbitmq.exchnage: there is no such key; did you mean 'exchange'?"),
        ("[rabitmq]\nurl = 'x'", "line 1: rabitmq: there is no such key; did you mean 'rabbitmq'?"),
        ("[rabbitmq]\nwindow = 0", "line 2: rabbitmq.window: must be at least 1"),
        ("[rabbitmq]\nwindow = 5000", "line 2: rabbitmq.window: must be at most 1024"),
        ("[rabbitmq]\nwindow = 'many'", "line 2: rabbitmq.window: must be a whole number"),
        ("[rabbitmq]\ndeclare = 'perhaps'", "line 2: rabbitmq.declare: must be true or false"),
        ("[rabbitmq]\nlog_max_age = 'long'", "line 2: rabbitmq.log_max_age: must be a number and one of Y M D h m s"),
        ("[log]\nlevel = 'loud'", "line 2: log.level: must be 'debug', 'info', 'warning' or 'error'"),
        ("[store]\nurl = 'mysql://x'", "line 2: store.url: must look like sqlite:///bridge.db"),
        ("[store]\nurl = 'postgresql://x'", "line 2: store.url: PostgreSQL is not there yet"),
        ("[walk]\nnightly_at = '25:00'", "line 2: walk.nightly_at: must be a time like 02:00, or never"),
        (
            "[publish]\nmask = ['emial']",
            "line 2: publish.mask: 'emial' is no field of an account; did you mean 'emails'?",
        ),
        ("[publish]\nexclude = ['guid']", "line 1: publish: guid can be neither excluded nor masked"),
        ("[status]\nhost = '0.0.0.0'", "line 1: status: token is missing"),
        ("[[pbx]]\nname = 'HQ'\n", "line 2: pbx[0].name: must be lower-case letters, digits and dashes"),
        ("[[pbx]]\nurl = 'http://x'\n", "line 2: pbx[0].url: must look like wss://pbx.example.com/PBX0/APPS/websocket"),
        ("[[pbx]]\nurl = 'ws://x'\napp = 'a'\n", "line 1: pbx[0].password_file: is missing, and so is password"),
        ("[[pbx]]\napp = 'a'\npassword = 'p'\n", "line 1: pbx[0].url: is missing"),
        (
            "[[pbx]]\nurl='ws://x'\napp='a'\npassword_file='/nowhere'\n",
            "line 4: pbx[0].password_file: the secret in /nowhere",
        ),
        (
            "[[pbx]]\nurl='ws://x'\napp='a'\npassword='p'\npassword_file='/x'",
            "give password or password_file, not both",
        ),
        ("[[subscriber]]\nqueu = 'x'", "line 2: subscriber[0].queu: there is no such key; did you mean 'queue'?"),
    ],
)
def test_every_mistake_has_its_line_and_its_words(tmp_path: Path, text: str, sentence: str) -> None:
    assert [mistake for mistake in mistakes(text, tmp_path) if sentence in mistake], mistakes(text, tmp_path)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = "[rabbitmq]\nwindow = 0\nurll = 'x'\n[log]\nlevel = 'loud'\n"
    told = mistakes(text, tmp_path, {"BRIDGE_PBX_APPP": "x", "BRIDGE_STATUS_PORT": "99999"})
    assert len(told) == 7
    assert "BRIDGE_PBX_APPP: there is no such variable; did you mean 'BRIDGE_PBX_APP'?" in told
    assert "BRIDGE_STATUS_PORT: status.port: must be at most 65535" in told
    assert any(mistake.startswith("no PBX is configured") for mistake in told)
    assert any(mistake.startswith("no broker is configured") for mistake in told)


def test_two_pbxs_of_one_name_are_refused(tmp_path: Path) -> None:
    one = "[[pbx]]\nname = 'hq'\nurl = 'ws://x'\napp = 'a'\npassword = 'p'\n"
    told = mistakes("[rabbitmq]\nurl = 'amqp://x/'\n" + one + one, tmp_path)
    assert told == ["settings: two PBXs are called 'hq'; each needs a name of its own"]


@pytest.mark.parametrize("text", ["[rabbitmq", "x = ", "a = 1\na = 2"])
def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfig, match=r"is not TOML.*(line \d|end of document)"):
        load({}, text, tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nowhere.toml cannot be read: No such file"):
        Settings.load(tmp_path / "nowhere.toml", {})


def test_no_secret_is_in_anything_that_is_shown(tmp_path: Path) -> None:
    settings = load(MINIMUM)
    shown = f"{settings!r} {settings} {settings.redacted()} {settings.pbx[0].secret!r}"
    told = mistakes("", tmp_path, {**MINIMUM, "BRIDGE_PBX_URL": "http://x:pl4nted-s3cret@y"})
    assert "s3cret" not in shown
    assert "s3cret" not in "".join(told)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["url", "x", "name"]), inner, max_size=2)
    ),
    max_leaves=4,
)
names = st.sampled_from(["rabbitmq", "store", "publish", "status", "log", "walk", "pbx", "subscriber", "x"])
keys = st.sampled_from(
    ["url", "url_file", "window", "declare", "host", "port", "token", "name", "app", "password", "keys", "y"]
)


@given(
    st.dictionaries(names, values | st.dictionaries(keys, values, max_size=3), max_size=3),
    st.sampled_from([{}, MINIMUM]),
)
def test_whatever_the_file_says_it_is_settings_or_a_sentence(
    tables: dict[str, Any], environment: dict[str, str]
) -> None:
    with pytest.MonkeyPatch.context() as patch, suppress(BadConfig):
        patch.setattr("bridge.config._read", lambda _file: ("", tables))
        Settings.load(None, environment)


def test_the_log_is_written_by_us_where_a_stream_port_is_named(tmp_path: Path) -> None:
    settings = load(
        {**MINIMUM, "BRIDGE_RABBITMQ_STREAM_URL": "rabbitmq-stream://u:str3am-s3cret@a,rabbitmq-stream://b"}
    )
    assert settings.rabbitmq.stream_urls == ["rabbitmq-stream://u:str3am-s3cret@a", "rabbitmq-stream://b"]
    assert settings.rabbitmq.writes_log
    assert "str3am-s3cret" not in str(settings.redacted())
    assert not load(MINIMUM).rabbitmq.writes_log
    secret = tmp_path / "stream"
    secret.write_text("rabbitmq-stream+tls://u:p@a:5551/vhost\n")
    settings = load({**MINIMUM, "BRIDGE_RABBITMQ_STREAM_URL_FILE": str(secret)})
    assert settings.rabbitmq.stream_urls == ["rabbitmq-stream+tls://u:p@a:5551/vhost"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('stream_url = "amqp://host/"', "must look like rabbitmq-stream://"),
        ("log_partitions = 3", "log_partitions needs stream_url"),
    ],
)
def test_mistakes_about_the_log_are_named(line: str, said: str, tmp_path: Path) -> None:
    (mistake,) = mistakes(f"[rabbitmq]\n{line}\n", tmp_path, MINIMUM)
    assert said in mistake


def listening(tmp_path: Path, text: str, **environment: str) -> Settings:
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    return Settings.load(file, environment, require_rabbitmq=False)


def test_pbxs_that_dial_are_one_table_and_one_for_each_app(tmp_path: Path) -> None:
    certificate, key = written(trustme.CA(), tmp_path, "bridge.example.com")
    settings = listening(
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


def test_one_app_fits_into_the_environment(tmp_path: Path) -> None:
    settings = listening(
        tmp_path,
        "",
        BRIDGE_LISTEN_HOST="127.0.0.1",
        BRIDGE_LISTEN_APP_NAME="a",
        BRIDGE_LISTEN_APP_PASSWORD="pw",
    )
    assert settings.listen is not None
    assert settings.listen.app[0].secret.reveal() == "pw"


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
        '[listen]\nhost = "127.0.0.1"\napp = [{name = "a", password = "x"}, {name = "A", password = "y"}]\n',
        "there are two entries for 'a' and the same domain",
    ),
    ('[listen]\ncertificate_file = "/none"\n[[listen.app]]\nname = "a"\npassword = "x"\n', "certificate_file: /none"),
    ('[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nca_file = "/none"\n', "ca_file: /none cannot be used"),
    ('[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nfingerprint = "ab"\n', "must be a SHA-256 fingerprint"),
    (
        f'[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nfingerprint = "{"ab" * 32}"\ninsecure = true\n',
        "fingerprint and insecure: only one of them can decide",
    ),
    ('[rabbitmq]\nkey_file = "/none"\n', "certificate_file is missing: key_file alone proves nothing"),
])  # fmt: skip
def test_mistakes_about_tls_and_about_pbxs_that_dial_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfig) as problem:
        listening(tmp_path, text)
    assert words in str(problem.value)


def test_everything_insecure_is_told(tmp_path: Path) -> None:
    settings = listening(
        tmp_path,
        '[listen]\ninsecure = true\n[[listen.app]]\nname = "a"\npassword = "x"\n[rabbitmq]\ninsecure = true\n'
        '[[pbx]]\nname = "hq"\nurl = "ws://pbx.example"\napp = "a"\npassword = "x"\n'
        '[[pbx]]\nname = "other"\nurl = "wss://pbx.example"\napp = "a"\npassword = "x"\ninsecure = true\n',
    )
    told = list(settings.insecurities())
    assert len(told) == 4
    for word in ("listen.insecure", "rabbitmq.insecure", "PBX hq is talked to without TLS", "PBX other"):
        assert any(word in sentence for sentence in told)
