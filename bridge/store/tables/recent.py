"""The last changes for the page, read on a thread and a connection of their own: who looks holds up nobody."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Final

from bridge.events.cloudevents import ACCOUNT_CHANGED
from bridge.store.records import KeptEvent
from bridge.store.tables.reader import TableReader

MAX_BODY_BYTES: Final = 1 << 18
"""Of an event that is read to be shown; larger ones come without their body."""


class RecentEvents:
    """The last events of the store that *open_reader* looks into; closed by ``close``."""

    def __init__(self, open_reader: Callable[[], TableReader]) -> None:
        self._open_reader = open_reader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")

    def __repr__(self) -> str:
        return "<RecentEvents>"

    async def recent(self, limit: int) -> Sequence[KeptEvent]:
        """Return up to *limit* account changes, the newest first.

        Raises:
            StoreUnusable: the store cannot be read.

        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._recent, limit)

    async def flow(self, limit: int) -> Sequence[tuple[datetime, datetime | None]]:
        """Return when the last account changes were made, and when confirmed, up to *limit*; none where none is kept.

        Raises:
            StoreUnusable: the store cannot be read.

        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._flow, limit)

    def close(self) -> None:
        """Finish what was begun."""
        self._thread.shutdown(wait=True)

    def _flow(self, limit: int) -> Sequence[tuple[datetime, datetime | None]]:
        with self._open_reader() as reader:
            return reader.flow(ACCOUNT_CHANGED, limit)

    def _recent(self, limit: int) -> Sequence[KeptEvent]:
        with self._open_reader() as reader:
            return reader.recent(ACCOUNT_CHANGED, limit, max_body_bytes=MAX_BODY_BYTES)
