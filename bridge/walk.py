"""What to ask a PBX next: the walk along its list of accounts, decided without waiting and without a clock.

The vendor documents one request and its happy answer. Every rule below is right whatever a PBX does beside that:

- The guid is probed anew on every connection, twice: an equal guid means the stored cursor is good, another one means a
  new list (an *epoch*) that is read from the start. Two different guids in a row mean that probing says nothing.
- Usn and ausn are one opaque token: echoed, never compared but for equality.
- *Caught up* is proven by an answer without an account, or by the last account again. Silence proves nothing: we ask
  again at the next poll. An error is never taken for caught up.
- One question at a time. An account nobody asked for is not applied, it only makes us ask once more from where we are:
  whatever it told will come in its place.

``source`` carries out what ``Walker`` decides; times are seconds of any steady clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from bridge.errors import PbxBrokeProtocol, PbxRefusedRequest, PbxUnreachable
from bridge.model import Cursor, Row, Token
from bridge.wire import messages as m
from bridge.wire.protocol import Answer, Event, Stray

START: Final = Cursor()

MAX_ERRORS: Final = 3
"""Error answers in a row before we give the connection up."""

MAX_SILENT_POLLS: Final = 2
"""Polls without any answer before we ask whether anybody is there."""

MAX_EPOCHS: Final = 5
"""New guids on one connection before we call it nonsense."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patiently and how often a PBX is asked; all in seconds."""

    poll_interval: float = 120.0
    """Between the end of the list and the next question. The vendor's example uses two minutes."""
    poll_jitter: float = 0.1
    """Share of the interval by which it is varied, so that many PBXs are not asked at once."""
    answer_timeout: float = 30.0
    keepalive: float = 40.0
    """Without a word from us; reverse proxies cut silent connections after 60 s."""
    min_spacing: float = 0.0
    """Between two questions."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this question."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Say:
    """Send this message."""

    message: m.Message


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand this row on; once it is durable the cursor stands at *until*."""

    row: Row
    until: Cursor


