"""The outbox, sent to one sink in order; a row is done when the sink confirmed it, and never before.

Every lane has a position of its own (the exchange has a lane for each source). A row that comes back, or that a queue
refuses, stops its lane: the lane waits, longer each time, sends that one row until it is taken, and goes on with twice
as many rows at a time as were taken before: a queue that is full and slowly read costs the others few repetitions.
A row that is refused for good is parked: it waits for an operator, and with it what comes behind it and is about the
same account. A source that somebody else sends for waits as well, see ``fences``. Everything else that goes wrong ends
the session, and with the next one each lane goes on behind what it has confirmed.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from typing import Any, Final, Protocol, TypeVar

from bridge.delivery.fences import FencedSources, FenceObserver
from bridge.delivery.sink import Publisher, Session
from bridge.errors import (
    BridgeError,
    BrokerDidNotConfirm,
    BrokerRefusedEvent,
    EventForbidden,
    EventUnroutable,
    FenceHeld,
    LeaseLost,
    Misconfigured,
    Transient,
)
from bridge.model import WINDOW_ROWS, OutboxRow, SourceName
from bridge.store.contract import Offload, Outbox

PAGE_ROWS: Final = 512
"""Read from the outbox at a time: enough to fill a window, little enough to hold in memory (about 1 MB)."""

FAIR_ROWS: Final = 64
"""Of one lane, before the next one has its turn."""

UNROUTABLE_FIRST_SECONDS: Final = 1.0
UNROUTABLE_SECONDS: Final = 15.0
"""Between two attempts with a row that came back, at first and at most: it reached nobody, so nobody is disturbed."""

HEARTBEAT_SECONDS: Final = 10.0
"""So long a wait is at most, before the relay says that it is alive."""

REFUSED_FIRST_SECONDS: Final = 5.0
REFUSED_SECONDS: Final = 300.0
"""The same with a row that one queue refused: the other queues get it once more each time."""


Result = TypeVar("Result")


class Observer(FenceObserver, Protocol):
    """Who is told what becomes of rows."""

    def published(self, rows: Sequence[OutboxRow]) -> None:
        """Take the news that the sink confirmed *rows*, and that this is recorded."""

    def alive(self) -> None:
        """Take the news that the relay goes on; not more than ``HEARTBEAT_SECONDS`` apart."""

    def parked(self, row: OutboxRow, reason: str) -> None:
        """Take the news that *row* was refused for good."""

    def stopped(self, row: OutboxRow, problem: BridgeError, pause_seconds: float) -> None:
        """Take the news that the lane of *row* waits, since the sink did not take it."""


@dataclass(slots=True)
class _Sent:
    """A row on its way."""

    row: OutboxRow
    lane: "_Lane"
    is_confirmed: bool = False
    refusal: BridgeError | None = None

    @property
    def is_settled(self) -> bool:
        """True once the sink said what becomes of it."""
        return self.is_confirmed or self.refusal is not None


@dataclass(slots=True)
class _Lane:
    """How far one lane is."""

    position: int = 0
    """Of the last row that was sent."""
    in_flight: deque[_Sent] = field(default_factory=deque)
    may_have_rows: bool = True
    has_refused: bool = False
    """True while a row of it was not taken and it is not known yet what becomes of all others on their way."""
    refusals: int = 0
    """How often its first row was not taken, less how often all that was sent at a time was; its pause grows so."""
    narrow: int = 0
    """While it is not 0, so many rows are sent at a time, and the next ones when all of them were taken."""
    suspect_through: int = 0
    """Up to this position there may be the row that ended a session; 0 where there is none."""
    not_before: float = 0.0
    """When the next attempt is due, by the clock of the loop."""
    starts: int = 0
    """How often it went back to its confirmed end; what was read before that is not sent."""

    def is_suspect_at(self, now: float) -> bool:
        """Return whether it is to be found out if one of its rows ended a session: they go one by one until then."""
        return self.suspect_through > 0 and bool(self.in_flight or (self.may_have_rows and now >= self.not_before))

    def widen(self, share: int) -> None:
        """Let twice as many rows go, up to *share*, now that all on their way were taken."""
        self.narrow, self.refusals = self.narrow * 2, max(0, self.refusals - 1)
        if self.narrow >= share:
            self.narrow = self.refusals = 0

    def start_again(self) -> None:
        """Go back to the confirmed end, with nothing on its way."""
        self.in_flight.clear()
        self.position, self.may_have_rows, self.has_refused = 0, True, False
        self.starts += 1


class OutboxRelay:
    """Sends the outbox of one sink, a window of rows unconfirmed; marks only the unbroken confirmed prefix of a lane.

    *prepare* is awaited with every new session before anything is sent, and *may_send* asked before each sending:
    another bridge may have all this after a while in which nothing ran here.
    """

    def __init__(  # noqa: PLR0913 - its parts, each of them a contract
        self,
        store: Outbox,
        publisher: Publisher,
        observer: Observer,
        *,
        offload: Offload,
        clock: Callable[[], datetime],
        window: int = WINDOW_ROWS,
        prepare: Callable[[Any], Awaitable[None]] | None = None,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_send = may_send
        self._store = store
        self._publisher = publisher
        self._observer = observer
        self._offload = offload
        self._clock = clock
        self._window = window
        self._prepare = prepare
        self._lanes: dict[SourceName, _Lane] = {}
        self._fenced = FencedSources(store, observer, offload=offload, clock=clock, on_free=self.wake)
        self._leaving: set[SourceName] = set()
        """Sources of which nothing waits and that are read no more: their fences are to be given back."""
        self._withdrawn: dict[SourceName, asyncio.Event] = {}
        """Lanes of which nothing more is sent here; set once nothing of one is on its way any more."""
        self._abandoned: asyncio.Future[None] | None = None
        """Of the session that there is; failed once what is on its way is none of ours any more."""
        self._sent_through = self._highest_sent = 0
        """The highest position that an earlier session sent, and that any session did."""
        self._sent: dict[int, _Sent] = {}
        """By tag: what this session sent and nothing is known of."""
        self._tag = 0
        self._in_flight = 0
        self._wake = asyncio.Event()
        self._is_stopping = False
        self._may_have_lanes = True
        """False where all lanes with rows are known."""
        self.is_in_session = False
        """True while connected; only then can anything be in flight."""

    def __repr__(self) -> str:
        return f"<OutboxRelay {self._in_flight} in flight>"

    @property
    def in_flight(self) -> int:
        """How many rows are sent and not recorded as confirmed."""
        return self._in_flight

    @property
    def sources_in_flight(self) -> Collection[SourceName]:
        """The sources of those rows."""
        return {sent.row.source for lane in self._lanes.values() for sent in lane.in_flight}

    def wake(self, source: SourceName) -> None:
        """Say that there may be new rows of *source*."""
        self._lane(self._store.find_lane(source)).may_have_rows = True
        self._wake.set()

    def wake_all(self) -> None:
        """Say that there may be new rows, or that somebody mended what kept some from being taken."""
        for lane in self._lanes.values():
            lane.not_before = 0.0
        self._fenced.hurry()
        self._may_have_lanes = True
        self._publisher.reconsider()
        self._wake.set()

    def let_go(self, source: SourceName) -> None:
        """Give the fence of *source* back, which is read no more and of which nothing waits."""
        self._leaving.add(source)
        self._wake.set()

    def hold_on(self, source: SourceName) -> None:
        """Keep the fence of *source*, which is read again."""
        self._leaving.discard(source)

    def withdraw(self, source: SourceName) -> Coroutine[Any, Any, bool]:
        """Send nothing more of *source*, and return what is done once nothing of it is on its way any more.

        That says whether the sink told what became of all of it. Otherwise a session ended, of which the broker may
        still have something.
        """
        name = self._store.find_lane(source)
        is_quiet = self._withdrawn.setdefault(name, asyncio.Event())
        lane = self._lanes.get(name)
        if lane is None or not lane.in_flight:
            is_quiet.set()
        return _until_quiet(is_quiet, lane, 0 if lane is None else lane.starts)

    def forget(self, sources: Collection[SourceName]) -> None:
        """Know nothing more of lanes that are another bridge's; whatever becomes of their rows is not recorded."""
        for source in sources:
            name = self._store.find_lane(source)
            lane = self._lanes.pop(name, None)
            if lane is not None:
                self._in_flight -= len(lane.in_flight)
                lane.start_again()
            if (is_quiet := self._withdrawn.pop(name, None)) is not None:
                is_quiet.set()  # whoever waits for that waits for nothing any more
            self._fenced.forget(source)
        self._wake.set()

    def take_up(self, source: SourceName) -> None:
        """Send *source* from now on, or again."""
        self._withdrawn.pop(self._store.find_lane(source), None)
        self.wake(source)

    def abandon(self, reason: BridgeError) -> None:
        """End the session at once, because of *reason*: all that was on its way may be another bridge's now."""
        self.forget(list(self._lanes))
        if self._abandoned is not None and not self._abandoned.done():
            self._abandoned.set_exception(reason)

    def stop(self) -> None:
        """Send nothing more; ``run`` returns once everything in flight is confirmed and marked."""
        self._is_stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Send until stopped; raises what ended the session. Call again to go on in a new session.

        Raises:
            BridgeError: whatever ended the session, or keeps it from starting.

        """
        async with self._publisher.session() as session:
            if self._prepare is not None:
                await self._prepare(session)
            self._sent_through = self._highest_sent
            await self._fenced.begin(session, self._sent_through)
            self._sent, self._tag, self.is_in_session, self._may_have_lanes = {}, 0, True, True
            abandoned = self._abandoned = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.TaskGroup() as group:
                    taking = group.create_task(self._take_outcomes(session))
                    watching = group.create_task(_wait_for(abandoned))
                    await self._feed(session, taking)
                    taking.cancel()
                    watching.cancel()
            except ExceptionGroup as failures:
                failure = failures.exceptions[0]
                if isinstance(failure, (BrokerRefusedEvent, EventForbidden)):
                    await self._look_for_refused(failure)
                elif isinstance(failure, BrokerDidNotConfirm):
                    self._blame_oldest(failure)
                raise failure from None
            finally:
                self.is_in_session, self._abandoned = False, None
                await self._give_up_session()

    async def _feed(self, session: Session, taking: asyncio.Task[None]) -> None:
        while not (self._is_stopping and not self._in_flight):
            self._wake.clear()
            if self._may_have_lanes:
                self._may_have_lanes = False  # unless somebody says so while we look
                for name in await self._offload(self._store.lanes):
                    self._lane(name).may_have_rows = True
            if self._leaving:
                await self._release(session, taking)
            now = asyncio.get_running_loop().time()
            await self._to_the_end(self._fenced.ask_due(session, now, self._sent_through), taking)
            ready, room = self._ready_lanes(now)
            if not ready or self._is_stopping:
                await self._sleep(now)
                continue
            starts = {name: lane.starts for name, lane in ready.items()}
            rows = await self._read(ready, room)
            if not await self._may_go(session, rows, taking):  # what is read next is without those
                for lane in ready.values():
                    lane.may_have_rows = True
                continue
            names = [self._store.find_lane(row.source) for row in rows]
            going = [
                (row, ready[name])
                for row, name in zip(rows, names, strict=True)
                if ready[name].starts == starts[name] and not ready[name].has_refused and name not in self._withdrawn
            ]
            for row, lane in going:
                sent = _Sent(row, lane)
                self._tag += 1
                self._sent[self._tag] = sent
                lane.in_flight.append(sent)
                lane.position = row.position
                self._highest_sent = max(self._highest_sent, row.position)
            self._in_flight += len(going)
            if going:
                await self._to_the_end(session.send([row for row, _ in going]), taking)

    async def _release(self, session: Session, taking: asyncio.Task[None]) -> None:
        leaving, self._leaving = self._leaving, set()
        await self._to_the_end(self._fenced.release(session, leaving), taking)

    async def _may_go(self, session: Session, rows: Sequence[OutboxRow], taking: asyncio.Task[None]) -> bool:
        """Put aside the sources that somebody else sends for, or a row that will never be taken; False if any is."""
        asking = self._fenced.ask(session, {row.source for row in rows}, self._sent_through)
        if await self._to_the_end(asking, taking):
            return False
        unfit = next(((row, why) for row in rows if (why := session.explain_refusal(row)) is not None), None)
        if unfit is not None:
            await self._park(unfit[0], str(unfit[1]))
        if rows and not self._may_send():
            raise LeaseLost("other bridges may have these PBXs now, so nothing more is sent")
        return unfit is None

    async def _to_the_end(self, call: Awaitable[Result], taking: asyncio.Task[None]) -> Result:
        """Return what a call of the session returns.

        What ends the session there ends `outcomes`, too, after the confirms that still came; the word is left to it.
        """
        try:
            return await call
        except FenceHeld:
            raise  # by which nothing has ended yet
        except (Transient, Misconfigured):
            await asyncio.wait([taking])
            raise

    def _ready_lanes(self, now: float) -> tuple[dict[SourceName, _Lane], int]:
        """Return the lanes that may send, and how many rows in all: of one that was refused a row, just some."""
        lanes = {
            name: lane
            for name, lane in self._lanes.items()
            if (lane.may_have_rows or lane.suspect_through)  # of a thousand lanes that is a few
            and name not in self._fenced
            and name not in self._withdrawn
        }
        suspects = {name: lane for name, lane in lanes.items() if lane.is_suspect_at(now)}
        room = min((1 if suspects else self._window) - self._in_flight, PAGE_ROWS)
        ready: dict[SourceName, _Lane] = {}
        for name, lane in (suspects or lanes).items() if room > 0 else ():
            if not lane.may_have_rows or lane.has_refused or now < lane.not_before or self._count_room(lane) <= 0:
                continue
            if not lane.narrow:
                ready[name] = lane
            elif not lane.in_flight:
                return {name: lane}, min(room, lane.narrow)
        return ready, room

    def _count_room(self, lane: _Lane) -> int:
        """Return how many rows of one lane may follow: one that gets no confirms leaves the others some room."""
        return self._share - len(lane.in_flight)

    @property
    def _share(self) -> int:
        return self._window if len(self._lanes) == 1 else max(1, self._window * 3 // 4)

    async def _read(self, ready: Mapping[SourceName, _Lane], room: int) -> Sequence[OutboxRow]:
        share = FAIR_ROWS
        if len(ready) == 1:
            room = share = min(room, *map(self._count_room, ready.values()))
        for lane in ready.values():
            lane.may_have_rows = False  # unless somebody says so while we read
        rows = await self._offload(
            self._store.unpublished, {name: lane.position for name, lane in ready.items()}, room, share
        )
        left, counts = room, Counter(self._store.find_lane(row.source) for row in rows)
        for name, lane in ready.items():
            lane.may_have_rows |= counts[name] >= min(share, left)
            left -= counts[name]
            if not counts[name]:  # of one that was refused a row, all that waited was taken meanwhile
                lane.narrow = lane.refusals = 0
        for name in counts if len(ready) > 1 else ():
            if name in self._lanes:
                self._lanes[name] = self._lanes.pop(name)  # the others have the next turn
        return () if self._is_stopping else rows

    async def _take_outcomes(self, session: Session) -> None:
        while True:
            news = await session.outcomes()
            touched: dict[int, _Lane] = {}
            for tag in news.confirmed:
                if (sent := self._sent.pop(tag, None)) is not None:
                    sent.is_confirmed = True
                    touched[id(sent.lane)] = sent.lane
            for tag, refusal in news.refused:
                if (sent := self._sent.pop(tag, None)) is not None:
                    sent.refusal, sent.lane.has_refused = refusal, True
                    touched[id(sent.lane)] = sent.lane
            await self._settle(list(touched.values()))
            self._wake.set()

    async def _settle(self, lanes: Sequence[_Lane]) -> None:
        """Record the unbroken confirmed prefix of each lane, and stop those whose first row was not taken."""
        prefixes = [list(takewhile(lambda sent: sent.is_confirmed, lane.in_flight)) for lane in lanes]
        done = [sent.row for prefix in prefixes for sent in prefix]
        if done:
            starts = [lane.starts for lane in lanes]
            await self._offload(self._store.mark_published, done, self._clock())
            # Only now: a stop waits until nothing is in flight, and must not overtake the marking.
            for lane, prefix, start in zip(lanes, prefixes, starts, strict=True):
                if lane.starts != start:
                    continue  # it was forgotten meanwhile
                self._in_flight -= len(prefix)
                for _ in prefix:
                    lane.in_flight.popleft()
                if prefix and prefix[-1].row.position >= lane.suspect_through:
                    lane.suspect_through = 0
                if prefix and lane.narrow and not lane.in_flight:
                    lane.widen(self._share)
            self._observer.published(done)
        for lane in lanes:
            if lane.has_refused and lane.in_flight and all(sent.is_settled for sent in lane.in_flight):
                await self._stop_lane(lane, lane.in_flight[0])
        self._tell_quiet()

    def _tell_quiet(self) -> None:
        for name, is_quiet in self._withdrawn.items():
            lane = self._lanes.get(name)
            if lane is None or not lane.in_flight:
                is_quiet.set()

    async def _stop_lane(self, lane: _Lane, first: _Sent) -> None:
        """Let a lane wait whose *first* row was not taken; what was sent behind it is sent once more then."""
        refusal = first.refusal or BrokerDidNotConfirm("the broker did not confirm an event")
        rows = [sent.row for sent in lane.in_flight]
        self._in_flight -= len(rows)
        lane.start_again()
        if len(rows) > 1 or not isinstance(refusal, EventUnroutable):
            await self._offload(self._store.mark_in_doubt, rows)
        self._let_wait(lane, first.row, refusal)

    def _retry_alone(self, sent: _Sent, failure: BridgeError) -> None:
        """Let the lane wait whose row ended the session, and try that with nothing else on its way: it may again."""
        sent.lane.suspect_through = sent.row.position
        self._let_wait(sent.lane, sent.row, failure)

    def _blame_oldest(self, failure: BridgeError) -> None:
        """Let the lane wait of which a row was confirmed by nobody for so long that it ended the session."""
        if self._sent:
            oldest = self._sent[min(self._sent)]
            self._let_wait(oldest.lane, oldest.row, failure)

    def _let_wait(self, lane: _Lane, row: OutboxRow, refusal: BridgeError) -> None:
        is_unroutable = isinstance(refusal, EventUnroutable)
        lane.refusals, lane.narrow = lane.refusals + 1, 1
        first_pause = UNROUTABLE_FIRST_SECONDS if is_unroutable else REFUSED_FIRST_SECONDS
        ceiling = UNROUTABLE_SECONDS if is_unroutable else REFUSED_SECONDS
        pause = min(ceiling, first_pause * 2.0 ** min(lane.refusals - 1, 16))
        lane.not_before = asyncio.get_running_loop().time() + pause
        self._observer.stopped(row, refusal, pause)

    async def _sleep(self, now: float) -> None:
        """Wait until there is something to do: news, or a lane whose pause was not over at *now*, and is."""
        pausing = [lane.not_before for lane in self._lanes.values() if lane.may_have_rows and not lane.in_flight]
        due = min((at for at in [*pausing, self._fenced.due] if at > now), default=math.inf)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(due, now + HEARTBEAT_SECONDS)):
                await self._wake.wait()
        self._observer.alive()

    async def _look_for_refused(self, failure: BridgeError) -> None:
        """Do without the row that the broker refused, or find it by sending one at a time."""
        waiting = [sent for lane in self._lanes.values() for sent in lane.in_flight if not sent.is_settled]
        if len(waiting) != 1:
            for sent in waiting:
                sent.lane.suspect_through = sent.row.position
        elif isinstance(failure, BrokerRefusedEvent):
            await self._park(waiting[0].row, str(failure))
        else:
            self._suspect_nobody()
            self._retry_alone(waiting[0], failure)

    async def _park(self, row: OutboxRow, reason: str) -> None:
        await self._offload(self._store.park, row, reason, self._clock())
        self._suspect_nobody()
        self._observer.parked(row, reason)

    def _suspect_nobody(self) -> None:
        for lane in self._lanes.values():
            lane.suspect_through = 0

    async def _give_up_session(self) -> None:
        """Forget what was on its way: each lane goes on behind what it has confirmed."""
        rows = [sent.row for lane in self._lanes.values() for sent in lane.in_flight]
        for lane in self._lanes.values():
            lane.start_again()
        self._sent, self._in_flight = {}, 0
        if rows:
            await self._offload(self._store.mark_in_doubt, rows)
        self._tell_quiet()

    def _lane(self, name: SourceName) -> _Lane:
        if name not in self._lanes:
            self._lanes[name] = _Lane()
        return self._lanes[name]


async def _until_quiet(is_quiet: asyncio.Event, lane: _Lane | None, starts: int) -> bool:
    await is_quiet.wait()
    return lane is None or lane.starts == starts


async def _wait_for(abandoned: "asyncio.Future[None]") -> None:
    await asyncio.shield(abandoned)
