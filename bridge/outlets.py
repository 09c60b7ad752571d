"""The ways out of the outbox: the exchange, and the log where the bridge writes that itself."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

from bridge.clock import utc_now
from bridge.delivery.contracts import Offload, Outbox, Publisher
from bridge.delivery.drain import Drain, nothing_to_settle
from bridge.delivery.settle import Knowing, Numbered, settle
from bridge.errors import BridgeError, BrokerDidNotConfirm, Misconfigured, StoreOutdated
from bridge.logs import get_logger
from bridge.model import OutboxRow
from bridge.retrying import Patience, cause_of, keep_trying, level_of
from bridge.secret import scrub
from bridge.status import Board, Level, LogPart, Part
from bridge.tally import Behind, Tally

STOP_SECONDS: Final = 10.0
"""How long a stop waits for what is sent to be confirmed."""

BROKER_PAUSE_SECONDS: Final = 15.0
"""Between two attempts to reach the broker, at most: one that is back, or set right, should not wait for long."""

PUBLISHING: Final = "publish"
WRITING_LOG: Final = "write log"
"""What the watchdog calls the work of the two ways out."""

DRAIN_STUCK: Final = timedelta(minutes=1)
"""Every step of publishing has a deadline of its own that is far below, and tells of its end."""

log = get_logger(__name__)


class LogOutbox(Outbox, Numbered, Behind, Protocol):
    """What the store has for the log."""


@dataclass(frozen=True, slots=True)
class Log:
    """The log, written by the stream protocol: its part of the store, who writes it, and how that is shown."""

    outbox: LogOutbox
    publisher: Publisher
    part: LogPart


class Compared(Outbox, Protocol):
    """The store as the outbox of the exchange: nothing leaves it before it was compared with the log."""

    @property
    def lineage(self) -> str:
        """What its numbers belong to."""

    @property
    def is_checked(self) -> bool:
        """Whether it was compared with the log since it was opened."""

    def check(self, newest: Mapping[str, int], now: datetime) -> bool:
        """Compare with the last numbers in the log, and return whether a new lineage had to begin."""


@dataclass(frozen=True, slots=True)
class _Outlet:
    """One of the ways out of the outbox: each has a position of its own, and is tried again by itself."""

    name: str
    task: str
    """What the watchdog calls its work."""
    drain: Drain
    patience: Patience
    part: Part


class Outlets:
    """All ways out of the outbox.

    *on_published* is called with what the exchange confirmed, *on_restored* when a new lineage had to begin.
    """

    def __init__(  # noqa: PLR0913 - its parts
        self,
        store: Compared,
        publisher: Publisher,
        written_log: Log | None,
        *,
        board: Board,
        tally: Tally,
        offload: Offload,
        window: int,
        on_published: Callable[[Sequence[OutboxRow]], None],
        on_restored: Callable[[], None],
        newest_in_log: Callable[[str], Awaitable[Mapping[str, int]]] | None,
    ) -> None:
        self._store = store
        self._log = written_log
        self._board = board
        self._tally = tally
        self._offload = offload
        self._window = window
        self._on_published = on_published
        self._on_restored = on_restored
        self._newest_in_log = newest_in_log
        self._checking = asyncio.Lock()
        self._draining: dict[str, asyncio.Task[None]] = {}
        self._outlets = [self._outlet("broker", PUBLISHING, store, publisher, board.broker, self._published)]
        if written_log is not None:
            outbox, writer, part = written_log.outbox, written_log.publisher, written_log.part
            self._outlets.append(self._outlet("log", WRITING_LOG, outbox, writer, part, tally.written, self._settle))

    def _outlet(  # noqa: PLR0913, PLR0917 - private, and called twice
        self,
        name: str,
        task: str,
        outbox: Outbox,
        publisher: Publisher,
        part: Part,
        on_published: Callable[[Sequence[OutboxRow], datetime], None],
        settling: Callable[[Any], Awaitable[None]] = nothing_to_settle,
    ) -> _Outlet:
        patience = Patience(transient_max_seconds=BROKER_PAUSE_SECONDS, misconfigured_seconds=BROKER_PAUSE_SECONDS)

        def published(rows: Sequence[OutboxRow]) -> None:
            now = utc_now()
            patience.progress()
            self._board.beat(task, now)
            on_published(rows, now)

        def parked(row: OutboxRow, reason: str) -> None:
            patience.progress()
            self._tally.doubt()
            self._tally.count()
            log.error(
                "event.parked",
                source=row.source,
                event_id=row.event_id,
                position=row.position,
                refused_by=name,
                reason=reason,
            )

        drain = Drain(
            outbox,
            publisher,
            offload=self._offload,
            clock=utc_now,
            window=self._window,
            settle=settling,
            on_published=published,
            on_parked=parked,
        )
        return _Outlet(name, task, drain, patience, part)

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begin to publish, in *group*; what ends one of the ways for good ends that."""
        for outlet in self._outlets:
            self._board.watch(outlet.task, DRAIN_STUCK, utc_now())
            draining = group.create_task(self._keep_draining(outlet), name=f"drain to the {outlet.name}")
            self._draining[outlet.name] = draining
            self._board.expect(outlet.task, draining)

    def wake(self) -> None:
        """Say that there may be new rows."""
        for outlet in self._outlets:
            outlet.drain.wake()

    def go_back(self) -> None:
        """Say that rows which were held may be sent now, although later ones were sent already."""
        for outlet in self._outlets:
            outlet.drain.go_back()

    async def wind_down(self) -> None:
        """Send nothing more, and wait for the confirms of what was sent."""
        for outlet in self._outlets:
            outlet.drain.stop()
        # Otherwise there is nothing to wait for, least of all a broker that is away.
        finishing = [self._draining[outlet.name] for outlet in self._outlets if outlet.drain.is_in_session]
        if finishing:
            await asyncio.wait(finishing, timeout=STOP_SECONDS)
        for outlet in self._outlets:
            if outlet.drain.in_flight:
                log.warning("bridge.stopping_with_unconfirmed", rows=outlet.drain.in_flight, to=outlet.name)
        for task in self._draining.values():
            task.cancel()
        await asyncio.wait(self._draining.values())

    async def _keep_draining(self, outlet: _Outlet) -> None:
        await keep_trying(partial(self._check_and_drain, outlet), outlet.patience, partial(self._failed, outlet))

    async def _check_and_drain(self, outlet: _Outlet) -> None:
        """Publish, but not before it is known that no number was used for something else: see ``store.lineage``."""
        async with self._checking:
            if not self._store.is_checked:
                newest = await self._newest_numbers()
                if await self._offload(self._store.check, newest, utc_now()):
                    self._on_restored()
        await outlet.drain.run()

    async def _newest_numbers(self) -> Mapping[str, int]:
        try:
            return await self._newest_in_log(self._store.lineage) if self._newest_in_log is not None else {}
        except Misconfigured as problem:  # a user who may write and not read can publish all the same
            log.warning("store.not_compared_with_the_log", problem=str(problem))
            return {}

    def _failed(self, outlet: _Outlet, problem: BridgeError, pause_seconds: float) -> None:
        level = level_of(problem)
        if isinstance(problem, StoreOutdated):
            self._on_restored()
        now, needs_proof = utc_now(), isinstance(problem, BrokerDidNotConfirm)
        words, cause = scrub(str(problem)), cause_of(problem)
        outlet.part.fails(words, level, now, cause=cause, needs_proof=needs_proof)
        self._board.beat(outlet.task, now)
        self._tally.doubt()
        write = log.error if level is Level.ERROR else log.warning
        write(f"{outlet.name}.failed", problem=str(problem), again_in_seconds=round(pause_seconds, 1))

    async def _settle(self, session: Knowing) -> None:
        if self._log is None:
            return
        part = self._log.part
        settled, warning = await settle(session, self._log.outbox, offload=self._offload, clock=utc_now)
        part.settled += settled
        part.written += settled
        if warning and warning != part.warning:
            log.error("log.lost_events", problem=warning)
        part.warning = warning or part.warning
        log.info("log.settled", last=session.last, rows=settled)
        self._tally.count()

    def _published(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        self._tally.published(rows, now)
        self._on_published(rows)
