"""Builds the parts, runs them, retries them and stops them.

This is the one place that retries. What waiting helps (``Transient``) is tried again soon, with jitter and growing
pauses; what somebody has to mend (``Misconfigured``) slowly and loudly; anything else ends the bridge with its sentence.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bridge.delivery.contracts import Publisher, Store
from bridge.delivery.drain import Drain
from bridge.delivery.ingest import Ingested, ingest
from bridge.delivery.reconcile import Brake, WalkRecord, begin_walk, settle, sight, sweep
from bridge.errors import BridgeError, Misconfigured, Transient
from bridge.logs import get_logger
from bridge.model import Batch, Cursor, OutboxRow, Place, Row, SourceName
from bridge.normalize import Rules, unknown_names
from bridge.source import Heard, PbxSource
from bridge.status import Board, Level, SourcePart
from bridge.walk.decisions import CaughtUp, Deliver, EpochBegan, Sighted, WalkBegan, WalkEnded

STOP_SECONDS: Final = 10.0
"""How long a stop waits for what is read to be committed and for what is sent to be confirmed."""

PROGRESS_ROWS: Final = 1000
"""Between two lines in the log about a long walk."""

PRUNE_ROWS: Final = 500
PRUNE_SECONDS: Final = 60.0

log = get_logger(__name__)

Result = TypeVar("Result")


def utc_now() -> datetime:
    """Return the present time, aware."""
    return datetime.now(UTC)


class Patience:
    """How long to wait before the next attempt (a tenacity ``wait``); progress makes it short again."""

    def __init__(self, *, transient_max_seconds: float = 60.0, misconfigured_seconds: float = 60.0) -> None:
        self._transient_max_seconds = transient_max_seconds
        self._misconfigured_seconds = misconfigured_seconds
        self._failures = 0

    def progress(self) -> None:
        """Say that something worked."""
        self._failures = 0

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the pause in seconds: between half of 2^failures and all of it, so that many do not come at once."""
        self._failures += 1
        outcome = retry_state.outcome
        if outcome is not None and isinstance(outcome.exception(), Misconfigured):
            return self._misconfigured_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        ceiling = min(self._transient_max_seconds, 2.0 ** min(self._failures - 1, 16))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


async def keep_trying(
    work: Callable[[], Awaitable[None]], patience: Patience, on_failure: Callable[[BridgeError, float], None]
) -> None:
    """Do *work* until it returns, again after each failure that can pass.

    Raises:
        Fatal: from *work*; waiting would not help.

    """

    def before_sleep(state: RetryCallState) -> None:
        problem = state.outcome.exception() if state.outcome is not None else None
        if isinstance(problem, BridgeError):
            on_failure(problem, state.next_action.sleep if state.next_action is not None else 0.0)

    retrying = AsyncRetrying(
        retry=retry_if_exception_type((Transient, Misconfigured)),
        wait=patience,
        before_sleep=before_sleep,
        reraise=True,
    )
    await retrying(work)


