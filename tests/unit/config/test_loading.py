import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.uri import parse_uri
from yarl import URL

from bridge.config.loading import load_settings
from bridge.config.settings import Settings
from bridge.config.template import in_effect
from bridge.errors import BadConfig, FileUnusable
from bridge.runtime.from_settings import build_habits, build_limits, build_offer, build_pace, build_topology
from tests.support.settings import MINIMUM, load, mistakes, without_broker


def test_one_pbx_fits_into_the_environment() -> None:
    settings = load(MINIMUM)
    (pbx,) = settings.pbx
    assert (pbx.name, pbx.full_url, pbx.app) == ("pbx", "wss://pbx.example.com/PBX0/APPS/websocket", "acct-bridge")
    assert pbx.secret.reveal() == "pl4nted-s3cret"
    assert pbx.poll_interval_seconds == 120
    assert settings.rabbitmq.urls == ["amqp://bridge:br0ker-s3cret@broker/"]
    assert settings.store.read_url() == "sqlite:///bridge.db"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    text = '[rabbitmq]\nurl = "amqp://file/"\nexchange = "from.file"\n[log]\nlevel = "debug"\n'
    settings = load({**MINIMUM, "BRIDGE_RABBITMQ_EXCHANGE": "from.environment"}, text, tmp_path)
    assert (settings.rabbitmq.exchange, settings.log.level) == ("from.environment", "debug")
    assert settings.rabbitmq.urls == [MINIMUM["BRIDGE_RABBITMQ_URL"]]


def test_lists_come_from_the_environment_with_commas() -> None:
    assert load({**MINIMUM, "BRIDGE_PUBLISH_EXCLUDE": "emails, groups"}).publish.exclude == ("emails", "groups")


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
        (
            "[store]\nurl = 'postgresql://x'",
            "line 2: store.url: must look like postgresql://user:password@host:5432/database",
        ),
        ("[walk]\nnightly_at = '25:00'", "line 2: walk.nightly_at: must be a time like 02:00, or never"),
        (
            "[publish]\nmask = ['emial']",
            "line 2: publish.mask: 'emial' is no field of an account; did you mean 'emails'?",
        ),
        ("[publish]\nexclude = ['guid']", "line 1: publish: guid can be neither excluded nor masked"),
        ("[publish]\nmask = ['hidden']", "line 1: publish: hidden cannot be masked"),
        ("[status]\nhost = '0.0.0.0'", "line 1: status: token is missing"),
        ("[[pbx]]\nname = 'HQ'\n", "line 2: pbx[0].name: must be lower-case letters, digits and dashes"),
        ("[[pbx]]\nurl = 'http://x'\n", "line 2: pbx[0].url: must look like wss://pbx.example.com/PBX0/APPS/websocket"),
        ("[[pbx]]\nurl = 'ws://x'\napp = 'a'\n", "line 1: pbx[0].password_file: is missing, and so is password"),
        ("[[pbx]]\napp = 'a'\npassword = 'p'\n", "line 1: pbx[0].url: is missing"),
        (
            "[[pbx]]\nurl='wss://pbx:70000'\n",
            "line 2: pbx[0].url: must look like wss://pbx.example.com/PBX0/APPS/webso",
        ),
        ("[[pbx]]\nurl='wss://pbx:port'\n", "line 2: pbx[0].url: must look like wss://"),
        ("[[pbx]]\nurl='wss://p..bx'\n", "line 2: pbx[0].url: must look like wss://"),
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
    told = mistakes(text, tmp_path, {"BRIDGE_PBX_APPP": "x", "BRIDGE_STORE_PATH": "x", "BRIDGE_STATUS_PORT": "99999"})
    assert len(told) == 8
    assert "BRIDGE_PBX_APPP: there is no such variable; did you mean 'BRIDGE_PBX_APP'?" in told
    assert "BRIDGE_STORE_PATH: there is no such variable; did you mean 'BRIDGE_STORE_URL'?" in told, "of that table"
    assert "BRIDGE_STATUS_PORT: status.port: must be at most 65535" in told
    assert any(mistake.startswith("no PBX is configured") for mistake in told)
    assert any(mistake.startswith("no broker is configured") for mistake in told)


@pytest.mark.parametrize("text", ["[rabbitmq", "x = ", "a = 1\na = 2"])
def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfig, match=r"is not TOML.*(line \d|end of document)"):
        load({}, text, tmp_path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nowhere.toml cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.toml", {})


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert load(MINIMUM, "\ufeff[log]\r\nlevel = 'debug'\r\n", tmp_path).log.level == "debug"


@pytest.mark.parametrize("text", ["a = " + "[" * 5000 + "]" * 5000, "a = " + "9" * 5000, "a = " + "{b=" * 5000])
def test_toml_that_nobody_would_write_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfig, match=r"bridge.toml (cannot be read|is not TOML)"):
        load({}, text, tmp_path)


