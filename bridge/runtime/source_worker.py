"""Following one PBX: what it tells is read and becomes durable, again after every failure, and never while paused."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from traceback import format_exception
from typing import Any, Final

from bridge.clock import steady, utc_now
from bridge.delivery.reconcile import DeletionLimit
from bridge.errors import BadEvent, BridgeError, Fatal, OutboxFull, PbxReadingFailed
from bridge.events.cloudevents import decode
from bridge.events.normalize import Rules
from bridge.events.wording import choose_name, headline, held_words
from bridge.logs import get_logger
from bridge.model import WINDOW_ROWS, Certificate, SourceName
from bridge.observability.boxes import WAITS_FOR_TURN
from bridge.observability.component_status import Level
from bridge.observability.source_status import LastChange, SourceStatus
from bridge.observability.status import BridgeStatus
from bridge.pbx.reader import READING, WAITING_FOR_TURN, WalkEvent
from bridge.pbx.source import Source
from bridge.pbx.walk.schedule import Habits, WalkSchedule
from bridge.runtime.committer import Committed, Committer
from bridge.runtime.retry import Backoff, choose_level, find_cause, keep_trying
from bridge.runtime.row_budget import RowBudget
from bridge.security.secret import scrub
from bridge.store.contract import Offload, SourceStore
from bridge.store.records import LastHeard, Pause, SourceState

TRACEBACK_FRAMES: Final = 50
"""Of the last calls before something failed; an endless recursion has a thousand."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One PBX to follow."""

    name: SourceName
    source: Source
    ask_ahead: int = WINDOW_ROWS
    """Rows that may be read and not yet committed."""
    rules: Rules | None = None
    """How its rows are judged, where that is not as those of the other PBXs are."""
    max_silence: timedelta = timedelta(minutes=15)
    """Without an answer, a failure or another attempt for so long, the reading task itself is stuck."""


def reading(name: SourceName) -> str:
    """Return what the watchdog calls the reading of a PBX."""
    return f"read {name}"


