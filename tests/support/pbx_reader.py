"""A reader of a pretend PBX, made without any part of the bridge: a witness, on a clock of its own."""

import hashlib
import json
from typing import Any

from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.session import Close, Connection, Reply

DELETION_TYPES = {"AccountInfoDel", "AccountDelete"}


class Caller:
    """One connection to *pbx*, held from the other end. Time passes by 10 ms with every message."""

    def __init__(self, pbx: Pbx, *, modes: Modes | None = None, round_trip_seconds: float = 0.0) -> None:
        self.pbx = pbx
        self.now = 100.0
        self.closed_with: int | None = None
        self.heard: list[dict[str, Any]] = []
        self.delays: list[float] = []
        self.connection = Connection(pbx, modes=modes, round_trip_seconds=round_trip_seconds)
        self._take(self.connection.begin(self.now))
        self._asked = 0

    def say(self, **content: Any) -> list[dict[str, Any]]:
        """Send a message, and return the answers."""
        return self.say_text(json.dumps(content))

    def say_text(self, text: str) -> list[dict[str, Any]]:
        """Send *text*, and return the answers."""
        self.now += 0.01
        return self._take(self.connection.receive(text, self.now))

    def wait(self, seconds: float = 0.01) -> list[dict[str, Any]]:
        """Let time pass, and return what came meanwhile."""
        self.now += seconds
        return self._take(self.connection.tick(self.now))

    def hang_up(self) -> None:
        """End the connection."""
        self.connection.closed(self.now)

    def log_in(self, password: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Log in, and return what the PBX says to that."""
        said = self.say(mt="AppChallenge")
        challenge = next(message["challenge"] for message in said if message["mt"] == "AppChallengeResult")
        password = self.pbx.password if password is None else password
        proof = f"{self.pbx.app}:::::{challenge}:{password}"
        told = {"app": self.pbx.app, "domain": "", "sip": "", "guid": "", "dn": ""} | fields
        return self.say(mt="AppLogin", **told, digest=hashlib.sha256(proof.encode()).hexdigest())

    def ask(self, **cursor: Any) -> list[dict[str, Any]]:
        """Ask for the account after *cursor*."""
        self._asked += 1
        return self.say(mt="AccountInfo", api="PbxAccountApi", src=f"q-{self._asked}", **cursor)

    def _take(self, replies: list[Reply | Close]) -> list[dict[str, Any]]:
        said = []
        for reply in replies:
            if isinstance(reply, Close):
                self.closed_with = reply.code
                self.connection.closed(self.now)
            else:
                said.append(json.loads(reply.text))
                self.delays.append(reply.delay_seconds)
        self.now += max((reply.delay_seconds for reply in replies), default=0.0)
        self.heard += said
        return said


def inside(pbx: Pbx, *, modes: Modes | None = None, round_trip_seconds: float = 0.0) -> Caller:
    """Return a caller that is logged in."""
    caller = Caller(pbx, modes=modes, round_trip_seconds=round_trip_seconds)
    assert any(message.get("ok") is True for message in caller.log_in())
    return caller


class Follower:
    """Keeps a mirror of *pbx*, by the plainest rules that are right: upserts, guid probes, sweeps after full walks."""

    def __init__(self, pbx: Pbx) -> None:
        self.pbx = pbx
        self.caller = inside(pbx)
        self.cursor: dict[str, Any] = {}
        self.mirror: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self._heard_from: Caller | None = None

    def catch_up(self, *, full: bool = False) -> None:
        """Read until there is nothing further; with *full* from the start, and drop what did not appear."""
        seen: set[str] | None = set() if full else None
        self._probe()
        if full:
            self.cursor = {"guid": self.cursor["guid"]}
        silences = 0
        for _ in range(100 * (len(self.pbx.accounts.current) + 20)):
            answer = self._answer()
            if answer is None:
                silences += 1
                if silences == 3:  # once may be a mishap
                    break
                continue
            silences = 0
            if answer.get("error") and not answer.get("account-guid") and answer["errorText"] != "no further accounts":
                continue
            guid = answer.get("guid") or self.cursor["guid"]
            if guid != self.cursor["guid"]:
                self.cursor, seen = {"guid": guid}, set()
                if not answer.get("account-guid"):
                    continue
            if not self._apply(answer, seen):
                break
        else:
            raise AssertionError(f"the list has no end: {self.rows[-5:]}")
        if seen is not None:
            self.mirror = {guid: row for guid, row in self.mirror.items() if guid in seen}

    def _probe(self) -> None:
        while True:
            answer = self._answer(probe=True)
            if answer is not None and answer.get("guid"):
                break
        if answer["guid"] != self.cursor.get("guid"):
            self.cursor = {"guid": answer["guid"]}

    def _answer(self, *, probe: bool = False) -> dict[str, Any] | None:
        for _ in range(20):
            self.caller.wait()
            if self.caller.closed_with is not None:
                self.caller = inside(self.pbx)
                if not probe:
                    self._probe()
            said = self.caller.ask(**({} if probe else self.cursor))
            if self.caller.closed_with is None:
                return said[0] if said else None
        raise AssertionError(f"connections keep ending: {self.pbx!r}")

    def _apply(self, row: dict[str, Any], seen: set[str] | None) -> bool:
        """Take *row*, and return whether there is reason to ask on."""
        account = row.get("account-guid")
        if not account:
            return False
        told = {name: row[name] for name in ("usn", "ausn") if row.get(name) not in (None, "")}
        cursor = {"guid": self.cursor["guid"], **told}
        is_repeated = cursor == self.cursor
        self.cursor = cursor
        self.rows.append(row)
        is_bare = not row.get("account-h323")
        if row["mt"] in DELETION_TYPES or {"deleted", "del", "update"} & row.keys() or is_bare:
            self.mirror.pop(account, None)
        else:
            self.mirror[account] = row
            if seen is not None:
                seen.add(account)
        # A row again says "nothing further" only where it was told before on the same connection.
        is_end = is_repeated and self._heard_from is self.caller
        self._heard_from = self.caller
        return not is_end
