"""What first readings of many PBXs may take of the bridge at once, so that memory is bounded and changes wait for none.

Rows that are read and not yet durable are counted over all PBXs, and of groups that are part of a walk one at a time
waits for the store: a change that a PBX tells meanwhile comes behind that one, and not behind all that is walked.
"""

import asyncio
from typing import Final

from bridge.model import Row

MOST: Final = 2048
"""Rows. Sixteen PBXs fill it with groups of 128, each of which costs little more than its rows."""

LIVE_SHARE: Final = 0.25
"""Of them, for PBXs whose list is not being read as a whole."""

SHARED_GROUP_ROWS: Final = 64
"""Of a walk, made durable at a time while other walks want that, too: whoever has a change waits for one such group
each time it needs the store. A walk that is alone makes larger ones, which cost less."""


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
        self.walk_turn = asyncio.Lock()
        """Held by who makes a group of a walk durable; in the order in which they came."""

    def __repr__(self) -> str:
        return f"<RowBudget {self._rows} of {self._most}>"

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._rows

    def take(self, rows: int = 1, *, is_walking: bool) -> bool:
        """Count so many more if there is room for one, and return whether there was."""
        if self._rows >= (self._for_walks if is_walking else self._most):
            self._has_room.clear()
            return False
        self._rows += rows
        return True

    def give_back(self, rows: int) -> None:
        """Count so many less: they are durable, or forgotten."""
        self._rows -= rows
        if rows:
            self._has_room.set()

    async def wait_for_room(self) -> None:
        """Wait until some are given back, after there was no room."""
        await self._has_room.wait()