class SourceWorker:
    """A PBX being followed, from where its *committer* stands; not read while the outbox is full.

    *has_room* is set while that is not so; *place* is asked where the store stands.
    """

    def __init__(  # noqa: PLR0913 - its parts
        self,
        pbx: SourceSpec,
        committer: Committer,
        schedule: WalkSchedule,
        *,
        place: Callable[[], Awaitable[SourceState]],
        board: BridgeStatus,
        has_room: asyncio.Event,
    ) -> None:
        self._name = pbx.name
        self._task = reading(pbx.name)
        self._source = pbx.source
        self._committer = committer
        self._schedule = schedule
        self._place = place
        self._board = board
        self._part = board.sources[pbx.name]
        self._has_room = has_room
        self._patience = Backoff()
        self._heard_at: float | None = None
        """When the PBX told something last, by the steady clock."""
        self._paused_at = 0.0
        """Since when it is paused, or was when this process began, by the steady clock."""
        self._is_spoilt = False
        """True once a commit failed: the committer has something that is not durable and never will be."""
        self._pause: Pause | None = None
        """What an operator said who wants it not to be read."""
        self._may_read = asyncio.Event()
        """Cleared while that is so."""
        self._may_read.set()
        self._pausing = asyncio.Event()
        """Set while that is so, for who reads at the moment."""

    def __repr__(self) -> str:
        return f"<SourceWorker {self._name}, {self._part.doing}>"

    async def follow(self) -> None:
        """Read for ever; cancelled, it makes durable what was read.

        Raises:
            Fatal: nothing can be done by waiting.

        """
        try:
            await keep_trying(self._read_and_commit, self._patience, self._failed)
        finally:
            self._committer.forget_waiting()

    async def _read_and_commit(self) -> None:
        """Read until that is of no more use; whatever happens meanwhile is the trouble of this PBX.

        Raises:
            BridgeError: why it is of no more use.

        """
        failure: Exception | None = None
        try:
            if self._is_spoilt:
                self._committer.start_over(await self._place())
                self._is_spoilt = False
            async with asyncio.TaskGroup() as group:
                committing = group.create_task(self._committer.keep_committing())
                try:
                    await self._read()
                finally:
                    if not committing.done():
                        settling = asyncio.create_task(self._committer.settle())
                        await asyncio.wait([settling, committing], return_when=asyncio.FIRST_COMPLETED)
                        settling.cancel()
                    self._is_spoilt = committing.done()
                    if self._is_spoilt:
                        self._committer.forget_waiting()
        except Exception as problem:  # noqa: BLE001 - whatever it is, it is told, and concerns this PBX only
            failure = problem
        if failure is not None:
            ours, task = self._ours(failure), asyncio.current_task()
            if task is not None and task.cancelling() and not isinstance(ours, Fatal):
                raise asyncio.CancelledError  # the group tells of failures instead, and nothing is to be tried again
            raise ours

    def _ours(self, failure: Exception) -> BridgeError:
        """Return the error of ours that *failure* is, or one that says that nobody thought of it."""
        failures = list(_leaves(failure))
        foreseen = [each for each in failures if isinstance(each, BridgeError)]
        for each in failures:
            if not isinstance(each, BridgeError):
                told = "".join(format_exception(each, limit=-TRACEBACK_FRAMES))
                log.error("source.reading_failed", source=self._name, exception=told)
        fatal = [each for each in foreseen if isinstance(each, Fatal)]
        if fatal or len(foreseen) == len(failures):
            return (fatal or foreseen)[0]
        unforeseen = next(each for each in failures if not isinstance(each, BridgeError))
        failed = PbxReadingFailed(
            f"reading this PBX failed in a way that nobody thought of ({type(unforeseen).__name__}); the log has the "
            "traceback, please report it. It is tried again, and the other PBXs go on"
        )
        failed.__cause__ = unforeseen
        return failed

    async def _read(self) -> None:
        await self._committer.settle()
        self._committer.abandon_walk()
        if self._board.full:
            self._part.failed(self._board.full, Level.PAUSED, utc_now(), cause="outbox_full")
            await self._has_room.wait()
        while True:
            await self._may_read.wait()
            self._board.beat(self._task)
            await _unless(self._pausing, self._source.read(self._committer.cursor, self._deliver, self._take_at_once))
            await self._committer.settle()
            self._committer.abandon_walk()
            self._show_pause()  # over whatever the reading said last

    async def _deliver(self, heard: WalkEvent) -> None:
        self._progress()
        await self._committer.put(heard)

    def _take_at_once(self, heard: WalkEvent) -> bool:
        self._progress()
        return self._committer.take_at_once(heard)

    def _progress(self) -> None:
        """Record that the PBX told something.

        Raises:
            OutboxFull: nothing more is to be read for now.

        """
        if self._board.full:
            raise OutboxFull(self._board.full)
        seconds = steady()
        if self._patience.is_tried:
            if self._heard_at is not None:
                self._schedule.came_back(timedelta(seconds=seconds - self._heard_at))
            self._patience.progress()
        self._heard_at = seconds
        self._part.last_progress_at = utc_now()
        self._board.beat(self._task)

    def _failed(self, problem: BridgeError, pause_seconds: float) -> None:
        level = choose_level(problem)
        now = utc_now()
        self._part.failed(scrub(str(problem)), level, now, cause=find_cause(problem))
        self._board.beat(self._task)
        write = log.error if level is Level.ERROR else log.warning
        write("source.failed", source=self._name, problem=str(problem), again_in_seconds=round(pause_seconds, 1))

    def ask_for_walk(self) -> None:
        """Want a full walk, which no quiet hours hold up."""
        self._schedule.ask()

    def resync(self, *, accept_deletions: bool) -> None:
        """Want a full walk; with *accept_deletions* the accounts that it does not see may be deleted, however many."""
        self._committer.accepts_deletions = accept_deletions
        self.ask_for_walk()

    def walk_if_due(self, now: datetime) -> None:
        """Begin a full walk if there is a reason for one and the PBX is reached; *now* is local and aware."""
        reason = self._schedule.due(now)
        if reason and self._part.is_usable:
            log.debug("walk.wanted", source=self._name, reason=reason)
            self._source.request_walk()

    def hold(self, pause: Pause | None) -> None:
        """Read no more because of *pause*; again where it is ``None``."""
        before, self._pause = self._pause, pause
        if pause is not None:
            if before is None:
                self._paused_at = steady()
            self._may_read.clear()
            self._pausing.set()
        else:
            self._pausing.clear()
            self._may_read.set()
            if before is not None:
                away = utc_now() - before.since
                if away < timedelta(0):
                    away = timedelta.max  # the clock was wrong then or is now: nobody knows for how long
                self._schedule.came_back(max(away, timedelta(seconds=steady() - self._paused_at)))
        self._show_pause()

    def _show_pause(self) -> None:
        show_pause(self._part, self._pause)


