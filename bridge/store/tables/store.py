"""Cursor, mirror and outbox in the tables that both engines have.

An engine adds how a statement is run, how changes become durable together, who may write, and how it knows whether it
is the newest state of itself.
"""

import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Final, Self

import orjson

from bridge.errors import BadConfig, StoreOutdated
from bridge.model import Certificate, Numbers, Sink, SourceName
from bridge.store.lineage import find_beyond, find_lead, new_lineage, read_birth
from bridge.store.records import Backlog, Forgotten, LogContents, Parked, Pause, SourceState
from bridge.store.tables.erasure import forget
from bridge.store.tables.inbound import InboundRegister
from bridge.store.tables.leavers import ELSEWHERE, Leavers
from bridge.store.tables.looking import Looking
from bridge.store.tables.moments import as_moment
from bridge.store.tables.outbox import TableOutbox
from bridge.store.tables.past import Past
from bridge.store.tables.reader import PAUSED, pauses_in
from bridge.store.tables.sentences import MAY_BE_IN_THE_LOG, NOT_YET_EVERYWHERE, OTHER_PARTITIONS
from bridge.store.tables.transaction import TableTransaction

COPIED: Final = "copied"
"""Name of what a store says about itself that is a copy, or was made by a version that numbered otherwise."""
RENEWED: Final = "renewed"
"""Name of what is noted when a new lineage begins for all sources."""
DOUBT: Final = "doubt"
"""Name of why nothing but the log can tell whether a store is the newest state of itself."""
GENERATION: Final = "generation"
_FLOOR: Final = "newest_lineage"
_PLACES: Final = "log_places"
PARTITIONS: Final = "log_partitions"
_SINCE: Final = "log_since"
_UNSETTLED: Final = "log_unsettled"


