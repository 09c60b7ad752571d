"""What first readings of many PBXs may take of the bridge at once, so that memory is bounded and changes wait for none.

Rows that are read and not yet durable are counted over all PBXs, and of groups that are part of a walk only a few at a
time wait for the store: a change that a PBX tells meanwhile comes behind those, and not behind all that is walked.
"""

import asyncio
from typing import Final

MOST: Final = 2048
"""Rows. Sixteen PBXs fill it with groups of 128, each of which costs little more than its rows."""

LIVE_SHARE: Final = 0.25
"""Of them, for PBXs whose list is not being read as a whole."""

GROUPS: Final = 2
"""Of walks, given to the store at a time: one that it works on, and the next."""


class RowBudget:
    """Counts rows of all PBXs; *most* is what there may be."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._for_walks = max(1, int(most * (1 - LIVE_SHARE)))
        self._rows = 0
        self._has_room = asyncio.Event()
        self.walk_groups = asyncio.Semaphore(GROUPS)
        """Held by who makes a group of a walk durable; in the order in which they came."""

    def __repr__(self) -> str:
        return f"<RowBudget {self._rows} of {self._most}>"

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._rows

    def take(self, *, is_walking: bool) -> bool:
        """Count one row more if there is room for it, and return whether there was."""
        if self._rows >= (self._for_walks if is_walking else self._most):
            self._has_room.clear()
            return False
        self._rows += 1
        return True

    def give_back(self, rows: int) -> None:
        """Count so many less: they are durable, or forgotten."""
        self._rows -= rows
        if rows:
            self._has_room.set()

    async def wait_for_room(self) -> None:
        """Wait until some are given back, after there was no room."""
        await self._has_room.wait()
