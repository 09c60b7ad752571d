"""Cursor, mirror and outbox in one SQLite file.

One writer, and the operating system says so: a file beside the database is locked for as long as a bridge has it open.
``synchronous=FULL`` is the price of keeping what was committed through a power cut; the rows of a batch share it.
"""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import orjson

from bridge.errors import StoreInUse, StoreUnusable
from bridge.model import AccountGuid, Certificate, Cursor, Mirrored, NewEvent, OutboxRow, Place, SourceName, Token
from bridge.store.sql import migrations, queries

BUSY_SECONDS: Final = 5.0
"""How long to wait for a reader (status, accounts, backup) that holds the file."""

WINDOW_ROWS: Final = 1024
"""After an unclean stop, this many unsent rows are taken to be in doubt; no window is larger."""


class SqliteStore:
    """The store contracts of ``delivery`` in one file; opened by ``with``, or by ``open`` and ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._lineage = ""
        self._key = b""
        self._sources: dict[SourceName, int] = {}

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

    def open(self) -> None:
        """Lock the file, open it, and bring its tables up to date.

        Raises:
            StoreInUse: another bridge has it open.
            StoreUnusable: it cannot be created, read or written, or a younger bridge wrote it.

        """
        self._take_lock()
        try:
            with self._translated():
                self._connection = self._connect()
                self._migrate()
                self._read_meta()
                self._flag_doubt()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Record that the stop was clean and let go of the file. Does nothing where it is not open."""
        connection, self._connection = self._connection, None
        lock, self._lock = self._lock, None
        try:
            if connection is not None:
                with self._translated(), closing(connection):
                    if self._lineage:
                        connection.execute(queries()["set_meta_value"], {"name": "open", "value": b""})
        finally:
            if lock is not None:
                os.close(lock)

    @contextmanager
    def transaction(self) -> Iterator["SqliteTransaction"]:
        """Everything done inside becomes durable together, or not at all.

        Raises:
            StoreUnusable: it cannot be written; nothing happened then.

        """
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield SqliteTransaction(self._db, self._sources)
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._sources.clear()
                raise
            self._db.execute("COMMIT")

    def place(self, source: SourceName) -> Place:
        """Return where *source* stands."""
        with self.transaction() as transaction:
            return transaction.place(source)

    def unpublished(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return the oldest unpublished rows behind position *after*."""
        with self._translated():
            found = self._execute("unpublished_rows", after=after, limit=limit)
            return [
                OutboxRow(
                    position=row["position"],
                    source=SourceName(row["source"]),
                    sequence=row["sequence"],
                    event_id=row["event_id"],
                    event_type=row["event_type"],
                    routing_key=row["routing_key"],
                    body=row["body"],
                    created_at=datetime.fromisoformat(row["created_at"]),
                    is_in_doubt=bool(row["is_in_doubt"]),
                )
                for row in found
            ]

    def mark_published(self, after: int, until: int, at: datetime) -> None:
        """Record that the broker confirmed the rows behind *after*, up to and including *until*."""
        with self._translated():
            self._execute("mark_published", after=after, until=until, published_at=_time(at))

    def mark_in_doubt(self, after: int, until: int) -> None:
        """Record that the same rows may have reached the broker although no confirm came."""
        with self._translated():
            self._execute("mark_in_doubt", after=after, until=until)

    def count_unpublished(self) -> tuple[int, datetime | None]:
        """Return how many rows wait to be sent, and since when the oldest does."""
        with self._translated():
            row = self._execute("count_unpublished").fetchone()
            return row["rows"], datetime.fromisoformat(row["oldest"]) if row["oldest"] else None

    def verified_at(self, source: SourceName) -> datetime | None:
        """Return when the last full walk of the present epoch was proven, if one was."""
        with self._translated():
            row = self._execute("verified_at", name=source).fetchone()
            return datetime.fromisoformat(row["verified_at"]) if row and row["verified_at"] else None

    def count_accounts(self, source: SourceName) -> int:
        """Return how many accounts *source* has at present."""
        with self._translated():
            row = self._execute("source", name=source).fetchone()
            return int(self._execute("count_accounts", source_id=row["id"], missed=0).fetchone()[0]) if row else 0

    def prune(self, before: datetime, limit: int) -> int:
        """Forget up to *limit* rows published before that time, and return how many that were."""
        with self._translated():
            return self._execute("prune_published", before=_time(before), limit=limit).rowcount

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnusable(f"the store {self._path} is not open")
        return self._connection

    def _execute(self, query: str, **parameters: Any) -> sqlite3.Cursor:
        return self._db.execute(queries()[query], parameters)

    def _take_lock(self) -> None:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise StoreUnusable(_cannot_open(self._path, problem)) from problem
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip()
            os.close(self._lock)
            self._lock = None
            raise StoreInUse(
                f"another bridge (process {holder or 'unknown'}) has the store {self._path} open. "
                "Stop it first, or give this one a store of its own"
            ) from problem
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _connect(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as problem:
            raise StoreUnusable(_cannot_open(self._path, problem)) from problem
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
        for name, new in (("lineage", secrets.token_hex(4).encode()), ("key", secrets.token_bytes(32))):
            if self._execute("meta_value", name=name).fetchone() is None:
                self._execute("set_meta_value", name=name, value=new)
        self._key = self._execute("meta_value", name="key").fetchone()[0]
        self._lineage = self._execute("meta_value", name="lineage").fetchone()[0].decode()

    def _flag_doubt(self) -> None:
        was_open = self._execute("meta_value", name="open").fetchone()
        if was_open is not None and was_open[0]:
            self._execute("mark_first_in_doubt", limit=WINDOW_ROWS)
        self._execute("set_meta_value", name="open", value=b"yes")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise StoreUnusable(_sentence(self._path, problem)) from problem


class SqliteTransaction:
    """The transaction contract of ``delivery``."""

    def __init__(self, connection: sqlite3.Connection, sources: dict[SourceName, int]) -> None:
        self._db = connection
        self._sources = sources

    def place(self, source: SourceName) -> Place:
        """Return where *source* stands; a source never seen before stands at the start."""
        row = self._db.execute(queries()["source"], {"name": source}).fetchone()
        if row is None:
            self._db.execute(queries()["add_source"], {"name": source})
            row = self._db.execute(queries()["source"], {"name": source}).fetchone()
        self._sources[source] = row["id"]
        return Place(_cursor(row), row["sequence"], row["rewinds"], row["walk"])

    def mirrored(self, source: SourceName, key: str) -> Mirrored | None:
        """Return what the mirror knows of the account with this key."""
        parameters = {"source_id": self._sources[source], "key": key}
        row = self._db.execute(queries()["account"], parameters).fetchone()
        return None if row is None else _mirrored(row)

    def body_of_event(self, event_id: str) -> bytes | None:
        """Return the bytes of an event made before, as long as the outbox keeps it."""
        row = self._db.execute(queries()["body_of_event"], {"event_id": event_id}).fetchone()
        return None if row is None else bytes(row["body"])

    def remember(self, source: SourceName, accounts: Mapping[str, Mirrored], walk: int) -> None:
        """Put accounts, by key, into the mirror, as seen during this walk."""
        source_id = self._sources[source]
        self._db.executemany(
            queries()["save_account"],
            [
                {
                    "source_id": source_id,
                    "key": key,
                    "account_guid": account.account_guid,
                    "guid": account.cursor.guid,
                    "usn": account.cursor.usn,
                    "ausn": account.cursor.ausn,
                    "digest": account.digest,
                    "content": orjson.dumps(account.account),
                    "revision": account.revision,
                    "is_deleted": account.is_deleted,
                    "reuse": account.reuse,
                    "walk": walk,
                }
                for key, account in accounts.items()
            ],
        )

    def add_events(self, source: SourceName, events: Sequence[NewEvent]) -> None:
        """Append events to the outbox, in order."""
        source_id = self._sources[source]
        self._db.executemany(
            queries()["add_event"],
            [{**event._asdict(), "created_at": _time(event.created_at), "source_id": source_id} for event in events],
        )

    def mark_seen(self, source: SourceName, keys: Sequence[str], walk: int) -> None:
        """Record that these accounts were seen during this walk, unchanged."""
        source_id = self._sources[source]
        self._db.executemany(
            queries()["mark_seen"], [{"source_id": source_id, "key": key, "walk": walk} for key in keys]
        )

    def begin_walk(self, source: SourceName, walk: int, *, is_new_epoch: bool) -> None:
        """Record the number of the full walk that begins now; a new epoch is not verified."""
        self._execute("begin_walk", source, walk=walk, is_new_epoch=is_new_epoch)

    def count_missed(self, source: SourceName, walk: int) -> None:
        """Add one to the missed walks of every present account that this walk did not see."""
        self._execute("count_missed", source, walk=walk)

    def count_accounts(self, source: SourceName, missed: int) -> int:
        """Return how many present accounts missed at least so many proven walks."""
        return int(self._execute("count_accounts", source, missed=missed).fetchone()[0])

    def missing(self, source: SourceName, missed: int, limit: int) -> Mapping[str, Mirrored]:
        """Return present accounts, by key, that missed at least so many proven walks."""
        found = self._execute("missing", source, missed=missed, limit=limit)
        return {row["key"]: _mirrored(row) for row in found}

    def certify(self, certificate: Certificate) -> None:
        """Record the certificate as the latest of its source."""
        content = orjson.dumps(certificate, option=orjson.OPT_UTC_Z)
        self._execute("certify", certificate.source, verified_at=_time(certificate.verified_at), certificate=content)

    def _execute(self, query: str, source: SourceName, **parameters: Any) -> sqlite3.Cursor:
        return self._db.execute(queries()[query], {"source_id": self._sources[source], **parameters})

    def move(self, source: SourceName, since: Cursor, until: Place) -> bool:
        """Move the cursor if it stands at *since*, and return whether it did."""
        source_id = self._sources[source]
        moved = self._db.execute(
            queries()["move_cursor"],
            {
                "source_id": source_id,
                "guid": until.cursor.guid,
                "usn": until.cursor.usn,
                "ausn": until.cursor.ausn,
                "since_guid": since.guid,
                "since_usn": since.usn,
                "since_ausn": since.ausn,
            },
        )
        self._db.execute(
            queries()["set_numbers"],
            {"source_id": source_id, "sequence": until.sequence, "rewinds": until.rewinds},
        )
        return moved.rowcount == 1


def _mirrored(row: sqlite3.Row) -> Mirrored:
    return Mirrored(
        account_guid=AccountGuid(row["account_guid"]),
        cursor=_cursor(row),
        digest=row["digest"],
        account=orjson.loads(row["content"]),
        revision=row["revision"],
        is_deleted=bool(row["is_deleted"]),
        reuse=row["reuse"],
    )


def _cursor(row: sqlite3.Row) -> Cursor:
    return Cursor(*(Token(row[name]) if row[name] is not None else None for name in ("guid", "usn", "ausn")))


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _cannot_open(path: Path, problem: OSError) -> str:
    return (
        f"the store {path} cannot be opened: {problem.strerror}. "
        f"Let the bridge's user write to {path.parent}, or set store.url to another place"
    )


def _sentence(path: Path, problem: sqlite3.Error) -> str:
    name = getattr(problem, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return f"the disk that holds the store {path} is full. Make room and start the bridge again; nothing is lost"
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
        return f"the store {path} cannot be written ({problem}). Let the bridge's user write to {path.parent}"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return (
            f"the store {path} is damaged or no store of a bridge ({problem}). Put a backup in its place, or move the "
            "file away: a new walk then publishes the present state"
        )
    return f"the store {path} cannot be used: {problem}"
