"""The place in the log, in the caller's PostgreSQL database; needs ``psycopg``."""

from typing import Any

from bridge.consumer.extras import from_extra
from bridge.consumer.inbox.postgres import commits_at_once, with_marks
from bridge.consumer.log.position import HasOffset, LogOffset, PositionStatements, Progress
from bridge.consumer.subscriber import Start
from bridge.errors import StoreUnusable

with from_extra("postgres"):
    from psycopg import AsyncConnection, Connection
    from psycopg.rows import tuple_row

_COMMITS_AT_ONCE = (
    "the connection of the position commits each statement at once: open a transaction (with "
    "connection.transaction():) around asking it and writing the effect"
)


class PostgresPosition:
    """How far *reader* has come in *stream*, on the caller's connection and in the caller's transaction.

    Ends no transaction of the caller's. Errors of the database are the caller's, as ``psycopg`` raises them. Replicas
    that are at the same entry at the same moment wait for each other, and one of them applies it.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(
        self,
        connection: Connection[Any],
        *,
        reader: str = "reader",
        stream: str = "pbx.accounts.log",
        table: str = "pbx_log_position",
    ) -> None:
        self._connection = connection
        self._statements = PositionStatements(table, reader, stream)
        self._progress = Progress()

    def __repr__(self) -> str:
        return f"<PostgresPosition of {self._statements.reader} in {self._statements.stream}>"

    def create_tables(self) -> None:
        """Create the table where it is missing; to be called once. Commits, unless a transaction is open."""
        with self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self._statements.table])
            self._connection.execute(self._statements.creating.encode())

    def start(self, otherwise: Start = "first") -> "Start | LogOffset":
        """Return where a ``LogReader`` is to begin: behind what was applied, or *otherwise* where nothing was."""
        with self._connection.transaction():
            row = self._row()
        place = LogOffset(*row) if row is not None else None
        self._progress.begin_at(place)
        return place or otherwise

    def accept(self, entry: HasOffset) -> bool:
        """Move to *entry* in the caller's open transaction, and return whether to apply it: it was not before.

        Raises:
            StoreUnusable: the connection commits each statement at once, which would record the entry as applied
                before it is.
            PlaceMovedBack: the row is behind what this reader has dealt with.
            psycopg.Error: from the database.

        """
        if commits_at_once(self._connection):
            raise StoreUnusable(_COMMITS_AT_ONCE)
        since = self._progress.before(entry)
        query = self._statements.moving(entry, since)
        if self._connection.execute(with_marks(query.sql), query.parameters).rowcount == 1:
            return True
        self._statements.check(entry, since, self._row())
        return False

    def _row(self) -> tuple[int, str] | None:
        query = self._statements.reading
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(with_marks(query.sql), query.parameters).fetchone()


class AsyncPostgresPosition:
    """``PostgresPosition`` for an ``AsyncConnection``: the same table, the same rules, and methods to be awaited."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        *,
        reader: str = "reader",
        stream: str = "pbx.accounts.log",
        table: str = "pbx_log_position",
    ) -> None:
        self._connection = connection
        self._statements = PositionStatements(table, reader, stream)
        self._progress = Progress()

    def __repr__(self) -> str:
        return f"<AsyncPostgresPosition of {self._statements.reader} in {self._statements.stream}>"

    async def create_tables(self) -> None:
        """Create the table where it is missing. See ``PostgresPosition.create_tables``."""
        async with self._connection.transaction():
            await self._connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self._statements.table])
            await self._connection.execute(self._statements.creating.encode())

    async def start(self, otherwise: Start = "first") -> "Start | LogOffset":
        """Return where a ``LogReader`` is to begin. See ``PostgresPosition.start``."""
        async with self._connection.transaction():
            row = await self._row()
        place = LogOffset(*row) if row is not None else None
        self._progress.begin_at(place)
        return place or otherwise

    async def accept(self, entry: HasOffset) -> bool:
        """Move to *entry* in the caller's open transaction. See ``PostgresPosition.accept``."""
        if commits_at_once(self._connection):
            raise StoreUnusable(_COMMITS_AT_ONCE)
        since = self._progress.before(entry)
        query = self._statements.moving(entry, since)
        if (await self._connection.execute(with_marks(query.sql), query.parameters)).rowcount == 1:
            return True
        self._statements.check(entry, since, await self._row())
        return False

    async def _row(self) -> tuple[int, str] | None:
        query = self._statements.reading
        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            return await (await cursor.execute(with_marks(query.sql), query.parameters)).fetchone()