@dataclass(frozen=True, slots=True)
class EpochBegan:
    """The PBX's list is another one than before; the cursor stands at its start."""

    start: Cursor


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Nothing further at the moment; proven by an answer, or only likely after silence."""

    is_proven: bool


Action = Ask | Say | Deliver | EpochBegan | CaughtUp


class Phase(StrEnum):
    """What the walker is about."""

    PROBING = "probing"
    READING = "reading"
    IDLE = "idle"


class Walker:
    """One connection's worth of reading, from the stored cursor *since*. *chance* returns numbers from 0 to 1.

    Every method returns what to do, in order, and raises a ``Transient`` error where the connection is of no more use.
    """

    def __init__(self, since: Cursor, pace: Pace, *, chance: Callable[[], float]) -> None:
        self.phase = Phase.PROBING
        self._cursor = since
        self._pace = pace
        self._chance = chance
        self._probed: list[Token] = []
        self._epochs = 0
        self._due: tuple[float, Cursor] | None = None
        """The next question, and when to ask it."""
        self._asked: Cursor | None = None
        """The question that waits for its answer."""
        self._deadline = 0.0
        self._last_asked = float("-inf")
        self._last_said = 0.0
        self._errors = 0
        self._silences = 0
        self._unreadable = ""
        self._last_row: Row | None = None
        self._cycle = _CycleFinder()

    def __repr__(self) -> str:
        return f"<Walker {self.phase} at {self._cursor}>"

    @property
    def wake_at(self) -> float:
        """When ``pass_time`` has something to do at the latest."""
        times = [self._last_said + self._pace.keepalive]
        if self._due is not None:
            times.append(max(self._due[0], self._last_asked + self._pace.min_spacing))
        if self._asked is not None:
            times.append(self._deadline)
        return min(times)

    def begin(self, now: float) -> Sequence[Action]:
        """Start, right after the login."""
        self._last_said = now
        self._plan(now, START)
        return self._act(now)

    def heard(self, event: Event, now: float) -> Sequence[Action]:
        """Take what the PBX said."""
        actions: list[Action] = []
        match event:
            case Answer(reply=reply):
                self._asked = None
                self._silences = 0
                self._unreadable = ""
                actions += self._answered(reply, now)
            case Stray(reply=m.AccountRow(row=row)):
                actions += self._strayed(row, now)
            case m.AppInfo(app=app, src=src):
                actions.append(Say(m.AppInfoResult(app, src)))
            case m.CheckBuild():
                actions.append(Say(m.CheckBuildResult()))
            case m.Unreadable(reason=reason):
                self._unreadable = reason
        return [*actions, *self._act(now)]

    def pass_time(self, now: float) -> Sequence[Action]:
        """Do what is due."""
        actions: list[Action] = []
        if self._asked is not None and now >= self._deadline:
            actions += self._silent(now)
        actions += self._act(now)
        if now >= self._last_said + self._pace.keepalive:
            actions.append(Say(m.KeepAlive()))
        if any(isinstance(action, Say) for action in actions):
            self._last_said = now
        return actions

    def _plan(self, when: float, cursor: Cursor) -> None:
        self._due = (when, cursor)

    def _act(self, now: float) -> list[Action]:
        if self._due is None:
            return []
        when, cursor = self._due
        if now < max(when, self._last_asked + self._pace.min_spacing):
            return []
        self._due = None
        self._asked = cursor
        self._deadline = now + self._pace.answer_timeout
        self._last_asked = self._last_said = now
        if self.phase is Phase.IDLE:
            self.phase = Phase.READING
        return [Ask(cursor)]

    def _answered(self, reply: m.AccountReply, now: float) -> list[Action]:
        if isinstance(reply, m.RequestError):
            return self._refused(reply.error, now)
        if self.phase is Phase.PROBING:
            return self._probe_answered(reply, now)
        self._errors = 0
        cursor = reply.row.cursor if isinstance(reply, m.AccountRow) else reply.cursor
        if cursor.guid is not None and cursor.guid != self._cursor.guid:
            return self._new_epoch(cursor.guid, now)
        if isinstance(reply, m.AccountRow):
            return self._read(reply.row, now)
        return self._caught_up(now, is_proven=True)

    def _probe_answered(self, reply: m.AccountRow | m.NoAccount, now: float) -> list[Action]:
        guid = reply.row.cursor.guid if isinstance(reply, m.AccountRow) else reply.cursor.guid
        if guid is None:
            return self._refused("no guid where one was asked for", now)
        self._probed.append(guid)
        if len(self._probed) == 1:
            self._plan(now, START)
            return []
        self.phase = Phase.READING
        if guid != self._cursor.guid:
            return self._new_epoch(guid, now)
        self._plan(now, self._cursor)
        return []

    @property
    def _probing_tells(self) -> bool:
        """False where the PBX makes up a guid for every question that carries none."""
        return len(set(self._probed)) == 1

    def _new_epoch(self, guid: Token, now: float) -> list[Action]:
        self._epochs += 1
        if self._epochs > MAX_EPOCHS:
            raise PbxBrokeProtocol("the PBX keeps changing its guid, so no list can be read to its end")
        self._cursor = Cursor(guid)
        self._last_row = None
        self._cycle = _CycleFinder()
        self._plan(now, self._cursor)
        return [EpochBegan(self._cursor)]

    def _read(self, row: Row, now: float) -> list[Action]:
        if row.cursor.is_start:
            if not row.is_deleted:
                raise PbxBrokeProtocol("the PBX sent an account without usn and ausn, so nothing behind it can be read")
            row = replace(row, cursor=self._cursor)
        row = replace(row, cursor=replace(row.cursor, guid=self._cursor.guid))
        is_same_place = row.cursor == self._cursor
        last, self._last_row = self._last_row, row
        if is_same_place and last is not None and last.account_guid == row.account_guid:
            return self._caught_up(now, is_proven=True)
        self._cursor = row.cursor
        deliver = Deliver(row, self._cursor)
        if self._cycle.closes_with(row.cursor):
            return [deliver, *self._caught_up(now, is_proven=False)]
        self._plan(now, self._cursor)
        return [deliver]

    def _caught_up(self, now: float, *, is_proven: bool) -> list[Action]:
        self.phase = Phase.IDLE
        self._epochs = 0
        self._cycle = _CycleFinder()
        varied = 1 + self._pace.poll_jitter * (2 * self._chance() - 1)
        self._plan(now + self._pace.poll_interval * varied, self._cursor)
        return [CaughtUp(is_proven)]

    def _strayed(self, row: Row, now: float) -> list[Action]:
        if self.phase is Phase.IDLE:
            self._plan(now, self._cursor)
        if row.is_deleted and self.phase is not Phase.PROBING:
            row = replace(row, cursor=replace(row.cursor, guid=self._cursor.guid))
            return [Deliver(row, self._cursor)]
        return []

    def _refused(self, error: str, now: float) -> list[Action]:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            raise PbxRefusedRequest(f"the PBX answers questions about accounts with an error: {_quoted(error)}")
        # Perhaps it does not know our guid any more; the probe will tell.
        self.phase = Phase.PROBING
        self._probed.clear()
        self._plan(now + 2.0**self._errors, START)
        return []

    def _silent(self, now: float) -> list[Action]:
        self._silences += 1
        if self._unreadable:
            raise PbxBrokeProtocol(f"the PBX's answers cannot be read: {self._unreadable}")
        if self.phase is Phase.PROBING:
            if self._silences >= MAX_SILENT_POLLS:
                raise PbxUnreachable(
                    f"the PBX let {self._silences} questions about accounts pass without an answer. Does its firmware "
                    "have the PbxAccountApi?"
                )
            self._plan(now, START)
            return []
        self._asked = (
            None  # but it stays open at the other end: should the answer come after all, it still counts as one
        )
        actions = self._caught_up(now, is_proven=False)
        if self._silences >= MAX_SILENT_POLLS:
            if not self._probing_tells:
                raise PbxUnreachable(f"the PBX let {self._silences} questions about accounts pass without an answer")
            self.phase = Phase.PROBING
            self._probed.clear()
            self._plan(now, START)
        return actions


class _CycleFinder:
    """Notices a list that bites its own tail, in constant memory (Brent's algorithm)."""

    def __init__(self) -> None:
        self._mark: Cursor | None = None
        self._steps = 0
        self._limit = 1

    def closes_with(self, cursor: Cursor) -> bool:
        """Take the next place, and tell whether it was passed before."""
        if cursor == self._mark:
            return True
        self._steps += 1
        if self._steps == self._limit:
            self._mark, self._steps, self._limit = cursor, 0, self._limit * 2
        return False


def _quoted(text: str) -> str:
    return repr("".join(character for character in text if character.isprintable())[:200])
