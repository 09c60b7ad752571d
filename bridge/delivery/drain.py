"""The outbox, published in order; a row is done when the broker confirmed it, and never before."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Final

from bridge.delivery.contracts import Offload, Outbox, Publisher, Session
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerRefusedEvent
from bridge.model import OutboxRow

PAGE_ROWS: Final = 512
"""Read from the outbox at a time: enough to fill a window, little enough to hold in memory (about 1 MB)."""


async def nothing_to_settle(_session: Session) -> None:
    """Do nothing: most brokers do not know what they got in earlier sessions."""


class Drain:
    """Publishes the outbox in order with a window of unconfirmed rows; marks only the unbroken confirmed prefix.

    A row that the broker refuses for good is parked: it waits for an operator, and with it what comes behind it and is
    about the same account. *on_published* is called with the rows the broker confirmed, once they are marked, and
    *on_parked* with a row that is parked, and why. *settle* is awaited with every new session before anything is sent.
    """

    def __init__(  # noqa: PLR0913 - its parts, each of them a contract
        self,
        store: Outbox,
        publisher: Publisher,
        *,
        offload: Offload,
        clock: Callable[[], datetime],
        window: int = 256,
        settle: Callable[[Any], Awaitable[None]] = nothing_to_settle,
        on_published: Callable[[Sequence[OutboxRow]], None] = lambda _rows: None,
        on_parked: Callable[[OutboxRow, str], None] = lambda _row, _reason: None,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._offload = offload
        self._clock = clock
        self._window = window
        self._settle = settle
        self._on_published = on_published
        self._on_parked = on_parked
        self._in_flight: deque[OutboxRow] = deque()
        self._wake = asyncio.Event()
        self._may_have_rows = True
        """False once the last of the outbox was read, until somebody says that there may be more."""
        self._is_stopping = False
        self._has_released = False
        """True while rows that this session passed over are to be sent after all."""
        self.is_in_session = False
        """True while connected; only then can anything be in flight."""
        self._is_cautious = False
        """True after the broker refused a row: until one is confirmed again they are sent one by one, since everything
        sent behind a refused row is delivered once more with every attempt."""

    def __repr__(self) -> str:
        return f"<Drain {len(self._in_flight)} in flight>"

    @property
    def in_flight(self) -> int:
        """How many rows are sent and unconfirmed."""
        return len(self._in_flight)

    def wake(self) -> None:
        """Say that there may be new rows."""
        self._may_have_rows = True
        self._wake.set()

    def go_back(self) -> None:
        """Say that rows which were held may be sent now, although later ones were sent already."""
        self._has_released = True
        self.wake()

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
            self._in_flight.clear()
            await self._settle(session)
            self.is_in_session = True
            try:
                async with asyncio.TaskGroup() as group:
                    marking = group.create_task(self._mark(session))
                    await self._feed(session, marking)
                    marking.cancel()
            except ExceptionGroup as failures:
                failure = failures.exceptions[0]
                self._is_cautious |= isinstance(failure, (BrokerDidNotConfirm, BrokerRefusedEvent))
                if isinstance(failure, BrokerRefusedEvent) and len(self._in_flight) == 1:  # this one, then
                    await self._park(self._in_flight.pop(), str(failure))
                raise failure from None
            finally:
                self.is_in_session = False
                await self._record_doubt()

    async def _feed(self, session: Session, marking: asyncio.Task[None]) -> None:
        position = 0
        self._may_have_rows = True
        while True:
            self._wake.clear()
            if self._has_released and not self._in_flight:
                position, self._has_released = 0, False
            window = 0 if self._has_released else 1 if self._is_cautious else self._window
            room = min(window - len(self._in_flight), PAGE_ROWS)
            rows: Sequence[OutboxRow] = ()
            if room > 0 and self._may_have_rows:
                self._may_have_rows = False
                rows = await self._offload(self._store.unpublished, position, room)
                self._may_have_rows |= len(rows) == room
            if self._is_stopping:
                break
            if not rows:
                await self._wake.wait()
                continue
            refusal = next(filter(None, map(session.refusal_of, rows)), None)
            if refusal is not None:
                self._is_cautious = True
                if len(rows) == 1 and not self._in_flight:  # this one, then
                    await self._park(rows[0], str(refusal))
                    self._is_cautious = False
                self._may_have_rows = True  # otherwise once more, one by one
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
        marked, settled = 0, set[int]()
        refusals: dict[int, BridgeError] = {}
        while True:
            outcomes = await session.outcomes()
            settled.update(outcomes.confirmed)
            refusals.update(outcomes.refused)
            confirmed = marked
            while confirmed + 1 in settled:
                confirmed += 1
                settled.remove(confirmed)
            done = list(islice(self._in_flight, confirmed - marked))
            if done:
                await self._offload(self._store.mark_published, done, self._clock())
                # Only now: a stop waits until nothing is in flight, and must not overtake the marking.
                for _ in done:
                    self._in_flight.popleft()
                marked = confirmed
                self._is_cautious = False
                self._on_published(done)
                self._wake.set()
            if marked + 1 in refusals:
                raise refusals[marked + 1]

    async def _record_doubt(self) -> None:
        if self._in_flight:
            await self._offload(self._store.mark_in_doubt, list(self._in_flight))
            self._in_flight.clear()

    async def _park(self, row: OutboxRow, reason: str) -> None:
        await self._offload(self._store.park, row, reason, self._clock())
        self._on_parked(row, reason)