@pytest.mark.parametrize("service", ["bridge", "bridge-web", "bridge-status", "bridge-listen", "bridge-pbx"])
def test_what_kubernetes_says_about_a_service_of_that_name_is_none_of_our_settings(service: str) -> None:
    name, address = service.upper().replace("-", "_"), "tcp://10.0.0.7:8080"
    about = {f"{name}_SERVICE_HOST": "10.0.0.7", f"{name}_SERVICE_PORT": "8080", f"{name}_SERVICE_PORT_HTTP": "8080"}
    about |= {f"{name}_PORT": address, f"{name}_PORT_8080_TCP": address, f"{name}_PORT_8080_TCP_PROTO": "tcp"}
    about |= {f"{name}_PORT_8080_TCP_PORT": "8080", f"{name}_PORT_8080_TCP_ADDR": "10.0.0.7"}
    assert load({**about, **MINIMUM}).status.port == 8080
    assert load({**about, **MINIMUM, "BRIDGE_STATUS_PORT": "81"}).status.port == 81


def test_a_variable_that_is_empty_is_none(tmp_path: Path) -> None:
    text = "[rabbitmq]\nexchange = 'from.file'\n"
    empty = {"BRIDGE_RABBITMQ_EXCHANGE": "", "BRIDGE_PBX_PASSWORD_FILE": " ", "BRIDGE_STATUS_HOST": "", "BRIDGE_X": ""}
    settings = load({**MINIMUM, **empty}, text, tmp_path)
    assert (settings.rabbitmq.exchange, settings.status.host) == ("from.file", "127.0.0.1")
    assert settings.pbx[0].secret.reveal() == "pl4nted-s3cret"


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
        patch.setattr("bridge.config.loading._read", lambda _file: ("", tables))
        load_settings(None, environment)


VARIABLES = sorted(
    f"BRIDGE_{table.upper()}_{key.upper()}"
    for table, field in Settings.model_fields.items()
    for model in (field.annotation, *getattr(field.annotation, "__args__", ()))
    for key in getattr(model, "model_fields", ())
)
AWKWARD = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["inf", "nan", "1e308", "-1", "9" * 40, "0x10", "true", "\udcff", "/", "//", "..", "a" * 300, "ä" * 130]
    ),
    st.sampled_from(["ws", "amqp", "http", "sqlite", "rabbitmq-stream"]).flatmap(
        lambda scheme: st.text(alphabet="a1/#?@:,%[].é ", max_size=12).map(lambda rest: f"{scheme}://{rest}")
    ),
)


@given(st.dictionaries(st.sampled_from([*VARIABLES, "BRIDGE_LISTEN_APP_NAME", "BRIDGE_"]), AWKWARD, max_size=4))
def test_whatever_the_variables_say_it_is_settings_that_can_be_used_or_a_sentence(environment: dict[str, str]) -> None:
    with suppress(BadConfig):
        settings = load({**MINIMUM, **environment})
        assert "s3cret" not in str(settings.redacted())
        list(settings.insecurities())
        list(settings.troubles())
        list(in_effect(settings, {}))
        with suppress(FileUnusable):
            build_topology(settings)
            build_offer(settings)
            for url in (*settings.rabbitmq.urls, *settings.rabbitmq.stream_urls):
                assert URL(url).host == urlsplit(url).hostname
                assert URL(url).explicit_port == urlsplit(url).port
        build_habits(settings)
        build_limits(settings)
        for pbx in settings.pbx:
            build_pace(pbx)
            parse_uri(pbx.full_url)


@given(st.text(alphabet="[]{}=\"'#\n.,abrtx0159-: \ufeff\0é\\\\", max_size=60))
def test_whatever_a_file_holds_it_is_settings_or_a_sentence(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(BadConfig):
        load({}, text, Path(folder))


def test_one_app_fits_into_the_environment(tmp_path: Path) -> None:
    settings = without_broker(
        tmp_path,
        "",
        BRIDGE_LISTEN_HOST="127.0.0.1",
        BRIDGE_LISTEN_APP_NAME="a",
        BRIDGE_LISTEN_APP_PASSWORD="pw",
    )
    assert settings.listen is not None
    assert settings.listen.app[0].secret.reveal() == "pw"


def test_a_file_with_the_url_of_the_store_wins_over_the_url_that_an_image_has_as_default(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text("postgresql://bridge:pl4nted-s3cret@db.example.com/bridge\n")
    both = {"BRIDGE_STORE_URL_FILE": str(file), "BRIDGE_STORE_URL": "sqlite:////var/lib/account-bridge/bridge.db"}
    for environment in (both, dict(reversed(both.items()))):
        settings = load(MINIMUM | environment)
        assert settings.redacted()["store"]["url"] == "postgresql://bridge@db.example.com:5432/bridge"
        assert "pl4nted-s3cret" not in repr(settings)
    file.unlink()


def test_a_database_that_is_not_verified_is_said_to_be_insecure() -> None:
    url = "postgresql://bridge:pl4nted-s3cret@db.example.com/bridge?sslmode=disable"
    (sentence,) = load(MINIMUM | {"BRIDGE_STORE_URL": url}).insecurities()
    assert "db.example.com:5432/bridge may be talked to without TLS" in sentence
    assert "pl4nted-s3cret" not in sentence
