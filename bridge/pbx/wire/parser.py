"""What a PBX says, read as values: tolerant, any property may be missing, null or unknown."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from json.encoder import encode_basestring
from typing import Any, Final, cast

import orjson

from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.pbx.wire import messages as m

API_NAMES = frozenset({m.API, "PbxImpersonation"})
"""What ``api`` may say in an answer. The vendor's page names both in different places; only the first is plausible."""

MAX_PROPERTIES: Final = 100
"""Of a login, which has eight: a stranger sent it, and they are looked at one by one."""

DELETION_WORDS = frozenset({"del", "delete", "deleted", "remove", "removed"})


def read_message(data: bytes | str) -> m.Message:
    """Return the message in *data*. Never raises: what cannot be read comes back as ``Unreadable``."""
    try:
        return _read(_decode(data), data)
    except _Unusable as unusable:
        return m.Unreadable(str(unusable))
    except RecursionError:
        return m.Unreadable("nested too deeply")
    except ValueError:
        return m.Unreadable("not valid JSON")


def _read(content: Any, data: bytes | str) -> m.Message:
    if not isinstance(content, dict):
        raise _Unusable(f"a JSON {type(content).__name__} where an object belongs")
    mt = content.get("mt")
    if not isinstance(mt, str):
        raise _Unusable("no message type (mt)")
    reader = _READERS.get(mt)
    if reader is None:
        return m.Other(mt)
    try:
        return reader(content, data)
    except _Unusable as unusable:
        raise _Unusable(f"{mt}: {unusable}") from None


class _Unusable(Exception):  # noqa: N818 - never leaves this module
    """Something of the wrong type where we cannot do without it."""


