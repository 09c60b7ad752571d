"""What one source reads becomes durable, in groups: all that came during one commit goes into the next.

So the groups grow as the reading gets faster than the disk, and a lone change waits for nobody. While one row follows
the other, as in a full walk, a group takes a moment to gather: a commit costs as much for one row as for many.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any, Final, TypeVar

from bridge.delivery.compare import agrees
from bridge.delivery.ingest import Ingested, ingest
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, begin_walk, caught_up, delete_missing, observe
from bridge.events.cloudevents import event_id
from bridge.events.normalize import Rules, Unexpected, is_usual
from bridge.events.wording import choose_name, headline, held_words, quoted, unread_words
from bridge.logs import get_logger
from bridge.model import WINDOW_ROWS, AccountChange, Batch, Certificate, Cursor, Row, SourceName
from bridge.observability.component_status import Level
from bridge.observability.source_status import LastChange, SourceStatus
from bridge.pbx.reader import WalkEvent
from bridge.pbx.walk.actions import CaughtUp, Compare, Doubted, EpochBegan, RowRead, Sighted, WalkBegan, WalkEnded
from bridge.pbx.walk.schedule import WalkSchedule
from bridge.runtime.row_budget import SHARED_GROUP_ROWS, RowBudget, weight
from bridge.store.contract import Offload, SourceStore
from bridge.store.records import SourceState

GATHER_SECONDS: Final = 0.05
"""How long a group gathers at most. Measured at 1 ms round trip: 270 µs of CPU per account, 1270 µs without."""

CLOSE_SECONDS: Final = 0.005
CLOSE_ROWS: Final = 16
"""Groups gather after so many rows in a row of which none came later than that behind the one before."""

LIKELY_ENDS: Final = 3
"""So many unproven ends in a row count as the end of the first reading. One is an answer that was lost, and two are a
connection that broke without a word; before the third one the PBX was asked for its guid, and told it."""

PROGRESS_ROWS: Final = 1000
"""Between two lines in the log about a long walk."""

_ROWS: Final = (RowRead, Sighted)
_BEGINNINGS: Final = (EpochBegan, WalkBegan)

Result = TypeVar("Result")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of a group, for whoever listens."""

    source: SourceName
    changes: Sequence[AccountChange] = ()
    certificate: Certificate | None = None
    began_at: datetime | None = None
    """When making the group durable began."""
    lineage: str = ""
    sequence: int = 0
    """Of the last of the changes."""

    @property
    def identified(self) -> Sequence[tuple[str, AccountChange]]:
        """The changes with the ids of their events."""
        first = self.sequence - len(self.changes) + 1
        numbered = enumerate(self.changes, first)
        return [(event_id(self.lineage, self.source, number), change) for number, change in numbered]


