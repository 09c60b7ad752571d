"""The settings, read from one TOML file and the environment; every mistake is told at once, each with its place."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from bridge.config.base import Table
from bridge.config.diagnostics import Key, Places, did_you_mean, find_lines
from bridge.config.pbx_files import read_pbx_files
from bridge.config.pbx_tables import AppTable
from bridge.config.settings import Settings
from bridge.config.toml_files import read_toml
from bridge.errors import BadConfig
from bridge.security.secret import hide, make_public
from bridge.security.urls import secrets_in

PREFIX: Final = "BRIDGE_"
CONFIG_VARIABLE: Final = "BRIDGE_CONFIG"
PBX: Final = "pbx"

_ABOUT_A_SERVICE: Final = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
_PORT_OF_A_SERVICE: Final = re.compile(r"(tcp|udp|sctp)://")
_NEVER_NONE: Final = frozenset({f"{PREFIX}STATUS_TOKEN", f"{PREFIX}STATUS_TOKEN_FILE"})
"""Empty ones are mistakes: without a token the page is open to this machine, and to whom a proxy on it lets in."""


def load_settings(
    file: Path | None,
    environment: Mapping[str, str],
    *,
    require_pbx: bool = True,
    require_rabbitmq: bool = True,
) -> Settings:
    """Return the settings in *file* and *environment*; the environment wins.

    Raises:
        BadConfig: with every mistake in one message.

    """
    text, tables = _read(file)
    mistakes: list[str] = []
    variables: dict[Key, str] = {}
    _overlay(tables, environment, mistakes, variables)
    settings = Settings()
    try:
        settings = Settings.model_validate(tables)
    except ValidationError as problems:
        where = Places(file, text, variables, _siblings)
        mistakes += [where.sentence(problem) for problem in problems.errors(include_url=False, include_input=False)]
    if settings.fleet.pbx_dir is not None:
        try:
            settings = _with_files(settings, settings.fleet.pbx_dir)
        except BadConfig as problem:
            mistakes.append(str(problem))
    if require_pbx and not (tables.get("pbx") or tables.get("listen") or tables.get("fleet")):
        mistakes.append(
            "no PBX is configured: set BRIDGE_PBX_URL, BRIDGE_PBX_APP and BRIDGE_PBX_PASSWORD_FILE, or make a "
            "table [listen] for PBXs that dial, or name a folder (fleet.pbx_dir)"
        )
    broker = tables.get("rabbitmq")
    if require_rabbitmq and not (isinstance(broker, Mapping) and {"url", "url_file"} & set(broker)):
        mistakes.append("no broker is configured: set BRIDGE_RABBITMQ_URL_FILE (or rabbitmq.url)")
    if mistakes:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise BadConfig("\n  ".join([f"the configuration has {count}:", *mistakes]))
    _know(settings)
    return settings


def _with_files(settings: Settings, folder: Path) -> Settings:
    pbxs, unusable = read_pbx_files(folder, [pbx.name for pbx in settings.pbx])
    files = {pbx.name: file for file, pbx in pbxs.items()}
    return settings.with_pbxs((*settings.pbx, *pbxs.values()), files, unusable)


def _know(settings: Settings) -> None:
    """Let what is shown be wiped clean from now on: of secrets, and of nothing else that is no secret anyway."""
    make_public(_texts(settings.redacted()))
    hide(secret for url in (*(pbx.url for pbx in settings.pbx), settings.traces.endpoint) for secret in secrets_in(url))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def origins(file: Path | None, environment: Mapping[str, str]) -> Mapping[Key, str]:
    """Return where each setting that was given comes from: a line of the file, or a variable.

    Raises:
        BadConfig: the file cannot be read.

    """
    text, tables = _read(file)
    variables: dict[Key, str] = {}
    in_file = dict.fromkeys(_leaves(tables), f"{file}")
    lines = {key: f"{file}, line {line}" for key, line in find_lines(text) if key in in_file}
    _overlay(tables, environment, [], variables)
    return in_file | lines | variables | _origins_of_files(tables)


def _origins_of_files(tables: Mapping[str, Any]) -> dict[Key, str]:
    """Return where the settings of PBXs come from that have a file of their own."""
    told, begun = tables.get("fleet"), tables.get("pbx")
    folder = told.get("pbx_dir") if isinstance(told, Mapping) else None
    if not isinstance(folder, str):
        return {}
    before = begun if isinstance(begun, list) else []
    pbxs, _ = read_pbx_files(Path(folder), [each.get("name", "pbx") for each in before if isinstance(each, Mapping)])
    found: dict[Key, str] = {}
    for number, file in enumerate(pbxs, len(before)):
        text, _ = read_toml(file)
        found[PBX, number, "name"] = f"{file}"
        found |= {(PBX, number, *key): f"{file}, line {line}" for key, line in find_lines(text)}
    return found


def _leaves(tables: Any, key: Key = ()) -> Iterator[Key]:
    if isinstance(tables, Mapping):
        for name, value in tables.items():
            yield from _leaves(value, (*key, name))
    elif isinstance(tables, list) and any(isinstance(item, Mapping) for item in tables):
        for number, item in enumerate(tables):
            yield from _leaves(item, (*key, number))
    else:
        yield key


def _read(file: Path | None) -> tuple[str, dict[str, Any]]:
    if file is None:
        return "", {}
    return read_toml(file)


def _overlay(
    tables: dict[str, Any],
    environment: Mapping[str, str],
    mistakes: list[str],
    origins: dict[Key, str],
) -> None:
    """Put ``BRIDGE_TABLE_KEY`` variables over *tables*; ``BRIDGE_PBX_…`` is the first PBX, and so for the apps."""
    known: dict[str, Key] = {
        f"{PREFIX}{table.upper()}_{key.upper()}": (table, 0, key) if table == "pbx" else (table, key)
        for table, field in Settings.model_fields.items()
        for key in _list_keys(field.annotation)
        if table != "subscriber" and (table, key) != ("listen", "app")
    }
    known |= {f"{PREFIX}LISTEN_APP_{key.upper()}": ("listen", "app", 0, key) for key in AppTable.model_fields}
    # The file last: an image has the URL of its store as a default, and whoever names a file means that.
    for variable, value in sorted(environment.items(), key=lambda given: given[0].endswith("_FILE")):
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE or variable.startswith(f"{PREFIX}TEST_"):
            continue
        is_none = not value.strip() and variable not in _NEVER_NONE
        if is_none or _is_of_kubernetes(variable, value):
            continue
        if variable not in known:
            mistakes.append(f"{variable}: there is no such variable{_hint(variable, known)}")
            continue
        path = known[variable]
        table, key = str(path[0]), str(path[-1])
        target = _table_at(tables, path[:-1])
        if target is None:
            continue  # the file has something else under this name, which is a mistake of its own
        for other in (f"{key}_file", key.removesuffix("_file")):
            if other != key:
                target.pop(other, None)
        is_list = _is_list(table, key)
        target[key] = [part.strip() for part in value.split(",") if part.strip()] if is_list else value
        origins[path] = variable


def _hint(variable: str, known: Iterable[str]) -> str:
    """Return which variable may have been meant: one of the table that it names, if there is such a table."""
    table = variable.removeprefix(PREFIX).partition("_")[0]
    beside = [name for name in known if name.startswith(f"{PREFIX}{table}_")]
    return did_you_mean(variable, beside or list(known))


def _is_of_kubernetes(variable: str, value: str) -> bool:
    """Tell whether it is about a Service called ``bridge`` or ``bridge-…``, as every container of its namespace has.

    ``BRIDGE_STATUS_PORT`` may be that or ours, which its value tells apart.
    """
    is_port = variable.endswith("_PORT") and _PORT_OF_A_SERVICE.match(value) is not None
    return is_port or _ABOUT_A_SERVICE.search(variable) is not None


def _table_at(tables: dict[str, Any], path: Key) -> dict[str, Any] | None:
    """Return the table at *path*, made where it is missing; ``None`` where something else is in its place."""
    found: Any = tables
    for step, following in zip(path, (*path[1:], None), strict=True):
        if isinstance(step, int):
            found = found[step] if isinstance(found, list) and found else None
        else:
            found = found.setdefault(step, [{}] if following == 0 else {}) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


def _list_keys(annotation: Any) -> Iterator[str]:
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Table):
            yield from candidate.model_fields


def _is_list(table: str, key: str) -> bool:
    if table in {"status", "listen"}:
        return key in {"hosts", "proxies", "pbxs"}
    return table in {"publish", "pbx"} and key in {"include", "exclude", "mask"}


def _siblings(path: Key) -> Sequence[str]:
    if path[:2] == ("listen", "app") and len(path) > 2:  # noqa: PLR2004 - below the table, not beside it
        return list(AppTable.model_fields)
    if len(path) == 1:
        return list(Settings.model_fields)
    field = Settings.model_fields.get(str(path[0]))
    return list(_list_keys(field.annotation)) if field is not None else []
