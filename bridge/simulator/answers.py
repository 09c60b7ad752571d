"""What a pretend PBX answers to questions about accounts, on one connection."""

from typing import Any, Final, NamedTuple, Protocol

import orjson

from bridge.pbx.wire import messages as m
from bridge.simulator import writing
from bridge.simulator.changelist import Entry
from bridge.simulator.modes import Dup, Error, Guid, Hold, Idle, Modes, Push, Speed, Stale
from bridge.simulator.oracle import OracleDelivery
from bridge.simulator.pbx import Pbx, Peer
from bridge.simulator.reading import ListReader

NOT_ALLOWED: Final = 1008
EVERY_FIFTH: Final = 5
PUSHED_AT_ONCE: Final = 100


class Speaker(Peer, Protocol):
    """The connection that the answers are for."""

    @property
    def modes(self) -> Modes:
        """How the PBX behaves on it."""

    def send(self, text: str, delay_seconds: float) -> None:
        """Send *text* as it is."""

    def say_text(self, text: str, delay_seconds: float = 0.0) -> None:
        """Say *text*, a whole message, in the mode's style."""

    def blame(self, mistake: str) -> None:
        """Note what the other end did that no bridge should."""


class Question(NamedTuple):
    """An ``AccountInfo`` as it came."""

    src: Any
    guid: Any
    usn: Any
    ausn: Any


