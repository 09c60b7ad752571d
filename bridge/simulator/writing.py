"""The JSON a pretend PBX writes, with all the oddities that the modes ask for."""

import json
from typing import Any, Final

import orjson

from bridge.simulator.changelist import Entry
from bridge.simulator.modes import (
    Api,
    CursorType,
    Deletion,
    Info,
    Json,
    Modes,
    Optional,
    Order,
    PbxInfoMode,
    RowGuid,
    Src,
)
from bridge.simulator.people import Record, build_info

_BIG: Final = (1 << 53) + 1
_HUGE: Final = (1 << 70) + 1
_ZEROS: Final = 12


def number_text(number: int, kind: CursorType) -> str:
    """Return the JSON text of a usn or ausn."""
    match kind:
        case CursorType.STRING:
            return f'"{number}"'
        case CursorType.NUMBER:
            return str(number)
        case CursorType.HEX:
            return f'"{number:x}"'
        case CursorType.ZEROS:
            return f'"{number:0{_ZEROS}}"'
        case CursorType.BIG:
            return str(_BIG + number)
        case CursorType.HUGE:
            return str(_HUGE + number)


def write_number(value: Any, kind: CursorType) -> int | None:
    """Return the number that was written as *value*; ``None`` where we never write one like that."""
    if kind is CursorType.STRING and isinstance(value, str) and value.isdecimal() and value.isascii():
        return int(value) if value[0] != "0" or value == "0" else None
    try:
        match kind:
            case CursorType.ZEROS if isinstance(value, str):
                number = int(value)
            case CursorType.HEX if isinstance(value, str):
                number = int(value, 16)
            case CursorType.NUMBER | CursorType.BIG | CursorType.HUGE if isinstance(value, int):
                number = value - {CursorType.BIG: _BIG, CursorType.HUGE: _HUGE}.get(kind, 0)
            case _:
                return None
    except ValueError:
        return None
    told = f'"{value}"' if isinstance(value, str) else str(value)
    return number if number_text(number, kind) == told else None


def needs_care(modes: Modes) -> bool:
    """Tell whether questions may carry numbers that the fast parser rounds."""
    return modes.cursor is CursorType.HUGE


def careful_loads(text: str | bytes) -> Any:
    """Parse JSON whose integers may be of any size."""
    return json.loads(text)


def head(src: Any, modes: Modes) -> str:
    """Return how every ``AccountInfoResult`` begins: type, api, src."""
    match modes.api:
        case Api.ECHOED:
            begin = '{"mt":"AccountInfoResult","api":"PbxAccountApi"'
        case Api.DROPPED:
            begin = '{"mt":"AccountInfoResult"'
        case Api.IMPERSONATION:
            begin = '{"mt":"AccountInfoResult","api":"PbxImpersonation"'
    if src is None or modes.src is Src.DROPPED:
        return begin
    return f'{begin},"src":{orjson.dumps(src).decode()}'


def without_account(begin: str, told: dict[str, Any], modes: Modes, *, numbers: tuple[int, int] | None = None) -> str:
    """Return an ``AccountInfoResult`` that tells of no account."""
    text = begin
    if numbers is not None:
        text += f",{_numbers(*numbers, modes)}"
    for name, value in told.items():
        text += f',"{name}":{orjson.dumps(value).decode()}'
    names = {"account-guid", "account-h323"} if numbers is not None else {"usn", "ausn", "account-guid", "account-h323"}
    for name in sorted(names - told.keys()):
        text += _missing(name, modes)
    return styled(text + "}", modes)


def row(  # noqa: PLR0913 - the circumstances of a row
    entry: Entry,
    modes: Modes,
    *,
    head: str,
    guid: str,
    place: tuple[str, str],
    is_guid_new: bool = False,
    is_gone: bool = False,
    is_whole: bool = True,
) -> str:
    """Return the ``AccountInfoResult`` of an account; *place* is the domain and the name of the PBX."""
    if is_guid_new or modes.row_guid is RowGuid.PRESENT:
        head = f'{head},"guid":"{guid}"'
    elif modes.optional is not Optional.ABSENT:
        head += _missing("guid", modes)
    if is_gone:
        return styled(_gone(entry, modes, head), modes)
    if modes.info is Info.DELTA and not is_whole:
        return styled(f"{head},{_account(entry, modes, place, is_whole=False)}}}", modes)
    if entry.written is None or entry.written[0] is not modes:
        entry.written = (modes, _account(entry, modes, place, is_whole=True))
    text = f"{head},{entry.written[1]}}}"
    return text if modes.json is Json.PLAIN else styled(text, modes)


