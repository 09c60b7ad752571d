"""How the file of a store is opened, and its tables brought up to date."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from bridge.errors import StoreUnusable
from bridge.store.sqlite.erasure import overwriting
from bridge.store.sqlite.errors import cannot_open
from bridge.store.sqlite.sql import migrations

BUSY_SECONDS: Final = 2.0
"""How long SQLite itself waits for somebody else's lock; the store waits much longer, see ``LOCKED_SECONDS`` there."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the store at *path*, and make it where it is not there.

    Raises:
        StoreUnusable: the file cannot be created or written.

    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as problem:
        raise StoreUnusable(cannot_open(path, problem)) from problem
    # Opened here and used by the store's own thread afterwards: one at a time, which is what SQLite asks.
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Run the migrations that the store at *path* has not had.

    Raises:
        StoreUnusable: a younger version of the bridge wrote it.

    """
    applied = db.execute("PRAGMA user_version").fetchone()[0]
    if applied > migrations()[-1].number:
        raise StoreUnusable(
            f"the store {path} was written by a younger version of the bridge (tables {applied}, this one knows "
            f"{migrations()[-1].number}). Start that version, or give this one a new store"
        )
    for migration in migrations():
        if migration.number > applied:
            with overwriting(db):
                db.executescript(
                    f"BEGIN IMMEDIATE;\n{migration.statements}\nPRAGMA user_version = {migration.number};\nCOMMIT;"
                )
