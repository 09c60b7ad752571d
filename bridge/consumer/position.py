"""How far a reader of the log has come: kept in the caller's own transaction, together with the effect.

The log holds each event once, and in order, where the bridge writes it by the stream protocol. So a reader needs no
table of ids: one row with the offset of the last entry it applied is enough. Both become durable together or neither
does, and the row moves forwards only, so of two replicas that both believe to be the one that reads, one applies an
entry and the other one finds it applied.

Beside the offset the row has the id of the event there. A log that was deleted and made anew begins to count at 0
again, and an old place in it would leave out events without a word: a reader that begins at its place looks at the
entry there, and stops (``LogReplaced``) if it is another one.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from bridge.cloudevents import AccountChanged

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")


class Place(NamedTuple):
    """The last entry that was dealt with; a reader that begins here goes on behind it."""

    offset: int
    event_id: str | None
    """``None`` where it is not known, so that nothing can be compared."""


class Entry(Protocol):
    """What a position wants to know of an entry."""

    @property
    def offset(self) -> int:
        """Its place in the log."""

    @property
    def event(self) -> AccountChanged:
        """The change."""


class Query(NamedTuple):
    """One statement to be run in the caller's transaction."""

    sql: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL of a position, for any driver; *reader* and *stream* say whose it is.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    table: str
    reader: str
    stream: str

    def __post_init__(self) -> None:
        """Look at the name, which becomes part of the statements."""
        if not _NAME.fullmatch(self.table):
            raise ValueError(f"{self.table!r} cannot be the name of a table: use a-z, 0-9 and _, at most 40")

    @property
    def creating(self) -> str:
        """Create the table where it is missing."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.table} (reader text NOT NULL, stream text NOT NULL, "
            "place bigint NOT NULL, event_id text NOT NULL, PRIMARY KEY (reader, stream))"
        )

    @property
    def reading(self) -> Query:
        """Return the last entry that was dealt with."""
        return Query(
            f"SELECT place, event_id FROM {self.table} WHERE reader = :reader AND stream = :stream",  # noqa: S608 - a checked name
            self._whose,
        )

    def moving(self, entry: Entry) -> Query:
        """Move to *entry*, if it is behind the last one; tells by the number of rows changed."""
        return Query(
            f"INSERT INTO {self.table} (reader, stream, place, event_id) "  # noqa: S608 - a checked name
            "VALUES (:reader, :stream, :place, :event_id) ON CONFLICT (reader, stream) DO UPDATE "
            f"SET place = excluded.place, event_id = excluded.event_id WHERE {self.table}.place < excluded.place",
            {**self._whose, "place": entry.offset, "event_id": entry.event.event_id},
        )

    @property
    def _whose(self) -> dict[str, Any]:
        return {"reader": self.reader, "stream": self.stream}
