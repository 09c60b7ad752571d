"""Cursor, mirror and outbox in one SQLite file.

One writer, and the operating system says so: a file beside the database is locked for as long as a bridge has it open.
``synchronous=FULL`` is the price of keeping what was committed through a power cut; the rows of a batch share it.
"""

import os
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import orjson

from bridge.clock import utc_now
from bridge.errors import BadConfig, StoreOutdated, StoreUnusable
from bridge.logs import get_logger
from bridge.model import Certificate, Numbers, Sink, SourceName
from bridge.store.lineage import find_lead, new_lineage, read_birth
from bridge.store.records import Backlog, Forgotten, LogContents, Parked, Pause, SourceState
from bridge.store.sqlite.erasure import empty_write_ahead, forget, overwriting
from bridge.store.sqlite.errors import (
    MAY_BE_IN_THE_LOG,
    NOT_YET_EVERYWHERE,
    OTHER_PARTITIONS,
    damaged,
    is_busy,
    locked,
    missing,
    of_sqlite,
)
from bridge.store.sqlite.inbound import InboundRegister
from bridge.store.sqlite.leavers import Leavers
from bridge.store.sqlite.lock import StoreLock
from bridge.store.sqlite.looking import Looking
from bridge.store.sqlite.opening import connect, migrate
from bridge.store.sqlite.outbox import SqliteOutbox
from bridge.store.sqlite.past import Past
from bridge.store.sqlite.reader import PAUSED, pauses_in
from bridge.store.sqlite.sql import queries
from bridge.store.sqlite.transaction import SqliteTransaction

LOCKED_SECONDS: Final = 600.0
"""How long a lock of somebody else is waited for (a backup, a curious person) before the store counts as unusable."""

COPIED: Final = "copied"
"""Name of what a store says about itself that is a copy, or was made by a version that numbered otherwise."""
RENEWED: Final = "renewed"
"""Name of what is noted when a new lineage begins for all sources."""
_DOUBT: Final = "doubt"
"""Name of why nothing but the log can tell whether a store is the newest state of itself."""
_GENERATION: Final = "generation"
_FLOOR: Final = "newest_lineage"
_PLACES: Final = "log_places"
_PARTITIONS: Final = "log_partitions"
_SINCE: Final = "log_since"
_UNSETTLED: Final = "log_unsettled"

log = get_logger(__name__)


