"""The two engines of the store, for tests that every store has to pass."""

import itertools
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import psycopg

from bridge.clock import utc_now
from bridge.security.database_url import read_database_url
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.reader import PostgresReader
from bridge.store.postgres.store import PostgresStore, StoreOptions
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.reader import TableReader
from bridge.store.tables.store import TableStore
from tests.support.postgres import PrivatePostgres

QUICK = StoreOptions(lease_seconds=1.0, patience_seconds=20.0, opening_seconds=20.0)


class Engine(Protocol):
    """Makes stores and looks at them; all that it opens is one store."""

    def store(self, now: datetime | None = None) -> TableStore:
        """Return the store, closed, whose clock stands at *now*."""

    def reader(self) -> TableReader:
        """Return a look into it."""

    def emptied(self) -> "Engine":
        """Return one whose store is empty; what it had is gone."""

    def kill(self, store: TableStore) -> None:
        """End the open *store* as a kill of its process would."""

    def select(self, statement: str) -> Sequence[Any]:
        """Return what is in its tables."""


class SqliteEngine:
    """Stores in files of a *folder*."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bridge.db"

    def store(self, now: datetime | None = None) -> SqliteStore:
        return SqliteStore(self.path, clock=utc_now if now is None else lambda: now)

    def reader(self) -> StoreReader:
        return StoreReader(self.path)

    def emptied(self) -> "SqliteEngine":
        for file in self.path.parent.glob("bridge.db*"):
            file.unlink()
        return self

    def kill(self, store: TableStore) -> None:
        kept = self.path.with_name("killed")
        kept.mkdir()
        for file in self.path.parent.glob("bridge.db*"):
            shutil.copyfile(file, kept / file.name)
        store.close()
        for file in kept.iterdir():
            shutil.copyfile(file, self.path.with_name(file.name))
        for file in self.path.parent.glob("bridge.db-*"):
            if not (kept / file.name).exists():
                file.unlink()
        shutil.rmtree(kept)

    def select(self, statement: str) -> Sequence[Any]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()


class PostgresEngine:
    """Stores in databases of a *server*."""

    _numbers = itertools.count(1)

    def __init__(self, server: PrivatePostgres, options: StoreOptions = QUICK) -> None:
        self.server = server
        self.name = f"store_{next(self._numbers)}"
        self.options = options
        self.database = Database(
            lambda: read_database_url(server.url(self.name)).parameters(), f"postgresql://127.0.0.1/{self.name}"
        )
        server.create_database(self.name)

    def store(self, now: datetime | None = None) -> PostgresStore:
        return PostgresStore(self.database, self.options, clock=utc_now if now is None else lambda: now)

    def reader(self) -> PostgresReader:
        return PostgresReader(self.database)

    def emptied(self) -> "PostgresEngine":
        with psycopg.connect(self.server.url(self.name)) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self

    def kill(self, store: TableStore) -> None:
        assert isinstance(store, PostgresStore)
        kill(store)

    def select(self, statement: str) -> Sequence[Any]:
        with psycopg.connect(self.server.url(self.name)) as connection:
            return connection.execute(statement.encode()).fetchall()


def kill(store: PostgresStore) -> None:
    """Have an open store go without a word, so that its lease has to end by itself."""
    lease, session = store.lease, store._open_session  # noqa: SLF001 - nobody else may do that
    assert lease is not None
    assert session is not None
    lease.close()
    session.close()
    store.lease = store._open_session = None  # noqa: SLF001 - the same