class StoreThread:
    """The ``Offload`` of ``delivery``: one thread, so that calls happen one at a time and in order."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    def __call__(self, call: Callable[..., Result], /, *args: Any) -> Awaitable[Result]:
        """Return what ``call(*args)`` returns."""
        return asyncio.get_running_loop().run_in_executor(self._executor, partial(call, *args))

    def close(self) -> None:
        """Finish what was begun."""
        self._executor.shutdown(wait=True)


@dataclass(frozen=True, slots=True)
class Pbx:
    """One PBX to follow."""

    name: SourceName
    source: PbxSource
    ask_ahead: int = 256
    """Rows that may be read and not yet committed."""


class Intake:
    """Makes durable what one source reads, in groups: all that came during one commit goes into the next."""

    def __init__(  # noqa: PLR0913 - its parts
        self,
        pbx: Pbx,
        store: Store,
        *,
        rules: Rules,
        offload: StoreThread,
        part: SourcePart,
        on_ingested: Callable[[Ingested], None],
        patience: Patience,
    ) -> None:
        self.cursor = Cursor()
        """Where the store stands, for all this intake knows."""
        self._pbx = pbx
        self._store = store
        self._rules = rules
        self._offload = offload
        self._part = part
        self._on_ingested = on_ingested
        self._patience = patience
        self._queue: asyncio.Queue[Heard] = asyncio.Queue(maxsize=pbx.ask_ahead)
        self._unknown: set[str] = set()
        self._rows_of_walk = 0

    async def put(self, heard: Heard) -> None:
        """Take the next thing; waits while ``ask_ahead`` are uncommitted, which in turn stops the reading."""
        self._part.last_progress_at = utc_now()
        self._patience.progress()
        await self._queue.put(heard)

    async def settle(self) -> None:
        """Wait until everything taken is durable."""
        await self._queue.join()

    async def run(self) -> None:
        """Commit group after group, for ever.

        Raises:
            Fatal: the store cannot be written, or another bridge moved the cursor.

        """
        while True:
            group = [await self._queue.get()]
            while not self._queue.empty():
                group.append(self._queue.get_nowait())
            await self._commit(group)
            for _ in group:
                self._queue.task_done()

    async def _commit(self, group: Sequence[Heard]) -> None:
        rows = [heard.row for heard in group if isinstance(heard, Deliver)]
        until = self.cursor
        for heard in group:
            if isinstance(heard, EpochBegan):
                until = heard.start
            elif isinstance(heard, Deliver):
                until = heard.until
        if rows or until != self.cursor:
            batch = Batch(self._pbx.name, self.cursor, until, rows)
            done = await self._offload(partial(ingest, self._store, batch, rules=self._rules, now=utc_now()))
            self.cursor = until
            self._note_rows(rows, done)
            self._on_ingested(done)
        for heard in group:
            if isinstance(heard, CaughtUp | EpochBegan):
                self._note(heard)

    def _note_rows(self, rows: Sequence[Row], done: Ingested) -> None:
        part = self._part
        part.rows += len(rows)
        part.changes += len(done.changes)
        if done.changes:
            part.last_change_at = utc_now()
        before, self._rows_of_walk = self._rows_of_walk, self._rows_of_walk + len(rows)
        if before // PROGRESS_ROWS != self._rows_of_walk // PROGRESS_ROWS:
            log.info("walk.progress", source=self._pbx.name, accounts=self._rows_of_walk)
        for row in rows:
            if row.info is not None and (news := unknown_names(row.info) - self._unknown):
                self._unknown |= news
                log.info("info.unknown_fields", source=self._pbx.name, names=sorted(news))

    def _note(self, heard: CaughtUp | EpochBegan) -> None:
        part, now = self._part, utc_now()
        if isinstance(heard, EpochBegan):
            self._rows_of_walk = 0
            part.does("reading the whole list", Level.OK, now)
            log.info("walk.started", source=self._pbx.name)
            return
        if heard.is_proven:
            part.caught_up_at = now
        if self._rows_of_walk:
            log.info("source.caught_up", source=self._pbx.name, accounts=self._rows_of_walk, proven=heard.is_proven)
            self._rows_of_walk = 0
        part.does("up to date" if heard.is_proven else "up to date, as far as silence tells", Level.OK, now)


class KeptStore(Store, Protocol):
    """What a running bridge needs of a store beside what delivering needs."""

    def place(self, source: SourceName) -> Place:
        """Return where *source* stands."""

    def prune(self, before: datetime, limit: int) -> int:
        """Forget up to *limit* rows published before that time, and return how many that were."""


class Bridge:
    """Everything running: reads all PBXs, drains the outbox, prunes, and keeps the board."""

    def __init__(  # noqa: PLR0913 - its parts
        self,
        store: KeptStore,
        pbxs: Sequence[Pbx],
        publisher: Publisher,
        *,
        rules: Rules,
        board: Board,
        window: int = 256,
        keep: timedelta = timedelta(days=7),
        on_ingested: Callable[[Ingested], None] = lambda _done: None,
    ) -> None:
        self.board = board
        self._store = store
        self._pbxs = pbxs
        self._rules = rules
        self._keep = keep
        self._on_ingested = on_ingested
        self._offload = StoreThread()
        self._publishing = Patience()
        self._intakes: list[Intake] = []
        self._drain = Drain(
            store,
            publisher,
            offload=self._offload,
            clock=utc_now,
            window=window,
            on_published=self._published,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop* is set, then commit what was read and wait for the confirms of what was sent.

        Raises:
            Fatal: nothing can be done by waiting; everything durable stays as it is.

        """
        try:
            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(self._follow(pbx), name=f"read {pbx.name}") for pbx in self._pbxs]
                draining = group.create_task(self._keep_draining(), name="drain")
                pruning = group.create_task(self._keep_pruning(), name="prune")
                await stop.wait()
                log.info("bridge.stopping")
                for task in (*readers, pruning):
                    task.cancel()
                await self._wind_down(draining)
        except ExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            self._offload.close()

    async def _wind_down(self, draining: asyncio.Task[None]) -> None:
        self._drain.stop()
        _, late = await asyncio.wait([draining], timeout=STOP_SECONDS)
        if late:
            log.warning("bridge.stopped_with_unconfirmed", rows=self._drain.in_flight)
            draining.cancel()
        else:
            log.info("bridge.stopped")

    async def _follow(self, pbx: Pbx) -> None:
        part = self.board.sources[pbx.name]
        patience = Patience()
        intake = Intake(
            pbx,
            self._store,
            rules=self._rules,
            offload=self._offload,
            part=part,
            on_ingested=self._ingested,
            patience=patience,
        )

        async def read() -> None:
            await intake.settle()
            await pbx.source.read(intake.cursor, intake.put)

        place = await self._offload(self._store.place, pbx.name)
        intake.cursor = place.cursor
        log.info("source.starting", source=pbx.name, events_so_far=place.sequence, resumes=not place.cursor.is_start)
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(intake.run())
            try:
                await keep_trying(read, patience, partial(self._source_failed, pbx.name))
            finally:
                settling = group.create_task(intake.settle())
                await asyncio.wait([settling, committing], return_when=asyncio.FIRST_COMPLETED)

    def _source_failed(self, name: SourceName, problem: BridgeError, pause_seconds: float) -> None:
        level = Level.ERROR if isinstance(problem, Misconfigured) else Level.WARN
        self.board.sources[name].fails(str(problem), level, utc_now())
        write = log.error if level is Level.ERROR else log.warning
        write("source.failed", source=name, problem=str(problem), again_in_seconds=round(pause_seconds, 1))

    async def _keep_draining(self) -> None:
        await keep_trying(self._drain.run, self._publishing, self._broker_failed)

    def _broker_failed(self, problem: BridgeError, pause_seconds: float) -> None:
        level = Level.ERROR if isinstance(problem, Misconfigured) else Level.WARN
        self.board.broker.fails(str(problem), level, utc_now())
        write = log.error if level is Level.ERROR else log.warning
        write("broker.failed", problem=str(problem), again_in_seconds=round(pause_seconds, 1))

    async def _keep_pruning(self) -> None:
        while True:
            while await self._offload(self._store.prune, utc_now() - self._keep, PRUNE_ROWS) == PRUNE_ROWS:
                continue
            await asyncio.sleep(PRUNE_SECONDS)

    def _ingested(self, done: Ingested) -> None:
        board = self.board
        if done.changes:
            board.unsent += len(done.changes)
            board.oldest_unsent_at = board.oldest_unsent_at or utc_now()
            self._drain.wake()
        self._on_ingested(done)

    def _published(self, rows: Sequence[OutboxRow]) -> None:
        board = self.board
        self._publishing.progress()
        board.published += len(rows)
        board.unsent = max(0, board.unsent - len(rows))
        board.oldest_unsent_at = rows[-1].created_at if board.unsent else None
        board.broker.last_progress_at = utc_now()


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
