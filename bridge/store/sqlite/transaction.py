"""One transaction of the SQLite store: what ingesting and walking read and write."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import orjson

from bridge.model import AccountGuid, Certificate, Cursor, Mirrored, NewEvent, SourceName, Token
from bridge.store.records import SourceState
from bridge.store.sqlite.sql import queries


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


class SqliteTransaction:
    """The transaction contract of ``store.contract``.

    *sources* are the numbers of those that are known, by name, and *new_lineage* gives one to those that are not.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        sources: dict[SourceName, int],
        sinks: Sequence[Holding],
        new_lineage: Callable[[], str],
    ) -> None:
        self._db = connection
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
        row = self._db.execute(queries()["source"], {"name": source}).fetchone()
        if row is None:
            self._db.execute(queries()["add_source"], {"name": source, "lineage": self._new_lineage()})
            row = self._db.execute(queries()["source"], {"name": source}).fetchone()
            self.made.append(source)
        self._sources[source] = row["id"]
        return SourceState(
            _cursor(row),
            row["sequence"],
            row["walk"],
            row["lineage"],
            is_initial=bool(row["is_initial"]),
            is_complete=bool(row["is_complete"]),
        )

    def mirrored(self, source: SourceName, keys: Sequence[str]) -> Mapping[str, Mirrored]:
        """Return what the mirror knows of accounts, by key; it does not know all of them."""
        found = self._execute("accounts", source, keys=orjson.dumps(keys).decode())
        return {row["key"]: _mirrored(row) for row in found}

    def remember(self, source: SourceName, accounts: Mapping[str, Mirrored], walk: int) -> None:
        """Put accounts, by key, into the mirror, as seen during this walk."""
        source_id = self._sources[source]
        self._db.executemany(
            queries()["save_account"],
            [
                (
                    source_id,
                    key,
                    account.account_guid,
                    account.cursor.guid,
                    account.cursor.usn,
                    account.cursor.ausn,
                    account.digest,
                    orjson.dumps(account.account),
                    account.revision,
                    account.is_deleted,
                    walk,
                )
                for key, account in accounts.items()
            ],
        )

    def add_events(self, source: SourceName, events: Sequence[NewEvent]) -> None:
        """Append events to the outbox, in order; what comes behind a parked one of its account is held."""
        source_id = self._sources[source]
        holding = [sink for sink in self._sinks if sink.is_holding(source_id)]
        before = self._db.execute(queries()["positions_given"]).fetchone() if holding else None
        self._db.executemany(
            queries()["add_event"],
            [
                (
                    source_id,
                    event.sequence,
                    event.event_id,
                    event.event_type,
                    event.account,
                    event.routing_key,
                    event.body,
                    as_text(event.created_at),
                )
                for event in events
            ],
        )
        for sink in holding if events else ():
            held = sink.hold(source_id, before["seq"] if before is not None else 0, events[0].created_at)
            rows, size = self.held.get(sink.sink, (0, 0))
            self.held[sink.sink] = rows + held[0], size + held[1]
        rows, size = self.added.get(source_id, (0, 0))
        self.added[source_id] = rows + len(events), size + sum(len(event.body) for event in events)

    def mark_seen(self, source: SourceName, keys: Sequence[str], walk: int) -> None:
        """Record that these accounts were seen during this walk, unchanged."""
        self._execute("mark_seen", source, keys=orjson.dumps(keys).decode(), walk=walk)

    def begin_walk(self, source: SourceName, walk: int, *, is_new_epoch: bool) -> None:
        """Record the number of the full walk that begins now; a new epoch is not verified."""
        self._execute("begin_walk", source, walk=walk, is_new_epoch=is_new_epoch)

    def end_initial(self, source: SourceName) -> None:
        """Record that its reader was caught up: what appears from now on is new."""
        self._execute("end_initial", source)

    def count_missed(self, source: SourceName, walk: int) -> None:
        """Add one to the missed walks of every present account that this walk did not see."""
        self._execute("count_missed", source, walk=walk)

    def count_accounts(self, source: SourceName, missed: int) -> int:
        """Return how many present accounts missed at least so many proven walks."""
        return int(self._execute("count_accounts", source, missed=missed).fetchone()[0])

    def revisions(self, source: SourceName) -> Iterator[tuple[str, int]]:
        """Return key and revision of each present account, in any order; to be read before the transaction goes on."""
        return ((row["key"], row["revision"]) for row in self._execute("revisions", source))

    def missing(self, source: SourceName, missed: int, limit: int) -> Mapping[str, Mirrored]:
        """Return present accounts, by key, that missed at least so many proven walks."""
        found = self._execute("missing", source, missed=missed, limit=limit)
        return {row["key"]: _mirrored(row) for row in found}

    def begin_lineage(self, source: SourceName) -> None:
        """Begin a new lineage of *source*, in which nothing is told yet; cursor and mirror stay."""
        self._execute("begin_lineage", source, lineage=self._new_lineage())

    def rename(self, source: SourceName, name: SourceName) -> None:
        """Have *source* go on as *name*, with its cursor, its lineage and its present accounts."""
        self._execute("rename_source", source, name=name)
        self._execute("drop_deleted_accounts", source)
        self._execute("drop_caller", source)
        self._db.execute(queries()["rename_notes"], {"before": f":{source}", "after": f":{name}"})
        self.renamed = source, name
        self._sources[name] = self._sources.pop(source)

    def certify(self, certificate: Certificate) -> None:
        """Record the certificate as the latest of its source."""
        content = orjson.dumps(certificate, option=orjson.OPT_UTC_Z)
        self._execute("certify", certificate.source, verified_at=as_text(certificate.verified_at), certificate=content)

    def _execute(self, query: str, source: SourceName, **parameters: Any) -> sqlite3.Cursor:
        return self._db.execute(queries()[query], {"source_id": self._sources[source], **parameters})

    def move(self, source: SourceName, since: Cursor, until: SourceState) -> bool:
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
                "sequence": until.sequence,
            },
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
    )


def _cursor(row: sqlite3.Row) -> Cursor:
    return Cursor(*(Token(row[name]) if row[name] is not None else None for name in ("guid", "usn", "ausn")))


@lru_cache(maxsize=64)  # what becomes durable together has one time
def as_text(moment: datetime) -> str:
    """Return *moment* as the tables have it: texts that sort like the times they name."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


@lru_cache(maxsize=64)
def as_moment(text: str) -> datetime:
    """Return the time that ``as_text`` wrote."""
    return datetime.fromisoformat(text)
