"""The PBX's end of one connection: text and the time in, replies out. Opens nothing and waits for nothing.

Who uses it sends each ``Reply`` after its delay, closes where it says ``Close``, and calls ``tick`` whenever
``on_wake`` was called or ``wake_at`` has come.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from bridge.simulator import writing
from bridge.simulator.changelist import Entry
from bridge.simulator.login import Login
from bridge.simulator.modes import (
    AppInfo,
    Dup,
    Error,
    Guid,
    Hold,
    Idle,
    KeepAlive,
    Modes,
    PbxInfo,
    Push,
    Speed,
    Stale,
)
from bridge.simulator.oracle import Delivery
from bridge.simulator.pbx import CUT, Call, Pbx
from bridge.simulator.reading import Reader
from bridge.wire import messages as m

NOT_ALLOWED: Final = 1008

KEEPALIVE_SECONDS: Final = 60.0
LATE_SECONDS: Final = 3.0
EVERY_FIFTH: Final = 5
PUSHED_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True)
class Reply:
    """A message to send."""

    text: str
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is to be closed with this WebSocket code, without a goodbye where it is ``CUT``."""

    code: int
    delay_seconds: float = 0.0


class Question(NamedTuple):
    """An ``AccountInfo`` as it came."""

    src: Any
    guid: Any
    usn: Any
    ausn: Any


