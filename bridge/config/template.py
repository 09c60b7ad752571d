"""The configuration for people: a commented file to begin with, what is in effect and why, and a schema for editors."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from bridge.config.descriptions import describe, tables_below, tables_of
from bridge.config.diagnostics import Key
from bridge.config.settings import Settings

SCHEMA_ID: Final = "urn:pbx-account-bridge:settings:1"
_WIDTH: Final = 100
_BEGINNING: Final[Mapping[Key, Any]] = {
    # What has to be said, and what most will want to say.
    ("rabbitmq", "url_file"): "/run/secrets/broker",
    ("store", "url"): "sqlite:////var/lib/account-bridge/bridge.db",
    ("pbx", "name"): "hq",
    ("pbx", "url"): "wss://pbx.example.com",
    ("pbx", "app"): "acct-bridge",
    ("pbx", "password_file"): "/run/secrets/hq",
}
_EXAMPLES: Final[Mapping[Key, Any]] = {
    # Of what has no default, or one that shows nothing.
    ("rabbitmq", "url"): "amqp://bridge:password@rabbitmq.example.com:5672/",
    ("rabbitmq", "ca_file"): "/etc/ssl/broker-ca.pem",
    ("rabbitmq", "stream_url"): "rabbitmq-stream://bridge:password@rabbitmq.example.com:5552/",
    ("rabbitmq", "stream_url_file"): "/run/secrets/broker-streams",
    ("rabbitmq", "server_name"): "rabbitmq.internal",
    ("rabbitmq", "fingerprint"): "AB:CD:… as account-bridge check shows it",
    ("rabbitmq", "certificate_file"): "/etc/ssl/bridge.pem",
    ("rabbitmq", "key_file"): "/etc/ssl/bridge.key",
    ("store", "url_file"): "/run/secrets/store",
    ("publish", "include"): ["template"],
    ("publish", "exclude"): ["emails"],
    ("publish", "mask"): ["numbers"],
    ("status", "token"): "a long random text",
    ("status", "token_file"): "/run/secrets/status",
    ("status", "hosts"): ["bridge.example.com"],
    ("status", "proxies"): ["10.0.0.1"],
    ("walk", "quiet_from"): "08:00",
    ("walk", "quiet_until"): "18:00",
    ("pbx", "password"): "at most 15 characters",
    ("pbx", "ca_file"): "/etc/ssl/pbx-ca.pem",
    ("pbx", "server_name"): "pbx.internal",
    ("pbx", "fingerprint"): "AB:CD:… as account-bridge check shows it",
    ("pbx", "certificate_file"): "/etc/ssl/bridge.pem",
    ("pbx", "key_file"): "/etc/ssl/bridge.key",
    ("listen", "certificate_file"): "/etc/ssl/bridge.pem",
    ("listen", "key_file"): "/etc/ssl/bridge.key",
    ("listen", "client_ca_file"): "/etc/ssl/pbx-ca.pem",
    ("listen", "proxies"): ["10.0.0.1"],
    ("listen.app", "pbxs"): ["hq"],
    ("listen.app", "client_fingerprint"): "AB:CD:… of the certificate that the PBX shows",
    ("listen.app", "name"): "acct-bridge",
    ("listen.app", "domain"): "example.com",
    ("listen.app", "password"): "at most 15 characters",
    ("listen.app", "password_file"): "/run/secrets/app",
    ("pbx", "include"): ["template"],
    ("pbx", "exclude"): ["emails"],
    ("pbx", "mask"): ["numbers"],
    ("pbx", "skip_unchanged"): True,
    ("subscriber", "queue"): "pbx.accounts.crm",
    ("subscriber", "ordered"): True,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting in effect."""

    key: str
    """As mistakes name it: ``pbx[0].url``."""
    value: Any
    """Secrets hidden."""
    origin: str
    """A line of the file, a variable, or ``default``."""


def commented() -> str:
    """Return a file with every setting: those that have to be said with an example, the others with their defaults."""
    lines = [
        "# Settings of account-bridge. What begins with # is off; behind it stands the default, or an example.",
        "# Every key is also a variable, BRIDGE_<TABLE>_<KEY>, which wins over this file.",
        "# What is in effect, and why: account-bridge config show. Whether it works: account-bridge check.",
    ]
    words = describe(Settings)
    for table, field in Settings.model_fields.items():
        lines += _table(table, field, words.get(table, ""), is_wanted=table not in {"subscriber", "listen"})
    return "\n".join(lines) + "\n"


def _table(name: str, field: FieldInfo, words: str, *, is_wanted: bool) -> Iterator[str]:
    header = f"[[{name}]]" if _is_list(field) else f"[{name}]"
    yield from ("", *_comment(words), header if is_wanted else f"#{header}")
    inner: list[tuple[str, FieldInfo]] = []
    (table,) = tables_of(field)
    settings, described = table.model_fields.items(), describe(table)
    for key, setting in sorted(settings, key=lambda each: not _is_to_be_filled_in(name, each[0])):
        if tables_of(setting):
            inner.append((key, setting))  # TOML wants them behind all plain keys
            continue
        yield from _comment(described.get(key, ""))
        begun = _BEGINNING.get((name, key))
        value = begun if begun is not None else _EXAMPLES.get((name, key), setting.default)
        yield f"{'' if begun is not None else '#'}{key} = {_toml(value)}"
    for key, setting in inner:
        yield from _table(f"{name}.{key}", setting, described.get(key, ""), is_wanted=is_wanted)


def _is_to_be_filled_in(table: str, key: str) -> bool:
    """Tell whether it comes first: what has to be said, by itself or by the file that holds it."""
    return (table, key) in _BEGINNING or (table, f"{key}_file") in _BEGINNING


def in_effect(settings: Settings, origins: Mapping[Key, str]) -> Iterator[Setting]:
    """Yield every setting, with what it is and where that comes from."""
    for key, value in _flat(settings.redacted()):
        named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")
        yield Setting(named, value, origins.get(key) or _from_a_file(key, origins) or "default")


def _from_a_file(key: Key, origins: Mapping[Key, str]) -> str:
    """Return where a value comes from that stands in a file which another setting names."""
    name = f"{key[-1]}_file"
    return f"the file that {name} names" if (*key[:-1], name) in origins else ""


def schema() -> Mapping[str, Any]:
    """Return a JSON Schema of the file, for editors."""
    made = Settings.model_json_schema()
    for table in tables_below(Settings):
        described = made if table is Settings else made["$defs"][table.__name__]
        for name, words in describe(table).items():
            described["properties"][name]["description"] = words
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        **made,
        "title": "Settings of account-bridge",
    }


def toml(settings: list[Setting]) -> Iterator[str]:
    """Yield *settings* as the lines of a file, each with its origin."""
    before = ""
    for setting in settings:
        table, _, name = setting.key.rpartition(".")
        if table != before:
            plain = table.partition("[")[0]
            yield from (["", f"[[{plain}]]"] if "[" in table else ["", f"[{plain}]"])
            before = table
        yield f"{f'{name} = {_toml(setting.value)}':<60}  # {setting.origin}"


def _flat(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, (*key, name))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value):
            yield from _flat(inner, (*key, number))
    elif len(key) > 1:  # an empty list of tables says nothing
        yield key, value


def _is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is tuple


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH)]


def _toml(value: Any) -> str:
    """Return a TOML value; JSON's texts, numbers and lists are some."""
    if value is PydanticUndefined or value is None:
        return '""'
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
