"""The PBX's part of a login, whoever of the two logs in."""

from typing import Any, Final, Protocol

import orjson

from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import digests_match, login_digest
from bridge.simulator import writing
from bridge.simulator.modes import Challenge, LoginMode, Modes, PbxInfoMode, Refusal, Second
from bridge.simulator.pbx import Pbx, Peer

FIELDS: Final = ("app", "domain", "sip", "guid", "dn", "digest")
GOODBYE: Final = 1000
NOT_ALLOWED: Final = 1008
REFUSAL_DELAY_SECONDS: Final = 3.0


class LoginSpeaker(Peer, Protocol):
    """The connection that the login is for."""

    @property
    def modes(self) -> Modes:
        """How the PBX behaves on it."""

    def say(self, message: m.Message) -> None:
        """Say *message*."""

    def say_text(self, text: str, delay_seconds: float = 0.0) -> None:
        """Say *text*, a whole message."""

    def blame(self, mistake: str) -> None:
        """Note what the other end did that no bridge should."""

    def came_in(self) -> None:
        """Do what follows a login."""


class Login:
    """How far the login of one connection has come."""

    def __init__(self, pbx: Pbx, connection: LoginSpeaker, *, calls: bool) -> None:
        self.is_done = False
        self.calls = calls
        self._pbx = pbx
        self._connection = connection
        self._challenge: str | None = None

    def begin(self) -> None:
        """Start, where starting is the PBX's part."""
        if self.calls:
            self._connection.say(m.AppChallenge())

    def heard(self, mt: str, content: dict[str, Any]) -> None:
        """Take a message that is not about accounts."""
        if self.calls:
            self._heard_as_caller(mt, content)
        elif mt == "AppChallenge":
            self._give_challenge()
        elif mt == "AppLogin":
            self._judge(content)

    def _give_challenge(self) -> None:
        modes = self._connection.modes
        digits = self._pbx.new_challenge()
        if modes.challenge is not Challenge.HEX:
            digits = str(int(digits, 16) % 10**15 + 10**15)
        self._challenge = digits
        told: Any = int(digits) if modes.challenge is Challenge.NUMBER else digits
        if modes.pbx_info is PbxInfoMode.EARLY:
            self._connection.say_text(writing.pbx_info(self._pbx.name, self._pbx.domain, PbxInfoMode.EARLY))
        self._connection.say_text(orjson.dumps({"mt": "AppChallengeResult", "challenge": told}).decode())

    def _judge(self, content: dict[str, Any]) -> None:
        pbx, connection = self._pbx, self._connection
        challenge, self._challenge = self._challenge, None
        if "key" in content:
            connection.blame("sent its session key")
        fault = self._fault(content, challenge)
        others = [other for other in pbx.connections.values() if other is not connection and other.is_in]
        if not fault and others and connection.modes.second is Second.REFUSED:
            fault = "the app is connected already"
        if fault:
            pbx.oracle.load.refusals += 1
            self._refuse(fault)
            return
        if connection.modes.second is Second.REPLACES:
            for other in others:
                other.hang_up(GOODBYE)
        pbx.oracle.load.logins += 1
        self.is_done = True
        connection.say(m.LoginAccepted())
        connection.came_in()

    def _fault(self, content: dict[str, Any], challenge: str | None) -> str:
        """Return why a login is to be refused; empty where it is not."""
        if challenge is None:
            self._connection.blame("logged in without a challenge of its own")
            return "no challenge"
        if self._connection.modes.login is LoginMode.STRICT and any(
            not isinstance(content.get(name), str) for name in FIELDS
        ):
            return "fields missing"
        told = {name: content[name] if isinstance(content.get(name), str) else "" for name in FIELDS}
        digest = told.pop("digest")
        info = orjson.dumps(content["info"]).decode() if content.get("info") is not None else None
        expected = login_digest(**told, info=info, challenge=challenge, password=self._pbx.password)
        if told["app"] != self._pbx.app or not digests_match(digest, expected):
            return "wrong app or password"
        if told["sip"]:
            self._connection.blame("logged in as a user")
        return ""

    def _refuse(self, reason: str) -> None:
        connection = self._connection
        match connection.modes.refusal:
            case Refusal.BARE:
                connection.say_text('{"mt":"AppLoginResult"}')
            case Refusal.FALSE:
                connection.say_text('{"mt":"AppLoginResult","ok":false}')
            case Refusal.TEXT:
                refusal = {"mt": "AppLoginResult", "ok": False, "error": 401, "errorText": reason}
                connection.say_text(orjson.dumps(refusal).decode())
            case Refusal.LATE:
                connection.say_text('{"mt":"AppLoginResult"}', REFUSAL_DELAY_SECONDS)
            case Refusal.CLOSE:
                connection.hang_up(GOODBYE)

    def _heard_as_caller(self, mt: str, content: dict[str, Any]) -> None:
        if mt == "AppChallengeResult":
            self._prove(str(content.get("challenge", "")))
        elif mt == "AppLoginResult":
            if content.get("ok") is True:
                self._pbx.oracle.load.logins += 1
                self.is_done = True
                self._connection.came_in()
            else:
                self._pbx.oracle.load.refusals += 1
                self._connection.hang_up(GOODBYE)

    def _prove(self, challenge: str) -> None:
        pbx = self._pbx
        info = {
            "appobj": pbx.app,
            "appdn": "Account bridge",
            "appurl": f"https://bridge.{pbx.domain}/{pbx.app}",
            "pbx": pbx.name,
            "cn": pbx.app,
            "apps": [],
        }
        told = {
            "app": pbx.app,
            "domain": pbx.domain,
            "sip": pbx.app,
            "guid": pbx.app_guid,
            "dn": "Account bridge",
            "info": orjson.dumps(info).decode(),
        }
        digest = login_digest(**told, challenge=challenge, password=pbx.password)
        self._connection.say(m.AppLogin(**told, digest=digest))
