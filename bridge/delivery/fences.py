"""Sources that somebody else sends for: they wait and are asked about again, and all others go on.

Where a source has a lane of its own, that waits. Where one lane is for all, its positions have to ascend, so the events
of such a source are put aside in the outbox, and go out as copies behind everything else once the fence is free.
"""

import asyncio
import math
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from bridge.delivery.sink import Session
from bridge.errors import BridgeError, FenceHeld
from bridge.model import SourceName
from bridge.store.contract import Offload, Outbox

FENCE_FIRST_SECONDS: Final = 1.0
FENCE_SECONDS: Final = 15.0
"""Between two attempts to take a fence, at first and at most: nobody is disturbed by one."""

OWN_CONNECTION_SECONDS: Final = 60.0
"""The broker has noticed by then that our own last connection is dead: it is somebody else's fence."""


class FenceObserver(Protocol):
    """Who is told about sources that wait for their fence."""

    def fenced(self, source: SourceName, problem: BridgeError, pause_seconds: float) -> None:
        """Take the news that *source* waits, since somebody else sends for it."""

    def unfenced(self, source: SourceName) -> None:
        """Take the news that it goes on."""


@dataclass(slots=True)
class _Wait:
    """That somebody else sends for a source."""

    since: float
    refusals: int = 0
    not_before: float = 0.0


class FencedSources:
    """Takes the fences of sources, and knows which of them wait; *on_free* is called with one that may go on."""

    def __init__(
        self,
        store: Outbox,
        observer: FenceObserver,
        *,
        offload: Offload,
        clock: Callable[[], datetime],
        on_free: Callable[[SourceName], None],
    ) -> None:
        self._on_free = on_free
        self._store = store
        self._observer = observer
        self._offload = offload
        self._clock = clock
        self._waits: dict[SourceName, _Wait] = {}
        self._free: set[SourceName] = set()
        """Those that may send in this session."""

    def __repr__(self) -> str:
        return f"<FencedSources {sorted(self._waits)}>"

    def __contains__(self, source: SourceName) -> bool:
        """Tell whether *source* waits."""
        return source in self._waits

    @property
    def due(self) -> float:
        """When the next one is to be asked about, by the clock of the loop."""
        return min((wait.not_before for wait in self._waits.values()), default=math.inf)

    def hurry(self) -> None:
        """Ask about all of them next."""
        for wait in self._waits.values():
            wait.not_before = 0.0

    def forget(self, source: SourceName) -> None:
        """Know nothing more of *source*, which is asked about anew before its next event is sent."""
        self._waits.pop(source, None)
        self._free.discard(source)

    async def begin(self, session: Session, sent_through: int) -> None:
        """Find out who waits in a new *session*; earlier ones sent nothing behind the position *sent_through*.

        Raises:
            FenceHeld: an earlier session may have sent events of such a source, which nobody knows.
            BridgeError: what ended the session.

        """
        self._free.clear()
        known = {*self._waits, *await self._offload(self._store.put_off_sources), *session.fenced}
        await self._ask(session, known, sent_through, is_known=True)

    async def ask(self, session: Session, sources: Iterable[SourceName], sent_through: int) -> bool:
        """Take the fences of *sources* where that was not done, and return whether any of them waits.

        Raises:
            FenceHeld, BridgeError: as ``begin``.

        """
        asked = set(sources) - self._free
        for source in asked & self._waits.keys():  # it has its time; what came meanwhile was never sent
            reason = str(session.fenced.get(source, ""))
            await self._offload(self._store.put_off, source, None, reason, self._clock())
        await self._ask(session, asked - self._waits.keys(), sent_through)
        return any(source in self._waits for source in asked)

    async def release(self, session: Session, sources: AbstractSet[SourceName]) -> None:
        """Give the fences of *sources* back, of which nothing is to be sent; before the next event they are taken anew.

        Raises:
            BridgeError: what ended the session.

        """
        await session.release(sorted(sources))
        self._free -= sources
        for source in sources:
            self._waits.pop(source, None)

    async def ask_due(self, session: Session, now: float, sent_through: int) -> None:
        """Ask once more about those whose pause is over.

        Raises:
            FenceHeld, BridgeError: as ``begin``.

        """
        await self._ask(
            session, {source for source, wait in self._waits.items() if wait.not_before <= now}, sent_through
        )

    async def _ask(
        self, session: Session, sources: AbstractSet[SourceName], sent_through: int, *, is_known: bool = False
    ) -> None:
        """Take the fences of *sources*; *is_known* those with which a session begins: something may be put off."""
        if not sources:
            return
        await session.claim(sources - (session.fenced.keys() if is_known else set()))
        for source in sources:
            if (problem := session.fenced.get(source)) is not None:
                await self._let_wait(source, problem, sent_through)
                continue
            self._free.add(source)
            wait = self._waits.pop(source, None)
            if wait is not None or is_known:
                await self._offload(self._store.let_go, source, self._clock())
                self._on_free(source)
            if wait is not None:
                self._observer.unfenced(source)

    async def _let_wait(self, source: SourceName, problem: FenceHeld, sent_through: int) -> None:
        now = asyncio.get_running_loop().time()
        wait = self._waits.setdefault(source, _Wait(now))
        wait.refusals += 1
        pause = min(FENCE_SECONDS, problem.patience_seconds, FENCE_FIRST_SECONDS * 2.0 ** min(wait.refusals - 1, 16))
        wait.not_before = now + pause
        self._observer.fenced(source, problem, pause)
        # What our own last connection sent may be written yet, and put aside it would be written once more. Such a
        # connection does not last.
        sent = None if now - wait.since > OWN_CONNECTION_SECONDS else sent_through
        if not await self._offload(self._store.put_off, source, sent, str(problem), self._clock()):
            raise problem
