"""What first readings of many PBXs may take of the bridge at once, so that memory is bounded and changes wait for none.

Rows that are read and not yet durable are counted over all PBXs, and of groups that are part of a walk one at a time
waits for the store: a change that a PBX tells meanwhile comes behind that one, and not behind all that is walked. From
when such a change is read until the exchange has it, walks read nothing more and ask the store for nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from bridge.model import Row, SourceName

MOST: Final = 2048
"""Rows. Sixteen PBXs fill it with groups of 128, each of which costs little more than its rows."""

LIVE_SHARE: Final = 0.25
"""Of them, for PBXs whose list is not being read as a whole."""

SHARED_GROUP_ROWS: Final = 32
"""Of a walk, made durable at a time while others want that, too: whoever has a change waits for one such group each
time it needs the store. A walk that is alone makes larger ones, which cost less."""

REST_SHARE: Final = 5.0
"""Walks stand aside for changes at most so many times as long as the group before took: they get on while PBXs tell
changes all the time."""

MAX_REST_SECONDS: Final = 0.1
"""A group that took long may have waited for a database that was away, and a change may wait for a broker."""

CHANGES_SECONDS: Final = 10.0
"""So long after a change there may be another one."""

HEAVY_BYTES: Final = 2048
"""Of a message: a row counts as one more for each of them. Accounts are smaller, and what is nested in odd ways takes
thirty times as much memory as its message."""


def weight(row: Row) -> int:
    """Return as how many rows *row* counts."""
    return 1 + row.size // HEAVY_BYTES


class RowBudget:
    """Counts rows of all PBXs by their weight; *most* is what there may be, and what the last one has beyond that."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._for_walks = max(1, int(most * (1 - LIVE_SHARE)))
        self._rows = 0
        self._has_room = asyncio.Event()
        self._walking = asyncio.Lock()
        """Held by who makes a group of a walk durable; in the order in which they came."""
        self._rests_until = 0.0
        self._on_way: dict[SourceName, float] = {}
        """Whose changes, told outside of a walk, the exchange has not yet, and when the first of them was read; the
        oldest comes first."""
        self._newest: tuple[SourceName | None, float] = (None, -CHANGES_SECONDS)
        """Who told changes last outside of a walk, and when."""
        self._newest_of_others: tuple[SourceName | None, float] = self._newest
        """The same of all but that one."""
        self._hurried = 0
        self._is_free = asyncio.Event()
        """Set while nothing is on its way, or somebody hurries."""
        self._is_free.set()

    def __repr__(self) -> str:
        return f"<RowBudget {self._rows} of {self._most}>"

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._rows

    def take(self, rows: int = 1, *, by: SourceName, is_walking: bool) -> bool:
        """Count so many more of a PBX if there is room for one, and return whether there was.

        What is not part of a walk is a change, and on its way from now on. While one of another PBX is, there is no
        room for walks.
        """
        now = time.monotonic()
        if self._rows >= (self._for_walks if is_walking else self._most) or (is_walking and self._is_aside(by, now)):
            self._has_room.clear()
            return False
        self._rows += rows
        if not is_walking:
            self._note_change(by, now)
        return True

    def give_back(self, rows: int) -> None:
        """Count so many less: they are durable, or forgotten."""
        self._rows -= rows
        if rows:
            self._has_room.set()

    def _note_change(self, by: SourceName, now: float) -> None:
        self._on_way.setdefault(by, now)
        if not self._hurried:
            self._is_free.clear()
        if self._newest[0] != by:
            self._newest_of_others = self._newest
        self._newest = by, now

    def told(self, sources: Iterable[SourceName]) -> None:
        """Say that nothing of these is on its way: the exchange has it, or there was nothing to tell."""
        if self._on_way:
            for source in sources:
                self._on_way.pop(source, None)
            if not self._on_way:
                self._is_free.set()

    def _is_aside(self, by: SourceName, now: float) -> bool:
        """Return whether walks stand aside: changes of others are on their way, and not for long."""
        while self._on_way and now - next(iter(self._on_way.values())) >= MAX_REST_SECONDS:
            self.told([next(iter(self._on_way))])
        return now < self._rests_until and not self._hurried and len(self._on_way) > (by in self._on_way)

    def is_shared(self, by: SourceName) -> bool:
        """Tell whether others would wait for a large group of a walk: other walks, or changes."""
        return not self._hurried and (self._walking.locked() or self._others_change(by, time.monotonic()))

    def _others_change(self, by: SourceName, now: float) -> bool:
        changer, at = self._newest if self._newest[0] != by else self._newest_of_others
        return changer is not None and now - at < CHANGES_SECONDS

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Have no walk stand aside meanwhile: somebody waits until all that was read is durable."""
        self._hurried += 1
        self._is_free.set()
        try:
            yield
        finally:
            self._hurried -= 1
            if not self._hurried and self._on_way:
                self._is_free.clear()

    @asynccontextmanager
    async def walk_turn(self, by: SourceName) -> AsyncIterator[None]:
        """Make a group of a walk durable inside; one at a time, in the order in which they came, behind changes.

        Whoever comes next stands aside, so that nobody who has something durable is kept from telling of it.
        """
        async with self._walking:
            while self._is_aside(by, time.monotonic()):
                await self._rest()
            began_at = time.monotonic()
            yield
            now = time.monotonic()
            self._rests_until = now + min((now - began_at) * REST_SHARE, MAX_REST_SECONDS)

    async def wait_for_room(self) -> None:
        """Wait until there may be room, after there was none."""
        if self._rows < self._for_walks:  # so it is changes that keep a walk waiting
            await self._rest()
        else:
            await self._has_room.wait()

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._rests_until - time.monotonic())):
                await self._is_free.wait()
