"""A look into a store, whether a bridge has it open or not: SQLite lets readers in beside the one writer.

Nothing here can write, and no read lasts longer than a page, so that the bridge's file does not grow behind it.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import orjson

from bridge.errors import StoreUnusable
from bridge.model import Cursor, SourceName, Token
from bridge.store.records import KeptEvent, KnownAccount, Pause, RecordedEvent, SourceRecord
from bridge.store.sqlite.errors import of_sqlite
from bridge.store.sqlite.sql import migrations, queries
from bridge.store.sqlite.transaction import as_text

PAGE_ROWS: Final = 500
BUSY_SECONDS: Final = 5.0
PAUSED: Final = "paused:"
"""What the name of a source is stored behind while it is paused."""

_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


class StoreReader:
    """The store in *path*, to look at; opened by ``with``.

    Raises:
        StoreUnusable: there is none, it cannot be read, or another version of the bridge wrote it.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"<StoreReader of {self._path}>"

    def __enter__(self) -> Self:
        if not self._path.exists():
            raise StoreUnusable(
                f"there is no store {self._path} yet: account-bridge run makes it. Is store.url the one of the bridge?"
            )
        with self._translated():
            # Not mode=ro, which cannot open a file whose last writer has tidied up behind itself.
            connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
            connection.row_factory = sqlite3.Row
            self._connection = connection
            connection.execute("PRAGMA query_only=ON")
            applied = connection.execute("PRAGMA user_version").fetchone()[0]
            if applied != migrations()[-1].number:
                self.__exit__()
                raise StoreUnusable(
                    f"the store {self._path} was written by another version of the bridge (tables {applied}, this one "
                    f"knows {migrations()[-1].number}). Ask with that version, or start this one first"
                )
        return self

    def __exit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._translated(), closing(connection):
                pass

    @property
    def renewed(self) -> Mapping[str, Any] | None:
        """What was noted when a new lineage began for all sources, as long as not all are told anew."""
        noted = self._meta("renewed")
        return orjson.loads(noted) if noted else None

    def accounts(self) -> Iterator[KnownAccount]:
        """Yield the whole mirror, page by page."""
        after = 0
        while page := self._rows("known_accounts", after=after, limit=PAGE_ROWS):
            yield from map(_known, page)
            after = page[-1]["number"]

    def account(self, source: SourceName, key: str) -> KnownAccount | None:
        """Return one account of the mirror."""
        return next(map(_known, self._rows("known_account", source=source, key=key)), None)

    def knows(self, key: str) -> bool:
        """Return whether anything is kept of the account with this key, if only an event of a former lineage."""
        return bool(self._rows("person", key=key)[0][0])

    def list_events(self, source: SourceName, key: str) -> list[RecordedEvent]:
        """Return the events of one account that the outbox still has, the oldest first."""
        return list(map(_recorded, self._rows("events_of_account", source=source, key=key)))

    def event(self, event_id: str) -> RecordedEvent | None:
        """Return the event with this id, if the outbox still has it."""
        return next(map(_recorded, self._rows("event", event_id=event_id)), None)

    def events(self, *, after: int = 0, since: datetime = _LONG_AGO) -> Iterator[list[RecordedEvent]]:
        """Yield pages of events behind position *after* and made *since* then, in order."""
        while page := self._rows("recorded_events", after=after, since=as_text(since), limit=PAGE_ROWS):
            yield list(map(_recorded, page))
            after = page[-1]["position"]

    def unsent(self) -> list[RecordedEvent]:
        """Return the oldest events that are not done, held ones first; no more than a page."""
        return list(map(_recorded, self._rows("unsent_events", limit=PAGE_ROWS)))

    def recent(self, event_type: str, limit: int, *, max_body_bytes: int) -> list[KeptEvent]:
        """Return the last events of a type, the newest first; a body larger than that is not read."""
        rows = self._rows("recent_events", event_type=event_type, limit=limit, max_bytes=max_body_bytes)
        return list(map(_kept, rows))

    def flow(self, event_type: str, limit: int) -> list[tuple[datetime, datetime | None]]:
        """Return when the last events of a type were made, and when confirmed, the newest first."""
        rows = self._rows("flow", event_type=event_type, limit=limit)
        return [(datetime.fromisoformat(row["created_at"]), _moment(row["confirmed_at"])) for row in rows]

    def newest_at(self) -> datetime | None:
        """Return when the newest event was made."""
        return next((_moment(row["created_at"]) for row in self._rows("newest_event")), None)

    def last_position(self) -> int:
        """Return the position of the newest event."""
        return int(self._rows("last_position")[0][0])

    def sources(self) -> list[SourceRecord]:
        """Return every PBX this store knows."""
        paused = self.paused()
        return [
            SourceRecord(
                name=row["name"],
                cursor=_cursor(row),
                sequence=row["sequence"],
                lineage=row["lineage"],
                walk=row["walk"],
                verified_at=_moment(row["verified_at"]),
                accounts=row["accounts"],
                deleted=row["deleted"],
                paused=paused.get(row["name"]),
                is_complete=bool(row["is_complete"]),
                dials=bool(row["dials"]),
            )
            for row in self._rows("sources")
        ]

    def paused(self) -> Mapping[SourceName, Pause]:
        """Return the PBXs that an operator wants not to be read."""
        return pauses_in(self._rows("meta_values", pattern=f"{PAUSED}*"))

    def outbox(self) -> Mapping[str, Any]:
        """Return how many events there are of each kind, and from when."""
        return dict(self._rows("count_outbox")[0])

    def _meta(self, name: str) -> bytes:
        found = self._rows("meta_value", name=name)
        return bytes(found[0]["value"]) if found else b""

    def _rows(self, query: str, **parameters: Any) -> list[sqlite3.Row]:
        if self._connection is None:
            raise StoreUnusable(f"the store {self._path} is not open")
        with self._translated():
            return self._connection.execute(queries()[query], parameters).fetchall()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise StoreUnusable(of_sqlite(self._path, problem)) from problem


