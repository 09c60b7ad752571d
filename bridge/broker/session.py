"""What every session with the broker has in common: it tells what became of each row, until its first failure.

The contract is ``delivery.sink.Session``. Whatever goes wrong, wherever it is raised, ends the session at once and
wakes whoever waits in it; nothing waits longer than the session lasts.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, Protocol

from bridge.broker.confirms import ConfirmLedger, Outcomes
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerUnreachable, FenceHeld
from bridge.model import OutboxRow, SourceName

WATCH_SECONDS: Final = 0.5
"""How often a session looks whether it is blocked or overdue."""


CLAIMED_AT_ONCE: Final = 32
"""Fences taken in one go beside the sending of events; a broker makes about 300 queues in a second."""


class Fences(Protocol):
    """What a session needs to know of the fences of its connection."""

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources whose fence another connection held when it was asked for last."""

    def missing(self, sources: Iterable[SourceName]) -> Sequence[SourceName]:
        """Return those of *sources* whose fence is not taken."""

    async def take(self, sources: Sequence[SourceName]) -> None:
        """Take the fences of *sources*, as far as no other connection holds them."""

    async def release(self, sources: Sequence[SourceName]) -> None:
        """Give the fences of *sources* back."""


class ConfirmSession(ABC):
    """Counts the rows sent, and what the broker said of each; both are over with the first failure."""

    def __init__(self, on_state: Callable[[str], None], on_progress: Callable[[], None] = lambda: None) -> None:
        self._on_state = on_state
        self._on_progress = on_progress
        self.fences: Fences | None = None
        """Those of its connection; ``None`` where there are none."""
        self._ledger = ConfirmLedger()
        self._failure: BridgeError | None = None
        self._last_progress = 0.0
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._ledger}, {self._failure or 'open'}>"

    @property
    def is_blocked(self) -> bool:
        """True while the broker said that it takes nothing, so that no confirm can be overdue."""
        return False

    @abstractmethod
    def explain_refusal(self, row: OutboxRow) -> BridgeError | None:
        """Return why *row* would be refused for good whatever happens; ``None`` where nothing is known against it."""

    @abstractmethod
    async def _write(self, rows: Sequence[OutboxRow]) -> None:
        """Do what ``send`` promises."""

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Write *rows* in order; returns when they are on their way, not when they have an outcome.

        Whatever is raised here ends the session, cancellation too: nobody could say any more which message a confirm
        is for.

        Raises:
            BridgeError: what ended the session.

        """
        self._check()
        with self._ending():
            sources = dict.fromkeys(row.source for row in rows)
            await self._claim(sources)
            for source in sources:
                if source in self.fenced:  # whatever the caller knew: not one event goes past a fence
                    raise self.fenced[source]
            await self._write(rows)

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources that another connection publishes for, as far as they were asked about, and why they wait."""
        return {} if self.fences is None else self.fences.fenced

    async def claim(self, sources: Iterable[SourceName]) -> None:
        """Take the fences of *sources* that are not taken; those that another connection holds are ``fenced`` then.

        Raises:
            BridgeError: what ended the session.

        """
        self._check()
        with self._ending():
            await self._claim(sources)

    async def _claim(self, sources: Iterable[SourceName]) -> None:
        if self.fences is not None and (missing := self.fences.missing(sources)):
            await self._unless_ended(self.fences.take(missing))

    @asynccontextmanager
    async def claiming(self, sources: Collection[SourceName]) -> AsyncIterator[None]:
        """Take the fences of *sources* while inside, after those that are needed first; a failure ends the session."""
        task = asyncio.create_task(self._claim_all(sources))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _claim_all(self, sources: Collection[SourceName]) -> None:
        left = list(sources)
        with suppress(BridgeError):  # whoever waits for the session hears of it
            while left:
                some, left = left[:CLAIMED_AT_ONCE], left[CLAIMED_AT_ONCE:]
                await self.claim(some)

    async def release(self, sources: Sequence[SourceName]) -> None:
        """Give the fences of *sources* back, of which nothing is on its way.

        Raises:
            BridgeError: what ended the session.

        """
        self._check()
        if self.fences is not None:
            with self._ending():
                await self._unless_ended(self.fences.release(sources))

    async def outcomes(self) -> Outcomes:
        """Wait for news of rows sent in this session, in any order, and return it; each tag is told once.

        Raises:
            BridgeError: what ended the session, after everything that came before its end was told.

        """
        while not self._ledger.has_news:
            self._check()
            self._news.clear()
            await self._news.wait()
        return self._ledger.take()

    def end(self, failure: BridgeError) -> None:
        """End the session; the first reason given is the one that counts, and no confirm counts any more."""
        if self._failure is None:
            self._failure = failure
            if not self._ended.done():
                self._ended.set_result(None)
        self._news.set()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """End the session with whatever is raised inside."""
        try:
            yield
        except BridgeError as problem:
            self.end(problem)
            raise
        except BaseException as problem:
            self.end(BrokerUnreachable(f"sending was interrupted: {type(problem).__name__}"))
            raise

    @asynccontextmanager
    async def watched(self, deadline_seconds: float) -> AsyncIterator[None]:
        """Watch while inside, and end the session behind the caller."""
        over = BrokerUnreachable("this session is over")
        watching = asyncio.create_task(self.watch(deadline_seconds))
        watching.add_done_callback(lambda _: self.end(over))  # nobody waits for a session that is not watched
        try:
            yield
        finally:
            self.end(over)
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()  # raises: only a mistake of ours ends watching before it is cancelled

    async def watch(self, deadline_seconds: float) -> None:
        """Keep an eye on alarms and on confirms that stay out, until cancelled."""
        was_blocked = False
        while True:
            await asyncio.sleep(min(WATCH_SECONDS, deadline_seconds / 2))
            now = self._loop.time()
            if self.is_blocked:
                self._last_progress = now
            if self.is_blocked != was_blocked:
                was_blocked = self.is_blocked
                self._on_state("blocked: the broker has a memory or disk alarm" if was_blocked else "connected")
            if self._ledger.outstanding:
                self._on_progress()  # to wait for the broker is all right, and has an end: this one
                if now - self._last_progress > deadline_seconds:
                    self.end(BrokerDidNotConfirm(f"the broker confirmed nothing for {deadline_seconds:g} s"))

    def _goes_out(self, rows: Sequence[OutboxRow]) -> None:
        """Count *rows*, which are written next."""
        self._check()
        if not self._ledger.outstanding:
            self._last_progress = self._loop.time()
        self._ledger.sent([row.event_id for row in rows])

    def _tell(self, tell: Callable[[], None]) -> None:
        """Record what the broker said of messages, by *tell*; what makes no sense ends the session."""
        if self._failure is not None:
            return
        first = self._ledger.first
        try:
            tell()
        except BridgeError as problem:
            self.end(problem)
            return
        if self._ledger.first != first:  # others do not help a message that stays out for ever
            self._last_progress = self._loop.time()
        if self._ledger.has_news:
            self._news.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _unless_ended(self, wanted: Awaitable[Any]) -> None:
        """Wait for *wanted*, which is given up where the session ends before it."""
        task = asyncio.ensure_future(wanted)
        try:
            await asyncio.wait((task, self._ended), return_when=asyncio.FIRST_COMPLETED)
            self._check()
            await task
        finally:
            if not task.done():
                task.cancel()
            task.add_done_callback(_looked_at)


def _looked_at(task: "asyncio.Future[Any]") -> None:
    """Know of its failure: it was given up, and asyncio would complain."""
    if not task.cancelled():
        task.exception()