class SqliteStore:
    """The contracts of ``store.contract`` in one file; opened by ``with``, or by ``open`` and ``close``.

    *clock* is for what a store notes about itself.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._path = path
        self._clock = clock
        self._lock = StoreLock(path)
        self._remembered: frozenset[str] = frozenset()
        self._life = ""
        self._connection: sqlite3.Connection | None = None
        self._is_inside = False
        """True while changes are made together."""
        self.locked = ""
        """What is waited for, while somebody else has locked the file; read from any thread."""
        self._key = b""
        self._meta: dict[str, bytes] = {}
        self._sources: dict[SourceName, int] = {}
        self._names: dict[int, SourceName] = {}
        self._lineages: set[str] = set()
        """All that were given here or heard of; the next one is newer."""
        self.exchange = SqliteOutbox(self, Sink.EXCHANGE)
        self.log = SqliteOutbox(self, Sink.LOG)
        self._looking = Looking(self.log)
        self.book = InboundRegister(self)
        """The PBXs that dial."""
        self.leavers = Leavers(self)
        """The sources that are followed no more."""
        self.past = Past(self)
        """What happened before."""
        self.is_proven = False
        """True once it is known that this is the newest state of the store; see ``lineage``."""
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
    def key(self) -> bytes:
        """Secret of this store, for digests and masks."""
        return self._key

    @property
    def backlog(self) -> Backlog:
        """What the outbox has for the exchange that is not done; counted along, so asking costs nothing."""
        return self.exchange.backlog

    @property
    def generation(self) -> str:
        """Changes whenever a new lineage begins for all sources: within it no position is given twice."""
        return self._meta[_GENERATION].decode()

    @property
    def restored(self) -> str:
        """Why a new lineage began for all sources, as long as not all of them are told anew."""
        noted, left = self._meta.get(RENEWED), self.incomplete()
        return f"everything is told anew, since {orjson.loads(noted)['why']}" if noted is not None and left else ""

    def incomplete(self) -> frozenset[SourceName]:
        """Return the sources of which no walk has told everything in their present lineage."""
        return frozenset(SourceName(row["name"]) for row in self.query("incomplete_sources"))

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
                migrate(self._connection, self._path)
                self._read()
                for sink in self._sinks_with_rows:
                    sink.load(list(self._sources.values()))
                self._recover()
                self._recognise()
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
                        self._note("open", b"")
        finally:
            self._connection = None
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        """Everything done inside becomes durable together, or not at all.

        Raises:
            StoreUnusable: it cannot be written; nothing happened then.

        """
        transaction = SqliteTransaction(self._db, self._sources, self._sinks, self._new_lineage)
        try:
            with self.together():
                yield transaction
        except BaseException:
            for made in transaction.made:
                self._sources.pop(made, None)
            if transaction.renamed is not None:
                before, after = transaction.renamed
                self._sources[before] = self._sources.pop(after)
            raise
        if transaction.added:
            self._lock.note(self.exchange.last_given())
            for sink in self._sinks:
                sink.count_added(transaction.added, transaction.held.get(sink.sink, (0, 0)))
        if transaction.renamed is not None:
            self.reload()

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
                self._db.execute("COMMIT")
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

    def has_source(self, name: SourceName) -> bool:
        """Tell whether a source is known."""
        return name in self._sources

    def source_id(self, name: SourceName) -> int:
        """Return the number of a source that is known."""
        return self._sources[name]

    def source_name(self, number: int) -> SourceName:
        """Return the name of a source by its number."""
        if number not in self._names:
            self._names = {known: name for name, known in self._sources.items()}
        return self._names[number]

    def place(self, source: SourceName) -> SourceState:
        """Return where *source* stands."""
        self.leavers.keep(source)
        with self.transaction() as transaction:
            return transaction.place(source)

    # ------------------------------------------------------------------ is this the newest state of itself?

    def note_looked_for(self, after: int) -> int:
        """Note the next events behind *after* (0: begin) that an earlier generation may have written to the log.

        Returns how far that is, and 0 behind the last.
        """
        return self._looking.note(after, int(self._meta.get(_UNSETTLED, b"0")) if self.log.is_on else 0)

    def found_in_log(self, ids: Sequence[str]) -> None:
        """Take the news that the log has the events with these ids: what is noted of them is not written again."""
        self._looking.found(ids, self._clock())

    def log_places(self) -> Mapping[str, tuple[int, str]]:
        """Return where the log was read to its end last, by stream."""
        return {name: (at, mark) for name, (at, mark) in orjson.loads(self._meta.get(_PLACES, b"{}")).items()}

    def compare(self, log: LogContents | None, doubt: str = "") -> bool:
        """Compare with what the log has, and return whether everything is told anew, under a new lineage.

        *log* is ``None`` where it could not be read to its end, and *doubt* says why: that proves nothing, so a store
        that is not proven begins a new lineage, as it does where the log is ahead of it.

        Raises:
            StoreOutdated: the log is ahead of a store that has given numbers already. The next start sees to that.

        """
        ahead = (
            doubt or self._meta.get(_DOUBT, b"").decode()
            if log is None
            else find_lead(log, self.given(), self.exchange.last_given())
        )
        with self.together():
            if log is not None:
                self._lineages |= {lineage for lineage, _, _ in log.newest.values() if read_birth(lineage) is not None}
                self._note(_FLOOR, max(self._lineages).encode())
                self.note_places(log)
                if not ahead and self._looking.is_complete:
                    self._drop(_UNSETTLED)
            if ahead and not self.is_proven:
                self._renew(ahead)
            elif ahead and log is not None:
                self._note(COPIED, orjson.dumps({"why": f"an older state of itself: {ahead}"}))
            self._drop(_DOUBT)
        if ahead and log is not None and self.is_proven:
            raise StoreOutdated(
                f"{ahead}. Another state of this store was at work; start the bridge again: it then tells everything "
                "anew, under a new lineage"
            )
        self._looking.end()
        self._read()
        self.is_proven = True
        return RENEWED in self._meta

    def given(self) -> Mapping[SourceName, Numbers]:
        """Return the highest numbers that were given, by source."""
        rows = self.query("source_ids")
        return {SourceName(row["name"]): (row["lineage"], row["sequence"], row["certified"]) for row in rows}

    def note_places(self, log: LogContents) -> None:
        """Record how far the log was read."""
        self._note(_PLACES, orjson.dumps(log.places))

    def _renew(self, why: str) -> None:
        """Begin a new lineage for all sources, in the open transaction."""
        lineage, last = self._new_lineage(), self.exchange.last_given()
        with overwriting(self._db):
            for name in ("renew_sources", "empty_mirror"):
                self._execute(name, lineage=lineage, position=last)
        self._note(_GENERATION, lineage.encode())
        for name in (_UNSETTLED, _SINCE):
            self._note(name, str(last).encode())
        told = {"at": self._clock(), "why": why, "lineage": lineage}
        self._note(RENEWED, orjson.dumps(told, option=orjson.OPT_UTC_Z))
        self._drop(COPIED)

    def _new_lineage(self) -> str:
        lineage = new_lineage(self._clock(), self._lineages | self._remembered)
        self._lineages.add(lineage)
        given = self.exchange.last_given()
        if self._life:
            self._lock.expect({self._life, lineage}, given)
        else:  # nothing of this is durable yet: should it end here, the next start has to find out the same
            before = {word for word in self._remembered if read_birth(word) is None}
            self._lock.expect(before | {lineage}, max(given, self._lock.position))
        return lineage

    def _recognise(self) -> None:
        """Begin a new lineage where the file says, or the lock file says, that it is an older state of the store."""
        copied, life = self._meta.get(COPIED), self._meta.get("life", b"").decode()
        why = ""
        if copied is not None:
            why = f"it is {orjson.loads(copied)['why']}"
        elif life and self._remembered and life not in self._remembered:
            why = "it is another file than the one that was last open here"
        elif life and self._lock.position > (given := self.exchange.last_given()):
            why = f"it has positions up to {given}, and the file that was last open here up to {self._lock.position}"
        with self.together():
            if RENEWED in self._meta and not self.incomplete():
                self._drop(RENEWED)
            if _GENERATION not in self._meta:
                self._note(_GENERATION, self._new_lineage().encode())
            if why:
                self._renew(why)
            elif life and not self._remembered:
                self._note(
                    _DOUBT, b"its lock file is missing, which could tell whether it is the newest state of itself"
                )
        self.is_proven = bool(why) or not self._sources
        self._read()

    # ------------------------------------------------------------------ the log, where the bridge writes it

    def begin_log(self, partitions: int) -> None:
        """From now on events are for the log, too. *partitions* of it, for good.

        Raises:
            BadConfig: events wait that the log may have in another way.

        """
        before = int(self._meta.get(_PARTITIONS, b"0"))
        self.log.is_on = True
        self.log.load(())
        if not before:
            self._refuse_while_waiting(self.exchange.backlog, MAY_BE_IN_THE_LOG)
            self.log.begin_behind(self.exchange.last_given(), self._clock())
            self._note(_SINCE, str(self.exchange.last_given()).encode())
            self.log.load(())
        elif before != partitions:
            self._refuse_while_waiting(self.log.backlog, OTHER_PARTITIONS, before=before, wanted=partitions)
            self._note(_SINCE, str(self.exchange.last_given()).encode())
        self._note(_PARTITIONS, str(partitions).encode())
        self.log.since = int(self._meta.get(_SINCE, b"0"))

    def end_log(self) -> None:
        """From now on the exchange feeds the log.

        Raises:
            BadConfig: something is in the log already and not yet published, or the other way round.

        """
        if _PARTITIONS not in self._meta:
            return
        for sink in self._sinks_with_rows:
            self._refuse_while_waiting(sink.backlog, NOT_YET_EVERYWHERE)
        self._drop(_PARTITIONS)

    def _refuse_while_waiting(self, backlog: Backlog, sentence: str, **words: int) -> None:
        if waiting := backlog.rows + backlog.held_rows:
            raise BadConfig(sentence.format(events=waiting, **words))

    # ------------------------------------------------------------------ what operators decide

    def parked(self) -> Sequence[Parked]:
        """Return the parked events, the oldest first."""
        return [found for sink in self._sinks_with_rows for found in sink.parked()]

    def parked_by_source(self) -> Mapping[SourceName, int]:
        """Return how many events are parked, by source."""
        return sum((Counter(sink.parked_by_source) for sink in self._sinks_with_rows), Counter[SourceName]())

    def unpark(self, position: int) -> bool:
        """Have a parked event tried once more, and return whether there was one at *position*."""
        found = [sink.unpark(position, self._clock()) for sink in self._sinks_with_rows]
        return any(found)

    def discard(self, position: int, reason: str, at: datetime) -> bool:
        """Never send a parked event, let go what waits behind it, and return whether there was one at *position*."""
        found = [sink.discard(position, reason, at) for sink in self._sinks_with_rows]
        return any(found)

    def paused(self) -> Mapping[SourceName, Pause]:
        """Return the PBXs that an operator wants not to be read."""
        return pauses_in(self.query("meta_values", pattern=f"{PAUSED}*"))

    def pause(self, source: SourceName, pause: Pause) -> None:
        """Record that *source* is not to be read, until ``resume``."""
        self._note(f"{PAUSED}{source}", orjson.dumps(pause))

    def resume(self, source: SourceName) -> bool:
        """Record that *source* may be read again, and return whether it was paused."""
        return self._drop(f"{PAUSED}{source}")

    def forget(self, key: str, at: datetime, *, discard_unsent: bool) -> Forgotten:
        """Take the personal data of an account out of mirror and events; see ``erasure``.

        It is in no file any more once ``empty_write_ahead`` has been, too.
        """
        with self._translated():
            return forget(self._db, key, at, self._sinks_with_rows, self, discard_unsent=discard_unsent)

    def empty_write_ahead(self) -> bool:
        """Empty the write-ahead log; False where somebody reads an older state at the moment."""
        with self._translated():
            return empty_write_ahead(self._db)

    # ------------------------------------------------------------------ what the board shows

    def verified_at(self, source: SourceName) -> datetime | None:
        """Return when the last full walk of the present epoch was proven, if one was."""
        row = next(iter(self.query("verified_at", name=source)), None)
        return datetime.fromisoformat(row["verified_at"]) if row and row["verified_at"] else None

    def certificate(self, source: SourceName) -> Certificate | None:
        """Return what the last proven full walk of the present epoch found, if there was one."""
        with self._translated():
            row = self._execute("certificate", name=source).fetchone()
            if row is None or not row["certificate"]:
                return None
            told = orjson.loads(row["certificate"])
            moments = {name: datetime.fromisoformat(told[name]) for name in ("started_at", "verified_at")}
            return Certificate(**{**told, **moments})

    def count_accounts(self, source: SourceName) -> int:
        """Return how many accounts *source* has at present."""
        rows = self.query("source", name=source)
        return int(self.query("count_accounts", source_id=rows[0]["id"], missed=0)[0][0]) if rows else 0

    def free_bytes(self) -> int:
        """Return how much the disk that holds the file has left for this user."""
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def prune(self, before: datetime, limit: int) -> int:
        """Forget up to *limit* events that every sink has had since before that time, and return how many that were."""
        self.leavers.remove_retired()
        pruned = 0
        for source in list(self._sources.values()):
            through = min(sink.confirmed_before(source, before, self._clock()) for sink in self._sinks)
            if through and pruned < limit:
                with self.together():
                    told = {"source_id": source, "through": through}
                    count = self.change("prune_events", **told, limit=limit - pruned)
                    if count:
                        self.change("prune_aside", **told)
                        for sink in self._sinks:
                            sink.prune_lines(source, through)
                    pruned += count
        return pruned

    @property
    def _sinks(self) -> Sequence[SqliteOutbox]:
        return [sink for sink in self._sinks_with_rows if sink.is_on]

    @property
    def _sinks_with_rows(self) -> Sequence[SqliteOutbox]:
        """Also one that is off because a command, and not a bridge, has the store open."""
        return [self.exchange, self.log] if _PARTITIONS in self._meta or self.log.is_on else [self.exchange]

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

    def _read(self) -> None:
        """Read what the store says about itself and its sources."""
        self._meta = {row["name"]: bytes(row["value"]) for row in self.query("meta_values", pattern="*")}
        if "key" not in self._meta:
            self._note("key", secrets.token_bytes(32))
        self._key = self._meta["key"]
        sources = self.query("source_ids")
        self._sources = {SourceName(row["name"]): row["id"] for row in sources}
        self._names = {}
        self._lineages |= {row["lineage"] for row in sources}
        self._lineages |= {self._meta.get(name, b"").decode() for name in (_GENERATION, _FLOOR)}
        self.log.since = int(self._meta.get(_SINCE, b"0"))

    def lanes_of_all(self) -> Sequence[SqliteOutbox]:
        """Return the sinks that want events."""
        return self._sinks_with_rows

    @contextmanager
    def erasing(self) -> Iterator[None]:
        """Have changes made inside become durable together, and what is deleted be overwritten."""
        with overwriting(self._db), self.together():
            yield

    def keep_floor(self) -> None:
        """Keep the newest lineage that was given, whatever becomes of its source."""
        self._note(_FLOOR, max(self._lineages).encode())

    def reload(self) -> None:
        """Read anew what sources there are and what waits of them."""
        self._read()
        for sink in self._sinks_with_rows:
            sink.load(list(self._sources.values()))

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
            with self.together():
                self.exchange.doubt_first()
        self._note("open", b"yes")

    def _note(self, name: str, value: bytes) -> None:
        self.change("set_meta_value", name=name, value=value)
        self._meta[name] = value

    def _drop(self, name: str) -> bool:
        self._meta.pop(name, None)
        return self.change("drop_meta_value", name=name) == 1

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise StoreUnusable(of_sqlite(self._path, problem)) from problem
