"""Every message between bridge and PBX as a value, and its JSON; ``parser`` makes values of JSON.

Source of names and fields: the vendor's AppWebsocket and PbxAccountApi pages. Where those leave something open, writing
is minimal.

``AccountInfoResult`` carries three different things under one name, so it is three types: an account (``AccountRow``),
nothing to tell (``NoAccount``), or a refusal (``RequestError``). A message that cannot be read is the value
``Unreadable``, not an exception: a PBX that stammers must not stop us.
"""

from dataclasses import field
from json.encoder import encode_basestring
from typing import Any, ClassVar

import orjson

from bridge.model import Cursor, Row, value

START = Cursor()

API = "PbxAccountApi"


@value
class Message:
    """One WebSocket text message."""

    mt: ClassVar[str] = ""

    def _properties(self) -> dict[str, Any]:
        """Return what follows ``mt`` in the JSON object."""
        return {}

    def to_json(self) -> str:
        """Return the JSON text."""
        return orjson.dumps({"mt": self.mt, **self._properties()}).decode()


@value
class AppChallenge(Message):
    """Caller: let me log in."""

    mt = "AppChallenge"


@value
class AppChallengeResult(Message):
    """Callee: prove it with this."""

    mt = "AppChallengeResult"
    challenge: str

    def _properties(self) -> dict[str, Any]:
        return {"challenge": self.challenge}


@value
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


@value
class LoginAccepted(Message):
    """Callee: you are in. Only ``ok: true`` says so."""

    mt = "AppLoginResult"

    def _properties(self) -> dict[str, Any]:
        return {"ok": True}


@value
class LoginRefused(Message):
    """Callee: you are not; anything but ``ok: true``."""

    mt = "AppLoginResult"
    error: str = ""

    def _properties(self) -> dict[str, Any]:
        return {"error": self.error} if self.error else {}


@value
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


@value
class AppInfo(Message):
    """PBX: what does your app offer?"""

    mt = "AppInfo"
    app: str = ""
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        return {"app": self.app, **_src(self.src)}


@value
class AppInfoResult(Message):
    """Bridge: nothing that a user's home screen should show."""

    mt = "AppInfoResult"
    app: str = ""
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        info = {"hidden": True, "apis": {}}
        return {"app": self.app, "info": info, "serviceInfo": {"apis": {}}, **_src(self.src)}


@value
class CheckBuild(Message):
    """Either: is your page still current? A browser-cache matter that may come before the login."""

    mt = "CheckBuild"
    url: str = ""

    def _properties(self) -> dict[str, Any]:
        return {"url": self.url}


@value
class CheckBuildResult(Message):
    """Either: no ``url`` means yes."""

    mt = "CheckBuildResult"


@value
class KeepAlive(Message):
    """Either: still here. Needs no answer."""

    mt = "KeepAlive"


@value
class AccountInfo(Message):
    """Bridge: which account changed next after this cursor?

    Without any cursor part the PBX answers with its guid; with the guid alone, with the first account.
    """

    mt = "AccountInfo"
    src: str
    cursor: Cursor = START

    def to_json(self) -> str:
        """Return the JSON text; the cursor's parts are echoed as they came, character by character."""
        src = encode_basestring(self.src)
        return f'{{"mt":"AccountInfo","api":"{API}","src":{src}{self.cursor.members}}}'


@value
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


@value
class NoAccount(Message):
    """PBX: my guid, or nothing further at the moment."""

    mt = "AccountInfoResult"
    cursor: Cursor = START
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        return {"api": API, **_cursor(self.cursor), **_src(self.src)}


@value
class RequestError(Message):
    """PBX: I cannot answer that. Never to be mistaken for having nothing further."""

    mt = "Error"
    error: str = ""
    src: str | None = None

    def _properties(self) -> dict[str, Any]:
        return {"error": self.error, **_src(self.src)}


@value
class Other(Message):
    """A message of another API, or of a firmware younger than this page. Ignored."""

    name: str


@value
class Unreadable(Message):
    """Not a message at all; *reason* quotes nothing of it, since anything may stand there."""

    reason: str


AccountReply = AccountRow | NoAccount | RequestError


def _src(src: str | None) -> dict[str, str]:
    return {} if src is None else {"src": src}


def _cursor(cursor: Cursor) -> dict[str, Any]:
    pairs = (("guid", cursor.guid), ("usn", cursor.usn), ("ausn", cursor.ausn))
    return {name: orjson.Fragment(token) for name, token in pairs if token is not None}
