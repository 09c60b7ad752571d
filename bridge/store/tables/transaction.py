"""One transaction: what ingesting and walking read and write."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from bridge.model import AccountGuid, Certificate, Cursor, Mirrored, NewEvent, SourceName, Token
from bridge.store.records import SourceState
from bridge.store.tables.moments import as_text

PAGE_ACCOUNTS: Final = 5000
"""Looked at at once, so that memory does not grow with the mirror."""


class Holding(Protocol):
    """A sink that may have events parked, so that what is added behind them waits."""

    def is_holding(self, source: int) -> bool:
        """Tell whether something of this source is parked."""

    @property
    def sink(self) -> int:
        """Which one it is."""

    def hold(self, source: int, behind: int, at: datetime) -> tuple[int, int]:
        """Hold what was added behind that position and is about an account of which something is parked.

        Returns how many events that are, and their bytes.
        """


class TableTransaction(ABC):
    """The transaction contract of ``store.contract``; an engine adds how a statement is run, and many rows written.

    *sources* are the numbers of those that are known, by name, and *new_lineage* gives one to those that are not.
    """

    def __init__(
        self,
        sources: dict[SourceName, int],
        sinks: Sequence[Holding],
        new_lineage: Callable[[], str],
    ) -> None:
        self._sources = sources
        self._sinks = sinks
        self._new_lineage = new_lineage
        self.renamed: tuple[SourceName, SourceName] | None = None
        """A source that has another name now: the former one and that."""
        self.made: list[SourceName] = []
        """Sources that were met for the first time."""
        self.added: dict[int, tuple[int, int]] = {}
        """Events put into the outbox: how many and how many bytes, by the number of their source."""
        self.held: dict[int, tuple[int, int]] = {}
        """Of those, what a sink does not get in its turn: how many and how many bytes, by the sink."""

    def place(self, source: SourceName) -> SourceState:
        """Return where *source* stands; a source never seen before stands at the start."""
        return state_in(self.meet(source))

    def meet(self, source: SourceName) -> Any:
        """Have a source there, whether it was seen before or not, and return its row."""
        found = self._query("source", name=source)
        if not found:
            self._run("add_source", name=source, lineage=self._new_lineage())
            found = self._query("source", name=source)
            self.made.append(source)
        self._sources[source] = found[0]["id"]
        return found[0]

    def _number(self, source: SourceName) -> int:
        """Return the number of a source that this transaction is about."""
        return self._sources[source]

    def mirrored(self, source: SourceName, keys: Sequence[str]) -> Mapping[str, Mirrored]:
        """Return what the mirror knows of accounts, by key; it does not know all of them."""
        found = self._query("accounts", source_id=self._number(source), keys=orjson.dumps(keys).decode())
        return {row["key"]: _mirrored(row) for row in found}

    def remember(self, source: SourceName, accounts: Mapping[str, Mirrored], walk: int) -> None:
        """Put accounts, by key, into the mirror, as seen during this walk."""
        self._save_accounts(self._number(source), accounts, walk)

    def add_events(self, source: SourceName, events: Sequence[NewEvent]) -> None:
        """Append events to the outbox, in order; what comes behind a parked one of its account is held."""
        source_id = self._number(source)
        holding = [sink for sink in self._sinks if sink.is_holding(source_id)]
        before = self._query("positions_given") if holding else ()
        self._append_events(source_id, events)
        for sink in holding if events else ():
            held = sink.hold(source_id, before[0]["seq"] if before else 0, events[0].created_at)
            rows, size = self.held.get(sink.sink, (0, 0))
            self.held[sink.sink] = rows + held[0], size + held[1]
        rows, size = self.added.get(source_id, (0, 0))
        self.added[source_id] = rows + len(events), size + sum(len(event.body) for event in events)

    def mark_seen(self, source: SourceName, keys: Sequence[str], walk: int) -> None:
        """Record that these accounts were seen during this walk, unchanged."""
        self._run("mark_seen", source_id=self._number(source), keys=orjson.dumps(keys).decode(), walk=walk)

    def begin_walk(self, source: SourceName, walk: int, *, is_new_epoch: bool) -> None:
        """Record the number of the full walk that begins now; a new epoch is not verified."""
        self._run("begin_walk", source_id=self._number(source), walk=walk, is_new_epoch=is_new_epoch)

    def end_initial(self, source: SourceName) -> None:
        """Record that its reader was caught up: what appears from now on is new."""
        self._run("end_initial", source_id=self._number(source))

    def count_missed(self, source: SourceName, walk: int) -> None:
        """Add one to the missed walks of every present account that this walk did not see."""
        self._run("count_missed", source_id=self._number(source), walk=walk)

    def count_accounts(self, source: SourceName, missed: int) -> int:
        """Return how many present accounts missed at least so many proven walks."""
        return int(self._query("count_accounts", source_id=self._number(source), missed=missed)[0][0])

    def revisions(self, source: SourceName) -> Iterator[tuple[str, int]]:
        """Return key and revision of each present account, in any order; to be read before the transaction goes on."""
        after = ""
        while page := self._query("revisions", source_id=self._number(source), after=after, limit=PAGE_ACCOUNTS):
            yield from ((row["key"], row["revision"]) for row in page)
            after = page[-1]["key"]

    def missing(self, source: SourceName, missed: int, limit: int) -> Mapping[str, Mirrored]:
        """Return present accounts, by key, that missed at least so many proven walks."""
        found = self._query("missing", source_id=self._number(source), missed=missed, limit=limit)
        return {row["key"]: _mirrored(row) for row in found}

    def begin_lineage(self, source: SourceName) -> None:
        """Begin a new lineage of *source*, in which nothing is told yet; cursor and mirror stay."""
        self._run("begin_lineage", source_id=self._number(source), lineage=self._new_lineage())

    def rename(self, source: SourceName, name: SourceName) -> None:
        """Have *source* go on as *name*, with its cursor, its lineage and its present accounts."""
        self._run("rename_source", source_id=self._number(source), name=name)
        self._run("drop_deleted_accounts", source_id=self._number(source))
        self._run("drop_caller", source_id=self._number(source))
        self._run("rename_notes", before=f":{source}", after=f":{name}")
        self.renamed = source, name
        self._sources[name] = self._sources.pop(source)

    def certify(self, certificate: Certificate) -> None:
        """Record the certificate as the latest of its source."""
        content = orjson.dumps(certificate, option=orjson.OPT_UTC_Z)
        self._run(
            "certify",
            source_id=self._number(certificate.source),
            verified_at=as_text(certificate.verified_at),
            certificate=content,
        )

    def move(self, source: SourceName, since: Cursor, until: SourceState) -> bool:
        """Move the cursor if it stands at *since*, and return whether it did."""
        return (
            self._change(
                "move_cursor",
                source_id=self._number(source),
                guid=until.cursor.guid,
                usn=until.cursor.usn,
                ausn=until.cursor.ausn,
                since_guid=since.guid,
                since_usn=since.usn,
                since_ausn=since.ausn,
                sequence=until.sequence,
            )
            == 1
        )

    @abstractmethod
    def _query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    @abstractmethod
    def _change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def _run(self, name: str, /, **parameters: Any) -> None:
        """Run a statement of which nobody wants to know what it changed."""
        self._change(name, **parameters)

    @abstractmethod
    def _save_accounts(self, source_id: int, accounts: Mapping[str, Mirrored], walk: int) -> None:
        """Write entries of the mirror, by key."""

    @abstractmethod
    def _append_events(self, source_id: int, events: Sequence[NewEvent]) -> None:
        """Write events, in order."""


def state_in(row: Any) -> SourceState:
    """Return where the source of a row stands."""
    return SourceState(
        cursor_in(row),
        row["sequence"],
        row["walk"],
        row["lineage"],
        is_initial=bool(row["is_initial"]),
        is_complete=bool(row["is_complete"]),
    )


def _mirrored(row: Any) -> Mirrored:
    return Mirrored(
        account_guid=AccountGuid(row["account_guid"]),
        cursor=cursor_in(row),
        digest=row["digest"],
        account=orjson.loads(row["content"]),
        revision=row["revision"],
        is_deleted=bool(row["is_deleted"]),
    )


def cursor_in(row: Any) -> Cursor:
    """Return the cursor of a row."""
    return Cursor(*(Token(row[name]) if row[name] is not None else None for name in ("guid", "usn", "ausn")))