class Committer:
    """Between the source that reads and the store that keeps, for one PBX.

    *on_committed* is called when changes are durable, and with the certificate of every proven full walk. *on_keeping*
    is called as soon as the store was given something that may put events into the outbox: whoever asks for them then
    is answered right behind that, a change of threads earlier than by asking when they are durable.
    """

    def __init__(  # noqa: PLR0913 - its parts
        self,
        name: SourceName,
        store: SourceStore,
        *,
        rules: Rules,
        run: Offload,
        clock: Callable[[], datetime],
        part: SourceStatus,
        deletion_limit: DeletionLimit,
        on_committed: Callable[[Committed], None],
        schedule: WalkSchedule,
        on_keeping: Callable[[], None] = lambda: None,
        on_retold: Callable[[], None] = lambda: None,
        ask_ahead: int = WINDOW_ROWS,
        budget: RowBudget | None = None,
    ) -> None:
        self.cursor = Cursor()
        """Where the store stands, for all this committer knows."""
        self.accepts_deletions = False
        """True once an operator has said yes to the deletions that the deletion limit holds."""
        self._name = name
        self._store = store
        self._rules = rules
        self._run = run
        self._clock = clock
        self._part = part
        self._deletion_limit = deletion_limit
        self._on_committed = on_committed
        self._on_keeping = on_keeping
        self._on_retold = on_retold
        self._schedule = schedule
        self._ask_ahead = ask_ahead
        self._budget = budget or RowBudget()
        self._counted = 0
        """Rows that the budget counts for us, by their weight: those that wait, and those being committed."""
        self._waiting: list[WalkEvent] = []
        """What is to be committed next."""
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._all_durable = asyncio.Event()
        self._all_durable.set()
        self._enough_rows = max(1, ask_ahead // 2)
        """So many are a group at once: the reading goes on into the other half while they are committed."""
        self._is_enough = asyncio.Event()
        self._close_rows = 0
        self._last_put = 0.0
        self._walk: WalkRecord | None = None
        self._lineage = ""
        self._is_initial = False
        """True until the source was caught up for the first time in its lineage."""
        self._unproven_ends = 0
        """How many came in a row, with no account between them."""
        self._begins = False
        """True while what waits, or is being committed, begins a full walk."""
        self._is_first_reading = False
        """True while the walk under way, if any, is made of what the live cursor delivers."""
        self._unexpected = Unexpected()
        self._rows_of_walk = 0

    def __repr__(self) -> str:
        return f"<Committer of {self._name}, {len(self._waiting)} waiting>"

    def stand_at(self, place: SourceState) -> None:
        """Go on from where the store stands."""
        self.cursor, self._is_initial, self._lineage = place.cursor, place.is_initial, place.lineage

    async def put(self, heard: WalkEvent) -> None:
        """Take the next thing; waits while ``ask_ahead`` wait to be committed, which in turn stops the reading.

        The same where all PBXs together have as much as they may.
        """
        while not self.take_at_once(heard):
            self._is_enough.set()
            if self._is_full:
                self._room.clear()
                await self._room.wait()
            else:
                await self._budget.wait_for_room()

    def take_at_once(self, heard: WalkEvent) -> bool:
        """Take the next thing if there is room for it, and return whether there was."""
        waiting = len(self._waiting)
        if self._is_full:
            return False
        if isinstance(heard, _ROWS):
            rows = weight(heard.row)
            if not self._budget.take(rows, by=self._name, is_walking=self._is_walking):
                return False
            self._counted += rows
        elif isinstance(heard, _BEGINNINGS):
            self._begins = True
        self._waiting.append(heard)
        if not waiting:
            self._news.set()
            self._all_durable.clear()
        now = time.monotonic()
        self._close_rows = self._close_rows + 1 if now - self._last_put < CLOSE_SECONDS else 0
        self._last_put = now
        if waiting + 1 >= self._enough_rows or not isinstance(heard, _ROWS):
            self._is_enough.set()
        return True

    @property
    def _is_walking(self) -> bool:
        """True while what is taken is part of a full walk."""
        return self._begins or self._walk is not None

    @property
    def _is_full(self) -> bool:
        """True where as much waits as may; rows of usual weight are as many again while they are being committed."""
        return len(self._waiting) >= self._ask_ahead or self._counted >= 2 * self._ask_ahead

    async def settle(self) -> None:
        """Wait until everything taken is durable."""
        self._is_enough.set()
        with self._budget.hurry():
            await self._all_durable.wait()

    def abandon_walk(self) -> None:
        """Forget the full walk under way: its connection is gone, and with it what it would have proven."""
        if self._walk is not None:
            self._walk = None
            self._part.walk_ended()
            self._walk_is_over(is_proven=False)

    def start_over(self, place: SourceState) -> None:
        """Forget what was taken and could not be made durable, and go on from *place*, where the store stands."""
        self.forget_waiting()
        self._news.clear()
        self._is_enough.clear()
        self._room.set()
        self._all_durable.set()
        self.abandon_walk()
        self.stand_at(place)

    def forget_waiting(self) -> None:
        """Forget what was taken: nothing of it will become durable here."""
        self._waiting.clear()
        self._begins = False
        self._give_back(self._counted)
        self._budget.told([self._name])

    def _give_back(self, rows: int) -> None:
        self._counted -= rows
        self._budget.give_back(rows)

    async def keep_committing(self) -> None:
        """Commit group after group, for ever.

        Raises:
            Fatal: the store cannot be written, or another bridge moved the cursor.

        """
        while True:
            await self._news.wait()
            if self._close_rows >= CLOSE_ROWS:
                await self._gather()
            group = self._take_group()
            if not self._waiting:
                self._news.clear()
            self._room.set()
            await self.commit(group)
            self._give_back(sum(weight(heard.row) for heard in group if isinstance(heard, _ROWS)))
            self._room.set()
            del group  # or an idle PBX would keep it in memory, with all that its accounts tell
            if not self._waiting:
                self._all_durable.set()

    def _take_group(self) -> list[WalkEvent]:
        """Return what is to be made durable next: all there is, or of a walk a little while others want the store."""
        most = SHARED_GROUP_ROWS if self._is_walking and self._budget.is_shared(self._name) else len(self._waiting)
        group, self._waiting = self._waiting[:most], self._waiting[most:]
        return group

    async def _gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._is_enough.wait()
        self._is_enough.clear()

    async def commit(self, group: Sequence[WalkEvent]) -> None:
        """Make *group* durable, in order.

        Raises:
            Fatal: the store cannot be written, or another bridge moved the cursor.

        """
        for kind, heard in groupby(group, key=type):
            await self._take(kind, list(heard))

    async def _take(self, kind: type, group: list[Any]) -> None:
        if kind is RowRead:
            await self._deliver(group)
        elif kind is Sighted:
            await self._sight(group)
        for heard in group:
            match heard:
                case EpochBegan(start=start):
                    await self._begin_walk("reading the whole list", start)
                case WalkBegan():
                    await self._begin_walk("reading the whole list once more")
                case CaughtUp(is_proven=is_proven, trouble=trouble):
                    await self._caught_up(is_proven=is_proven)
                    if trouble:
                        self._part.failed(trouble, Level.WARN, self._clock())
                        log.warning("source.troubled", source=self._name, problem=trouble)
                case WalkEnded(is_proven=is_proven, until=until):
                    await self._end_walk(is_proven=is_proven, until=until)
                case Compare() | Doubted():
                    await self._weigh(heard)

    def _keep(self, call: Callable[[], Result]) -> Awaitable[Result]:
        done = self._run(call)
        self._on_keeping()
        return done

    async def _keep_rows(self, keep: Offload, call: Callable[[], Result]) -> Result:
        """Have rows made durable; those of a walk take turns with other walks, so that few are in anybody's way."""
        if self._walk is None:
            return await keep(call)
        async with self._budget.walk_turn(self._name):
            return await keep(call)

    async def _deliver(self, group: Sequence[RowRead]) -> None:
        rows = [heard.row for heard in group]
        until = group[-1].until
        batch = Batch(self._name, self.cursor, until, rows)
        now = self._clock()
        done = await self._keep_rows(self._keep, partial(ingest, self._store, batch, rules=self._rules, now=now))
        if not done.changes:
            self._budget.told([self._name])
        self._stand_at(until)
        self._unproven_ends = 0
        if self._walk is not None:
            self._walk.heard_live(rows)
        self._part.read(len(rows))
        if self._is_first_reading:
            self._walk_proceeds(len(rows))
        self._note_progress(rows)
        self._tell(done, now)

    async def _sight(self, group: Sequence[Sighted]) -> None:
        rows = [heard.row for heard in group]
        if self._walk is not None:
            now = self._clock()
            keep = self._keep if self._rules.is_new else self._run
            observed = partial(observe, self._store, self._name, rows, self._walk, rules=self._rules, now=now)
            done = await self._keep_rows(keep, observed)
            self._tell(done, now)
            self._walk_proceeds(len(rows))
        self._note_progress(rows)

    async def _move(self, until: Cursor) -> None:
        if until != self.cursor:
            batch = Batch(self._name, self.cursor, until, ())
            await self._run(partial(ingest, self._store, batch, rules=self._rules, now=self._clock()))
            self._stand_at(until)

    async def _weigh(self, heard: Compare | Doubted) -> None:
        if isinstance(heard, Compare):
            row, is_news = heard.row, heard.is_news
            if await self._run(partial(agrees, self._store, self._name, row, is_news=is_news, rules=self._rules)):
                return
            what = "numbers that it has used before" if is_news else "another content with the same numbers"
            heard = Doubted(f"the first account it told has {what}")
        log.info("source.doubted", source=self._name, reason=heard.why, evident=heard.is_evident)
        self._schedule.doubt(is_evident=heard.is_evident)

    def _stand_at(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._part.moved(cursor)

    async def _begin_walk(self, doing: str, start: Cursor | None = None) -> None:
        """Begin a full walk; with *start*, that of another list, whose cursor stands there."""
        now, is_new_epoch = self._clock(), start is not None
        self._walk, self._begins = WalkRecord(now), False
        self._part.walk_began(now)
        self._is_first_reading = is_new_epoch
        self._rows_of_walk = 0
        self._unexpected.forget_unread()
        self._schedule.began(is_new_epoch=is_new_epoch)
        if is_new_epoch:
            self._part.begins_anew()
        epoch = None if start is None else (self.cursor, start)
        await self._run(partial(begin_walk, self._store, self._name, epoch=epoch))
        if start is not None:
            self._stand_at(start)
        self._part.set_doing(doing, Level.OK, self._clock())
        log.info("walk.started", source=self._name)

    async def _caught_up(self, *, is_proven: bool) -> None:
        now = self._clock()
        self._unproven_ends += 1
        ends_initial = self._is_initial and (is_proven or self._unproven_ends >= LIKELY_ENDS)
        if ends_initial or (self._walk is not None and self._walk.suspects):
            repair = partial(caught_up, self._store, self._name, self._walk, rules=self._rules, now=now)
            done = await self._keep(partial(repair, ends_initial=ends_initial))
            self._is_initial &= not ends_initial
            self._tell(done, now)
        if is_proven:
            self._part.caught_up(now)
        if self._rows_of_walk and self._walk is None:
            log.debug("source.caught_up", source=self._name, accounts=self._rows_of_walk, proven=is_proven)
            self._rows_of_walk = 0
        if self._walk is None:
            self._rest(is_proven=is_proven)

    async def _end_walk(self, *, is_proven: bool, until: Cursor) -> None:
        await self._move(until)
        walk = self._walk
        self._part.walk_ended()
        self._rest(is_proven=is_proven)
        if walk is None:
            return
        if not is_proven:
            log.info("walk.ended_unproven", source=self._name, accounts=self._rows_of_walk, deletions="unknown")
            self._part.walk_ended_unproven()
            self._walk = None
            self._walk_is_over(is_proven=False)
            return
        async with self._budget.walk_turn(self._name):
            certificate, deleted = await self._keep(
                partial(
                    delete_missing,
                    self._store,
                    self._name,
                    walk,
                    rules=self._rules,
                    now=self._clock(),
                    deletion_limit=self._deletion_limit,
                    is_accepted=self.accepts_deletions,
                )
            )
        self.accepts_deletions = False
        if self._rules.is_new:  # they were as long as this walk took, so everybody is told by them
            await self._run(self._on_retold)
            self._rules = replace(self._rules, is_new=False)
            self._part.retold()
        self._certify(certificate)
        self._note_changes(deleted)
        self._walk = None  # not before: where the store failed it is abandoned, and another one is due
        self._walk_is_over(is_proven=True, absent=certificate.absent - certificate.held)
        at = certificate.verified_at
        self._on_committed(Committed(self._name, deleted, certificate, at, self._lineage, certificate.sequence))

    def _walk_is_over(self, *, is_proven: bool, absent: int = 0) -> None:
        now = self._clock().astimezone()
        self._schedule.over(now, is_proven=is_proven, absent=absent)
        self._part.looks_again(self._schedule.second_look_at(now))

    def _certify(self, certificate: Certificate) -> None:
        self._rows_of_walk = 0
        part = self._part
        part.certified(certificate)
        part.has_unread(unread_words(self._unexpected.unread))
        log.info(
            "source.verified",
            source=self._name,
            accounts=certificate.accounts,
            seen=certificate.accounts - certificate.absent,
            repaired=certificate.repaired,
            deleted=certificate.deleted,
            held=certificate.held,
            absent=certificate.absent,
            seconds=round((certificate.verified_at - certificate.started_at).total_seconds(), 1),
        )
        part.warned(held_words(self._name, certificate.held))
        if certificate.held:
            log.warning("deletions.held", source=self._name, accounts=certificate.held, remedy=part.warning)

    def _rest(self, *, is_proven: bool) -> None:
        doing = "up to date" if is_proven else "up to date, as far as silence tells"
        self._part.set_doing(doing, Level.OK, self._clock())

    def _tell(self, done: Ingested, began_at: datetime) -> None:
        if done.changes:
            self._note_changes(done.changes)
            place = done.place
            told = Committed(self._name, done.changes, None, began_at, place.lineage, place.sequence)
            self._on_committed(told)

    def _note_changes(self, changes: Sequence[AccountChange]) -> None:
        if changes:
            last, now = changes[-1], self._clock()
            words = headline(last.kind, last.reason, last.changed)
            self._part.changed(len(changes), LastChange(now, choose_name(last.account), words))

    def _walk_proceeds(self, accounts: int) -> None:
        self._part.walk_proceeded(accounts, self._clock())

    def _note_progress(self, rows: Sequence[Row]) -> None:
        before, self._rows_of_walk = self._rows_of_walk, self._rows_of_walk + len(rows)
        if before // PROGRESS_ROWS != self._rows_of_walk // PROGRESS_ROWS:
            log.info("walk.progress", source=self._name, accounts=self._rows_of_walk)
        for row in rows:
            if is_usual(row):
                continue
            if unread := self._unexpected.unread_in(row):
                self._part.has_unread(unread_words(self._unexpected.unread))
                log.warning("info.unread", source=self._name, forms=unread, problem=self._part.unread)
            if unknown := self._unexpected.unknown_in(row):
                log.info("info.unknown_fields", source=self._name, names=[quoted(name) for name in unknown])
            if cut := self._unexpected.cut_in(row):
                log.warning("info.cut", source=self._name, names=cut)
