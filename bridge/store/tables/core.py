"""The tables that both engines have: their sources, what is noted about them as a whole, and how changes go together.

An engine adds how a statement is run, how changes become durable together, who may write, and how it knows whether it
is the newest state of itself.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, Self

import orjson

from bridge.errors import StoreUnusable
from bridge.model import Sink, SourceName
from bridge.store.lineage import new_lineage
from bridge.store.records import Backlog, SourceState, StoreFigures
from bridge.store.tables.inbound import InboundRegister
from bridge.store.tables.leavers import Leavers
from bridge.store.tables.looking import Looking
from bridge.store.tables.notes import ARRIVING, FLOOR, GENERATION, MOVED, MOVING, PARTITIONS, RENEWED, SINCE
from bridge.store.tables.outbox import TableOutbox
from bridge.store.tables.past import Past
from bridge.store.tables.transaction import TableTransaction


class Tables(ABC):
    """What every part of a store rests on; opened by ``with``, or by ``open`` and ``close``.

    *clock* is for what a store notes about itself.
    """

    is_shared = False
    """True where several bridges work on it at a time."""

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
        self.is_moving = False
        """True while ``migrate-store`` has it open, and no bridge."""
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

    def tell_confirmed(self, told: Mapping[str, Any], before: int | None) -> None:
        """Append a line about what a sink has, or have the one that tells of *before* tell that."""
        if before is None or not self.change("extend_confirmed", **told, before=before):
            self.change("confirm", **told)

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """Return a context in which all changes become durable together; inside another one, with that."""

    @abstractmethod
    def erasing(self) -> AbstractContextManager[None]:
        """Return the same, and what is deleted inside is overwritten where that is possible."""

    @abstractmethod
    def figures(self) -> StoreFigures:
        """Return how the store is doing."""

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

    def _proven(self) -> None:  # noqa: B027 - most need not
        """Take note that this is known to be the newest state of itself."""

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

    def own(self, source: int) -> None:  # noqa: B027 - most have all sources
        """Make sure, in the open transaction, that a source is ours to change; where one bridge has all, it is.

        Raises:
            LeaseLost: another bridge has it.

        """

    def lock_free(self, source: int) -> bool:  # noqa: ARG002 - most have all sources
        """Keep others from a source until the open transaction is over; False where another bridge has it."""
        return True

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

    # ------------------------------------------------------------------ moved from one engine to another

    def _refuse_moved(self) -> None:
        """Refuse to be opened by a bridge where this store was moved elsewhere, or is only half here.

        Raises:
            StoreUnusable: that is so.

        """
        if self.is_moving:
            return
        if (moved := self._meta.get(MOVED)) is not None:
            raise StoreUnusable(
                f"this store was moved to {moved.decode()} (account-bridge migrate-store). Set store.url to that"
            )
        if ARRIVING in self._meta:
            raise StoreUnusable(
                "this store is only half here, since account-bridge migrate-store was interrupted. Run it once more"
            )
        if MOVING in self._meta:
            self._drop(MOVING)  # it goes on here, so what was copied so far is no copy of it any more

    def _note_open(self, value: bytes) -> None:
        """Note that it is open, or was closed as it should be; what ``migrate-store`` does to it is neither.

        Whether the last bridge stopped well is part of what is moved, and so is what it left in doubt.
        """
        if not self.is_moving:
            self._note("open", value)

    def note(self, name: str) -> str:
        """Return what was noted under that name; empty where nothing was."""
        return self._meta.get(name, b"").decode()

    def set_note(self, name: str, value: str) -> None:
        """Note something about the store as a whole; an empty text is nothing."""
        if value:
            self._note(name, value.encode())
        else:
            self._drop(name)

    def notes(self) -> Mapping[str, bytes]:
        """Return all that is noted."""
        return dict(self._meta)

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
        self._lineages |= {self._meta.get(name, b"").decode() for name in (GENERATION, FLOOR)}
        self.log.since = int(self._meta.get(SINCE, b"0"))

    def lanes_of_all(self) -> Sequence[TableOutbox]:
        """Return the sinks that want events."""
        return self._sinks_with_rows

    def renew(self, source: int) -> None:
        """Begin a source anew, in the open transaction: nothing is known of it, and a new lineage begins."""
        self.change("drop_accounts", source_id=source)
        self.change("renew_source", source_id=source, lineage=self._new_lineage())

    def _new_lineage(self) -> str:
        lineage = new_lineage(self._clock(), self._lineages | self._known_elsewhere)
        self._lineages = {lineage}  # which sorts behind them all; each costs 10 µs where the next one is made
        self._lineage_given(lineage)
        return lineage

    def keep_floor(self) -> None:
        """Keep the newest lineage that was given, whatever becomes of its source."""
        self._note(FLOOR, max(self._lineages).encode())

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
