"""A look into a store, whether a bridge has it open or not; nothing here can write."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self

import orjson

from bridge.model import SourceName
from bridge.store.records import KeptEvent, KnownAccount, Pause, RecordedEvent, SourceRecord
from bridge.store.tables.moments import as_moment, as_moment_or_none, as_text
from bridge.store.tables.transaction import cursor_in

PAGE_ROWS: Final = 500
PAUSED: Final = "paused:"
"""What the name of a source is stored behind while it is paused."""

_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


class TableReader(ABC):
    """A store, to look at; opened by ``with``. No read lasts longer than a page.

    Raises:
        StoreUnusable: there is none, it cannot be read, or another version of the bridge wrote it.

    """

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def _rows(self, query: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    @abstractmethod
    def _page_of_accounts(self, last: Any | None) -> Sequence[Any]:
        """Return the page of the mirror behind the row *last*, or the first one."""

    @property
    def renewed(self) -> Mapping[str, Any] | None:
        """What was noted when a new lineage began for all sources, as long as not all are told anew."""
        noted = self._meta("renewed")
        return orjson.loads(noted) if noted else None

    def accounts(self) -> Iterator[KnownAccount]:
        """Yield the whole mirror, page by page."""
        page = self._page_of_accounts(None)
        while page:
            yield from map(_known, page)
            page = self._page_of_accounts(page[-1])

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
        return [(as_moment(row["created_at"]), as_moment_or_none(row["confirmed_at"])) for row in rows]

    def newest_at(self) -> datetime | None:
        """Return when the newest event was made."""
        return next((as_moment_or_none(row["created_at"]) for row in self._rows("newest_event")), None)

    def last_position(self) -> int:
        """Return the position of the newest event."""
        return int(self._rows("last_position")[0][0])

    def sources(self) -> list[SourceRecord]:
        """Return every PBX this store knows."""
        paused = self.paused()
        return [
            SourceRecord(
                name=row["name"],
                cursor=cursor_in(row),
                sequence=row["sequence"],
                lineage=row["lineage"],
                walk=row["walk"],
                verified_at=as_moment_or_none(row["verified_at"]),
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


def pauses_in(rows: Sequence[Any]) -> Mapping[SourceName, Pause]:
    """Return what rows of the table ``meta`` say about paused PBXs."""
    found = {}
    for row in rows:
        noted = orjson.loads(row["value"])
        found[SourceName(row["name"].removeprefix(PAUSED))] = Pause(
            datetime.fromisoformat(noted["since"]), noted["reason"]
        )
    return found


def _known(row: Any) -> KnownAccount:
    return KnownAccount(
        source=SourceName(row["source"]),
        key=row["key"],
        cursor=cursor_in(row),
        account=orjson.loads(row["content"]),
        revision=row["revision"],
        is_deleted=bool(row["is_deleted"]),
        last_walk=row["last_walk"],
        missed=row["missed"],
        lineage=row["lineage"],
        sequence=row["sequence"],
    )


def _recorded(row: Any) -> RecordedEvent:
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
        created_at=as_moment(row["created_at"]),
        published_at=as_moment_or_none(row["confirmed_at"]),
        is_in_doubt=bool(row["is_in_doubt"]),
        is_held=state in {"held", "parked", "fenced"},
        parked_reason=reason if state == "parked" else None,
        discarded_reason=reason if state == "discarded" else None,
        forgotten_at=as_moment_or_none(row["forgotten_at"]),
    )


def _kept(row: Any) -> KeptEvent:
    confirmed_at = as_moment_or_none(row["confirmed_at"])
    waiting = "in doubt" if row["is_in_doubt"] else "waiting"
    return KeptEvent(
        position=row["position"],
        source=SourceName(row["source"]),
        body=row["body"],
        created_at=as_moment(row["created_at"]),
        published_at=confirmed_at,
        state=row["state"] or (waiting if confirmed_at is None else "sent"),
    )
