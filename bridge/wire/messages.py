"""Every message between bridge and PBX as a value, to and from JSON.

Source of names and fields: the vendor's AppWebsocket and PbxAccountApi pages. Where those leave something open,
reading is tolerant (any property may be missing, null or unknown) and writing is minimal.

``AccountInfoResult`` carries three different things under one name, so it is read as three types: an account
(``AccountRow``), nothing to tell (``NoAccount``), or a refusal (``RequestError``). A message that cannot be read is the
value ``Unreadable``, not an exception: a PBX that stammers must not stop us.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import orjson

from bridge.model import AccountGuid, Cursor, Row, Token

START = Cursor()

API = "PbxAccountApi"
API_NAMES = frozenset({API, "PbxImpersonation"})
"""What ``api`` may say in an answer. The vendor's page names both in different places; only the first is plausible."""

DELETION_WORDS = frozenset({"del", "delete", "deleted", "remove", "removed"})


@dataclass(frozen=True, slots=True)
class Message:
    """One WebSocket text message."""

    mt: ClassVar[str] = ""

    def _properties(self) -> dict[str, Any]:
        """Return what follows ``mt`` in the JSON object."""
        return {}

    def to_json(self) -> str:
        """Return the JSON text; an AccountInfo's cursor parts are echoed as they came, character by character."""
        return orjson.dumps({"mt": self.mt, **self._properties()}).decode()


@dataclass(frozen=True, slots=True)
class AppChallenge(Message):
    """Caller: let me log in."""

    mt = "AppChallenge"


@dataclass(frozen=True, slots=True)
class AppChallengeResult(Message):
    """Callee: prove it with this."""

    mt = "AppChallengeResult"
    challenge: str

    def _properties(self) -> dict[str, Any]:
        return {"challenge": self.challenge}


