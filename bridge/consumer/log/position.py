"""How far a reader of the log has come: kept in the caller's own transaction, together with the effect.

The log holds each event once, and in order, where the bridge writes it by the stream protocol. So a reader needs no
table of ids: one row with the offset of the last entry it applied is enough. Both become durable together or neither
does, and the row moves forwards only, so of two replicas that both believe to be the one that reads, one applies an
entry and the other one finds it applied.

The row must not be behind what its reader has dealt with, either: a transaction that was rolled back without a word,
or a database that was put back from a backup under a reader that runs, would leave out what lies between. So a move
names the entry that this reader dealt with before, and a row that has not reached it is not moved (``PlaceMovedBack``).

Beside the offset the row has the id of the event there. A log that was deleted and made anew begins to count at 0
again, and an old place in it would leave out events without a word: a reader that begins at its place looks at the
entry there, and stops (``LogReplaced``) if it is another one.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from bridge.errors import PlaceMovedBack
from bridge.events.cloudevents import AccountChanged, SourceVerified

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")


class LogOffset(NamedTuple):
    """The last entry that was dealt with; a reader that begins here goes on behind it."""

    offset: int
    event_id: str | None
    """``None`` where it is not known, so that nothing can be compared."""


class HasOffset(Protocol):
    """What a position wants to know of an entry."""

    @property
    def offset(self) -> int:
        """Its place in the log."""

    @property
    def event(self) -> AccountChanged | SourceVerified:
        """The change, or the certificate."""


class PositionQuery(NamedTuple):
    """One statement to be run in the caller's transaction."""

    sql: str
    parameters: dict[str, Any]


class Progress:
    """What a reader has dealt with, as far as this process knows: the row must have reached that."""

    def __init__(self) -> None:
        self._since: int | None = None
        """Dealt with before ``_asked``."""
        self._asked: int | None = None
        """The entry that was asked about last; whether its transaction was committed shows with the next one."""

    def begin_at(self, place: LogOffset | None) -> None:
        """Forget everything but *place*, which the row has now."""
        self._since, self._asked = None, place.offset if place is not None else None

    def before(self, entry: HasOffset) -> int | None:
        """Return the entry that was dealt with before *entry*, which is asked about now; ``None`` if unknown."""
        if self._asked is None or entry.offset < self._asked:  # a reader that begins anew, further to the front
            self._since = None
        elif entry.offset > self._asked:
            self._since = self._asked
        self._asked = entry.offset
        return self._since


@dataclass(frozen=True, slots=True)
class PositionStatements:
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
    def reading(self) -> PositionQuery:
        """Return the last entry that was dealt with."""
        return PositionQuery(
            f"SELECT place, event_id FROM {self.table} WHERE reader = :reader AND stream = :stream",  # noqa: S608 - a checked name
            self._whose,
        )

    def moving(self, entry: HasOffset, since: int | None) -> PositionQuery:
        """Move to *entry*, from *since* or whatever is between the two; tells by the number of rows changed.

        Without *since*, from any earlier place or from none.
        """
        values = {**self._whose, "place": entry.offset, "event_id": entry.event.event_id}
        if since is not None:
            return PositionQuery(
                f"UPDATE {self.table} SET place = :place, event_id = :event_id "  # noqa: S608 - a checked name
                "WHERE reader = :reader AND stream = :stream AND place >= :since AND place < :place",
                {**values, "since": since},
            )
        return PositionQuery(
            f"INSERT INTO {self.table} (reader, stream, place, event_id) "  # noqa: S608 - a checked name
            "VALUES (:reader, :stream, :place, :event_id) ON CONFLICT (reader, stream) DO UPDATE "
            f"SET place = excluded.place, event_id = excluded.event_id WHERE {self.table}.place < excluded.place",
            values,
        )

    def check(self, entry: HasOffset, since: int | None, row: tuple[int, str] | None) -> None:
        """Look at the *row* that was not moved to *entry*: somebody applied it already, or the row went back.

        Raises:
            PlaceMovedBack: it is behind *since*.

        """
        if since is None or (row is not None and row[0] >= entry.offset):
            return
        found = "gone" if row is None else row[0]
        raise PlaceMovedBack(
            f"the place of {self.reader} in {self.stream} is {found}, but this reader dealt "
            f"with the entry at {since}: its transaction was rolled back, or the database put back from a backup. "
            "Nothing is left out if the reader begins again at start() of its position"
        )

    @property
    def _whose(self) -> dict[str, Any]:
        return {"reader": self.reader, "stream": self.stream}