def _decode(data: bytes | str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        content = _mended(_read_text(data))
    mt = content.get("mt") if isinstance(content, dict) else None
    if isinstance(mt, str) and mt in _READERS:
        for name in _KEYS:
            if "\N{REPLACEMENT CHARACTER}" in str(content.get(name)):
                raise _Unusable(f"{mt}: {name} is no valid text")
    return content


_KEYS: Final = ("guid", "usn", "ausn", "account-guid")
"""What tells one thing from another: of two that were mended nobody could tell any more which is which."""


def _mended(text: str) -> Any:
    """Return what is in *text*, with U+FFFD where something in it is no text.

    A PBX that cuts a name in the middle of a character sends invalid UTF-8 or half a surrogate pair; the rest of such a
    message is still worth reading.
    """
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    mended = json.dumps(json.loads(text), ensure_ascii=False)
    return orjson.loads(mended.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _read_text(data: bytes | str) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data


def _cursor(content: Mapping[str, Any], data: bytes | str) -> Cursor:
    guid, usn, ausn = content.get("guid"), content.get("usn"), content.get("ausn")
    if isinstance(guid, float) or isinstance(usn, float) or isinstance(ausn, float):
        guid, usn, ausn = (_as_written(content, name, data) for name in ("guid", "usn", "ausn"))
    return Cursor(_token("guid", guid), _token("usn", usn), _token("ausn", ausn))


def _as_written(content: Mapping[str, Any], name: str, data: bytes | str) -> Any:
    """Return a property; of a float, or an integer beyond 64 bits, what was written, since its value is another one."""
    value = content.get(name)
    if not isinstance(value, float):
        return value
    return json.loads(_read_text(data), parse_float=_Written, parse_int=_Written)[name]


_as_json: Final = cast("Callable[[str], Token]", encode_basestring)
"""It writes what orjson does, in half the time; named so, since to call ``Token`` takes half as long again."""


class _Written(str):
    """A number as it was written."""

    __slots__ = ()


def _token(name: str, value: Any) -> Token | None:
    if type(value) is str:
        return _as_json(value) if value else None
    if value is None:
        return None
    if isinstance(value, _Written):
        return Token(str(value))
    if isinstance(value, int):
        return Token(orjson.dumps(value).decode())
    raise _Unusable(f"{name} is neither text nor number")


def _read_account_result(content: dict[str, Any], data: bytes | str) -> m.Message:
    src = _text(content, "src") or None
    complaint = content.get("error") or content.get("errorText") or content.get("err")
    if complaint:
        return m.RequestError(complaint if isinstance(complaint, str) else "without a text", src)
    api = content.get("api")
    if api is not None and not (isinstance(api, str) and api in API_NAMES):
        return m.Other(f"{content['mt']} of another api")
    cursor = _cursor(content, data)
    account_guid = content.get("account-guid")
    if isinstance(account_guid, float):
        account_guid = _as_written(content, "account-guid", data)
    if account_guid is None or account_guid == "":
        return m.NoAccount(cursor, src)
    if isinstance(account_guid, (bool, dict, list)):
        raise _Unusable("account-guid is neither text nor number")
    h323 = content.get("account-h323")
    info, unread = _info(content.get("info"))
    row = Row(
        cursor,
        AccountGuid(str(account_guid)),
        h323 if isinstance(h323, str) and h323 else None,
        info,
        _says_deleted(content),
        unread,
        len(data),
    )
    return m.AccountRow(row, src)


def _read_deletion(content: dict[str, Any], data: bytes | str) -> m.Message:
    result = _read_account_result(content, data)
    if not isinstance(result, m.AccountRow):
        return result
    row = result.row
    return m.AccountRow(replace(row, is_deleted=True), result.src)


def _info(value: Any) -> tuple[Mapping[str, Any] | None, str]:
    """Return what an ``info`` tells, ``None`` where that is nothing, and the form that it has if nobody can read it.

    The vendor says "the info Object". A text that holds one, or a list of just one, can be meant in one way only.
    """
    if isinstance(value, dict):
        return value or None, ""
    form = _FORMS.get(type(value), "a number")
    if isinstance(value, str):
        if not value.strip():
            return None, ""
        try:
            value = _mended(value)
        except (ValueError, RecursionError):
            return None, "a text that is no JSON"
        form = f"a JSON text with {_FORMS.get(type(value), 'a number')}"
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value in ({}, []):
        return None, ""
    return (value, "") if isinstance(value, dict) else (None, form)


_FORMS: Final[Mapping[type, str]] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


def _says_deleted(content: Mapping[str, Any]) -> bool:
    if content.get("deleted") is True or content.get("del") is True:
        return True
    update = content.get("update")
    return isinstance(update, str) and update.lower() in DELETION_WORDS


def _read_login(content: dict[str, Any], data: bytes | str) -> m.Message:
    told = {name: _text(content, name) for name in ("app", "digest", "domain", "sip", "guid", "dn")}
    info = content.get("info")
    if info is None:
        return m.AppLogin(**told)
    try:
        return m.AppLogin(**told, info=orjson.dumps(info).decode(), info_as_sent=_as_sent(_read_text(data), "info"))
    except (ValueError, IndexError, RecursionError, orjson.JSONEncodeError):
        raise _Unusable("info is nested too deeply, or beside too much, or not valid JSON") from None


_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _as_sent(text: str, name: str) -> str | None:
    """Return the characters of a property's value in the JSON object *text*; of several, those that count: the last.

    Raises:
        ValueError: it has more properties than any login.

    """
    found, left = None, MAX_PROPERTIES
    place = _after_space(text, text.index("{") + 1)
    while text[place] != "}":
        left -= 1
        if left < 0:
            raise ValueError("too many properties")
        key, place = _DECODER.raw_decode(text, place)
        start = _after_space(text, _after_space(text, place) + 1)
        _, place = _DECODER.raw_decode(text, start)
        if key == name:
            found = text[start:place]
        place = _after_space(text, place)
        if text[place] == ",":
            place = _after_space(text, place + 1)
    return found


def _after_space(text: str, place: int) -> int:
    gap = _SPACE.match(text, place)
    return place if gap is None else gap.end()


def _read_login_result(content: dict[str, Any], data: bytes | str) -> m.Message:
    del data
    if content.get("ok") is True:
        return m.LoginAccepted()
    return m.LoginRefused(_text(content, "errorText") or _text(content, "error"))


def _read_pbx_info(content: dict[str, Any], data: bytes | str) -> m.Message:
    del data
    apis = content.get("apis")
    named = tuple(api for api in apis if isinstance(api, str)) if isinstance(apis, list) else ()
    return m.PbxInfo(_text(content, "domain"), _text(content, "pbx"), named, _text(content, "version"))


_READERS: Final[dict[str, Callable[[dict[str, Any], bytes | str], m.Message]]] = {
    "AppChallenge": lambda _content, _data: m.AppChallenge(),
    # Old firmware sent the challenge as a number.
    "AppChallengeResult": lambda content, _data: m.AppChallengeResult(_text(content, "challenge")),
    "AppLogin": _read_login,
    "AppLoginResult": _read_login_result,
    "PbxInfo": _read_pbx_info,
    "AppInfo": lambda content, _data: m.AppInfo(_text(content, "app"), _text(content, "src") or None),
    "AppInfoResult": lambda content, _data: m.AppInfoResult(_text(content, "app"), _text(content, "src") or None),
    "CheckBuild": lambda content, _data: m.CheckBuild(_text(content, "url")),
    "CheckBuildResult": lambda _content, _data: m.CheckBuildResult(),
    "KeepAlive": lambda _content, _data: m.KeepAlive(),
    "AccountInfo": lambda content, data: m.AccountInfo(_text(content, "src"), _cursor(content, data)),
    "AccountInfoResult": _read_account_result,
    "AccountInfoDel": _read_deletion,
    "AccountDelete": _read_deletion,
    "Error": lambda content, _data: m.RequestError(
        _text(content, "errorText") or _text(content, "error"), _text(content, "src") or None
    ),
}


def _text(content: Mapping[str, Any], name: str) -> str:
    """Return a property as text; missing, null and structured values are the empty text."""
    value = content.get(name)
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""
