"""Cursor, mirror and outbox in one SQLite file.

One writer, and the operating system says so: a file beside the database is locked for as long as a bridge has it open.
``synchronous=FULL`` is the price of keeping what was committed through a power cut; the rows of a batch share it.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import orjson

from bridge.errors import StoreUnusable
from bridge.model import Backlog, Forgotten, OutboxRow, Parked, Pause, Place, SourceName, Waiting
from bridge.store.callers import CallerBook
from bridge.store.forgetting import forget
from bridge.store.lineage import COPIED, RESTORED, Mark, begin, close_case, has_passed, mark, new_lineage, settled
from bridge.store.lock import StoreLock
from bridge.store.logqueue import LogQueue
from bridge.store.reader import PAUSED, pauses_in
from bridge.store.sentences import cannot_open, damaged, of_sqlite
from bridge.store.sql import migrations, queries
from bridge.store.transaction import SqliteTransaction, as_moment, as_text

BUSY_SECONDS: Final = 5.0
"""How long to wait for a reader (status, accounts, backup) that holds the file."""

WINDOW_ROWS: Final = 1024
"""After an unclean stop, this many unsent rows are taken to be in doubt; no window is larger."""


class SqliteStore:
    """The store contracts of ``delivery`` in one file; opened by ``with``, or by ``open`` and ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = StoreLock(path)
        self._lives: frozenset[str] = frozenset()
        self._life = ""
        self._restored: Mapping[str, Any] | None = None
        self._mark = Mark(0, {})
        self._is_checked = False
        self._connection: sqlite3.Connection | None = None
        self._lineage = ""
        self._key = b""
        self._sources: dict[SourceName, int] = {}
        self._backlog = Backlog()
        self.log = LogQueue(self)
        """What the log still wants, where it is written by the stream protocol."""
        self.book = CallerBook(self)
        """The PBXs that dial."""
        self._is_whole = False
        """True once nothing was found wrong with the file: only then may a stop be recorded as clean."""

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path}, {'open' if self._connection else 'closed'}>"

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lineage(self) -> str:
        """Eight hex digits, new with every new file."""
        return self._lineage

    @property
    def key(self) -> bytes:
        """Secret of this store, for digests and masks."""
        return self._key

    @property
    def backlog(self) -> Backlog:
        """What the outbox has that is not done; counted along, so asking costs nothing."""
        return self._backlog

    @property
    def restored(self) -> str:
        """Why a new lineage began: an older copy of the store was put back, and not every PBX is verified since."""
        if self._restored is None or self._restored.get("is_over"):
            return ""
        before = self._restored["lineage_before"]
        return f"the store was put back from an older state ({self._restored['why']}); lineage {before} ended with that"

    @property
    def is_checked(self) -> bool:
        """Whether the broker's log was compared with this store since it was opened: see ``check``."""
        return self._is_checked

    def check(self, newest: Mapping[str, int], now: datetime) -> bool:
        """Compare with the log: *newest* has the last sequence of this lineage there, by source.

        Returns whether a new lineage had to begin, because the log is ahead of the store.
        """
        beyond = has_passed(self._mark, newest)
        with self.transaction():
            if beyond:
                why = f"the log at the broker has later numbers: {beyond}"
                self._begin_lineage(why, now, behind=self._mark.position)
            else:
                settled(self._db)
        self._is_checked = True
        self._read_meta()
        self._count_backlog()
        self.log.recount()
        return bool(beyond)

    def open(self) -> None:
        """Lock the file, open it, and bring its tables up to date.

        Raises:
            StoreInUse: another bridge has it open.
            StoreUnusable: it cannot be created, read or written, or a younger bridge wrote it.

        """
        self._lives = self._lock.take()
        try:
            with self._translated():
                self._connection = self._connect()
                self._migrate()
                is_new = self._execute("meta_value", name="lineage").fetchone() is None
                self._read_meta()
                self._recover()
                self._recognise(is_new=is_new)
                self._begin_life()
                self._count_backlog()
                self._is_whole = True
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Record that the stop was clean and let go of the file. Does nothing where it is not open."""
        connection, self._connection = self._connection, None
        was_whole, self._is_whole = self._is_whole, False
        try:
            if connection is not None:
                with self._translated(), closing(connection):
                    if was_whole:
                        self._begin_life(connection)
                        connection.execute(queries()["set_meta_value"], {"name": "open", "value": b""})
        finally:
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        """Everything done inside becomes durable together, or not at all.

        Raises:
            StoreUnusable: it cannot be written; nothing happened then.

        """
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                transaction = SqliteTransaction(self._db, self._sources, is_logging=self.log.is_on)
                yield transaction
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._sources.clear()
                raise
            if transaction.added_rows and self._backlog.parked:
                self._count_held(transaction.added_rows, transaction.added_bytes)
            elif transaction.added_rows:
                self._change_backlog(transaction.added_rows, transaction.added_bytes)
            if self.log.is_on and transaction.added_rows:
                self.log.added(transaction.added_rows, transaction.added_bytes)

    def place(self, source: SourceName) -> Place:
        """Return where *source* stands."""
        with self.transaction() as transaction:
            return transaction.place(source)

    def unpublished(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return the oldest unpublished rows behind position *after*."""
        with self._translated():
            found = self._execute("unpublished_rows", after=after, limit=limit)
            return [
                OutboxRow(position, source, sequence, identity, kind, key, body, as_moment(made), bool(is_in_doubt))
                for position, source, sequence, identity, kind, key, body, made, is_in_doubt in found
            ]

    def mark_published(self, rows: Sequence[OutboxRow], at: datetime) -> None:
        """Record that the broker confirmed *rows*."""
        with self._translated():
            self._execute("mark_published", positions=_positions(rows), published_at=as_text(at))
            self._change_backlog(-len(rows), -sum(len(row.body) for row in rows))

    def mark_in_doubt(self, rows: Sequence[OutboxRow]) -> None:
        """Record that *rows* may have reached the broker although no confirm came."""
        with self._translated():
            self._execute("mark_in_doubt", positions=_positions(rows))

    def park(self, row: OutboxRow, reason: str, at: datetime) -> None:
        """Put *row* aside, and hold whatever comes behind it and is about the same account."""
        with self.transaction():
            self._execute("park", position=row.position, reason=reason, parked_at=as_text(at))
            self._execute("hold", after=0)
        self._count_backlog()

    def parked(self) -> Sequence[Parked]:
        """Return the parked rows, the oldest first."""
        with self._translated():
            return [
                Parked(
                    position=row["position"],
                    source=SourceName(row["source"]),
                    sequence=row["sequence"],
                    event_id=row["event_id"],
                    routing_key=row["routing_key"],
                    body=row["body"],
                    created_at=datetime.fromisoformat(row["created_at"]),
                    parked_at=datetime.fromisoformat(row["parked_at"]),
                    reason=row["parked_reason"],
                    waiting=row["waiting"],
                )
                for row in self._execute("parked_rows")
            ] + list(self.log.parked())

    def unpark(self, position: int) -> bool:
        """Have a parked row tried once more, and return whether there was one at *position*."""
        with self.transaction():
            is_found = self._execute("unpark", position=position).rowcount == 1
            self._execute("release")
        self._count_backlog()
        return self.log.unpark(position) or is_found

    def discard(self, position: int, reason: str, at: datetime) -> bool:
        """Never send a parked row, let go what waits behind it, and return whether there was one at *position*."""
        with self.transaction():
            is_found = self._execute("discard", position=position, reason=reason, at=as_text(at)).rowcount == 1
            self._execute("release")
        self._count_backlog()
        return self.log.discard(position) or is_found

    def begin_lineage(self, why: str) -> None:
        """Go on under a new lineage, since this store is an older copy of itself; see ``lineage``."""
        with self.transaction():
            self._begin_lineage(why, datetime.now(UTC), behind=self._mark.position)
        self._read_meta()
        self._count_backlog()
        self.log.recount()

    def _begin_lineage(self, why: str, now: datetime, *, behind: int) -> None:
        before = self._lineage
        self._lineage = begin(self._db, why, now, behind=behind)
        self.log.lineage_began(before, behind)

    def query(self, name: str, /, **parameters: Any) -> Sequence[sqlite3.Row]:
        """Return the rows of a statement."""
        with self._translated():
            return self._execute(name, **parameters).fetchall()

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""
        with self._translated():
            return self._execute(name, **parameters).rowcount

    def paused(self) -> Mapping[SourceName, Pause]:
        """Return the PBXs that an operator wants not to be read."""
        with self._translated():
            return pauses_in(self._execute("meta_values", pattern=f"{PAUSED}*").fetchall())

    def pause(self, source: SourceName, pause: Pause) -> None:
        """Record that *source* is not to be read, until ``resume``."""
        with self._translated():
            self._execute("set_meta_value", name=f"{PAUSED}{source}", value=orjson.dumps(pause))

    def resume(self, source: SourceName) -> bool:
        """Record that *source* may be read again, and return whether it was paused."""
        with self._translated():
            return self._execute("drop_meta_value", name=f"{PAUSED}{source}").rowcount == 1

    def forget(self, key: str, at: datetime, *, discard_unsent: bool) -> Forgotten:
        """Take the personal data of an account out of mirror and events; see ``forgetting``."""
        with self._translated():
            done = forget(self._db, key, at, discard_unsent=discard_unsent)
            self._execute("release")
            self._count_backlog()
            self.log.release()
            return done

    def oldest_unpublished_at(self) -> datetime | None:
        """Return when the oldest event was made that is still to be sent."""
        with self._translated():
            oldest = self._execute("oldest_unpublished").fetchone()
            return datetime.fromisoformat(oldest["created_at"]) if oldest else None

    def verified_at(self, source: SourceName) -> datetime | None:
        """Return when the last full walk of the present epoch was proven, if one was."""
        with self._translated():
            row = self._execute("verified_at", name=source).fetchone()
            return datetime.fromisoformat(row["verified_at"]) if row and row["verified_at"] else None

    def waiting(self) -> Mapping[SourceName, Waiting]:
        """Return what is not done, by source; takes the longer the more waits."""
        with self._translated():
            found = self._execute("waiting_by_source")
            return {SourceName(row["source"]): Waiting(row["rows"], row["parked"]) for row in found}

    def doubtful(self) -> Mapping[SourceName, int]:
        """Return how many rows may have reached the broker although no confirm came, by source."""
        with self._translated():
            found = self._execute("doubtful_by_source", limit=2 * WINDOW_ROWS)
            return {SourceName(row["source"]): row["rows"] for row in found}

    def certified_accounts(self, source: SourceName) -> int | None:
        """Return how many accounts the last proven full walk of the present epoch found, if there was one."""
        with self._translated():
            row = self._execute("verified_at", name=source).fetchone()
            if row is None or not row["verified_at"] or not row["certificate"]:
                return None
            return int(orjson.loads(row["certificate"])["accounts"])

    def absent(self, source: SourceName) -> int:
        """Return how many accounts the last proven full walk of the present epoch did not see, held ones excepted."""
        with self._translated():
            row = self._execute("certificate", name=source).fetchone()
            certificate = orjson.loads(row["certificate"]) if row and row["certificate"] else {"absent": 0, "held": 0}
            return int(certificate["absent"] - certificate["held"])

    def count_accounts(self, source: SourceName) -> int:
        """Return how many accounts *source* has at present."""
        with self._translated():
            row = self._execute("source", name=source).fetchone()
            return int(self._execute("count_accounts", source_id=row["id"], missed=0).fetchone()[0]) if row else 0

    def free_bytes(self) -> int:
        """Return how much the disk that holds the file has left for this user."""
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def prune(self, before: datetime, limit: int) -> int:
        """Forget up to *limit* rows published before that time, and return how many that were."""
        with self._translated():
            return self._execute("prune_published", before=as_text(before), limit=limit).rowcount

    def _count_backlog(self) -> None:
        waiting, held = self._execute("count_unpublished").fetchone(), self._execute("count_held").fetchone()
        self._backlog = Backlog(waiting["rows"], waiting["bytes"], held["rows"], held["bytes"], held["parked"])

    def _count_held(self, added_rows: int, added_bytes: int) -> None:
        """Count what was added where some of it may be held; few rows are, so that counting those anew is cheap."""
        before, held = self._backlog, self._execute("count_held").fetchone()
        newly_held_rows, newly_held_bytes = held["rows"] - before.held_rows, held["bytes"] - before.held_bytes
        self._backlog = replace(before, held_rows=held["rows"], held_bytes=held["bytes"])
        self._change_backlog(added_rows - newly_held_rows, added_bytes - newly_held_bytes)

    def _change_backlog(self, rows: int, size: int) -> None:
        self._backlog = replace(self._backlog, rows=self._backlog.rows + rows, bytes=self._backlog.bytes + size)

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnusable(f"the store {self._path} is not open")
        return self._connection

    def _execute(self, query: str, **parameters: Any) -> sqlite3.Cursor:
        return self._db.execute(queries()[query], parameters)

    def _connect(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as problem:
            raise StoreUnusable(cannot_open(self._path, problem)) from problem
        # Opened here and used by the store's own thread afterwards: one at a time, which is what SQLite asks.
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection

    def _migrate(self) -> None:
        applied = self._db.execute("PRAGMA user_version").fetchone()[0]
        if applied > migrations()[-1].number:
            raise StoreUnusable(
                f"the store {self._path} was written by a younger version of the bridge (tables {applied}, this one "
                f"knows {migrations()[-1].number}). Start that version, or give this one a new store"
            )
        for migration in migrations():
            if migration.number > applied:
                self._db.executescript(
                    f"BEGIN IMMEDIATE;\n{migration.statements}\nPRAGMA user_version = {migration.number};\nCOMMIT;"
                )

    def _read_meta(self) -> None:
        for name, new in (("lineage", new_lineage().encode()), ("key", secrets.token_bytes(32))):
            if self._execute("meta_value", name=name).fetchone() is None:
                self._execute("set_meta_value", name=name, value=new)
        self._key = self._execute("meta_value", name="key").fetchone()[0]
        self._lineage = self._execute("meta_value", name="lineage").fetchone()[0].decode()
        noted = self._execute("meta_value", name=RESTORED).fetchone()
        self._restored = None if noted is None else orjson.loads(noted["value"])

    def _recognise(self, *, is_new: bool) -> None:
        """Begin a new lineage where this file is an older copy of the store; see ``lineage``."""
        copied, life = (self._execute("meta_value", name=name).fetchone() for name in (COPIED, "life"))
        why = ""
        if copied is not None:
            why = f"the copy of {orjson.loads(copied['value'])['at']}"
        elif life is not None and self._lives and life["value"].decode() not in self._lives:
            why = "another file than the one that was last open here"
        if is_new:  # no log can have a lineage that has just begun
            self._is_checked = True
            return
        with self.transaction():
            close_case(self._db)
            if why:  # what it has not sent was given its numbers before it was copied, and may have been sent since
                behind = self._execute("last_position").fetchone()[0]
                self._begin_lineage(why, datetime.now(UTC), behind=behind)
            else:
                self._mark = mark(self._db)
        self._is_checked = bool(why)
        self._read_meta()

    def _begin_life(self, connection: sqlite3.Connection | None = None) -> None:
        """Give the file a new life; both the old one and the new one count while it is written."""
        before, self._life = self._life, secrets.token_hex(8)
        life = (connection or self._db).execute(queries()["meta_value"], {"name": "life"}).fetchone()
        self._lock.expect({self._life, before or (life["value"].decode() if life else self._life)})
        name_and_value = {"name": "life", "value": self._life.encode()}
        (connection or self._db).execute(queries()["set_meta_value"], name_and_value)
        self._lock.expect({self._life})

    def _recover(self) -> None:
        """Look after a store whose bridge was killed: is the file whole, and what may have been on its way?"""
        was_open = self._execute("meta_value", name="open").fetchone()
        if was_open is not None and was_open[0]:
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]  # measured: 0.25 s for 300 MB
            if found != "ok":
                raise StoreUnusable(damaged(self._path, found))
            self._execute("mark_first_in_doubt", limit=WINDOW_ROWS)
        self._execute("set_meta_value", name="open", value=b"yes")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise StoreUnusable(of_sqlite(self._path, problem)) from problem


def _positions(rows: Sequence[OutboxRow]) -> str:
    return orjson.dumps([row.position for row in rows]).decode()
