"""What was deleted, overwritten: SQLite leaves it in the file until the place is used again.

Then the write-ahead log is to be emptied: it is done when the name is in no file.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bridge.errors import BridgeError

AGAIN_SECONDS: Final = 0.05
READER_TRIES: Final = 200
"""For ten seconds: those who read the store at the moment keep the write-ahead log from being emptied."""


@contextmanager
def overwriting(db: sqlite3.Connection) -> Iterator[None]:
    """Overwrite what is deleted inside, so that no later ``forget`` has to find what no table has any more."""
    before = db.execute("PRAGMA secure_delete").fetchone()[0]
    db.execute("PRAGMA secure_delete=ON")
    try:
        yield
    finally:
        db.execute(f"PRAGMA secure_delete={before}")


def empty_write_ahead(db: sqlite3.Connection) -> bool:
    """Write everything into the file and empty the write-ahead log; False where somebody reads an older state.

    That is not waited for here: it is the thread of the store, and everybody would wait with it.
    """
    before = db.execute("PRAGMA busy_timeout").fetchone()[0]
    db.execute("PRAGMA busy_timeout=0")
    try:
        return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        db.execute(f"PRAGMA busy_timeout={before}")


def still_read() -> BridgeError:
    """Return what to say where it could not be emptied within ``READER_TRIES``."""
    return BridgeError(
        "everything is overwritten, but somebody reads the store all the time (a backup, a command, the page), "
        "and until that is over the name stays in its write-ahead log: forget it once more then"
    )
