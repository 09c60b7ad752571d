"""What waits for the log and may be in it already, since an earlier generation may have written it.

Only the log can tell. The waiting events are noted by their ids before the log is read, and what is found there is set
aside while it is read, both in pages, so that nothing keeps the store for long. The notes are in memory (some 70 bytes
an event, so the limits of the outbox bound them): in the file an index of ids would cost every event that is ever made,
and a temporary file has no place in a container that may write nothing but its store. That an event is in the log is
true whatever else becomes of the reading, so a page counts at once.
"""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import orjson

from bridge.store.tables.outbox import TableOutbox

PAGE_ROWS: Final = 1000

_TABLE: Final = "CREATE TABLE noted (id TEXT, position INTEGER, PRIMARY KEY (id, position)) WITHOUT ROWID"


class Looking:
    """The events of *outbox* that are looked for."""

    def __init__(self, outbox: TableOutbox) -> None:
        self._outbox = outbox
        self._noted: sqlite3.Connection | None = None
        self._through = 0
        self._is_complete = False

    def __repr__(self) -> str:
        return f"<Looking {f'through {self._through}' if self._is_complete else 'for nothing yet'}>"

    def is_for_all(self, through: int) -> bool:
        """Tell whether all up to *through* are noted, so that a log read to its end tells of all."""
        return self._is_complete and self._through >= through

    def note(self, after: int, through: int) -> int:
        """Note the next events behind *after* (0: begin), up to *through*.

        Returns how far that is, and 0 behind the last.
        """
        if not after:
            self.end()
        page = self._outbox.undone_through(through, after=after, limit=PAGE_ROWS) if through else ()
        if not page:
            self._through, self._is_complete = through, True
            return 0
        if self._noted is None:
            self._noted = sqlite3.connect(":memory:", check_same_thread=False)
            self._noted.execute(_TABLE)
        self._noted.executemany("INSERT INTO noted VALUES (?, ?)", [(row.event_id, row.position) for row in page])
        return page[-1].position

    def found(self, ids: Sequence[str], at: datetime) -> None:
        """Take the news that the log has the events with these *ids*: what waits of them is not written again."""
        if self._noted is None:
            return
        wanted = "SELECT position FROM noted WHERE id IN (SELECT value FROM json_each(?)) ORDER BY position"
        positions = [position for (position,) in self._noted.execute(wanted, [orjson.dumps(ids).decode()])]
        if positions:
            self._outbox.mark_sent(positions, at)

    def end(self) -> None:
        """Look for nothing any more."""
        if self._noted is not None:
            self._noted.close()
        self._noted, self._is_complete = None, False
