"""Cursor, mirror and outbox in a PostgreSQL database.

One writer, and the database says so: a bridge has a row with a lease, and every transaction counts itself there, which
fails once another bridge has taken over. Nothing rests on a connection: see ``session``.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
import psycopg

from bridge.clock import utc_now
from bridge.errors import BridgeError, StoreInUse, StoreOutdated, StoreUnreachable, StoreUnusable
from bridge.logs import get_logger
from bridge.store.postgres.connecting import Connection, Database
from bridge.store.postgres.errors import as_ours, taken
from bridge.store.postgres.lease import Lease
from bridge.store.postgres.opening import begin_life, migrate
from bridge.store.postgres.rows import Row
from bridge.store.postgres.session import Session, SetBack
from bridge.store.postgres.shared_log import write_as_one
from bridge.store.postgres.transaction import PostgresTransaction
from bridge.store.records import StoreFigures
from bridge.store.tables.notes import COPIED, PARTITIONS
from bridge.store.tables.store import TableStore

CHECKED: Final = "checked"
"""Name of what the database was recognised by when it was known to be the newest state of itself."""
LEASE_SECONDS: Final = 15.0
OPENING_PAUSE_SECONDS: Final = 0.5

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How patient a store is, and what may be relied on."""

    lease_seconds: float = LEASE_SECONDS
    """Who was not heard of for so long has lost the store to whoever comes next."""
    patience_seconds: float = 10.0
    """How long a database that is away is waited for."""
    opening_seconds: float = 0.0
    """The same when it is opened; also how long another bridge is waited for that may be gone."""
    loses_nothing: bool = False
    """True where no failover loses a commit, since standbys are synchronous."""


