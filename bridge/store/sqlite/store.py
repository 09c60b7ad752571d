"""Cursor, mirror and outbox in one SQLite file.

One writer, and the operating system says so: a file beside the database is locked for as long as a bridge has it open.
``synchronous=FULL`` is the price of keeping what was committed through a power cut; the rows of a batch share it.
"""

import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bridge.clock import utc_now
from bridge.errors import StoreUnusable
from bridge.logs import get_logger
from bridge.store.lineage import read_birth
from bridge.store.records import StoreFigures
from bridge.store.sqlite.erasure import empty_write_ahead, overwriting
from bridge.store.sqlite.errors import damaged, is_busy, locked, missing, of_sqlite, taken_away
from bridge.store.sqlite.files import inode_of
from bridge.store.sqlite.lock import StoreLock
from bridge.store.sqlite.opening import connect, migrate
from bridge.store.sqlite.sql import queries
from bridge.store.sqlite.transaction import SqliteTransaction
from bridge.store.tables.store import TableStore

LOCKED_SECONDS: Final = 600.0
"""How long a lock of somebody else is waited for (a backup, a curious person) before the store counts as unusable."""

log = get_logger(__name__)


class SqliteStore(TableStore):
    """The contracts of ``store.contract`` in one file; opened by ``with``, or by ``open`` and ``close``.

    *clock* is for what a store notes about itself.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        super().__init__(clock)
        self._path = path
        self._lock = StoreLock(path)
        self._remembered: frozenset[str] = frozenset()
        self._life = ""
        self._commit_seconds = 0.0
        self._connection: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        """Which file it is, whatever is at its place."""
        self._is_inside = False
        """True while changes are made together."""
        self._is_whole = False
        """True once nothing was found wrong with the file: only then may a stop be recorded as clean."""

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}, {'open' if self._connection else 'closed'}>"

    def open(self) -> None:
        """Lock the file, open it, and bring its tables up to date.

        Raises:
            StoreInUse: another bridge has it open.
            StoreUnusable: it cannot be created, read or written, a younger bridge wrote it, or it is missing although
                one was here.

        """
        self._remembered, self._life = self._lock.take(), ""
        try:
            self._refuse_if_missing()
            with self._translated():
                self._connection = connect(self._path)
                self._inode = inode_of(self._path)
                migrate(self._connection, self._path)
                self._read()
                self._refuse_moved()
                for sink in self._sinks_with_rows:
                    sink.load(list(self._sources.values()))
                self._recover()
                self._recognise(self._why_older(), self._doubt())
                self._begin_life()
                self.leavers.remove_retired()
                self._is_whole = True
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Record that the stop was clean and let go of the file. Does nothing where it is not open."""
        connection, was_whole, self._is_whole = self._connection, self._is_whole, False
        try:
            if connection is not None:
                with self._translated(), closing(connection):
                    if was_whole:
                        self._begin_life()
                        self._note_open(b"")
        finally:
            self._connection = None
            self._lock.release()

    @contextmanager
    def together(self) -> Iterator[None]:
        """All changes made inside become durable together, or none does; inside another one, with that."""
        if self._is_inside:
            yield
            return
        with self._translated():
            self._begin()
            self._is_inside = True
            try:
                yield
                began = time.perf_counter()
                self._db.execute("COMMIT")
                self._commit_seconds = time.perf_counter() - began
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._is_inside = False

    def _begin(self) -> None:
        """Take the write lock, however long somebody else has it."""
        until = time.monotonic() + LOCKED_SECONDS
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as problem:
                if not is_busy(problem) or time.monotonic() > until:
                    raise
                if not self.locked:
                    self.locked = locked(self._path)
                    log.warning("store.locked", problem=self.locked)
            else:
                if self.locked:
                    self.locked = ""
                    log.info("store.unlocked")
                return

    def query(self, name: str, /, **parameters: Any) -> Sequence[sqlite3.Row]:
        """Return the rows of a statement."""
        with self._translated():
            return self._execute(name, **parameters).fetchall()

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""
        with self.together():
            return self._execute(name, **parameters).rowcount

    @contextmanager
    def erasing(self) -> Iterator[None]:
        """Have changes made inside become durable together, and what is deleted be overwritten."""
        with overwriting(self._db), self.together():
            yield

    def empty_write_ahead(self) -> bool:
        """Empty the write-ahead log; False where somebody reads an older state at the moment."""
        with self._translated():
            return empty_write_ahead(self._db)

    def figures(self) -> StoreFigures:
        """Return how the store is doing.

        Raises:
            StoreUnusable: its file is no longer where it was, so whatever is kept is in no store.

        """
        try:
            is_taken_away = self._connection is not None and inode_of(self._path) != self._inode
            disk = None if is_taken_away else os.statvfs(self._path.parent)
        except OSError:  # of the disk itself, perhaps for a moment; the next commit will tell
            return StoreFigures(None, self._commit_seconds)
        if disk is None:
            raise StoreUnusable(taken_away(self._path))
        return StoreFigures(disk.f_bavail * disk.f_frsize, self._commit_seconds)

    def _begin_transaction(self) -> SqliteTransaction:
        return SqliteTransaction(self._db, self._sources, self._sinks, self._new_lineage)

    @property
    def _known_elsewhere(self) -> frozenset[str]:
        return self._remembered

    def _lineage_given(self, lineage: str) -> None:
        # Nothing of the transaction that this is part of is durable yet, positions included: should it end here, the
        # next start has to find the file as it expects it, or find out the same.
        before = {self._life} if self._life else {word for word in self._remembered if read_birth(word) is None}
        self._lock.expect(before | {lineage}, self._lock.position)

    def _positions_given(self) -> None:
        self._lock.note(self.exchange.last_given())

    def _why_older(self) -> str:
        """Return why this is an older state of the store, as the lock file tells; empty where it does not."""
        life = self._meta.get("life", b"").decode()
        if life and self._remembered and life not in self._remembered:
            return "it is another file than the one that was last open here"
        if life and self._lock.position > (given := self.exchange.last_given()):
            return f"it has positions up to {given}, and the file that was last open here up to {self._lock.position}"
        return ""

    def _doubt(self) -> str:
        if self._meta.get("life") and not self._remembered:
            return "its lock file is missing, which could tell whether it is the newest state of itself"
        return ""

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnusable(f"the store {self._path} is not open")
        return self._connection

    def _execute(self, query: str, **parameters: Any) -> sqlite3.Cursor:
        return self._db.execute(queries()[query], parameters)

    def _refuse_if_missing(self) -> None:
        if self._remembered and not self._path.exists():
            raise StoreUnusable(missing(self._path))

    def _begin_life(self) -> None:
        """Give the file a new life; both the old one and the new one count while it is written."""
        before, self._life = self._meta.get("life", b"").decode(), secrets.token_hex(8)
        newest = max(self._lineages | {word for word in self._remembered if read_birth(word) is not None}, default="")
        position = self.exchange.last_given()
        self._lock.expect({self._life, before, newest} - {""}, position)
        self._note("life", self._life.encode())
        self._lock.expect({self._life, newest} - {""}, position)

    def _recover(self) -> None:
        """Look after a store whose bridge was killed: is the file whole, and what may have been on its way?"""
        if self._meta.get("open"):
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]  # measured: 0.25 s for 300 MB
            if found != "ok":
                raise StoreUnusable(damaged(self._path, found))
            if not self.is_moving:
                with self.together():
                    self.exchange.doubt_first()
        self._note_open(b"yes")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise StoreUnusable(of_sqlite(self._path, problem)) from problem