class Connection:
    """One connection of *pbx*, seen from its end. If it *calls*, the PBX logs in, otherwise the other end does.

    Its behaviour is that of the PBX unless it was given *modes* of its own (order and numbers are always the PBX's).
    *round_trip_seconds* only serves to see which questions overlap.
    """

    def __init__(
        self, pbx: Pbx, *, modes: Modes | None = None, calls: bool = False, round_trip_seconds: float = 0.0
    ) -> None:
        self.number = pbx.connected(self)
        self.guid = pbx.new_guid()
        """Of this session, for those who take the guid for that."""
        self.own_modes = modes
        self.on_wake: Call = lambda: None
        self._pbx = pbx
        self._login = Login(pbx, self, calls=calls)
        self._reader = Reader(pbx, self)
        self._round_trip_seconds = round_trip_seconds
        self._out: list[Reply | Close] = []
        self._now = 0.0
        self._last_heard = 0.0
        self._last_said = 0.0
        self._questions = 0
        self._rows = 0
        self._held: list[Question] = []
        self._waiting: list[tuple[float, bool]] = []
        """When each question under way has its answer, and whether it was a probe."""
        self._is_woken = False
        self._pushed_until = 0
        self._last_told: Entry | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.number} of {self._pbx.name}: {'in' if self.is_in else 'not in'}>"

    @property
    def modes(self) -> Modes:
        """How the PBX behaves on this connection."""
        return self.own_modes or self._pbx.modes

    @property
    def is_in(self) -> bool:
        """True after a login."""
        return self._login.is_done

    @property
    def wake_at(self) -> float | None:
        """When ``tick`` is due if nothing happens before."""
        match self.modes.keepalive:
            case KeepAlive.SENT:
                return self._last_said + KEEPALIVE_SECONDS
            case KeepAlive.REQUIRED:
                return self._last_heard + KEEPALIVE_SECONDS
        return None

    def begin(self, now: float) -> list[Reply | Close]:
        """Take note that the connection is open, and return what the PBX says unasked."""
        self._now = self._last_heard = self._last_said = now
        self._login.begin()
        return self._taken()

    def receive(self, text: str | bytes, now: float) -> list[Reply | Close]:
        """Take a message, and return what the PBX answers."""
        self._now = self._last_heard = now
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError:
            self.blame("sent something that is no JSON")
            return self._taken()
        mt = content.get("mt") if isinstance(content, dict) else None
        if mt == "AccountInfo":
            if self._login.is_done:
                if writing.needs_care(self.modes):
                    content = writing.careful_loads(text)
                self._asked(content, now)
            else:
                self.blame("asked for accounts before the login")
                self.hang_up(NOT_ALLOWED)
        elif mt == "KeepAlive":
            if self.modes.keepalive is KeepAlive.ANSWERED:
                self.say(m.KeepAlive())
        elif mt == "CheckBuild":
            self.say(m.CheckBuildResult())
        elif isinstance(mt, str):
            self._login.heard(mt, content)
        else:
            self.blame("sent a message without a type")
        return self._taken()

    def tick(self, now: float) -> list[Reply | Close]:
        """Return what there is to say by now without having been asked."""
        self._now = now
        wake_at = self.wake_at
        if wake_at is not None and now >= wake_at:
            if self.modes.keepalive is KeepAlive.SENT:
                self.say(m.KeepAlive())
            else:
                self.hang_up(CUT)
        if self._is_woken:
            self._is_woken = False
            if self.is_in:
                self._answer_held()
                if self.modes.push is Push.ROW:
                    self._push()
        return self._taken()

    def closed(self, now: float) -> None:
        """Take note that the connection is over."""
        self._now = now
        self._held.clear()
        self._pbx.disconnected(self)

    def wake(self) -> None:
        """Take note that the PBX changed."""
        self._is_woken = True
        if self._held or self._out or self.modes.push is Push.ROW:
            self.on_wake()

    # What the other parts of a connection use

    def hang_up(self, code: int) -> None:
        """Close the connection with a WebSocket code, with the next of ``receive`` and ``tick``."""
        self._out.append(Close(code))
        self.on_wake()

    def say(self, message: m.Message, delay_seconds: float = 0.0) -> None:
        """Say *message*."""
        self.say_text(message.to_json(), delay_seconds)

    def say_text(self, text: str, delay_seconds: float = 0.0) -> None:
        """Say *text*, a whole message."""
        self._out.append(Reply(writing.styled(text, self.modes), delay_seconds))

    def blame(self, mistake: str) -> None:
        """Note what the other end did that no bridge should."""
        self._pbx.oracle.mistakes.append(f"connection {self.number} {mistake}")

    def came_in(self) -> None:
        """Do what follows a login."""
        self._pushed_until = self._pbx.accounts.head
        self._introduce()

    def _introduce(self) -> None:
        modes, calls = self.modes, self._login.calls
        kind = PbxInfo.AFTER if modes.pbx_info is PbxInfo.NONE and calls else modes.pbx_info
        asks = AppInfo.AFTER if modes.app_info is AppInfo.NONE and calls else modes.app_info
        info = writing.pbx_info(self._pbx.name, self._pbx.domain, kind)
        app_info = orjson.dumps({"mt": "AppInfo", "app": self._pbx.app, "src": "app-info-1"}).decode()
        if asks is AppInfo.BEFORE:
            self.say_text(app_info)
        if kind not in {PbxInfo.NONE, PbxInfo.EARLY}:
            self.say_text(info, LATE_SECONDS if kind is PbxInfo.LATE else 0.0)
        if kind is PbxInfo.REPEATED:
            self.say_text(info, LATE_SECONDS)
        if asks is AppInfo.AFTER:
            self.say_text(app_info)

    def _taken(self) -> list[Reply | Close]:
        out, self._out = self._out, []
        if out:
            self._last_said = self._now
        return out

    # Accounts

    def _asked(self, content: dict[str, Any], now: float) -> None:
        pbx, modes = self._pbx, self.modes
        self._questions += 1
        question = Question(content.get("src"), content.get("guid"), content.get("usn"), content.get("ausn"))
        self._measure(now, is_probe=not question.guid)
        if content.get("api") != m.API:
            self.blame("asked another api, or none, for accounts")
            return
        if not pbx.has_api:
            self._complain(question, "unknown api")
        elif modes.error is not Error.NONE and self._questions % EVERY_FIFTH == 0:
            self._complain(question, "temporarily out of order")
        elif modes.speed is Speed.THROTTLE_CLOSE and pbx.meter.in_this_second > pbx.throttle_per_second:
            self.hang_up(NOT_ALLOWED)
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
        parallel = 1 + len(self._held) + len(self._waiting)
        load.max_parallel = max(load.max_parallel, parallel)
        if is_probe:
            probes = 1 + sum(was_probe for _, was_probe in self._waiting)
            load.max_parallel_probes = max(load.max_parallel_probes, probes)
            if probes > 1:
                self.blame("asked twice at once without a guid")
        delay = self._delay()
        if delay or self._round_trip_seconds:
            self._waiting.append((now + delay + self._round_trip_seconds, is_probe))
        watchdog = pbx.watchdog
        if watchdog is not None and (parallel > watchdog.max_parallel or per_second > watchdog.max_per_second):
            load.watchdog_reboots += 1
            pbx.reboot()

    def _delay(self) -> float:
        match self.modes.speed:
            case Speed.SLOW:
                return self._pbx.slow_seconds
            case Speed.BURST:
                return self._pbx.burst_seconds - self._now % self._pbx.burst_seconds
        return 0.0

    def _serve(self, question: Question) -> bool:
        """Answer *question*; return False where it is to be held."""
        modes = self.modes
        guid = self._pbx.current_guid(self, modes)
        if not question.guid:
            if modes.guid is Guid.REQUEST:
                guid = self.guid = self._pbx.new_guid()
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
            self._say_account(question, {"guid": self._pbx.current_guid(self, modes)})
            return True
        if found.entry is not None:
            self._tell(found.entry, question, is_guid_new=is_stale)
            return True
        return self._idle(question, guid, position)

    def _tell(self, entry: Entry, question: Question | None, *, is_guid_new: bool = False) -> None:
        pbx, modes = self._pbx, self.modes
        self._rows += 1
        guid = pbx.current_guid(self, modes)
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
        self._out.append(Reply(text, delay))
        load = pbx.oracle.load
        load.rows += 1
        delivery = Delivery(self.number, guid, entry.usn, entry.ausn, entry.record.guid, entry.record, is_gone)
        pbx.oracle.deliveries.append(delivery)
        self._last_told = entry
        for call in pbx.on_rows:
            call()
        if modes.dup is Dup.CHAIN and self._rows % EVERY_FIFTH == 0:
            self._out.append(Reply(text, delay))
            pbx.oracle.deliveries.append(delivery)
        elif modes.dup is Dup.LATE and entry.before is not None:
            older = Entry(0, entry.before.usn, entry.before.ausn, entry.before.record)
            stray = writing.row(older, modes, head=self._head(None), guid=guid, place=(pbx.domain, pbx.name))
            self._out.append(Reply(stray, delay))
            pbx.oracle.deliveries.append(
                Delivery(self.number, guid, older.usn, older.ausn, older.record.guid, older.record, is_deleted=False)
            )

    def _idle(self, question: Question, guid: str, position: int) -> bool:
        """Say that there is nothing further; return False where that is said by holding the question."""
        kind = self.modes.idle
        if kind is Idle.ERROR:
            self._complain(question, "no further accounts")
        elif kind is Idle.REPEAT and (last := self._last_told or self._reader.at_or_before(position)) is not None:
            self._tell(last, question)
        elif kind is Idle.CURSOR:
            newest = self._pbx.accounts.newest
            numbers = (newest.usn, newest.ausn) if newest is not None else (0, 0)
            self._say_account(question, {}, numbers=numbers)
        elif kind not in {Idle.SILENT, Idle.HOLD}:
            told = {Idle.BARE: {}, Idle.EMPTY: {"account-guid": ""}, Idle.NULL: {"account-guid": None}}
            self._say_account(question, told.get(kind, {"guid": guid}))
        return kind is not Idle.HOLD

    def _answer_held(self) -> None:
        if not self._held:
            return
        if self.modes.hold is Hold.QUEUE:
            if self._serve(self._held[0]):
                del self._held[0]
            return
        before = len(self._out)
        newest = self._held[-1]
        if not self._serve(newest):
            return
        others, self._held = self._held[:-1], []
        told = self._last_told
        if others and len(self._out) > before and told is not None:
            for question in others:
                self._tell(told, question)

    def _push(self) -> None:
        listed = self._reader.told_after(self._pushed_until, PUSHED_AT_ONCE)
        self._pushed_until = self._pbx.accounts.head
        for entry in listed:
            self._tell(entry, None)

    def _refuse_guid(self, question: Question, guid: str) -> None:
        match self.modes.stale:
            case Stale.NEWGUID:
                self._say_account(question, {"guid": guid})
            case Stale.ERROR:
                self._complain(question, "unknown guid")
            case Stale.CLOSE:
                self.hang_up(NOT_ALLOWED)

    def _complain(self, question: Question, text: str) -> None:
        match self._pbx.error_form(self.modes):
            case Error.PROP:
                self._say_account(question, {"error": 1, "errorText": text})
            case Error.MT:
                src = {} if question.src is None else {"src": question.src}
                message = {"mt": "Error", "error": 1, "errorText": text, **src}
                self.say_text(orjson.dumps(message).decode(), self._delay())
            case Error.CLOSE:
                self.hang_up(NOT_ALLOWED)

    def _say_account(self, question: Question, told: dict[str, Any], *, numbers: tuple[int, int] | None = None) -> None:
        text = writing.without_account(self._head(question), told, self.modes, numbers=numbers)
        self._out.append(Reply(text, self._delay()))

    def _head(self, question: Question | None) -> str:
        return writing.head(None if question is None else question.src, self.modes)
