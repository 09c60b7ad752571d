import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trustme
from jsonschema import Draft202012Validator, ValidationError

from bridge.config.descriptions import describe, tables_below
from bridge.config.loading import load_settings, origins
from bridge.config.settings import Settings
from bridge.config.template import commented, in_effect, schema, toml
from tests.support.certificates import written


def without_missing_files(text: str, tmp_path: Path) -> str:
    """Return *text* with every secret file in it replaced by one that is there."""
    secret, streams = tmp_path / "secret", tmp_path / "streams"
    secret.write_text("amqp://bridge:pw@localhost/")
    streams.write_text("rabbitmq-stream://bridge:pw@localhost/")
    text = text.replace('"/run/secrets/broker-streams"', f'"{streams}"')
    return re.sub(r'"/run/secrets/[\w-]+"', f'"{secret}"', text)


def loaded(text: str, tmp_path: Path, **environment: str) -> tuple[Settings, Path]:
    file = tmp_path / "bridge.toml"
    file.write_text(without_missing_files(text, tmp_path), "utf-8")
    return load_settings(file, environment), file


def test_the_file_to_begin_with_is_valid_as_it_is(tmp_path: Path) -> None:
    settings, _ = loaded(commented(), tmp_path)
    assert [pbx.name for pbx in settings.pbx] == ["hq"]
    assert settings.rabbitmq == settings.rabbitmq.model_copy(update={"url": None})
    assert settings.publish == Settings().publish


@pytest.mark.parametrize("problem", [OSError("could not get source code"), TypeError("is a built-in class")])
def test_where_only_what_was_compiled_is_installed_all_is_there_but_the_words(
    monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def refused(_table: object) -> str:
        raise problem

    worded, described = commented(), schema()
    monkeypatch.setattr(inspect, "getsource", refused)
    describe.cache_clear()
    try:
        assert tomllib.loads(commented()) == tomllib.loads(worded)
        assert schema()["properties"].keys() == described["properties"].keys()
    finally:
        describe.cache_clear()


def test_what_has_to_be_filled_in_comes_first() -> None:
    table = commented().partition("[[pbx]]")[2]
    keys = re.findall(r"^#?(\w+) = ", table, flags=re.MULTILINE)
    assert keys[:5] == ["name", "url", "app", "password", "password_file"]


def test_a_value_out_of_a_file_is_said_to_come_from_there(tmp_path: Path) -> None:
    settings, file = loaded(commented(), tmp_path)
    shown = {setting.key: setting for setting in in_effect(settings, origins(file, {}))}
    assert shown["rabbitmq.url"].origin == "the file that url_file names"
    assert shown["rabbitmq.window"].origin == "default"


def test_every_line_of_it_may_be_switched_on(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[a-z\[])", "", commented(), flags=re.MULTILINE)
    for alternative in (
        'url = "amqp',
        'url_file = "/run/secrets/store',
        "stream_url = ",
        "token = ",
        "password = ",
        "fingerprint = ",
        "client_fingerprint = ",
    ):  # each of them is there in another way, too: as a file, or as a CA
        text = re.sub(rf"^{re.escape(alternative)}.*\n", "", text, flags=re.MULTILINE)
    certificate, key = written(trustme.CA(), tmp_path, "bridge.example.com")
    text = re.sub(r'"/etc/ssl/[\w-]+\.key"', f'"{key}"', re.sub(r'"/etc/ssl/[\w-]+\.pem"', f'"{certificate}"', text))
    settings, _ = loaded(text, tmp_path)
    assert settings.listen is not None
    assert settings.listen.app[0].domain == "example.com"
    assert settings.subscriber[0].queue == "pbx.accounts.crm"
    assert settings.walk.quiet_from == "08:00"


def test_it_names_every_setting_and_says_what_it_is_for() -> None:
    text = commented()
    for table in tables_below(Settings):
        assert describe(table).keys() == table.model_fields.keys()
    made = schema()
    for table in (made, *made["$defs"].values()):
        for name, setting in table["properties"].items():
            assert setting["description"], name
            assert name in text


def test_what_is_in_effect_says_where_it_comes_from_and_shows_no_secret(tmp_path: Path) -> None:
    text = '[rabbitmq]\nurl = "amqp://bridge:hush-hush@host/"\nwindow = 8\n[[pbx]]\nurl = "wss://x"\napp = "a"\n'
    settings, file = loaded(
        text, tmp_path, BRIDGE_PBX_PASSWORD="hush-too", BRIDGE_LOG_LEVEL="debug", BRIDGE_PBX_EXCLUDE="emails"
    )
    environment = {"BRIDGE_PBX_PASSWORD": "x", "BRIDGE_LOG_LEVEL": "debug", "BRIDGE_PBX_EXCLUDE": "emails"}
    found = {setting.key: setting for setting in in_effect(settings, origins(file, environment))}
    assert found["rabbitmq.url"].value == "amqp://bridge:***@host/"
    assert found["rabbitmq.window"].origin == f"{file}, line 3"
    assert found["pbx[0].url"].origin == f"{file}, line 5"
    assert found["log.level"].origin == "BRIDGE_LOG_LEVEL"
    assert found["pbx[0].exclude"].value == ["emails"]
    assert (found["pbx[0].password"].value, found["pbx[0].password"].origin) == ("***", "BRIDGE_PBX_PASSWORD")
    assert found["walk.nightly_at"].origin == "default"
    lines = "\n".join(toml(list(found.values())))
    assert "hush" not in lines
    assert tomllib.loads(lines)["rabbitmq"]["window"] == 8


def test_a_value_in_an_inline_table_is_known_to_come_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "inline.toml"
    file.write_text('log = {level = "debug"}\n')
    settings = load_settings(file, {}, require_pbx=False, require_rabbitmq=False)
    found = {setting.key: setting.origin for setting in in_effect(settings, origins(file, {}))}
    assert found["log.level"] == str(file)


@pytest.mark.parametrize(
    ("content", "is_right"),
    [
        ({"rabbitmq": {"window": 8}}, True),
        ({"rabbitmq": {"window": 8000}}, False),
        ({"rabbitmq": {"wndow": 8}}, False),
        ({"rabitmq": {}}, False),
        ({"log": {"level": "loud"}}, False),
        ({"pbx": [{"name": "hq", "url": "wss://x", "app": "a", "password": "p", "exclude": ["emails"]}]}, True),
        ({"pbx": [{"name": "hq"}]}, False),
    ],
)
def test_the_schema_for_editors_knows_right_from_wrong(content: dict[str, Any], *, is_right: bool) -> None:
    validator = Draft202012Validator(dict(schema()))
    Draft202012Validator.check_schema(dict(schema()))
    if is_right:
        validator.validate(content)
    else:
        with pytest.raises(ValidationError):
            validator.validate(content)
