"""The sinks: the exchange, and the log where the bridge writes that itself. Each has a relay of its own.

Nothing is numbered and nothing is sent before it is known that the store is the newest state of itself: see
``store.lineage``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

from bridge.clock import utc_now
from bridge.delivery.log_recovery import DeduplicatingSession, recover
from bridge.delivery.relay import OutboxRelay
from bridge.delivery.sink import Publisher
from bridge.errors import BridgeError, BrokerDidNotConfirm, LogUnreadable, Misconfigured, Transient
from bridge.logs import get_logger
from bridge.model import Numbers, OutboxRow, SourceName
from bridge.observability.component_status import ComponentStatus, Level, StreamStatus
from bridge.observability.status import BridgeStatus
from bridge.runtime.outbox_monitor import OutboxMonitor
from bridge.runtime.retry import Backoff, again_when_lost, choose_level, find_cause, keep_trying
from bridge.security.secret import scrub
from bridge.store.contract import Offload, OperatorStore, Outbox
from bridge.store.records import LogContents

STOP_SECONDS: Final = 10.0
"""How long a stop waits for what is sent to be confirmed."""

BROKER_PAUSE_SECONDS: Final = 15.0
"""Between two attempts to reach the broker, at most: one that is back, or set right, should not wait for long."""

PUBLISHING: Final = "publish"
WRITING_LOG: Final = "write log"
"""What the watchdog calls the work of the two sinks."""

RELAY_STUCK: Final = timedelta(minutes=1)
"""Every step of publishing has a deadline of its own that is far below, and tells of its end."""

MARK_EVENTS: Final = 50_000
"""Published events after which the log is read to its end once more, so that the next start has little to read."""

MARK_SECONDS: Final = 10.0
"""The same, where the bridge writes the log itself, and that has not everything that the exchange has."""

log = get_logger(__name__)

Find = Callable[[Sequence[str]], Awaitable[None]]


class ReadLog(Protocol):
    """Reads the log to its end."""

    async def __call__(
        self,
        places: Mapping[str, tuple[int, str]],
        find: Find | None,
        given: Mapping[SourceName, Numbers],
        *,
        is_patient: bool = False,
    ) -> LogContents:
        """Read from *places* on, and tell it the numbers *given*; who *is_patient* leaves most of the time to others.

        With *find* all of it is read, and that is told which events are there, by their ids and page by page.
        """


@dataclass(frozen=True, slots=True)
class StreamSink:
    """The log, written by the stream protocol: its part of the store, who writes it, and how that is shown."""

    outbox: Outbox
    publisher: Publisher
    part: StreamStatus


@dataclass(slots=True)
class _Sink:
    """One of the sinks, which is tried again by itself; it is told what becomes of rows."""

    name: str
    task: str
    """What the watchdog calls its work."""
    board: BridgeStatus
    part: ComponentStatus
    outbox_monitor: OutboxMonitor
    count: Callable[[Sequence[OutboxRow], datetime], None]
    patience: Backoff
    was_away: bool = False
    """True once a session ended or could not begin, until the log was read in a later one."""

    def published(self, rows: Sequence[OutboxRow]) -> None:
        """Take the news that the sink confirmed *rows*, and that this is recorded."""
        now = utc_now()
        self.patience.progress()
        self.board.beat(self.task)
        self.count(rows, now)

    def alive(self) -> None:
        """Take the news that the relay goes on, although there may be nothing that it could send."""
        self.board.beat(self.task)

    def parked(self, row: OutboxRow, reason: str) -> None:
        """Take the news that *row* was refused for good."""
        self.patience.progress()
        self.outbox_monitor.doubt()
        self.outbox_monitor.count()
        told = {"source": row.source, "event_id": row.event_id, "position": row.position}
        log.error("event.parked", **told, refused_by=self.name, reason=reason)

    def stopped(self, row: OutboxRow, problem: BridgeError, pause_seconds: float) -> None:
        """Take the news that the lane of *row* waits, since the sink did not take it."""
        words = scrub(str(problem))
        self.board.beat(self.task)
        self.outbox_monitor.doubt()
        if self.part is self.board.broker and (part := self.board.sources.get(row.source)) is not None:
            part.is_held_back(words, find_cause(problem), utc_now())
        told = {"source": row.source, "event_id": row.event_id, "position": row.position}
        log.warning("event.not_taken", **told, problem=words, again_in_seconds=round(pause_seconds, 1))

    def fenced(self, source: SourceName, problem: BridgeError, pause_seconds: float) -> None:
        """Take the news that *source* waits, since somebody else sends for it."""
        words = scrub(str(problem))
        self.board.beat(self.task)
        if (part := self.board.sources.get(source)) is not None:
            part.is_fenced(self.name, words, utc_now())
        log.warning(
            "source.fenced", source=source, to=self.name, problem=words, again_in_seconds=round(pause_seconds, 1)
        )

    def unfenced(self, source: SourceName) -> None:
        """Take the news that it goes on."""
        if (part := self.board.sources.get(source)) is not None:
            part.is_unfenced(self.name)
        self.outbox_monitor.count()
        log.info("source.unfenced", source=source, to=self.name)

    def failed(self, problem: BridgeError, pause_seconds: float) -> None:
        """Take the news that a session ended, or could not begin."""
        self.was_away = True
        level, now = choose_level(problem), utc_now()
        words, needs_proof = scrub(str(problem)), isinstance(problem, BrokerDidNotConfirm)
        self.part.failed(words, level, now, cause=find_cause(problem), needs_proof=needs_proof)
        self.board.beat(self.task)
        self.outbox_monitor.doubt()
        write = log.error if level is Level.ERROR else log.warning
        write(f"{self.name}.failed", problem=str(problem), again_in_seconds=round(pause_seconds, 1))


class Sinks:
    """All sinks of the outbox. *on_published* is called with what the exchange confirmed; *look_after* keeps queues.

    *is_ours* tells whether a source is followed here: what the log has of others is no news about our store. *may_send*
    is asked before each sending.
    """

    def __init__(  # noqa: PLR0913 - its parts
        self,
        store: OperatorStore,
        publisher: Publisher,
        stream: StreamSink | None,
        *,
        board: BridgeStatus,
        outbox_monitor: OutboxMonitor,
        offload: Offload,
        window: int,
        on_published: Callable[[Sequence[OutboxRow]], None],
        read_log: ReadLog | None,
        look_after: Callable[[], Coroutine[Any, Any, None]] | None = None,
        is_ours: Callable[[SourceName], bool] = lambda _source: True,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_send = may_send
        self._store = store
        self._publisher = publisher
        self._stream = stream
        self._board = board
        self._outbox_monitor = outbox_monitor
        self._offload = offload
        self._window = window
        self._on_published = on_published
        self._read_log = None if read_log is None else _telling_apart(read_log, is_ours)
        self._look_after = look_after
        self.left_in_flight: Collection[SourceName] = ()
        """Of these something was still on its way when all was over."""
        self._since_mark = 0
        self._wants_mark = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._exchange = self._sink("broker", PUBLISHING, board.broker, self._published)
        relay = self._relay(self._exchange, store.exchange, publisher, self._look_back)
        self._relays = {"broker": (self._exchange, relay)}
        if stream is not None:
            sink = self._sink("log", WRITING_LOG, stream.part, outbox_monitor.written)
            self._relays["log"] = (sink, self._relay(sink, stream.outbox, stream.publisher, self._recover))

    def _sink(
        self, name: str, task: str, part: ComponentStatus, count: Callable[[Sequence[OutboxRow], datetime], None]
    ) -> _Sink:
        patience = Backoff(transient_max_seconds=BROKER_PAUSE_SECONDS, misconfigured_seconds=BROKER_PAUSE_SECONDS)
        return _Sink(name, task, self._board, part, self._outbox_monitor, count, patience)

    def _relay(
        self,
        sink: _Sink,
        outbox: Outbox,
        publisher: Publisher,
        prepare: Callable[[Any], Awaitable[None]] | None = None,
    ) -> OutboxRelay:
        return OutboxRelay(
            outbox,
            publisher,
            sink,
            offload=self._offload,
            clock=utc_now,
            window=self._window,
            prepare=prepare,
            may_send=self._may_send,
        )

    async def prove(self) -> bool:
        """Return once the store is the newest state of itself, and whether a new lineage had to begin for that.

        Tried again for as long as the broker is not reached, or another bridge publishes for the same PBXs, which may
        be the original of this store: nothing else can be done meanwhile.

        Raises:
            Fatal: from the store.

        """
        self._board.watch(self._exchange.task, RELAY_STUCK)
        if self._read_log is None:
            return await self._offload(self._store.compare, None)
        renewed = False

        async def compare(read_log: ReadLog) -> None:
            if self._store.is_proven:
                await compare_alone(read_log)
                return
            async with self._publisher.session():  # nobody else gives numbers while we have its fences
                await compare_alone(read_log)

        async def compare_alone(read_log: ReadLog) -> None:
            nonlocal renewed
            is_first = True
            # A new lineage that begins with the first look has something to look for: what waits may be in the log.
            while (is_looking := await self._note_looked_for()) or is_first:
                is_first = False
                places, given = await self._offload(self._store.log_places), await self._offload(self._store.given)
                try:
                    contents = await read_log(places, self._found_in_log if is_looking else None, given)
                except LogUnreadable as problem:
                    log.warning("store.not_compared_with_the_log", problem=str(problem))
                    self._board.uncompared = scrub(str(problem))
                    doubt = f"nobody can tell whether it is the newest state of itself: {problem}"
                    renewed = await self._offload(self._store.compare, None, doubt)
                    return
                renewed = await self._offload(self._store.compare, contents)

        await keep_trying(partial(compare, self._read_log), self._exchange.patience, self._exchange.failed)
        self._exchange.was_away = False
        return renewed

    async def _note_looked_for(self) -> bool:
        """Note what is to be looked for in the log, page by page, and return whether there is anything."""
        at, is_any = 0, False
        while at := await self._offload(self._store.note_looked_for, at):
            is_any = True
            self._exchange.alive()
        return is_any

    async def _found_in_log(self, ids: Sequence[str]) -> None:
        await self._offload(self._store.found_in_log, ids)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to send, in *group*; what ends one of the sinks for good ends that."""
        for name, (sink, relay) in self._relays.items():
            self._board.watch(sink.task, RELAY_STUCK)
            running = group.create_task(keep_trying(relay.run, sink.patience, sink.failed), name=f"relay to the {name}")
            self._running[name] = running
            self._board.expect(sink.task, running)
        if self._read_log is not None:
            marking = again_when_lost(partial(self._keep_marking, self._read_log))
            self._running["mark"] = group.create_task(marking, name="mark the log")
        if self._look_after is not None:
            self._running["queues"] = group.create_task(self._look_after(), name="look after the queues")

    def wake(self, source: SourceName) -> None:
        """Say that there may be new rows of *source*."""
        for _, relay in self._relays.values():
            relay.wake(source)

    def let_go(self, source: SourceName) -> None:
        """Let somebody else publish for *source*, which is read no more and of which all is sent."""
        for _, relay in self._relays.values():
            relay.let_go(source)

    def hold_on(self, source: SourceName) -> None:
        """Let nobody else do so: *source* is read again."""
        for _, relay in self._relays.values():
            relay.hold_on(source)

    def take_up(self, source: SourceName) -> None:
        """Send *source*, which is ours from now on, or again."""
        for _, relay in self._relays.values():
            relay.take_up(source)

    async def withdraw(self, source: SourceName) -> bool:
        """Send nothing more of *source*, and return once nothing of it is on its way any more.

        False where a session ended before it was known what became of all.
        """
        return all(await asyncio.gather(*[relay.withdraw(source) for _, relay in self._relays.values()]))

    def forget(self, sources: Collection[SourceName]) -> None:
        """Know nothing more of *sources*, which are another bridge's."""
        for _, relay in self._relays.values():
            relay.forget(sources)

    def abandon(self, reason: BridgeError) -> None:
        """End all sessions at once, because of *reason*: all that was on its way may be another bridge's now."""
        for _, relay in self._relays.values():
            relay.abandon(reason)

    @property
    def in_flight(self) -> Collection[SourceName]:
        """The sources of which something is on its way."""
        return {source for _, relay in self._relays.values() for source in relay.sources_in_flight}

    def wake_all(self) -> None:
        """Say that rows which were held may be sent now."""
        for _, relay in self._relays.values():
            relay.wake_all()

    async def wind_down(self) -> None:
        """Send nothing more, and wait for the confirms of what was sent."""
        for _, relay in self._relays.values():
            relay.stop()
        # Otherwise there is nothing to wait for, least of all a broker that is away.
        finishing = [
            self._running[name]
            for name, (_, relay) in self._relays.items()
            if relay.is_in_session and name in self._running
        ]
        if finishing:
            await asyncio.wait(finishing, timeout=STOP_SECONDS)
        self.left_in_flight = self.in_flight
        for name, (_, relay) in self._relays.items():
            if relay.in_flight:
                log.warning("bridge.stopping_with_unconfirmed", rows=relay.in_flight, to=name)
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values())

    async def _keep_marking(self, read_log: ReadLog) -> None:
        """Read the log to its end after many events, and see that nobody else has given later numbers.

        Raises:
            StoreOutdated: somebody has.

        """
        marked: Mapping[SourceName, Numbers] = {}
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(None if self._stream is None else MARK_SECONDS):
                    await self._wants_mark.wait()
            given = await self._offload(self._store.given)
            is_behind = self._stream is not None and self._stream.outbox.backlog.rows > 0
            if not (self._wants_mark.is_set() or (is_behind and given != marked)):
                continue
            self._wants_mark.clear()
            # Where the bridge writes the log itself it is little, and wanted in time.
            if await self._read_on(read_log, given, is_patient=self._stream is None):
                marked = given

    async def _read_on(
        self, read_log: ReadLog, given: Mapping[SourceName, Numbers], *, is_patient: bool = False
    ) -> bool:
        """Read the log to its end, and return whether that was possible; *given* is told there.

        Raises:
            StoreOutdated: somebody else has given later numbers.

        """
        self._since_mark = 0
        try:
            places = await self._offload(self._store.log_places)
            contents = await read_log(places, None, given, is_patient=is_patient)
        except (Transient, Misconfigured) as problem:
            log.info("log.not_marked", problem=str(problem))
            return False
        await self._offload(self._store.compare, contents)
        return True

    async def look(self) -> None:
        """Return once the log is read to its end: others may have told of PBXs that are none of ours.

        Tried again for as long as the broker is not reached.

        Raises:
            StoreOutdated: of one of ours.

        """
        if self._read_log is not None:
            await keep_trying(partial(self._look, self._read_log), Backoff(), _not_looked)

    async def _look(self, read_log: ReadLog) -> None:
        places, given = await self._offload(self._store.log_places), await self._offload(self._store.given)
        try:
            contents = await read_log(places, None, given)
        except LogUnreadable as problem:  # as at a start
            log.warning("store.not_compared_with_the_log", problem=str(problem))
            return
        await self._offload(self._store.compare, contents)

    async def _look_back(self, _session: Any) -> None:
        """See that nobody else gave later numbers while we were away: under an old lineage nobody would hear of ours.

        Raises:
            StoreOutdated: somebody has.

        """
        if self._read_log is not None and self._exchange.was_away:
            is_read = await self._read_on(self._read_log, await self._offload(self._store.given))
            self._exchange.was_away = not is_read

    async def _recover(self, session: DeduplicatingSession) -> None:
        if self._stream is None or not session.lasts:  # of several bridges each asks by source, as it takes them up
            return
        part = self._stream.part
        recovered, warning = await recover(session, self._stream.outbox, offload=self._offload, now=utc_now())
        if warning and warning != part.warning:
            log.error("log.lost_events", problem=warning)
        part.recovered(recovered, warning)
        log.info("log.settled", last=max(session.lasts, default=0), rows=recovered)
        self._outbox_monitor.count()

    def _published(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        self._outbox_monitor.published(rows, now)
        self._on_published(rows)
        self._since_mark += len(rows)
        if self._since_mark >= MARK_EVENTS:
            self._wants_mark.set()


def _not_looked(problem: BridgeError, pause_seconds: float) -> None:
    log.info("log.not_looked_at", problem=str(problem), again_in_seconds=round(pause_seconds, 1))


def _telling_apart(read_log: ReadLog, is_ours: Callable[[SourceName], bool]) -> ReadLog:
    """Return what reads the log and tells our sources from others."""

    async def read(
        places: Mapping[str, tuple[int, str]],
        find: Find | None,
        given: Mapping[SourceName, Numbers],
        *,
        is_patient: bool = False,
    ) -> LogContents:
        contents = await read_log(places, find, given, is_patient=is_patient)
        ours = {source: numbers for source, numbers in contents.newest.items() if is_ours(source)}
        others = {source: numbers for source, numbers in contents.newest.items() if source not in ours}
        return replace(contents, newest=ours, others=others)

    return read
