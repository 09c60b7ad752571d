"""Runs the parts, retries them and stops them.

This is the one place that retries. What waiting helps (``Transient``) is tried again soon, with jitter and growing
pauses; what somebody has to mend (``Misconfigured``) slowly and loudly; anything else ends the bridge.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from bridge.delivery.contracts import Outbox, Publisher, Store
from bridge.delivery.drain import Drain, nothing_to_settle
from bridge.delivery.limits import Limits
from bridge.delivery.reconcile import Brake
from bridge.delivery.settle import Knowing, Numbered, settle
from bridge.errors import (
    BridgeError,
    BrokerDidNotConfirm,
    Misconfigured,
    OutboxFull,
    PbxUnreachable,
    StoreOutdated,
    Transient,
)
from bridge.intake import Intake, Told
from bridge.logs import get_logger
from bridge.model import AccountGuid, Caller, Cursor, Forgotten, OutboxRow, Parked, Pause, Place, SourceName
from bridge.normalize import Rules, account_key
from bridge.secret import scrub
from bridge.source import Heard
from bridge.status import Board, Level, LogPart, Part, SourcePart
from bridge.tally import Behind, Counted, Tally
from bridge.walk.schedule import Habits, WalkSchedule

STOP_SECONDS: Final = 10.0
"""How long a stop waits for what is read to be committed and for what is sent to be confirmed."""

BROKER_PAUSE_SECONDS: Final = 15.0
"""Between two attempts to reach the broker, at most: one that is back, or set right, should not wait for long."""

PRUNE_ROWS: Final = 500
PRUNE_SECONDS: Final = 60.0
WALK_CHECK_SECONDS: Final = 5.0
DISK_CHECK_SECONDS: Final = 1.0

STORE_STUCK: Final = timedelta(minutes=1)
"""The store is asked something every second; an answer may take as long as a backup that holds the file."""

DRAIN_STUCK: Final = timedelta(minutes=5)
"""Every step of publishing has a deadline of its own, all of them together are far below."""

HOUSEKEEPING_STUCK: Final = timedelta(minutes=10)

APART_SECONDS: Final = 0.01
"""Between dialling one PBX and the next at the start: a thousand logins at once cost 13 KB of memory each for ever."""

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

    @property
    def is_tried(self) -> bool:
        """True while something fails and did not work again yet."""
        return self._failures > 0

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


class Source(Protocol):
    """Reads one PBX, whoever of the two dials."""

    def request_walk(self) -> None:
        """Read the list from its start once more, as soon as that is possible."""

    async def read(self, since: Cursor, hand_on: Callable[[Heard], Awaitable[None]]) -> NoReturn:
        """Read on from *since* until that is of no more use, and raise why."""


@dataclass(frozen=True, slots=True)
class Pbx:
    """One PBX to follow."""

    name: SourceName
    source: Source
    ask_ahead: int = 256
    """Rows that may be read and not yet committed."""
    rules: Rules | None = None
    """How its rows are judged, where that is not as those of the other PBXs are."""
    max_silence: timedelta = timedelta(minutes=15)
    """Without an answer, a failure or another attempt for so long, the reading task itself is stuck."""


@dataclass(slots=True)
class _Followed:
    """A PBX being followed."""

    source: Source
    intake: Intake
    schedule: WalkSchedule
    pause: Pause | None = None
    """What an operator said who wants it not to be read."""
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while that is so."""
    pausing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while that is so, for who reads at the moment."""


class LogOutbox(Outbox, Numbered, Behind, Protocol):
    """What the store has for the log."""


@dataclass(frozen=True, slots=True)
class Log:
    """The log, written by the stream protocol: its part of the store, who writes it, and how that is shown."""

    outbox: LogOutbox
    publisher: Publisher
    part: LogPart


@dataclass(frozen=True, slots=True)
class _Outlet:
    """One of the ways out of the outbox: each has a position of its own, and is tried again by itself."""

    name: str
    task: str
    """What the watchdog calls its work."""
    drain: Drain
    patience: Patience
    part: Part


class KeptStore(Store, Counted, Protocol):
    """What a running bridge needs of a store beside what delivering and counting need."""

    @property
    def restored(self) -> str:
        """Why a new lineage began: an older copy of the store was put back, and not every PBX is verified since."""

    @property
    def is_checked(self) -> bool:
        """Whether it was compared with the log since it was opened."""

    def check(self, newest: Mapping[str, int], now: datetime) -> bool:
        """Compare with the last numbers in the log, and return whether a new lineage had to begin."""

    def unpark(self, position: int) -> bool:
        """Have a parked row tried once more, and return whether there was one at *position*."""

    def discard(self, position: int, reason: str, at: datetime) -> bool:
        """Never send a parked row, let go what waits behind it, and return whether there was one at *position*."""

    def certified_accounts(self, source: SourceName) -> int | None:
        """Return how many accounts the last proven full walk of the present epoch found, if there was one."""

    def paused(self) -> Mapping[SourceName, Pause]:
        """Return the PBXs that an operator wants not to be read."""

    def pause(self, source: SourceName, pause: Pause) -> None:
        """Record that *source* is not to be read."""

    def resume(self, source: SourceName) -> bool:
        """Record that *source* may be read again, and return whether it was paused."""

    def forget(self, key: str, at: datetime, *, discard_unsent: bool) -> Forgotten:
        """Take the personal data of an account out of mirror and events."""

    def meet(self, caller: Caller, at: datetime) -> bool:
        """Record that a PBX has dialled; False where its name is another's."""

    def callers(self, since: datetime) -> Sequence[Caller]:
        """Return the PBXs that have dialled *since* then."""

    def place(self, source: SourceName) -> Place:
        """Return where *source* stands."""

    def verified_at(self, source: SourceName) -> datetime | None:
        """Return when the last full walk of the present epoch was proven, if one was."""

    def absent(self, source: SourceName) -> int:
        """Return how many accounts the last proven walk did not see, without those that wait for a human yes."""

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
        brake: Brake = Brake(),  # noqa: B008 - frozen, so sharing it is safe
        habits: Habits = Habits(),  # noqa: B008 - the same
        limits: Limits = Limits(),  # noqa: B008 - the same
        written_log: Log | None = None,
        on_told: Callable[[Told], None] = lambda _told: None,
        on_published: Callable[[Sequence[OutboxRow]], None] = lambda _rows: None,
        newest_in_log: Callable[[str], Awaitable[Mapping[str, int]]] | None = None,
    ) -> None:
        self.board = board
        self._newest_in_log = newest_in_log
        self._checking = asyncio.Lock()
        self._log = written_log
        self._store = store
        self._pbxs = list(pbxs)
        self._readers: list[asyncio.Task[None]] = []
        self._group: asyncio.TaskGroup | None = None
        """What readers run in, while the bridge does."""
        self._is_stopping = False
        self._rules = rules
        self._keep = keep
        self._on_told = on_told
        self._on_published = on_published
        self._brake = brake
        self._habits = habits
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._walk_check = asyncio.Event()
        self._followed: dict[SourceName, _Followed] = {}
        self._offload = StoreThread()
        behind = None if written_log is None else written_log.outbox
        self._tally = Tally(board, store, self._offload, limits, self._has_room, behind)
        exchange = self._outlet("broker", "publish", store, publisher, board.broker, window, self._published)
        self._outlets = [exchange]
        if written_log is not None:
            of_log = self._outlet(
                "log",
                "write log",
                written_log.outbox,
                written_log.publisher,
                written_log.part,
                window,
                self._tally.written,
                self._settle,
            )
            self._outlets.append(of_log)

    def _outlet(  # noqa: PLR0913, PLR0917 - private, and called twice
        self,
        name: str,
        task: str,
        outbox: Outbox,
        publisher: Publisher,
        part: Part,
        window: int,
        on_published: Callable[[Sequence[OutboxRow], datetime], None],
        settling: Callable[[Any], Awaitable[None]] = nothing_to_settle,
    ) -> _Outlet:
        patience = Patience(transient_max_seconds=BROKER_PAUSE_SECONDS, misconfigured_seconds=BROKER_PAUSE_SECONDS)

        def published(rows: Sequence[OutboxRow]) -> None:
            now = utc_now()
            patience.progress()
            self.board.beat(task, now)
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
            window=window,
            settle=settling,
            on_published=published,
            on_parked=parked,
        )
        return _Outlet(name, task, drain, patience, part)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop* is set, then commit what was read and wait for the confirms of what was sent.

        Raises:
            Fatal: nothing can be done by waiting; everything durable stays as it is.

        """
        try:
            await self._tally.begin()
            await self._measure()
            now = utc_now()
            for watched, limit in (("store", STORE_STUCK), ("prune", HOUSEKEEPING_STUCK)):
                self.board.watch(watched, limit, now)
            for outlet in self._outlets:
                self.board.watch(outlet.task, DRAIN_STUCK, now)
            if self._store.restored:
                self._warn_of_restored()
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._start_reading(self._pbxs)
                draining = {
                    outlet.name: group.create_task(self._keep_draining(outlet), name=f"drain to the {outlet.name}")
                    for outlet in self._outlets
                }
                pruning = group.create_task(self._keep_pruning(), name="prune")
                walking = group.create_task(self._keep_walking(), name="walk")
                measuring = group.create_task(self._keep_measuring(), name="measure")
                await stop.wait()
                log.info("bridge.stopping")
                self._is_stopping = True
                for task in (*self._readers, pruning, walking, measuring):
                    task.cancel()
                await self._wind_down(draining)
        except ExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            self._offload.close()

    async def _wind_down(self, draining: Mapping[str, asyncio.Task[None]]) -> None:
        for outlet in self._outlets:
            outlet.drain.stop()
        # Otherwise there is nothing to wait for, least of all a broker that is away.
        finishing = [draining[outlet.name] for outlet in self._outlets if outlet.drain.is_in_session]
        if finishing:
            await asyncio.wait(finishing, timeout=STOP_SECONDS)
        for outlet in self._outlets:
            if outlet.drain.in_flight:
                log.warning("bridge.stopping_with_unconfirmed", rows=outlet.drain.in_flight, to=outlet.name)
        for task in draining.values():
            task.cancel()
        await asyncio.wait(draining.values())
        log.info("bridge.stopped")

    async def _recalled(self, name: SourceName, part: SourcePart) -> WalkSchedule:
        """Show what an earlier bridge knew of a PBX, and return when to walk it next."""
        verified_at = await self._offload(self._store.verified_at, name)
        part.verified_at = verified_at
        part.accounts = await self._offload(self._store.certified_accounts, name)
        part.deletions = "known" if verified_at is not None else "unknown"
        if verified_at is not None:
            part.warning = ""  # whatever became of the store, this PBX was compared with it since
        absent = await self._offload(self._store.absent, name)
        return WalkSchedule(name, self._habits, verified_at, absent=absent)

    async def _follow(self, pbx: Pbx, first_pause_seconds: float) -> None:
        part = self.board.sources[pbx.name]
        patience = Patience()
        schedule = await self._recalled(pbx.name, part)
        place = await self._offload(self._store.place, pbx.name)
        part.cursor = place.cursor
        task = _reading(pbx.name)
        self.board.watch(task, pbx.max_silence, utc_now())
        intake = Intake(
            pbx.name,
            self._store,
            rules=pbx.rules or self._rules,
            run=self._offload,
            clock=utc_now,
            part=part,
            brake=self._brake,
            on_told=self._told,
            schedule=schedule,
            ask_ahead=pbx.ask_ahead,
        )
        followed = self._followed[pbx.name] = _Followed(pbx.source, intake, schedule)
        self._hold(pbx.name, (await self._offload(self._store.paused)).get(pbx.name))

        async def hand_on(heard: Heard) -> None:
            if self.board.full:
                raise OutboxFull(self.board.full)
            now = utc_now()
            if part.last_progress_at is not None and patience.is_tried:
                schedule.came_back(now - part.last_progress_at)
            part.last_progress_at = now
            self.board.beat(task, now)
            patience.progress()
            await intake.put(heard)

        async def read() -> None:
            await intake.settle()
            intake.abandon_walk()
            if self.board.full:
                part.fails(self.board.full, Level.PAUSED, utc_now(), cause="outbox_full")
                await self._has_room.wait()
            while True:
                await followed.may_read.wait()
                self.board.beat(task, utc_now())
                await _unless(followed.pausing, pbx.source.read(intake.cursor, hand_on))
                await intake.settle()
                intake.abandon_walk()
                self._show_pause(pbx.name)  # over whatever the reading said last

        intake.cursor = place.cursor
        log.info("source.starting", source=pbx.name, events_so_far=place.sequence, resumes=not place.cursor.is_start)
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(intake.keep_committing())
            try:
                await asyncio.sleep(first_pause_seconds)
                await keep_trying(read, patience, partial(self._source_failed, pbx.name))
            finally:
                if not committing.done():
                    settling = asyncio.create_task(intake.settle())
                    await asyncio.wait([settling, committing], return_when=asyncio.FIRST_COMPLETED)
                    settling.cancel()

    async def meet(self, caller: Caller) -> bool:
        """Record that a PBX has dialled, and return whether the name of its source is its own.

        Raises:
            PbxUnreachable: the bridge is stopping.
            StoreUnusable: the store cannot be written.

        """
        if self._is_stopping:
            raise PbxUnreachable("the bridge is stopping")
        return await self._offload(self._store.meet, caller, utc_now())

    async def callers(self, since: datetime) -> Sequence[Caller]:
        """Return the PBXs that have dialled *since* then."""
        return await self._offload(self._store.callers, since)

    def follow(self, pbx: Pbx, part: SourcePart) -> None:
        """Follow one more PBX from now on, or from the start if the bridge does not run yet; *part* is its place."""
        self.board.sources[pbx.name] = part
        self._pbxs.append(pbx)
        if self._group is not None and not self._is_stopping:
            self._start_reading([pbx])

    def beat(self, name: SourceName) -> None:
        """Record that the reading of a PBX is alive, although there may be nothing to read."""
        self.board.beat(_reading(name), utc_now())

    def _start_reading(self, pbxs: Iterable[Pbx]) -> None:
        if self._group is not None:
            self._readers += [
                self._group.create_task(self._follow(pbx, number * APART_SECONDS), name=_reading(pbx.name))
                for number, pbx in enumerate(pbxs)
            ]

    def resync(self, name: SourceName, *, accept_deletions: bool) -> bool:
        """Walk a PBX from its start as soon as it is reached; False where there is none of that name.

        With *accept_deletions* the accounts that this walk does not see may be deleted, however many they are.
        """
        followed = self._followed.get(name)
        if followed is None:
            return False
        followed.intake.accepts_deletions = accept_deletions
        followed.schedule.ask()
        self._walk_check.set()
        return True

    async def pause(self, name: SourceName, reason: str) -> bool:
        """Read a PBX no more until ``resume``, restarts included; False where there is none of that name."""
        if name not in self._followed:
            return False
        pause = Pause(utc_now(), reason)
        await self._offload(self._store.pause, name, pause)
        log.warning("source.paused", source=name, reason=reason)
        self._hold(name, pause)
        return True

    async def resume(self, name: SourceName) -> bool:
        """Read a PBX again; False where there is none of that name, or it was not paused."""
        if name not in self._followed or not await self._offload(self._store.resume, name):
            return False
        log.info("source.resumed", source=name)
        self._hold(name, None)
        return True

    def _hold(self, name: SourceName, pause: Pause | None) -> None:
        followed = self._followed[name]
        before, followed.pause = followed.pause, pause
        if pause is not None:
            followed.may_read.clear()
            followed.pausing.set()
        else:
            followed.pausing.clear()
            followed.may_read.set()
            if before is not None:
                followed.schedule.came_back(utc_now() - before.since)
        self._show_pause(name)

    def _show_pause(self, name: SourceName) -> None:
        part, pause = self.board.sources[name], self._followed[name].pause
        was_paused, part.is_paused = part.is_paused, pause is not None
        if pause is not None:
            reason = f" ({pause.reason})" if pause.reason else ""
            part.problem = part.cause = ""
            part.does(f"paused by an operator{reason}", Level.PAUSED, utc_now())
            part.since = pause.since
        elif was_paused:
            part.does("starting", Level.WARN, utc_now())

    async def parked(self) -> Sequence[Parked]:
        """Return the events that the broker refused for good, the oldest first."""
        return await self._offload(self._store.parked)

    async def forget(self, guid: AccountGuid) -> Forgotten:
        """Take the personal data of an account out of the store, unless events of it are to be sent yet."""
        done = await self._offload(partial(self._store.forget, account_key(guid), utc_now(), discard_unsent=False))
        log.info("account.forgotten", accounts=done.accounts, events=done.events, unsent=done.unsent)
        return done

    async def retry(self, position: int) -> bool:
        """Send a parked event once more, and return whether there was one at *position*."""
        is_found = await self._offload(self._store.unpark, position)
        self._released()
        return is_found

    async def discard(self, position: int, reason: str) -> bool:
        """Never send a parked event, and return whether there was one at *position*."""
        is_found = await self._offload(self._store.discard, position, reason, utc_now())
        await self._tally.begin()
        if is_found:
            log.warning("event.discarded", position=position, reason=reason)
        self._released()
        return is_found

    def _released(self) -> None:
        self._tally.doubt()
        self._tally.count()
        for outlet in self._outlets:
            outlet.drain.go_back()

    async def _keep_walking(self) -> None:
        while True:
            now = utc_now().astimezone()
            for name, followed in self._followed.items():
                reason = followed.schedule.due(now)
                if reason and self.board.sources[name].is_usable:
                    log.debug("walk.wanted", source=name, reason=reason)
                    followed.source.request_walk()
            self._walk_check.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WALK_CHECK_SECONDS):
                    await self._walk_check.wait()

    def _source_failed(self, name: SourceName, problem: BridgeError, pause_seconds: float) -> None:
        level = _level_of(problem)
        now = utc_now()
        self.board.sources[name].fails(scrub(str(problem)), level, now, cause=cause_of(problem))
        self.board.beat(f"read {name}", now)
        write = log.error if level is Level.ERROR else log.warning
        write("source.failed", source=name, problem=str(problem), again_in_seconds=round(pause_seconds, 1))

    async def _keep_draining(self, outlet: _Outlet) -> None:
        await keep_trying(partial(self._check_and_drain, outlet), outlet.patience, partial(self._outlet_failed, outlet))

    async def _check_and_drain(self, outlet: _Outlet) -> None:
        """Publish, but not before it is known that no number was used for something else: see ``store.lineage``."""
        async with self._checking:
            if not self._store.is_checked:
                newest = await self._newest_numbers()
                if await self._offload(self._store.check, newest, utc_now()):
                    self._is_restored()
        await outlet.drain.run()

    async def _newest_numbers(self) -> Mapping[str, int]:
        try:
            return await self._newest_in_log(self._store.lineage) if self._newest_in_log is not None else {}
        except Misconfigured as problem:  # a user who may write and not read can publish all the same
            log.warning("store.not_compared_with_the_log", problem=str(problem))
            return {}

    def _is_restored(self) -> None:
        """Warn of it, and have every PBX walked."""
        self._warn_of_restored()
        for followed in self._followed.values():
            followed.schedule.ask()

    def _warn_of_restored(self) -> None:
        log.warning("store.restored", problem=self._store.restored, lineage=self._store.lineage)
        for part in self.board.sources.values():
            part.warning = f"A full walk has to find what is different now: {self._store.restored}."

    def _outlet_failed(self, outlet: _Outlet, problem: BridgeError, pause_seconds: float) -> None:
        level = _level_of(problem)
        if isinstance(problem, StoreOutdated):
            self._is_restored()
        now, needs_proof = utc_now(), isinstance(problem, BrokerDidNotConfirm)
        words, cause = scrub(str(problem)), cause_of(problem)
        outlet.part.fails(words, level, now, cause=cause, needs_proof=needs_proof)
        self.board.beat(outlet.task, now)
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

    async def _keep_pruning(self) -> None:
        while True:
            while await self._offload(self._store.prune, utc_now() - self._keep, PRUNE_ROWS) == PRUNE_ROWS:
                continue
            self.board.beat("prune", utc_now())
            await asyncio.sleep(PRUNE_SECONDS)

    async def _keep_measuring(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            begun = now()
            await asyncio.sleep(DISK_CHECK_SECONDS)
            self.board.loop_lag_seconds = now() - begun - DISK_CHECK_SECONDS
            await self._measure()

    async def _measure(self) -> None:
        await self._tally.measure(utc_now())
        self.board.beat("store", utc_now())

    def _told(self, told: Told) -> None:
        self._tally.told(told)
        for outlet in self._outlets:
            outlet.drain.wake()
        self._on_told(told)

    def _published(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        self._tally.published(rows, now)
        self._on_published(rows)


def cause_of(problem: BridgeError) -> str:
    """Return the name of *problem* for machines: ``pbx_refused_login``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(problem).__name__).lower()


def _level_of(problem: BridgeError) -> Level:
    """Return how bad it is that *problem* keeps an end from working; not to read on purpose is no fault of the PBX."""
    if isinstance(problem, OutboxFull):
        return Level.PAUSED
    return Level.ERROR if isinstance(problem, Misconfigured) else Level.WARN


def _reading(name: SourceName) -> str:
    """Return what the watchdog calls the reading of a PBX."""
    return f"read {name}"


async def _unless(hindrance: asyncio.Event, work: Coroutine[Any, Any, Any]) -> None:
    """Do *work* until it ends, or break it off as soon as *hindrance* is set; raises what it raises."""
    working, hindered = asyncio.create_task(work), asyncio.create_task(hindrance.wait())
    try:
        await asyncio.wait([working, hindered], return_when=asyncio.FIRST_COMPLETED)
    finally:
        hindered.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
    if not working.cancelled():
        working.result()


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