def show_connection(part: SourceStatus, doing: str) -> None:
    """Show how far the connection to a PBX is."""
    part.waits_for_turn = doing == WAITING_FOR_TURN
    part.set_doing(doing, Level.OK if doing == READING else Level.WARN, utc_now())
    if part.waits_for_turn and not part.problem:
        part.cause = WAITS_FOR_TURN


def show_pause(part: SourceStatus, pause: Pause | None, *, otherwise: str = "starting") -> None:
    """Show whether a PBX is paused; one that was, and is not any more, does what *otherwise* says."""
    was_paused, part.is_paused = part.is_paused, False
    if pause is not None:
        reason = f" ({pause.reason})" if pause.reason else ""
        part.paused(f"paused by an operator{reason}", pause.since, utc_now())
    elif was_paused:
        part.set_doing(otherwise, Level.WARN, utc_now())


async def restore_status(
    name: SourceName, part: SourceStatus, store: SourceStore, *, offload: Offload
) -> tuple[Pause | None, Certificate | None]:
    """Show what the store knows of the last proven walk of a PBX, and return whether that is paused, and the walk."""
    pause = (await offload(store.paused)).get(name)
    certificate = await offload(store.certificate, name)
    recall(part, await offload(store.past.last_heard, name))
    if certificate is not None:
        part.certified(certificate)
        # Whatever became of the store, this PBX was compared with it since.
        part.warned(held_words(name, certificate.held))
    return pause, certificate


def recall(part: SourceStatus, heard: LastHeard) -> None:
    """Show what was *heard* of a PBX before this process began."""
    last: LastChange | None = None
    if heard.at is not None and heard.body is not None:
        with suppress(BadEvent):  # one of another version of the bridge; that there was a change is told all the same
            event = decode(heard.body)
            words = headline(event.kind, event.reason, event.changed)
            last = LastChange(heard.at, choose_name(event.account), words)
    part.remembered(heard.at, heard.confirmed_at, last)


async def restore_worker(  # noqa: PLR0913 - its parts
    pbx: SourceSpec,
    store: SourceStore,
    *,
    offload: Offload,
    board: BridgeStatus,
    has_room: asyncio.Event,
    rules: Rules,
    deletion_limit: DeletionLimit,
    habits: Habits,
    on_committed: Callable[[Committed], None],
    on_keeping: Callable[[], None],
    budget: RowBudget | None = None,
) -> SourceWorker:
    """Show on *board* what an earlier bridge knew of *pbx*, and return its worker, which goes on from there."""
    name, part = pbx.name, board.sources[pbx.name]
    pause, certificate = await restore_status(name, part, store, offload=offload)
    verified_at, unseen = None, 0
    if certificate is not None:
        verified_at, unseen = certificate.verified_at.astimezone(), certificate.absent - certificate.held
    schedule = WalkSchedule(name, habits, verified_at, absent=unseen, steady=steady)
    part.looks_again(schedule.second_look_at(utc_now().astimezone()))
    place = await offload(store.place, name)
    part.moved(place.cursor)
    part.walk_ended()  # the worker before may have been in the midst of one
    judged = pbx.rules or rules
    if await offload(store.past.published_otherwise, name, judged.publishes):
        judged = replace(judged, is_new=True)
        part.retold(
            "What is published of it was changed in the configuration (publish): the next full walk tells the "
            f"difference. To have that now: account-bridge resync {name}"
        )
    board.watch(reading(name), pbx.max_silence)
    committer = Committer(
        name,
        store,
        rules=judged,
        on_retold=partial(store.past.note_published, name, judged.publishes),
        run=offload,
        clock=utc_now,
        part=part,
        deletion_limit=deletion_limit,
        on_committed=on_committed,
        on_keeping=on_keeping,
        schedule=schedule,
        ask_ahead=pbx.ask_ahead,
        budget=budget,
    )
    committer.stand_at(place)
    followed = SourceWorker(
        pbx, committer, schedule, place=partial(offload, store.place, name), board=board, has_room=has_room
    )
    followed.hold(pause)
    log.info("source.starting", source=name, events_so_far=place.sequence, resumes=not place.cursor.is_start)
    return followed


def _leaves(failure: Exception) -> Iterator[Exception]:
    """Yield what *failure* is made of, should it be a group."""
    if isinstance(failure, ExceptionGroup):
        for each in failure.exceptions:
            yield from _leaves(each)
    else:
        yield failure


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
