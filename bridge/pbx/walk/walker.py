"""What to ask a PBX next: the walk along its list of accounts, decided without waiting and without a clock.

The vendor documents one request and its happy answer. Every rule below is right whatever a PBX does beside that:

- The guid is probed anew on every connection, twice: an equal guid means the stored cursor is good, another one means a
  new list (an *epoch*) that is read from the start. Two different guids in a row mean that probing says nothing.
- Usn and ausn are one opaque token: echoed, never compared but for equality.
- A PBX whose guid is known may have been set back to an older state: our place lies ahead of it then, and it tells
  nothing until its numbers have caught up. So on every connection one question goes behind the place before ours. What
  comes has to be what we know, or news: that has to come behind our place, too, and the account that led to our place
  has to be told anew, since it is there no longer. Anything else is a doubt, and moves nothing.
- *Caught up* is proven by an answer without an account, or by the last account again. Silence proves nothing, and
  neither does an error that stays although the guid is still told: we ask again at the next poll.
- A *full walk* reads the list from its start beside the live cursor, on one connection and under one guid, with live
  questions in between. Its end counts as proven when an answer said so and the live cursor then was caught up, too. The
  first reading of an epoch is a full walk by itself. An interrupted walk is worth nothing and begins anew.
- A list is read from its start only with a *turn*, which somebody gives who knows of all PBXs. Until then the
  connection is kept, and the guid is probed anew where that took long.
- One question at a time, with a pause after slow answers. An account nobody asked for is not applied, it only makes us
  ask once more from where we are: whatever it told will come in its place.

``reader`` carries out what ``Walker`` decides; times are seconds of any steady clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from bridge.errors import PbxBrokeProtocol, PbxRefusedRequest, PbxUnreachable
from bridge.events.wording import quoted
from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.pbx.walk.actions import (
    Action,
    Ask,
    CaughtUp,
    Compare,
    Doubted,
    EpochBegan,
    Pace,
    Reached,
    RowRead,
    Say,
    Sighted,
    WalkBegan,
    WalkEnded,
)
from bridge.pbx.walk.chain import CYCLE, REPEATED, Chain
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Answer, Event, Stray

START: Final = Cursor()

MAX_ERRORS: Final = 3
"""Error answers in a row before we let the question rest, or the connection if not even the guid is told."""

FIRST_ERROR_PAUSE: Final = 1.0
"""Seconds until a question that met an error is asked once more; after a second one the guid is probed anew."""

MAX_SILENT_POLLS: Final = 2
"""Polls without any answer before we ask whether anybody is there."""

MAX_EPOCHS: Final = 5
"""New guids on one connection before we call it nonsense."""


SLOW_FACTOR: Final = 4
"""An answer is slow when it took this many times as long as the fastest one: a long way is not a tired PBX."""

MAX_REST: Final = 10.0
"""Seconds a tired PBX is left alone at most."""

FRESH_SECONDS: Final = 2.0
"""A guid that was probed longer ago is probed anew before a list is read under it."""

WALK_STRETCH_ROWS: Final = 500
"""Rows of a full walk between two live questions; what the walk finds is settled at each of them."""


class Phase(StrEnum):
    """What the open or next question is for."""

    PROBING = "probing"
    CHECKING = "checking"
    READING = "reading"
    WALKING = "walking"
    WAITING = "waiting"
    """For the turn to read a new list."""
    IDLE = "idle"


# By names of their own, as those of ``Step``: to look a member up in its enum takes 900 instructions, and a row needs
# eight of them.
PROBING, CHECKING, READING = Phase.PROBING, Phase.CHECKING, Phase.READING
WALKING, WAITING, IDLE = Phase.WALKING, Phase.WAITING, Phase.IDLE


@dataclass(slots=True)
class _Walk:
    """A full walk under way."""

    chain: Chain
    rows_since_live: int = 0
    is_read: bool = False
    """Its end was told; now the live cursor has to catch up once more."""
    was_silent: bool = False
    """A question of it was not answered, and asked again."""
    errors: int = 0
    """Error answers in a row."""
    is_doubtful: bool = False
    """Not even then: what we take for its end proves nothing."""


class Walker:
    """One connection's worth of reading, from the stored cursor *since*. *chance* returns numbers from 0 to 1.

    *reached* is what the walker of the connection before came to. Without *has_turn* it reads no list from its start
    before ``take_turn``.

    Every method returns what to do, in order, and raises a ``Transient`` error where the connection is of no more use.
    """

    def __init__(
        self,
        since: Cursor,
        pace: Pace,
        *,
        chance: Callable[[], float],
        reached: Reached | None = None,
        has_turn: bool = True,
    ) -> None:
        self.phase = PROBING
        is_known = reached is not None and reached.cursor == since
        self._live = Chain(since, reached.before if reached is not None and is_known else None)
        self._led_here = reached.account if reached is not None and is_known else None
        """The account that led to where the live chain began."""
        self._is_check_due = not since.is_start
        """True until it was asked, or cannot be asked, whether the PBX still has what we know."""
        self._is_first_row = not since.is_start
        """True until the live cursor has moved."""
        self._expected: tuple[AccountGuid, Cursor] | None = None
        """News that came behind the place before ours, and so has to come as the next live answer."""
        self._owed: AccountGuid | None = None
        """An account that is no longer where it was, and so has to be told before the list is at its end."""
        self._walk: _Walk | None = None
        self._walk_wanted = False
        self._has_turn = has_turn
        self._awaited: tuple[Token, float] | None = None
        """The guid of a list that waits for its turn, and since when."""
        self._heeds_strays = True
        """False once a stray made us ask and there was no news, until the next poll."""
        self._is_first_reading = False
        """True while the live chain reads an epoch for the first time, from its start."""
        self._pace = pace
        self._chance = chance
        self._probed: list[Token] = []
        self._epochs = 0
        self._due: tuple[float, Cursor] | None = None
        """The next question, and when to ask it."""
        self._asked: Cursor | None = None
        """The question that waits for its answer."""
        self._last_question = START
        self._deadline = 0.0
        self._last_asked = float("-inf")
        self._last_said = 0.0
        self._next_live = float("inf")
        """When the live cursor is to be asked next, during a walk."""
        self._rest_until = float("-inf")
        self._fastest = float("inf")
        self._errors = 0
        self._probe_errors = 0
        self._silences = 0
        self._was_silent = False
        self._heard_last: tuple[str, Cursor] | None = None
        self._may_be_shifted = False
        """True once an answer may have been one to an earlier question; nothing is proven on this connection then."""
        self._unreadable = ""

    def __repr__(self) -> str:
        return f"<Walker {self.phase} at {self._live.cursor}>"

    @property
    def reached(self) -> Reached:
        """Where the live cursor stands, for the walker of the next connection."""
        return Reached(self._live.cursor, self._live.before, self._live.last_account or self._led_here)

    @property
    def wake_at(self) -> float:
        """When ``pass_time`` has something to do at the latest."""
        when = self._last_said + self._pace.keepalive
        if self._due is not None:
            when = min(when, max(self._due[0], self._earliest))
        return when if self._asked is None else min(when, self._deadline)

    @property
    def is_walking(self) -> bool:
        """True during a full walk, the first reading of an epoch included."""
        return self._walk is not None or self._is_first_reading

    @property
    def is_beside_live(self) -> bool:
        """True during a full walk other than the first reading: two cursors move."""
        return self._walk is not None

    @property
    def needs_turn(self) -> bool:
        """True while a list is read from its start, or is to be."""
        return self._is_first_reading or self._walk is not None or self._walk_wanted or self._awaited is not None

    def take_turn(self, now: float) -> Sequence[Action]:
        """Begin to read the list that waits, if one does; the turn counts until ``give_turn_back``."""
        self._has_turn = True
        actions: list[Action] = []
        if self.phase is WAITING and self._awaited is not None:
            guid, since = self._awaited
            if now - since > FRESH_SECONDS:
                self._probe(now)
            else:
                actions += self._begin_epoch(guid, now)
        elif self.phase is IDLE:
            actions += self._start_walk(now)
        return [*actions, *self._act(now)]

    def give_turn_back(self) -> None:
        """Take note that the turn is over."""
        self._has_turn = False

    def begin(self, now: float) -> Sequence[Action]:
        """Start, right after the login."""
        self._last_said = now
        self._plan(now, START)
        return self._act(now)

    def want_walk(self, now: float) -> Sequence[Action]:
        """Begin a full walk as soon as nothing else is under way; nothing happens where one is."""
        self._walk_wanted = not self.is_walking and self._awaited is None
        return [*self._start_walk(now), *self._act(now)] if self.phase is IDLE else []

    def heard(self, event: Event, now: float) -> Sequence[Action]:
        """Take what the PBX said."""
        if isinstance(event, Answer):
            answered = self._heard_answer(event, now)
            answered += self._act(now)
            return answered
        actions: list[Action] = []
        match event:
            case Stray(reply=m.AccountRow(row=row)):
                actions += self._strayed(row, now)
            case m.AppInfo(app=app, src=src):
                actions.append(Say(m.AppInfoResult(app, src)))
            case m.CheckBuild():
                actions.append(Say(m.CheckBuildResult()))
            case m.Unreadable(reason=reason):
                self._unreadable = reason
        return [*actions, *self._act(now)]

    def _heard_answer(self, answer: Answer, now: float) -> list[Action]:
        reply, question, is_certain = answer.reply, answer.question, answer.is_certain
        is_repeated = self._is_repeated(reply) and not question.cursor.is_start
        self._may_be_shifted |= not is_certain and (self._was_silent or is_repeated)
        self._rest(now)
        self._asked = None
        self._silences = 0
        self._unreadable = ""
        # What came too late while a list waits for its turn is asked once more.
        return [] if self.phase is WAITING else self._answered(reply, now)

    def _is_repeated(self, reply: m.AccountReply) -> bool:
        """Tell whether *reply* is the account of the answer before, as only the start of a list may be."""
        row = reply.row if isinstance(reply, m.AccountRow) else None
        before = self._heard_last
        self._heard_last = None if row is None else (row.account_guid, row.cursor)
        return row is not None and before == self._heard_last

    def pass_time(self, now: float) -> Sequence[Action]:
        """Do what is due."""
        actions: list[Action] = []
        if self._asked is not None and now >= self._deadline:
            actions += self._silent(now)
        actions += self._act(now)
        if now >= self._last_said + self._pace.keepalive:
            actions.append(Say(m.KeepAlive()))
            self._last_said = now
        return actions

    def _plan(self, when: float, cursor: Cursor) -> None:
        self._due = (when, cursor)

    @property
    def _earliest(self) -> float:
        return max(self._last_asked + self._pace.min_spacing, self._rest_until)

    def _rest(self, now: float) -> None:
        if self._asked is None:
            return  # an answer beyond its deadline was held on purpose, not slow
        took = now - self._last_asked
        self._fastest = min(self._fastest, took)
        if took > self._pace.slow_answer and took > SLOW_FACTOR * self._fastest:
            self._rest_until = now + min(took, MAX_REST)

    def _act(self, now: float) -> list[Action]:
        if self._due is None:
            return []
        when, cursor = self._due
        if now < when or now < self._earliest:
            return []
        self._due = None
        self._asked = self._last_question = cursor
        self._deadline = now + self._pace.answer_timeout
        self._last_asked = self._last_said = now
        self._heeds_strays |= now >= self._next_live
        if self.phase is IDLE:
            self.phase = READING
        return [Ask(cursor)]

    def _answered(self, reply: m.AccountReply, now: float) -> list[Action]:
        if isinstance(reply, m.RequestError):
            return self._refused(reply.error, now)
        if self.phase is PROBING:
            return self._probe_answered(reply, now)
        self._errors = 0
        cursor = reply.row.cursor if isinstance(reply, m.AccountRow) else reply.cursor
        if cursor.guid is not None and cursor.guid != self._live.cursor.guid:
            return self._new_epoch(cursor.guid, now)
        if self.phase is WALKING and self._walk is not None:
            return self._walk_answered(self._walk, reply, now)
        if self.phase is CHECKING:
            return self._check_answered(reply, now)
        return self._read(reply.row, now) if isinstance(reply, m.AccountRow) else self._caught_up(now, is_proven=True)

    def _probe_answered(self, reply: m.AccountRow | m.NoAccount, now: float) -> list[Action]:
        guid = reply.row.cursor.guid if isinstance(reply, m.AccountRow) else reply.cursor.guid
        if guid is None:
            return self._refused("no guid where one was asked for", now)
        self._probe_errors = 0
        self._probed.append(guid)
        if len(self._probed) == 1:
            return self._check(now) if guid == self._live.cursor.guid else self._probe_again(now)
        self.phase = READING
        if guid != self._live.cursor.guid:
            return self._new_epoch(guid, now)
        self._awaited = None
        self._plan(now, self._live.cursor)
        return []

    def _probe_again(self, when: float) -> list[Action]:
        self.phase = PROBING
        self._plan(when, START)
        return []

    def _check(self, now: float) -> list[Action]:
        """Ask behind the place before ours. The second probe follows, so that no answer is taken for a live one."""
        if not self._is_check_due:
            return self._probe_again(now)
        self._is_check_due = False
        if self._live.before is None:
            why = "it is not known what came before the account that was read last, which could be asked for"
            return [Doubted(why, is_evident=False), *self._probe_again(now)]
        self.phase = CHECKING
        self._plan(now, self._live.before)
        return []

    def _check_answered(self, reply: m.AccountRow | m.NoAccount, now: float) -> list[Action]:
        self._probe_again(now)
        if isinstance(reply, m.NoAccount):
            return [Doubted("it no longer has the account that was read last")]
        if reply.row.cursor.is_start:
            row = replace(reply.row, cursor=self._live.cursor)
            told: list[Action] = [RowRead(row, self._live.cursor)] if row.is_deleted else []
            return [*told, Doubted("it tells an account without numbers where a known one has to come")]
        row = self._own(reply.row, self._live)
        if row.cursor == self._live.cursor:
            return [Compare(row, is_news=False)]
        self._expected = (row.account_guid, row.cursor)
        self._owed = self._led_here
        return []

    def _wary(self, row: Row, *, has_moved: bool) -> list[Action]:
        """Compare the first live row with what came behind the place before ours."""
        if row.account_guid == self._owed:
            self._owed = None
        if not (has_moved and self._is_first_row):
            return []
        self._is_first_row = False
        expected, self._expected = self._expected, None
        if expected is not None and expected != (row.account_guid, row.cursor):
            return [Doubted("behind the last account read comes something else than behind the one before")]
        return [Compare(row, is_news=True)]

    def _still_owed(self) -> list[Action]:
        """Look at the end of the list whether everything came that had to."""
        is_owed = self._expected is not None or self._owed is not None
        self._expected = self._owed = None
        return (
            [Doubted("the account that was read last is no longer there, and is told nowhere else")] if is_owed else []
        )

    @property
    def _probing_tells(self) -> bool:
        """False where the PBX makes up a guid for every question that carries none."""
        return len(set(self._probed)) == 1

    def _new_epoch(self, guid: Token, now: float) -> list[Action]:
        if self._has_turn:
            return self._begin_epoch(guid, now)
        was_walking, self._walk, self._is_first_reading = self.is_walking, None, False
        self._walk_wanted = False
        self._awaited = guid, now
        self.phase = WAITING
        return [WalkEnded(is_proven=False, until=self._live.cursor)] if was_walking else []

    def _begin_epoch(self, guid: Token, now: float) -> list[Action]:
        self._awaited = None
        self._epochs += 1
        if self._epochs > MAX_EPOCHS:
            raise PbxBrokeProtocol("the PBX keeps changing its guid, so no list can be read to its end")
        self._live = Chain(Cursor(guid))
        self._walk = None
        self._walk_wanted = False
        self._is_first_reading = True
        self._is_check_due = self._is_first_row = False
        self._expected = self._owed = self._led_here = None
        self.phase = READING
        self._plan(now, self._live.cursor)
        return [EpochBegan(self._live.cursor)]

    def _own(self, row: Row, chain: Chain) -> Row:
        """Return *row* with the guid of this session, and with the place of *chain* where it brings none."""
        if row.cursor.is_start:
            if not row.is_deleted:
                raise PbxBrokeProtocol("the PBX sent an account without usn and ausn, so nothing behind it can be read")
            row = replace(row, cursor=chain.cursor)
        guid, cursor = self._live.cursor.guid, row.cursor
        if cursor.guid == guid:
            return row
        told = Cursor(guid, cursor.usn, cursor.ausn)
        return Row(told, row.account_guid, row.h323, row.info, row.is_deleted, row.unread, row.size)

    def _read(self, row: Row, now: float) -> list[Action]:
        row = self._own(row, self._live)
        since = self._live.cursor
        step = self._live.take(row)
        if step is REPEATED:
            return self._caught_up(now, is_proven=True)
        self._heeds_strays = True
        deliver = RowRead(row, self._live.cursor)
        wary: list[Action] = []
        if self._is_first_row or self._owed is not None:
            wary = self._wary(row, has_moved=row.cursor != since)
        if step is CYCLE:
            self._heeds_strays = False
            return [*wary, deliver, *self._caught_up(now, is_proven=False)]
        self._plan(now, self._live.cursor)
        return [*wary, deliver]

    def _caught_up(self, now: float, *, is_proven: bool, trouble: str = "") -> list[Action]:
        is_proven = is_proven and not self._may_be_shifted
        self.phase = IDLE
        self._epochs = 0
        self._live.rest()
        varied = 1 + self._pace.poll_jitter * (2 * self._chance() - 1)
        self._next_live = now + self._pace.poll_interval * varied
        actions: list[Action] = [*self._still_owed(), CaughtUp(is_proven, trouble)]
        if self._is_first_reading:
            self._is_first_reading = False
            actions.append(WalkEnded(is_proven, self._live.cursor))
        elif self._walk is not None and self._walk.is_read:
            # The walk saw everything before its last row, so this is as good a place to go on from as the live cursor,
            # and a better one where the PBX counts anew (after a rollback, say).
            walk, self._walk = self._walk, None
            self._live, self._led_here = Chain(walk.chain.cursor, walk.chain.before), walk.chain.last_account
            actions.append(WalkEnded(is_proven and not walk.is_doubtful, self._live.cursor))
        if self._walk is not None:
            self._walk.rows_since_live = 0
            self._go_on_walking(self._walk, now)
            return actions
        self._plan(self._next_live, self._live.cursor)
        return [*actions, *self._start_walk(now)]

    def _start_walk(self, now: float) -> list[Action]:
        if not (self._walk_wanted and self._has_turn):
            return []
        self._walk_wanted = False
        self._walk = _Walk(Chain(Cursor(self._live.cursor.guid)))
        self._go_on_walking(self._walk, now)
        return [WalkBegan()]

    def _go_on_walking(self, walk: _Walk, now: float) -> None:
        self.phase = WALKING
        self._plan(now, walk.chain.cursor)

    def _walk_answered(self, walk: _Walk, reply: m.AccountRow | m.NoAccount, now: float) -> list[Action]:
        actions: list[Action] = []
        step = REPEATED
        walk.was_silent = False
        walk.errors = 0
        if isinstance(reply, m.AccountRow):
            row = self._own(reply.row, walk.chain)
            step = walk.chain.take(row)
            if step is not REPEATED:
                actions.append(Sighted(row))
        if step is CYCLE:
            self._walk = None
            return [*actions, WalkEnded(is_proven=False, until=self._live.cursor), *self._ask_live(now)]
        walk.is_read = step is REPEATED
        walk.rows_since_live += 1
        if walk.is_read or walk.rows_since_live >= WALK_STRETCH_ROWS or now >= self._next_live:
            return [*actions, *self._ask_live(now)]
        self._go_on_walking(walk, now)
        return actions

    def _ask_live(self, now: float) -> list[Action]:
        self.phase = READING
        self._plan(now, self._live.cursor)
        return []

    def _strayed(self, row: Row, now: float) -> list[Action]:
        if self.phase is IDLE and self._heeds_strays:
            # Once only: a PBX that repeats old accounts after each answer would be asked for ever.
            self._heeds_strays = False
            self._plan(now, self._live.cursor)
        if row.is_deleted and self.phase not in {PROBING, WAITING}:
            row = replace(row, cursor=Cursor(self._live.cursor.guid, row.cursor.usn, row.cursor.ausn))
            return [RowRead(row, self._live.cursor)]
        return []

    def _refused(self, error: str, now: float) -> list[Action]:
        if self.phase is WALKING and self._walk is not None:
            return self._walk_refused(self._walk, now)
        trouble = f"the PBX answers questions about accounts with an error: {quoted(error)}"
        if self.phase is CHECKING:
            return [
                Doubted(f"asked for the account that was read last, {trouble}"),
                *self._probe_again(now + FIRST_ERROR_PAUSE),
            ]
        if self.phase is PROBING:
            self._probe_errors += 1
            if self._probe_errors >= MAX_ERRORS:
                raise PbxRefusedRequest(trouble)
            self._probe(now + 2.0**self._probe_errors)
            return []
        self._errors += 1
        if self._errors == 1:
            self._plan(now + FIRST_ERROR_PAUSE, self._last_question)
        elif self._errors < MAX_ERRORS:
            # Perhaps it does not know our guid any more; the probe will tell.
            self._probe(now + 2.0**self._errors)
        else:
            # It answers, but not this question: perhaps its way to say that there is nothing further.
            self._errors = 0
            return self._caught_up(now, is_proven=False, trouble=trouble)
        return []

    def _walk_refused(self, walk: _Walk, now: float) -> list[Action]:
        walk.errors += 1
        if walk.errors < MAX_ERRORS:
            self._plan(now + walk.errors * FIRST_ERROR_PAUSE, self._last_question)
            return []
        walk.is_read = walk.is_doubtful = True
        return self._ask_live(now)

    def _probe(self, when: float) -> None:
        self.phase = PROBING
        self._probed.clear()
        self._plan(when, START)

    def _silent(self, now: float) -> list[Action]:
        self._silences += 1
        self._was_silent = True
        if self._unreadable:
            raise PbxBrokeProtocol(f"the PBX's answers cannot be read: {self._unreadable}")
        if self.phase is PROBING:
            if self._silences >= MAX_SILENT_POLLS:
                raise PbxUnreachable(
                    f"the PBX let {self._silences} questions about accounts pass without an answer. Does its firmware "
                    "have the PbxAccountApi?"
                )
            self._plan(now, START)
            return []
        self._asked = None  # but it stays open at the other end: should the answer come after all, it still counts
        if self.phase is CHECKING:
            # No second probe: where answers come strictly in order, it would wait behind this question for ever.
            self._silences = 0
            self.phase = READING
            self._plan(now, self._live.cursor)
            return [Doubted("asked for the account that was read last, it says nothing")]
        if self.phase is WALKING and self._walk is not None:
            if not self._walk.was_silent:
                self._walk.was_silent = True
                self._go_on_walking(self._walk, now)
                return []
            # Perhaps its end; the live cursor is asked once more, as after any end, but nothing is proven.
            self._walk.is_read = self._walk.is_doubtful = True
            return self._ask_live(now)
        actions = self._caught_up(now, is_proven=False)
        if self._silences >= MAX_SILENT_POLLS:
            if not self._probing_tells:
                raise PbxUnreachable(f"the PBX let {self._silences} questions about accounts pass without an answer")
            self._probe(now)
        return actions