def _account(entry: Entry, modes: Modes, place: tuple[str, str], *, is_whole: bool) -> str:
    record = entry.record
    text = f'{_numbers(entry.usn, entry.ausn, modes)},"account-guid":"{record.guid}"'
    text += f',"account-h323":{orjson.dumps(record.h323).decode()}'
    if modes.info is Info.MISSING:
        return text + _missing("info", modes)
    info = _info(record, modes, place)
    if not is_whole and entry.before is not None:
        before = _info(entry.before.record, modes, place)
        info = {name: value for name, value in info.items() if name not in before or before[name] != value}
    return f'{text},"info":{orjson.dumps(info).decode()}'


def _info(record: Record, modes: Modes, place: tuple[str, str]) -> dict[str, Any]:
    domain, pbx = place
    return build_info(record, modes.shape, domain=domain, pbx=pbx)


def _gone(entry: Entry, modes: Modes, head: str) -> str:
    """Return the row of an account that is no more."""
    record = entry.record
    numbers = f'{_numbers(entry.usn, entry.ausn, modes)},"account-guid":"{record.guid}"'
    variant = entry.usn % 3
    match modes.deletion:
        case Deletion.BARE:
            rest = ("", ',"account-h323":""', ',"account-h323":null,"info":{}')[variant]
            return f"{head},{numbers}{rest}}}"
        case Deletion.MT:
            mt = "AccountInfoDel" if variant else "AccountDelete"
            return f"{head.replace('AccountInfoResult', mt, 1)},{numbers}}}"
    mark = ('"deleted":true', '"del":true', '"update":"del"')[variant]
    return f'{head},{numbers},"account-h323":{orjson.dumps(record.h323).decode()},{mark}}}'


def _numbers(usn: int, ausn: int, modes: Modes) -> str:
    text = f'"usn":{number_text(usn, modes.cursor)}'
    if modes.order is Order.ABSENT:
        return text + _missing("ausn", modes)
    return f'{text},"ausn":{number_text(ausn, modes.cursor)}'


def _missing(name: str, modes: Modes) -> str:
    match modes.optional:
        case Optional.ABSENT:
            return ""
        case Optional.NULL:
            return f',"{name}":null'
        case Optional.EMPTY:
            nothing = "{}" if name == "info" else '""'
            return f',"{name}":{nothing}'


def pbx_info(name: str, domain: str, kind: PbxInfoMode) -> str:
    """Return how a PBX introduces itself."""
    apis = ["PbxSignal", "PbxTableUsers", "PbxAdminApi"]
    if kind is not PbxInfoMode.UNLISTED:
        apis.append("PbxAccountApi")
    told: dict[str, Any] = {
        "mt": "PbxInfo",
        "domain": domain,
        "pbx": name,
        "pbxDns": f"{name}.{domain}",
        "apis": apis,
    }
    if kind is not PbxInfoMode.BARE:
        told |= {"version": "16r1", "build": "16.1000"}
    return orjson.dumps(told).decode()


def styled(text: str, modes: Modes) -> str:
    """Return the message *text* written as the modes ask."""
    match modes.json:
        case Json.PLAIN:
            return text
        case Json.SHUFFLED:
            content = json.loads(text)
            return json.dumps(dict(reversed(content.items())), ensure_ascii=False, separators=(",", ":"))
        case Json.ESCAPED:
            return json.dumps(json.loads(text), indent=1).replace("/", "\\/")
        case Json.EXTRA:
            return f'{text[:-1]},"x-build":"161000","x-more":[{{"mt":"AccountInfo"}}],"x-none":null}}'
