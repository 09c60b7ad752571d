"""The place in the log, in the caller's SQLite file."""

import sqlite3

from bridge.consumer.inbox.sqlite import commits_at_once
from bridge.consumer.log.position import HasOffset, LogOffset, PositionQuery, PositionStatements, Progress
from bridge.consumer.subscriber import Start
from bridge.errors import StoreUnusable


class SqlitePosition:
    """How far *reader* has come in *stream*, on the caller's connection and in the caller's transaction.

    Opens no transaction and ends none. Errors of the database are the caller's, as ``sqlite3`` raises them.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        reader: str = "reader",
        stream: str = "pbx.accounts.log",
        table: str = "pbx_log_position",
    ) -> None:
        self._connection = connection
        self._statements = PositionStatements(table, reader, stream)
        self._progress = Progress()

    def __repr__(self) -> str:
        return f"<SqlitePosition of {self._statements.reader} in {self._statements.stream}>"

    def create_tables(self) -> None:
        """Create the table where it is missing; to be called once, before the first entry."""
        self._execute(PositionQuery(self._statements.creating, {}))

    def start(self, otherwise: Start = "first") -> "Start | LogOffset":
        """Return where a ``LogReader`` is to begin: behind what was applied, or *otherwise* where nothing was."""
        row = self._execute(self._statements.reading).fetchone()
        place = LogOffset(*row) if row is not None else None
        self._progress.begin_at(place)
        return place or otherwise

    def accept(self, entry: HasOffset) -> bool:
        """Move to *entry* in the caller's open transaction, and return whether to apply it: it was not before.

        Raises:
            StoreUnusable: the connection commits each statement at once, which would record the entry as applied
                before it is.
            PlaceMovedBack: the row is behind what this reader has dealt with.
            sqlite3.Error: from the database.

        """
        if commits_at_once(self._connection):
            raise StoreUnusable(
                "the connection of the position commits each statement at once: begin a transaction before asking it, "
                "write the effect, and commit both together"
            )
        since = self._progress.before(entry)
        if self._execute(self._statements.moving(entry, since)).rowcount == 1:
            return True
        self._statements.check(entry, since, self._execute(self._statements.reading).fetchone())
        return False

    def _execute(self, query: PositionQuery) -> sqlite3.Cursor:
        cursor = self._connection.cursor()
        cursor.row_factory = None  # the caller's connection may make anything of a row
        return cursor.execute(query.sql, query.parameters)