class PostgresStore(TableStore):
    """The contracts of ``store.contract`` in one database; opened by ``with``, or by ``open`` and ``close``."""

    def __init__(
        self, database: Database, options: StoreOptions = StoreOptions(), *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        super().__init__(clock)
        self._database = database
        self._options = options
        self._open_session: Session | None = None
        self.lease: Lease | None = None
        """What says that we live, while it is open."""
        self._me = ""
        self._is_whole = False
        """True once it is open as it should be: only then may a stop be recorded as clean."""
        self._outdated = ""
        """Why nothing is written any more, whoever heard of it and took it for a refusal."""

    def __repr__(self) -> str:
        return f"<PostgresStore {self._database.place}, {'open' if self._open_session else 'closed'}>"

    def open(self) -> None:
        """Take the database for ourselves, and bring its tables up to date.

        Raises:
            StoreInUse: another bridge has it.
            StoreUnreachable: it cannot be reached.
            StoreRefusedLogin: it does not let us in.
            StoreUnusable: it cannot be read or written, or a younger bridge wrote it.

        """
        self.is_proven = self._is_whole = False
        self._begin()
        try:
            self._read()
            self._refuse_moved()
            self._load()
            why, doubt = self._compare_checked()
            self._recognise(why, doubt)
            self.leavers.remove_retired()
            if self.is_proven or not self.exchange.last_given():  # of a new one nothing can be missing
                self._note_checked()
            self._is_whole = True
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Begin a life, and what says that we live."""
        self._me = self._take()
        session = Session(
            self._database, self._me, patience_seconds=self._options.patience_seconds, on_wait=self._waits
        )
        self._open_session = session
        self.lease = Lease(self._database, self._me, self._options.lease_seconds)

    def _load(self) -> None:
        """Count what waits, and see whether the last stop was clean."""
        write_as_one(self, self.log.last_given(), self._clock())
        for sink in self._sinks_with_rows:
            sink.load(list(self._sources.values()))
        self._recover()
        self._note_open(b"yes")

    def close(self) -> None:
        """Say that the stop was clean, and let go. Does nothing where it is not open."""
        session, lease, self.lease = self._open_session, self.lease, None
        self._outdated = ""
        if lease is not None:
            lease.close()
        if session is not None:
            try:
                session.wait_no_more()
                if not session.is_inside:
                    self._end(session)
            finally:
                self._open_session = None
                session.close()

    def _end(self, session: Session) -> None:
        """Free the store for the next one, if it can be reached; otherwise that waits for the end of the lease."""
        try:
            if self._is_whole:
                self._note_open(b"")
            session.do("end_life", {"me": self._me, "commits": session.commits})
        except BridgeError as problem:
            log.warning("store.not_released", problem=str(problem))

    def wait_no_more(self) -> None:
        """Have whatever waits for the database fail from now on; may be called from any thread."""
        if self._open_session is not None:
            self._open_session.wait_no_more()

    def query(self, name: str, /, **parameters: Any) -> Sequence[Row]:
        """Return the rows of a statement."""
        if self.lease is not None and self.lease.is_lost:
            raise StoreInUse(taken(self._database.place))
        return self.session.look(name, {"me": self._me, **parameters})

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""
        with self.together():
            return self.session.count(name, parameters)

    def tell_confirmed(self, told: Mapping[str, Any], before: int | None) -> None:
        """Do the same in one statement, which nobody waits for before the commit."""
        with self.together():
            if before is None:
                self.session.send("confirm", told)
            else:
                self.session.send("extend_or_confirm", {**told, "before": before})

    @contextmanager
    def together(self) -> Iterator[None]:
        """All changes made inside become durable together, or none does; inside another one, with that.

        Raises:
            StoreOutdated: the database is an older state of itself; from then on each time.

        """
        if self.session.is_inside:
            yield
            return
        if self._outdated:
            raise StoreOutdated(self._outdated)
        try:
            with self._in_transaction(self.session):
                yield
        except StoreOutdated as problem:
            self._outdated = str(problem)
            raise

    @contextmanager
    def _in_transaction(self, session: Session) -> Iterator[None]:
        session.begin()
        try:
            yield
            session.commit()
        except SetBack:
            session.rollback()
            self._note_set_back()
        except BaseException:
            session.rollback()
            raise
        if session.is_new and self.is_proven:
            self._reconnected()

    def erasing(self) -> Any:
        """Return the same: nobody can overwrite the blocks of another machine's disk; VACUUM reuses them in time."""
        return self.together()

    def figures(self) -> StoreFigures:
        """Return how the store is doing; whether there is room is told by the database when there is none."""
        session = self._open_session
        return StoreFigures() if session is None else StoreFigures(None, session.commit_seconds, dict(session.troubles))

    def empty_write_ahead(self) -> bool:
        """Nothing to be done: its write-ahead log is the server's, and so are its archives."""
        return True

    def _begin_transaction(self) -> PostgresTransaction:
        return PostgresTransaction(self.session, self._sources, self._sinks, self._new_lineage)

    @property
    def _known_elsewhere(self) -> frozenset[str]:
        return frozenset()

    def _lineage_given(self, lineage: str) -> None:
        """There is nothing beside the tables to note it in."""

    def _positions_given(self) -> None:
        """There is nothing beside the tables to note it in."""

    @property
    def session(self) -> Session:
        """Its session with the database."""
        if self._open_session is None:
            raise StoreUnusable(f"the store {self._database.place} is not open")
        return self._open_session

    def _waits(self, words: str) -> None:
        self.locked = words

    def _recover(self) -> None:
        """Look after a store whose bridge was killed: what may have been on its way?"""
        if self._meta.get("open") and not self.is_moving:
            with self.together():
                self.exchange.doubt_first()

    # ------------------------------------------------------------------ whose is it, and is it the newest state?

    def _take(self) -> str:
        """Bring the tables up to date and take the store, once it is reached and free; return our life."""
        until = time.monotonic() + self._options.opening_seconds
        told = ""
        while True:
            try:
                with self._connected() as connection:
                    migrate(self._database, connection)
                    return self._begin_life(connection)
            except (StoreUnreachable, StoreInUse) as problem:
                if time.monotonic() > until:
                    raise
                if str(problem)[:40] != told:
                    told = str(problem)[:40]
                    log.warning("store.waits", problem=str(problem))
                time.sleep(OPENING_PAUSE_SECONDS)

    def _begin_life(self, connection: Connection) -> str:
        return begin_life(self._database, connection, self._options.lease_seconds)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._database.connect(to_write=True) as connection:
                yield connection
        except psycopg.Error as problem:
            raise as_ours(self._database.place, problem) from problem

    def _compare_checked(self) -> tuple[str, str]:
        """Return why this is an older state of itself, or why only the log can tell; both empty where it is known."""
        noted = self._meta.get(CHECKED, b"").decode()
        if not noted or self._options.loses_nothing or noted == self._read_checked():
            return "", ""
        what = "the database is another one than it was, or on another timeline (restored, or failed over)"
        # A log that the bridge writes by itself may lack what subscribers of the exchange have already.
        return (what, "") if PARTITIONS in self._meta else ("", what)

    def _read_checked(self) -> str:
        return str(self.query("checked")[0]["checked"])

    def _proven(self) -> None:
        self._note_checked()

    def _reconnected(self) -> None:
        """Take note of another connection on which we are where we left off: only we could have lost commits."""
        self._note_checked()

    def _note_checked(self) -> None:
        """Note by what the database is recognised: it is known to be the newest state of itself."""
        self.session.is_new = False
        checked = self._read_checked().encode()
        if self._meta.get(CHECKED) != checked:
            self._note(CHECKED, checked)

    def _note_set_back(self) -> None:
        """Have the next start begin a new lineage: what was committed is gone from the database.

        Raises:
            StoreOutdated: always.

        """
        why = "an older state of itself: commits of this bridge are missing (a failover, or a restored backup)"
        # By itself: in a database from before this life there is nothing where a transaction could be counted.
        self.session.do("set_meta_value", {"name": COPIED, "value": orjson.dumps({"why": why})})
        raise StoreOutdated(
            f"the store {self._database.place} has gone back in time: commits of this bridge are missing in it. Start "
            "the bridge again: it then tells everything anew, under a new lineage"
        )