def pauses_in(rows: Sequence[sqlite3.Row]) -> Mapping[SourceName, Pause]:
    """Return what rows of the table ``meta`` say about paused PBXs."""
    found = {}
    for row in rows:
        noted = orjson.loads(row["value"])
        found[SourceName(row["name"].removeprefix(PAUSED))] = Pause(
            datetime.fromisoformat(noted["since"]), noted["reason"]
        )
    return found


def _known(row: sqlite3.Row) -> KnownAccount:
    return KnownAccount(
        number=row["number"],
        source=SourceName(row["source"]),
        key=row["key"],
        cursor=_cursor(row),
        account=orjson.loads(row["content"]),
        revision=row["revision"],
        is_deleted=bool(row["is_deleted"]),
        last_walk=row["last_walk"],
        missed=row["missed"],
        lineage=row["lineage"],
        sequence=row["sequence"],
    )


def _recorded(row: sqlite3.Row) -> RecordedEvent:
    state, reason = row["state"], row["reason"]
    return RecordedEvent(
        position=row["position"],
        source=SourceName(row["source"]),
        sequence=row["sequence"],
        event_id=row["event_id"],
        event_type=row["event_type"],
        account_key=row["account"],
        routing_key=row["routing_key"],
        body=row["body"],
        created_at=datetime.fromisoformat(row["created_at"]),
        published_at=_moment(row["confirmed_at"]),
        is_in_doubt=bool(row["is_in_doubt"]),
        is_held=state in {"held", "parked", "fenced"},
        parked_reason=reason if state == "parked" else None,
        discarded_reason=reason if state == "discarded" else None,
        forgotten_at=_moment(row["forgotten_at"]),
    )


def _cursor(row: sqlite3.Row) -> Cursor:
    return Cursor(*(Token(row[name]) if row[name] is not None else None for name in ("guid", "usn", "ausn")))


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _kept(row: sqlite3.Row) -> KeptEvent:
    confirmed_at = _moment(row["confirmed_at"])
    waiting = "in doubt" if row["is_in_doubt"] else "waiting"
    return KeptEvent(
        position=row["position"],
        source=SourceName(row["source"]),
        body=row["body"],
        created_at=datetime.fromisoformat(row["created_at"]),
        published_at=confirmed_at,
        state=row["state"] or (waiting if confirmed_at is None else "sent"),
    )
