"""From delivered rows to confirmed events, and why nothing is lost and nothing sent twice on the way.

1. Cursor, mirror and outbox rows commit together, so a crash loses a whole batch or nothing (``ingest``).
2. The cursor moves only from the value we read, so two bridges cannot commit the same batch (``move_cursor``).
3. Changes are differences against the mirror, so hearing a fact twice changes nothing (``normalize.judge``).
4. A row is done only after the broker confirmed it, so every change is sent at least once (``Drain``).
5. An event's id is fixed with its row and an inbox remembers it, so it is applied at most once.

What this module needs of a store and of a publisher is written down here, as contracts; they match by shape.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from bridge import cloudevents
from bridge.errors import BridgeError, CursorMoved
from bridge.model import (
    AccountChange,
    Batch,
    ChangeKind,
    Cursor,
    Mirrored,
    NewEvent,
    OutboxRow,
    Place,
    Row,
    SourceName,
)
from bridge.normalize import Judgement, Rules, account_key, judge, publish_anew

PAGE_ROWS: Final = 512
"""Read from the outbox at a time: enough to fill a window, little enough to hold in memory (about 1 MB)."""


class Transaction(Protocol):
    """Everything inside becomes durable together, or not at all."""

    def place(self, source: SourceName) -> Place:
        """Return where *source* stands; a source never seen before stands at the start."""

    def mirrored(self, source: SourceName, key: str) -> Mirrored | None:
        """Return what the mirror knows of the account with this key."""

    def body_of_event(self, event_id: str) -> bytes | None:
        """Return the bytes of an event made before, as long as the outbox keeps it."""

    def remember(self, source: SourceName, accounts: dict[str, Mirrored]) -> None:
        """Put accounts, by key, into the mirror."""

    def add_events(self, source: SourceName, events: Sequence[NewEvent]) -> None:
        """Append events to the outbox, in order."""

    def move(self, source: SourceName, since: Cursor, until: Place) -> bool:
        """Move the cursor if it stands at *since*, and return whether it did."""


class Store(Protocol):
    """What ingesting and draining need of a store. Calls block and come from one thread at a time."""

    @property
    def lineage(self) -> str:
        """Of this store since it was made: revisions and sequences count within it."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Return a transaction: committed when left normally, rolled back when left by an exception."""

    def unpublished(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return the oldest unpublished rows behind position *after*."""

    def mark_published(self, after: int, until: int, at: datetime) -> None:
        """Record that the broker confirmed the rows behind *after*, up to and including *until*."""

    def mark_in_doubt(self, after: int, until: int) -> None:
        """Record that the same rows may have reached the broker although no confirm came."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch."""

    place: Place
    changes: Sequence[AccountChange]
    """The changes that are now on their way, in order."""


def ingest(store: Store, batch: Batch, *, rules: Rules, now: datetime) -> Ingested:
    """Make *batch* durable: cursor, mirror and outbox rows in one transaction.

    Raises:
        CursorMoved: the durable cursor is not where the batch begins; another bridge moved it.
        StoreUnusable: from the store; nothing of the batch is durable then.

    """
    with store.transaction() as transaction:
        work = _Ingestion(transaction, batch.source, rules)
        for row in batch.rows:
            work.take(row)
        place = work.finish(batch, store.lineage, now)
    return Ingested(place, [change for _, change in work.changes])


class _Ingestion:
    """One batch being worked on; rows later in it see the effect of earlier ones."""

    def __init__(self, transaction: Transaction, source: SourceName, rules: Rules) -> None:
        self._transaction = transaction
        self._source = source
        self._rules = rules
        self._place = transaction.place(source)
        self._accounts: dict[str, Mirrored] = {}
        self._told: dict[str, AccountChange] = {}

    @property
    def changes(self) -> Sequence[tuple[str, AccountChange]]:
        return list(self._told.items())

    def take(self, row: Row) -> None:
        key = account_key(row.account_guid)
        before = self._accounts.get(key) or self._transaction.mirrored(self._source, key)
        judgement = judge(row, before, source=self._source, rules=self._rules)
        if judgement.change is not None:
            if self._is_repetition(judgement.change, before):
                return
            judgement = self._with_free_id(judgement)
            if judgement.change is not None:
                self._told[cloudevents.event_id(judgement.change)] = judgement.change
                reused = judgement.change.reuse - (before.reuse if before is not None else 0)
                self._place = replace(self._place, rewinds=self._place.rewinds + reused)
        if judgement.remember is not before:
            self._accounts[key] = judgement.remember

    def finish(self, batch: Batch, lineage: str, now: datetime) -> Place:
        events = []
        sequence = self._place.sequence
        for identity, change in self._told.items():
            sequence += 1
            body = cloudevents.encode(change, identity=identity, sequence=sequence, lineage=lineage, time=now)
            events.append(NewEvent(sequence, identity, cloudevents.routing_key(change), body, now))
        place = replace(self._place, cursor=batch.until, sequence=sequence)
        if not self._transaction.move(self._source, batch.since, place):
            raise CursorMoved(
                f"the cursor of {self._source} was moved by somebody else: another bridge works on the same store. "
                "Stop one of the two"
            )
        self._transaction.remember(self._source, self._accounts)
        self._transaction.add_events(self._source, events)
        return place

    def _is_repetition(self, change: AccountChange, before: Mirrored | None) -> bool:
        """Tell whether *change* is an older version that was told already: a PBX that starts its list again."""
        if before is None or change.cursor == before.cursor:
            return False
        kinds = (ChangeKind.CREATED, ChangeKind.UPDATED) if change.kind is not ChangeKind.DELETED else (change.kind,)
        return any(self._account_told(replace(change, kind=kind)) == change.account for kind in kinds)

    def _with_free_id(self, judgement: Judgement) -> Judgement:
        while judgement.change is not None and self._account_told(judgement.change) is not None:
            judgement = publish_anew(judgement)
        return judgement

    def _account_told(self, change: AccountChange) -> Any:
        identity = cloudevents.event_id(change)
        if (told := self._told.get(identity)) is not None:
            return told.account
        body = self._transaction.body_of_event(identity)
        return None if body is None else cloudevents.decode(body).account


class Session(Protocol):
    """A connection to the broker, used until its first failure of any kind and then thrown away."""

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Hand *rows* to the broker in order; waits while the broker blocks us, not for confirms."""

    async def confirmed(self) -> int:
        """Wait until more leading rows of this session are confirmed, and return how many now are.

        Raises what ended the session, after every confirm that came was told.
        """


class Publisher(Protocol):
    """Makes sessions."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Return a new session; raises what keeps it from starting."""


Result = TypeVar("Result")


class Offload(Protocol):
    """Runs a blocking store call elsewhere, one at a time and in order."""

    def __call__(self, call: Callable[..., Result], /, *args: Any) -> Awaitable[Result]:
        """Return what ``call(*args)`` returns."""


class Drain:
    """Publishes the outbox in order with a window of unconfirmed rows; marks only the unbroken confirmed prefix.

    *on_published* is called with the rows the broker confirmed, once they are marked.
    """

    def __init__(  # noqa: PLR0913 - its parts, each of them a contract
        self,
        store: Store,
        publisher: Publisher,
        *,
        offload: Offload,
        clock: Callable[[], datetime],
        window: int = 256,
        on_published: Callable[[Sequence[OutboxRow]], None] = lambda _rows: None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._offload = offload
        self._clock = clock
        self._window = window
        self._on_published = on_published
        self._in_flight: deque[OutboxRow] = deque()
        self._behind = 0
        """Position of the last row that is done, as far as this session knows."""
        self._wake = asyncio.Event()
        self._is_stopping = False

    def __repr__(self) -> str:
        return f"<Drain {len(self._in_flight)} in flight>"

    @property
    def in_flight(self) -> int:
        """How many rows are sent and unconfirmed."""
        return len(self._in_flight)

    def wake(self) -> None:
        """Say that there may be new rows."""
        self._wake.set()

    def stop(self) -> None:
        """Send nothing more; ``run`` returns once everything in flight is confirmed and marked."""
        self._is_stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Publish until stopped; raises what ended the session. Call again to go on in a new session.

        Raises:
            BridgeError: whatever ended the session, or keeps it from starting.

        """
        async with self._publisher.session() as session:
            self._behind = 0
            self._in_flight.clear()
            try:
                async with asyncio.TaskGroup() as group:
                    marking = group.create_task(self._mark(session))
                    await self._feed(session, marking)
                    marking.cancel()
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None
            finally:
                await self._record_doubt()

    async def _feed(self, session: Session, marking: asyncio.Task[None]) -> None:
        position = 0
        while not self._is_stopping:
            self._wake.clear()
            room = self._window - len(self._in_flight)
            rows = await self._offload(self._store.unpublished, position, min(room, PAGE_ROWS)) if room > 0 else ()
            if not rows:
                await self._wake.wait()
                continue
            position = rows[-1].position
            self._in_flight.extend(rows)
            try:
                await session.send(rows)
            except BridgeError:
                # The same failure ends `confirmed`, after the confirms that still came; leave the word to it.
                await asyncio.wait([marking])
                raise
        while self._in_flight:
            self._wake.clear()
            await self._wake.wait()

    async def _mark(self, session: Session) -> None:
        marked = 0
        while True:
            confirmed = await session.confirmed()
            done = list(islice(self._in_flight, confirmed - marked))
            await self._offload(self._store.mark_published, self._behind, done[-1].position, self._clock())
            # Only now: a stop waits until nothing is in flight, and must not overtake the marking.
            for _ in done:
                self._in_flight.popleft()
            marked, self._behind = confirmed, done[-1].position
            self._on_published(done)
            self._wake.set()

    async def _record_doubt(self) -> None:
        if self._in_flight:
            await self._offload(self._store.mark_in_doubt, self._behind, self._in_flight[-1].position)
            self._in_flight.clear()