class Answers:
    """Everything about accounts that is said on one connection."""

    def __init__(self, pbx: Pbx, connection: Speaker, *, round_trip_seconds: float) -> None:
        self._pbx = pbx
        self._connection = connection
        self._reader = ListReader(pbx, connection)
        self._round_trip_seconds = round_trip_seconds
        self._now = 0.0
        self._questions = 0
        self._rows = 0
        self._held: list[Question] = []
        self._waiting: list[tuple[float, bool]] = []
        """When each question under way has its answer, and whether it was a probe."""
        self._pushed_until = 0
        self._last_told: Entry | None = None

    @property
    def wants_changes(self) -> bool:
        """True where a change has to be told at once."""
        return bool(self._held) or self._connection.modes.push is Push.ROW

    def begin(self) -> None:
        """Start, right after the login."""
        self._pushed_until = self._pbx.accounts.head

    def end(self) -> None:
        """Forget held questions."""
        self._held.clear()

    def changed(self, now: float) -> None:
        """Say what is to be said after something changed."""
        self._now = now
        self._answer_held()
        if self._connection.modes.push is Push.ROW:
            self._push()

    def asked(self, content: dict[str, Any], now: float) -> None:
        """Take a question."""
        self._now = now
        pbx, modes = self._pbx, self._connection.modes
        self._questions += 1
        question = Question(content.get("src"), content.get("guid"), content.get("usn"), content.get("ausn"))
        self._measure(now, is_probe=not question.guid)
        if content.get("api") != m.API:
            self._connection.blame("asked another api, or none, for accounts")
            return
        if not pbx.has_api:
            self._complain(question, "unknown api")
        elif modes.error is not Error.NONE and self._questions % EVERY_FIFTH == 0:
            self._complain(question, "temporarily out of order")
        elif modes.speed is Speed.THROTTLE_CLOSE and pbx.meter.in_this_second > pbx.throttle_per_second:
            self._connection.hang_up(NOT_ALLOWED)
        elif not self._serve(question):
            if modes.hold is Hold.SINGLE:
                self._held.clear()
            self._held.append(question)

    def _measure(self, now: float, *, is_probe: bool) -> None:
        pbx = self._pbx
        load = pbx.oracle.load
        load.questions += 1
        per_second = pbx.meter.count(now)
        load.max_per_second = max(load.max_per_second, per_second)
        if self._waiting:
            self._waiting = [waiting for waiting in self._waiting if waiting[0] > now]
        held = (
            0 if self._connection.modes.hold is Hold.SINGLE else len(self._held)
        )  # a new question takes the held one's place
        parallel = 1 + held + len(self._waiting)
        load.max_parallel = max(load.max_parallel, parallel)
        if is_probe:
            probes = 1 + sum(was_probe for _, was_probe in self._waiting)
            load.max_parallel_probes = max(load.max_parallel_probes, probes)
            if probes > 1:
                self._connection.blame("asked twice at once without a guid")
        delay = self._delay()
        if delay or self._round_trip_seconds:
            self._waiting.append((now + delay + self._round_trip_seconds, is_probe))
        watchdog = pbx.watchdog
        if watchdog is not None and (parallel > watchdog.max_parallel or per_second > watchdog.max_per_second):
            load.watchdog_reboots += 1
            pbx.reboot()

    def _delay(self) -> float:
        match self._connection.modes.speed:
            case Speed.SLOW:
                return self._pbx.slow_seconds
            case Speed.BURST:
                return self._pbx.burst_seconds - self._now % self._pbx.burst_seconds
        return 0.0

    def _serve(self, question: Question) -> bool:
        """Answer *question*; return False where it is to be held."""
        modes = self._connection.modes
        guid = self._pbx.current_guid(self._connection, modes)
        if not question.guid:
            if modes.guid is Guid.REQUEST:
                guid = self._connection.guid = self._pbx.new_guid()
            self._say_account(question, {"guid": guid})
            return True
        is_stale = question.guid != guid and modes.stale is not Stale.IGNORE
        if is_stale and modes.stale is not Stale.ROWS:
            self._refuse_guid(question, guid)
            return True
        if is_stale:
            question = Question(question.src, guid, None, None)
        position = self._reader.position(question.usn, question.ausn)
        if modes.dup is Dup.CHAIN and self._rows == 0 and (again := self._reader.at(position)) is not None:
            self._tell(again, question, is_guid_new=is_stale)
            return True
        found = self._reader.next_after(position)
        if found.is_epoch_over:
            self._say_account(question, {"guid": self._pbx.current_guid(self._connection, modes)})
            return True
        if found.entry is not None:
            self._tell(found.entry, question, is_guid_new=is_stale)
            return True
        return self._idle(question, guid, position)

    def _tell(self, entry: Entry, question: Question | None, *, is_guid_new: bool = False) -> None:
        pbx, modes = self._pbx, self._connection.modes
        self._rows += 1
        guid = pbx.current_guid(self._connection, modes)
        is_gone = not pbx.is_listed(entry, modes)
        text = writing.row(
            entry,
            modes,
            head=self._head(question),
            guid=guid,
            is_guid_new=is_guid_new,
            is_gone=is_gone,
            is_whole=self._reader.is_walking(entry.position),
            place=(pbx.domain, pbx.name),
        )
        delay = self._delay()
        self._connection.send(text, delay)
        load = pbx.oracle.load
        load.rows += 1
        delivery = OracleDelivery(
            self._connection.number, guid, entry.usn, entry.ausn, entry.record.guid, entry.record, is_gone
        )
        pbx.oracle.deliveries.append(delivery)
        self._last_told = entry
        for call in pbx.on_rows:
            call()
        if modes.dup is Dup.CHAIN and self._rows % EVERY_FIFTH == 0:
            self._connection.send(text, delay)
            pbx.oracle.deliveries.append(delivery)
        elif modes.dup is Dup.LATE and entry.before is not None:
            older = Entry(0, entry.before.usn, entry.before.ausn, entry.before.record)
            stray = writing.row(older, modes, head=self._head(None), guid=guid, place=(pbx.domain, pbx.name))
            self._connection.send(stray, delay)
            pbx.oracle.deliveries.append(
                OracleDelivery(
                    self._connection.number,
                    guid,
                    older.usn,
                    older.ausn,
                    older.record.guid,
                    older.record,
                    is_deleted=False,
                )
            )

    def _idle(self, question: Question, guid: str, position: int) -> bool:
        """Say that there is nothing further; return False where that is said by holding the question."""
        kind = self._connection.modes.idle
        if kind is Idle.ERROR:
            self._complain(question, "no further accounts")
        elif kind is Idle.REPEAT and (last := self._last_there(position)) is not None:
            self._tell(last, question)
        elif kind is Idle.CURSOR:
            newest = self._pbx.accounts.newest
            numbers = (newest.usn, newest.ausn) if newest is not None else (0, 0)
            self._say_account(question, {}, numbers=numbers)
        elif kind not in {Idle.SILENT, Idle.HOLD}:
            told: dict[Idle, dict[str, Any]] = {
                Idle.BARE: {},
                Idle.EMPTY: {"account-guid": ""},
                Idle.NULL: {"account-guid": None},
            }
            self._say_account(question, told.get(kind, {"guid": guid}))
        return kind is not Idle.HOLD

    def _last_there(self, position: int) -> Entry | None:
        """Return what was told last, unless it is not so any more; then the last account up to *position*."""
        last = self._last_told
        if last is not None and self._pbx.accounts.current.get(last.record.guid) is last:
            return last
        return self._reader.at_or_before(position)

    def _answer_held(self) -> None:
        if not self._held:
            return
        if self._connection.modes.hold is Hold.QUEUE:
            if self._serve(self._held[0]):
                del self._held[0]
            return
        rows_before = self._rows
        *others, newest = self._held
        if not self._serve(newest):
            return
        self._held.clear()
        for question in others:
            if self._rows > rows_before and self._last_told is not None:
                self._tell(self._last_told, question)
            else:
                self._serve(question)

    def _push(self) -> None:
        listed = self._reader.told_after(self._pushed_until, PUSHED_AT_ONCE)
        self._pushed_until = self._pbx.accounts.head
        for entry in listed:
            self._tell(entry, None)

    def _refuse_guid(self, question: Question, guid: str) -> None:
        match self._connection.modes.stale:
            case Stale.NEWGUID:
                self._say_account(question, {"guid": guid})
            case Stale.ERROR:
                self._complain(question, "unknown guid")
            case Stale.CLOSE:
                self._connection.hang_up(NOT_ALLOWED)

    def _complain(self, question: Question, text: str) -> None:
        match self._pbx.error_form(self._connection.modes):
            case Error.PROP:
                self._say_account(question, {"error": 1, "errorText": text})
            case Error.MT:
                src = {} if question.src is None else {"src": question.src}
                message = {"mt": "Error", "error": 1, "errorText": text, **src}
                self._connection.say_text(orjson.dumps(message).decode(), self._delay())
            case Error.CLOSE:
                self._connection.hang_up(NOT_ALLOWED)

    def _say_account(self, question: Question, told: dict[str, Any], *, numbers: tuple[int, int] | None = None) -> None:
        text = writing.without_account(self._head(question), told, self._connection.modes, numbers=numbers)
        self._connection.send(text, self._delay())

    def _head(self, question: Question | None) -> str:
        return writing.head(None if question is None else question.src, self._connection.modes)