@dataclass(frozen=True, slots=True)
class AppLogin(Message):
    """Caller: here is my proof."""

    mt = "AppLogin"
    app: str
    digest: str = field(repr=False)
    domain: str = ""
    sip: str = ""
    guid: str = ""
    dn: str = ""
    info: str | None = None
    """JSON text as sent: the digest covers it literally. Of a login that was read: compact, in the order as sent."""
    info_as_sent: str | None = field(default=None, repr=False, compare=False)
    """Of a login that was read: the very characters, should they differ from the compact form."""

    def _properties(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("app", "domain", "sip", "guid", "dn")}
        if self.info is not None:
            told["info"] = orjson.Fragment(self.info)
        return {**told, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class LoginAccepted(Message):
    """Callee: you are in. Only ``ok: true`` says so."""

    mt = "AppLoginResult"

    def _properties(self) -> dict[str, Any]:
        return {"ok": True}


@dataclass(frozen=True, slots=True)
class LoginRefused(Message):
    """Callee: you are not; anything but ``ok: true``."""

    mt = "AppLoginResult"
    error: str = ""

    def _properties(self) -> dict[str, Any]:
        return {"error": self.error} if self.error else {}


@dataclass(frozen=True, slots=True)
class PbxInfo(Message):
    """PBX: who I am. Documented only for connections that the PBX opens."""

    mt = "PbxInfo"
    domain: str = ""
    pbx: str = ""
    apis: tuple[str, ...] = ()
    version: str = ""

    def _properties(self) -> dict[str, Any]:
        told: dict[str, Any] = {"domain": self.domain, "pbx": self.pbx, "apis": list(self.apis)}
        return {**told, "version": self.version} if self.version else told


@dataclass(frozen=True, slots=True)
class AppInfo(Message):
    """PBX: what does your app offer?"""

    mt = "AppInfo"
    app: str = ""
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        return {"app": self.app, **_src(self.src)}


@dataclass(frozen=True, slots=True)
class AppInfoResult(Message):
    """Bridge: nothing that a user's home screen should show."""

    mt = "AppInfoResult"
    app: str = ""
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        info = {"hidden": True, "apis": {}}
        return {"app": self.app, "info": info, "serviceInfo": {"apis": {}}, **_src(self.src)}


@dataclass(frozen=True, slots=True)
class CheckBuild(Message):
    """Either: is your page still current? A browser-cache matter that may come before the login."""

    mt = "CheckBuild"
    url: str = ""

    def _properties(self) -> dict[str, Any]:
        return {"url": self.url}


@dataclass(frozen=True, slots=True)
class CheckBuildResult(Message):
    """Either: no ``url`` means yes."""

    mt = "CheckBuildResult"


@dataclass(frozen=True, slots=True)
class KeepAlive(Message):
    """Either: still here. Needs no answer."""

    mt = "KeepAlive"


@dataclass(frozen=True, slots=True)
class AccountInfo(Message):
    """Bridge: which account changed next after this cursor?

    Without any cursor part the PBX answers with its guid; with the guid alone, with the first account.
    """

    mt = "AccountInfo"
    src: str
    cursor: Cursor = START

    def _properties(self) -> dict[str, Any]:
        asked: dict[str, Any] = {"api": API, "src": self.src}
        for name, token in (("guid", self.cursor.guid), ("usn", self.cursor.usn), ("ausn", self.cursor.ausn)):
            if token is not None:
                asked[name] = orjson.Fragment(token)
        return asked


@dataclass(frozen=True, slots=True)
class AccountRow(Message):
    """PBX: this account changed next."""

    mt = "AccountInfoResult"
    row: Row
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        row = self.row
        told: dict[str, Any] = {"api": API, **_cursor(row.cursor), "account-guid": row.account_guid}
        if row.h323 is not None:
            told["account-h323"] = row.h323
        if row.info is not None:
            told["info"] = row.info
        if row.is_deleted:
            told["deleted"] = True
        return {**told, **_src(self.src)}


@dataclass(frozen=True, slots=True)
class NoAccount(Message):
    """PBX: my guid, or nothing further at the moment."""

    mt = "AccountInfoResult"
    cursor: Cursor = START
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        return {"api": API, **_cursor(self.cursor), **_src(self.src)}


@dataclass(frozen=True, slots=True)
class RequestError(Message):
    """PBX: I cannot answer that. Never to be mistaken for having nothing further."""

    mt = "Error"
    error: str = ""
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        return {"error": self.error, **_src(self.src)}


@dataclass(frozen=True, slots=True)
class Other(Message):
    """A message of another API, or of a firmware younger than this page. Ignored."""

    name: str


@dataclass(frozen=True, slots=True)
class Unreadable(Message):
    """Not a message at all; *reason* quotes nothing of it, since anything may stand there."""

    reason: str


AccountReply = AccountRow | NoAccount | RequestError


def new_challenge() -> str:
    """Return a fresh challenge: 16 hex digits, as the vendor's samples use."""
    return secrets.token_hex(8)


def read_message(data: bytes | str) -> Message:
    """Return the message in *data*. Never raises: what cannot be read comes back as ``Unreadable``."""
    try:
        content = _decode(data)
    except (ValueError, RecursionError):
        return Unreadable("not valid JSON")
    if not isinstance(content, dict):
        return Unreadable(f"a JSON {type(content).__name__} where an object belongs")
    mt = content.get("mt")
    if not isinstance(mt, str):
        return Unreadable("no message type (mt)")
    reader = _READERS.get(mt)
    if reader is None:
        return Other(mt)
    try:
        return reader(content, data)
    except _Unusable as unusable:
        return Unreadable(f"{mt}: {unusable}")


class _Unusable(Exception):  # noqa: N818 - never leaves this module
    """A property of the wrong type where we cannot do without it."""


def _decode(data: bytes | str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # A PBX that cuts a name in the middle of a character sends invalid UTF-8 or half a surrogate pair; the
        # rest of such a message is still worth reading.
        text = data.decode(errors="replace") if isinstance(data, bytes) else data
        mended = json.dumps(json.loads(text), ensure_ascii=False)
        return orjson.loads(mended.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _token(content: Mapping[str, Any], name: str, data: bytes | str) -> Token | None:
    value = content.get(name)
    if isinstance(value, str):
        return Token(orjson.dumps(value).decode()) if value else None
    if value is None:
        return None
    if isinstance(value, float):
        # Also an integer beyond 64 bits. Its text, not its value, is what we owe back.
        text = data.decode(errors="replace") if isinstance(data, bytes) else data
        return Token(str(json.loads(text, parse_float=str, parse_int=str)[name]))
    if isinstance(value, int):
        return Token(orjson.dumps(value).decode())
    raise _Unusable(f"{name} is neither text nor number")


def _read_account_result(content: dict[str, Any], data: bytes | str) -> Message:
    src = _text(content, "src") or None
    complaint = content.get("error") or content.get("errorText") or content.get("err")
    if complaint:
        return RequestError(complaint if isinstance(complaint, str) else "without a text", src)
    api = content.get("api")
    if api is not None and not (isinstance(api, str) and api in API_NAMES):
        return Other(f"{content['mt']} of another api")
    cursor = Cursor(_token(content, "guid", data), _token(content, "usn", data), _token(content, "ausn", data))
    account_guid = content.get("account-guid")
    if account_guid is None or account_guid == "":
        return NoAccount(cursor, src)
    if isinstance(account_guid, (bool, dict, list)):
        raise _Unusable("account-guid is neither text nor number")
    h323 = content.get("account-h323")
    info = content.get("info")
    row = Row(
        cursor,
        AccountGuid(str(account_guid)),
        h323 if isinstance(h323, str) and h323 else None,
        info if isinstance(info, dict) and info else None,
        _says_deleted(content),
    )
    return AccountRow(row, src)


def _read_deletion(content: dict[str, Any], data: bytes | str) -> Message:
    result = _read_account_result(content, data)
    if not isinstance(result, AccountRow):
        return result
    row = result.row
    return AccountRow(Row(row.cursor, row.account_guid, row.h323, row.info, is_deleted=True), result.src)


def _says_deleted(content: Mapping[str, Any]) -> bool:
    if content.get("deleted") is True or content.get("del") is True:
        return True
    update = content.get("update")
    return isinstance(update, str) and update.lower() in DELETION_WORDS


def _read_login(content: dict[str, Any], data: bytes | str) -> Message:
    told = {name: _text(content, name) for name in ("app", "digest", "domain", "sip", "guid", "dn")}
    info = content.get("info")
    if info is None:
        return AppLogin(**told)
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    try:
        return AppLogin(**told, info=orjson.dumps(info).decode(), info_as_sent=_as_sent(text, "info"))
    except (ValueError, IndexError, RecursionError, orjson.JSONEncodeError):
        raise _Unusable("info is nested too deeply, or not valid JSON") from None


_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _as_sent(text: str, name: str) -> str | None:
    """Return the characters of a property's value in the JSON object *text*; of several, those that count: the last."""
    found = None
    place = _after_space(text, text.index("{") + 1)
    while text[place] != "}":
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


def _read_login_result(content: dict[str, Any], data: bytes | str) -> Message:
    del data
    if content.get("ok") is True:
        return LoginAccepted()
    return LoginRefused(_text(content, "errorText") or _text(content, "error"))


def _read_pbx_info(content: dict[str, Any], data: bytes | str) -> Message:
    del data
    apis = content.get("apis")
    named = tuple(api for api in apis if isinstance(api, str)) if isinstance(apis, list) else ()
    return PbxInfo(_text(content, "domain"), _text(content, "pbx"), named, _text(content, "version"))


_READERS: Final[dict[str, Callable[[dict[str, Any], bytes | str], Message]]] = {
    "AppChallenge": lambda _content, _data: AppChallenge(),
    # Old firmware sent the challenge as a number.
    "AppChallengeResult": lambda content, _data: AppChallengeResult(_text(content, "challenge")),
    "AppLogin": _read_login,
    "AppLoginResult": _read_login_result,
    "PbxInfo": _read_pbx_info,
    "AppInfo": lambda content, _data: AppInfo(_text(content, "app"), _text(content, "src") or None),
    "AppInfoResult": lambda content, _data: AppInfoResult(_text(content, "app"), _text(content, "src") or None),
    "CheckBuild": lambda content, _data: CheckBuild(_text(content, "url")),
    "CheckBuildResult": lambda _content, _data: CheckBuildResult(),
    "KeepAlive": lambda _content, _data: KeepAlive(),
    "AccountInfo": lambda content, data: AccountInfo(
        _text(content, "src"),
        Cursor(_token(content, "guid", data), _token(content, "usn", data), _token(content, "ausn", data)),
    ),
    "AccountInfoResult": _read_account_result,
    "AccountInfoDel": _read_deletion,
    "AccountDelete": _read_deletion,
    "Error": lambda content, _data: RequestError(
        _text(content, "errorText") or _text(content, "error"), _text(content, "src") or None
    ),
}


def _text(content: Mapping[str, Any], name: str) -> str:
    """Return a property as text; missing, null and structured values are the empty text."""
    value = content.get(name)
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _src(src: str | None) -> dict[str, str]:
    return {} if src is None else {"src": src}


def _cursor(cursor: Cursor) -> dict[str, Any]:
    pairs = (("guid", cursor.guid), ("usn", cursor.usn), ("ausn", cursor.ausn))
    return {name: orjson.Fragment(token) for name, token in pairs if token is not None}
