"""One transaction of the SQLite store: what ingesting and walking read and write."""

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from bridge.model import AccountGuid, Certificate, Cursor, Mirrored, NewEvent, Place, SourceName, Token
from bridge.store.sql import queries


class SqliteTransaction:
    """The transaction contract of ``delivery``."""

    def __init__(
        self, connection: sqlite3.Connection, sources: dict[SourceName, int], *, is_logging: bool = False
    ) -> None:
        self._db = connection
        self._sources = sources
        self._is_logging = is_logging
        self.added_rows = 0
        self.added_bytes = 0

    def place(self, source: SourceName) -> Place:
        """Return where *source* stands; a source never seen before stands at the start."""
        row = self._db.execute(queries()["source"], {"name": source}).fetchone()
        if row is None:
            self._db.execute(queries()["add_source"], {"name": source})
            row = self._db.execute(queries()["source"], {"name": source}).fetchone()
        self._sources[source] = row["id"]
        return Place(_cursor(row), row["sequence"], row["rewinds"], row["walk"])

    def mirrored(self, source: SourceName, keys: Sequence[str]) -> Mapping[str, Mirrored]:
        """Return what the mirror knows of accounts, by key; it does not know all of them."""
        found = self._execute("accounts", source, keys=orjson.dumps(keys).decode())
        return {row["key"]: _mirrored(row) for row in found}

    def bodies_of_events(self, event_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the bytes of events made before, by id, as long as the outbox keeps them."""
        found = self._db.execute(queries()["bodies_of_events"], {"event_ids": orjson.dumps(event_ids).decode()})
        return {row["event_id"]: bytes(row["body"]) for row in found}

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
                    account.reuse,
                    walk,
                )
                for key, account in accounts.items()
            ],
        )

    def add_events(self, source: SourceName, events: Sequence[NewEvent]) -> None:
        """Append events to the outbox, in order; what comes behind a parked one of its account is held."""
        source_id = self._sources[source]
        newest = self._db.execute(queries()["newest_where_parked"]).fetchone()
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
        if newest is not None:
            self._db.execute(queries()["hold"], {"after": newest["position"]})
        if self._is_logging:
            self._db.executemany(queries()["log_add"], [{"event_id": event.event_id} for event in events])
        self.added_rows += len(events)
        self.added_bytes += sum(len(event.body) for event in events)

    def mark_seen(self, source: SourceName, keys: Sequence[str], walk: int) -> None:
        """Record that these accounts were seen during this walk, unchanged."""
        self._execute("mark_seen", source, keys=orjson.dumps(keys).decode(), walk=walk)

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
        self._execute("certify", certificate.source, verified_at=as_text(certificate.verified_at), certificate=content)

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


@lru_cache(maxsize=64)  # what becomes durable together has one time
def as_text(moment: datetime) -> str:
    """Return *moment* as the tables have it: texts that sort like the times they name."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


@lru_cache(maxsize=64)
def as_moment(text: str) -> datetime:
    """Return the time that ``as_text`` wrote."""
    return datetime.fromisoformat(text)
