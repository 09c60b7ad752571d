"""What the page wants to know of the store, on a connection of its own that cannot write.

A reader of a SQLite file in WAL mode holds up no writer, so that whoever looks costs the bridge nothing.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Final

from bridge.cloudevents import ACCOUNT_CHANGED
from bridge.errors import StoreUnusable
from bridge.model import KeptEvent, SourceName
from bridge.store.sql import queries

MAX_BODY_BYTES: Final = 1 << 18
"""Of an event that is read to be shown; larger ones come without their body."""

BUSY_SECONDS: Final = 2.0


class StoreReader:
    """The last events of the store at *path*; closed by ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")

    def __repr__(self) -> str:
        return f"<StoreReader {self._path}>"

    async def recent(self, limit: int) -> Sequence[KeptEvent]:
        """Return up to *limit* account changes, the newest first.

        Raises:
            StoreUnusable: the store cannot be read.

        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._recent, limit)

    def close(self) -> None:
        """Finish what was begun."""
        self._thread.shutdown(wait=True)

    def _recent(self, limit: int) -> Sequence[KeptEvent]:
        parameters = {"event_type": ACCOUNT_CHANGED, "limit": limit, "max_bytes": MAX_BODY_BYTES}
        try:
            with closing(self._connect()) as connection:
                return [_event(row) for row in connection.execute(queries()["recent_events"], parameters)]
        except sqlite3.Error as problem:
            raise StoreUnusable(f"the store {self._path} cannot be read: {problem}") from problem

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        connection.row_factory = sqlite3.Row
        return connection


def _event(row: sqlite3.Row) -> KeptEvent:
    return KeptEvent(
        position=row["position"],
        source=SourceName(row["source"]),
        body=row["body"],
        created_at=datetime.fromisoformat(row["created_at"]),
        published_at=datetime.fromisoformat(row["published_at"]) if row["published_at"] else None,
        state=row["state"],
    )