class TableStore(ABC):
    """The contracts of ``store.contract``; opened by ``with``, or by ``open`` and ``close``.

    *clock* is for what a store notes about itself.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.locked = ""
        """What is waited for, while the store cannot be written at the moment; read from any thread."""
        self._key = b""
        self._meta: dict[str, bytes] = {}
        self._sources: dict[SourceName, int] = {}
        self._names: dict[int, SourceName] = {}
        self._lineages: set[str] = set()
        """All that were given here or heard of; the next one is newer."""
        self.exchange = TableOutbox(self, Sink.EXCHANGE)
        self.log = TableOutbox(self, Sink.LOG)
        self._looking = Looking(self.log)
        self.book = InboundRegister(self)
        """The PBXs that dial."""
        self.leavers = Leavers(self)
        """The sources that are followed no more."""
        self.past = Past(self)
        """What happened before."""
        self.is_proven = False
        """True once it is known that this is the newest state of the store; see ``lineage``."""

    @abstractmethod
    def open(self) -> None:
        """Take the store for ourselves, and bring its tables up to date.

        Raises:
            StoreInUse: another bridge has it open.
            StoreUnusable: it cannot be made, read or written, or a younger bridge wrote it.

        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it. Does nothing where it is not open."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ what an engine adds

    @abstractmethod
    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    @abstractmethod
    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """Return a context in which all changes become durable together; inside another one, with that."""

    @abstractmethod
    def erasing(self) -> AbstractContextManager[None]:
        """Return the same, and what is deleted inside is overwritten where that is possible."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Return how much its disk has left for this user."""

    @abstractmethod
    def empty_write_ahead(self) -> bool:
        """Empty the write-ahead log; False where somebody reads an older state at the moment."""

    @abstractmethod
    def _begin_transaction(self) -> TableTransaction:
        """Return what runs the statements of the transaction that begins now."""

    @property
    @abstractmethod
    def _known_elsewhere(self) -> AbstractSet[str]:
        """The lineages that are known beside the tables."""

    @abstractmethod
    def _lineage_given(self, lineage: str) -> None:
        """Take note, beside the tables, of a lineage that is about to be given."""

    @abstractmethod
    def _positions_given(self) -> None:
        """Take note, beside the tables, that positions were given, which are durable now."""

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
        return self._meta[GENERATION].decode()

    @property
    def restored(self) -> str:
        """Why a new lineage began for all sources, as long as not all of them are told anew."""
        noted, left = self._meta.get(RENEWED), self.incomplete()
        return f"everything is told anew, since {orjson.loads(noted)['why']}" if noted is not None and left else ""

    def incomplete(self) -> frozenset[SourceName]:
        """Return the sources of which no walk has told everything in their present lineage."""
        return frozenset(SourceName(row["name"]) for row in self.query("incomplete_sources"))

    @contextmanager
    def transaction(self) -> Iterator[TableTransaction]:
        """Everything done inside becomes durable together, or not at all.

        Raises:
            StoreUnusable: it cannot be written; nothing happened then.

        """
        transaction = self._begin_transaction()
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
            self._positions_given()
            for sink in self._sinks:
                sink.count_added(transaction.added, transaction.held.get(sink.sink, (0, 0)))
        if transaction.renamed is not None:
            self.reload()

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
            doubt or self._meta.get(DOUBT, b"").decode()
            if log is None
            else find_lead(log, self.given(), self.exchange.last_given())
        )
        with self.together():
            if log is not None:
                found = (*log.newest.values(), *log.others.values())
                self._lineages |= {lineage for lineage, _, _ in found if read_birth(lineage) is not None}
                for source in find_beyond(log.others, self.given()):
                    self._note(f"{ELSEWHERE}{source}", log.others[source][0].encode())
                self._note(_FLOOR, max(self._lineages).encode())
                self.note_places(log)
                if not ahead and self._looking.is_complete:
                    self._drop(_UNSETTLED)
            if ahead and not self.is_proven:
                self._renew(ahead)
            elif ahead and log is not None:
                self._note(COPIED, orjson.dumps({"why": f"an older state of itself: {ahead}"}))
            self._drop(DOUBT)
        if ahead and log is not None and self.is_proven:
            raise StoreOutdated(
                f"{ahead}. Another state of this store was at work; start the bridge again: it then tells everything "
                "anew, under a new lineage"
            )
        self._looking.end()
        if self.log.is_on:
            self.log.release_freed(self._clock())
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
        with self.erasing():
            self.change("renew_sources", lineage=lineage, position=last)
            self.change("empty_mirror")
        self._note(GENERATION, lineage.encode())
        for name in (_UNSETTLED, _SINCE):
            self._note(name, str(last).encode())
        told = {"at": self._clock(), "why": why, "lineage": lineage}
        self._note(RENEWED, orjson.dumps(told, option=orjson.OPT_UTC_Z))
        self._drop(COPIED)

    def _new_lineage(self) -> str:
        lineage = new_lineage(self._clock(), self._lineages | self._known_elsewhere)
        self._lineages.add(lineage)
        self._lineage_given(lineage)
        return lineage

    def _recognise(self, why: str, doubt: str) -> None:
        """Begin a new lineage where *why* says that this is an older state of itself.

        *doubt*: only the log can tell.
        """
        copied = self._meta.get(COPIED)
        if copied is not None:
            why = f"it is {orjson.loads(copied)['why']}"
        with self.together():
            if RENEWED in self._meta and not self.incomplete():
                self._drop(RENEWED)
            if GENERATION not in self._meta:
                self._note(GENERATION, self._new_lineage().encode())
            if why:
                self._renew(why)
            elif doubt:
                self._note(DOUBT, doubt.encode())
        self.is_proven = bool(why) or not self._sources
        self._read()

    # ------------------------------------------------------------------ the log, where the bridge writes it

    def begin_log(self, partitions: int) -> None:
        """From now on events are for the log, too. *partitions* of it, for good.

        Raises:
            BadConfig: events wait that the log may have in another way.

        """
        before = int(self._meta.get(PARTITIONS, b"0"))
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
        self._note(PARTITIONS, str(partitions).encode())
        self.log.since = int(self._meta.get(_SINCE, b"0"))

    def end_log(self) -> None:
        """From now on the exchange feeds the log.

        Raises:
            BadConfig: something is in the log already and not yet published, or the other way round.

        """
        if PARTITIONS not in self._meta:
            return
        for sink in self._sinks_with_rows:
            self._refuse_while_waiting(sink.backlog, NOT_YET_EVERYWHERE)
        self._drop(PARTITIONS)

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
        """Have a parked event tried once more, and return whether there was one at *position*.

        Raises:
            BridgeError: what came before it is parked, too, and has to go first.

        """
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
        return forget(key, at, self._sinks_with_rows, self, discard_unsent=discard_unsent)

    # ------------------------------------------------------------------ what the board shows

    def verified_at(self, source: SourceName) -> datetime | None:
        """Return when the last full walk of the present epoch was proven, if one was."""
        row = next(iter(self.query("verified_at", name=source)), None)
        return as_moment(row["verified_at"]) if row and row["verified_at"] else None

    def certificate(self, source: SourceName) -> Certificate | None:
        """Return what the last proven full walk of the present epoch found, if there was one."""
        row = next(iter(self.query("certificate", name=source)), None)
        if row is None or not row["certificate"]:
            return None
        told = orjson.loads(row["certificate"])
        moments = {name: datetime.fromisoformat(told[name]) for name in ("started_at", "verified_at")}
        return Certificate(**{**told, **moments})

    def count_accounts(self, source: SourceName) -> int:
        """Return how many accounts *source* has at present."""
        rows = self.query("source", name=source)
        return int(self.query("count_accounts", source_id=rows[0]["id"], missed=0)[0][0]) if rows else 0

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
    def _sinks(self) -> Sequence[TableOutbox]:
        return [sink for sink in self._sinks_with_rows if sink.is_on]

    @property
    def _sinks_with_rows(self) -> Sequence[TableOutbox]:
        """Also one that is off because a command, and not a bridge, has the store open."""
        return [self.exchange, self.log] if PARTITIONS in self._meta or self.log.is_on else [self.exchange]

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
        self._lineages |= {self._meta.get(name, b"").decode() for name in (GENERATION, _FLOOR)}
        self.log.since = int(self._meta.get(_SINCE, b"0"))

    def lanes_of_all(self) -> Sequence[TableOutbox]:
        """Return the sinks that want events."""
        return self._sinks_with_rows

    def renew(self, source: int) -> None:
        """Begin a source anew, in the open transaction: nothing is known of it, and a new lineage begins."""
        self.change("drop_accounts", source_id=source)
        self.change("renew_source", source_id=source, lineage=self._new_lineage())

    def keep_floor(self) -> None:
        """Keep the newest lineage that was given, whatever becomes of its source."""
        self._note(_FLOOR, max(self._lineages).encode())

    def reload(self) -> None:
        """Read anew what sources there are and what waits of them."""
        self._read()
        for sink in self._sinks_with_rows:
            sink.load(list(self._sources.values()))

    def _note(self, name: str, value: bytes) -> None:
        self.change("set_meta_value", name=name, value=value)
        self._meta[name] = value

    def _drop(self, name: str) -> bool:
        self._meta.pop(name, None)
        return self.change("drop_meta_value", name=name) == 1
