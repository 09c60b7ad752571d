"""The inbox in the caller's PostgreSQL database; needs ``psycopg`` (``pip install pbx-account-bridge[postgres]``)."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict, Unpack

from psycopg import AsyncConnection, Connection
from psycopg.errors import UndefinedTable
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from bridge.cloudevents import AccountChanged
from bridge.consumer.inbox import PRUNE_ROWS, Answer, OnGap, Query, Ruling, Statements, Verdict, utc_now
from bridge.errors import StoreUnusable

_MARK: Final = re.compile(r":([a-z_]+)")
_COMMITS_AT_ONCE: Final = (
    "the connection of the inbox commits each statement at once: open a transaction (with connection.transaction():) "
    "around asking the inbox and writing the effect"
)
_NO_TABLES: Final = "the tables of the inbox are missing: call its create_tables() once, at the start"


class Options(TypedDict, total=False):
    """What may be said about an inbox, by name."""

    table: str
    on_gap: OnGap | None
    clock: Callable[[], datetime]


class _Common:
    def __init__(self, **options: Unpack[Options]) -> None:
        self._table = options.get("table", "pbx_inbox")
        self._statements = Statements(self._table, locking="FOR UPDATE")
        self._on_gap = options.get("on_gap")
        self._clock = options.get("clock", utc_now)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._table}>"

    def _told(self, event: AccountChanged, ruling: Ruling) -> Verdict:
        if ruling.missing_revision is not None and self._on_gap is not None:
            self._on_gap(event, ruling.missing_revision)
        return ruling.verdict

    def _creating(self) -> list[Query]:
        # "IF NOT EXISTS" alone lets two that begin at the same moment collide.
        lock = Query("SELECT pg_advisory_xact_lock(hashtext(:name))", {"name": self._table})
        return [lock, *(Query(sql, {}) for sql in self._statements.tables)]


class PostgresInbox(_Common):
    """The ids of applied changes, on the caller's connection and in the caller's transaction.

    Ends no transaction of the caller's. Errors of the database are the caller's, as ``psycopg`` raises them. Changes
    of one account that are applied by several processes at the same moment wait for each other.

    Args:
        connection: on which the effect of a change is written too.
        table: what the names of the inbox's tables begin with; two subscribers in one schema need two.
        on_gap: called, within the transaction, where a revision was left out: another event of this account never
            came. It may be called again for the same change where the transaction is rolled back.
        clock: for the age of ids.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(self, connection: Connection[Any], **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._connection = connection

    def create_tables(self) -> None:
        """Create the tables where they are missing; to be called once, before the first change.

        Commits, unless the caller has a transaction open.
        """
        with self._connection.transaction():
            for query in self._creating():
                self._execute(query)

    def is_new(self, event: AccountChanged) -> bool:
        """Record *event*, and return whether to apply it. Raises what ``receive`` raises."""
        return self.receive(event) is Verdict.NEW

    def receive(self, event: AccountChanged) -> Verdict:
        """Record *event* in the caller's open transaction, and return what is known about it.

        Raises:
            StoreUnusable: there are no tables, or the connection commits each statement at once, which would record
                the change as applied before it is.
            psycopg.Error: from the database.

        """
        if commits_at_once(self._connection):
            raise StoreUnusable(_COMMITS_AT_ONCE)
        steps = self._statements.receiving(event, self._clock())
        query = next(steps)
        while True:
            answer = self._execute(query)
            try:
                query = steps.send(answer)
            except StopIteration as done:
                return self._told(event, done.value)

    def prune(self, older_than: timedelta, at_most: int = PRUNE_ROWS) -> int:
        """Forget ids that came longer ago than *older_than*, and return how many; *at_most* so many at once.

        Keep them longer than any queue, dead-letter queue or log may hold a change.

        Raises:
            psycopg.Error: from the database.

        """
        return self._execute(self._statements.pruning(older_than, self._clock(), at_most)).changed

    def _execute(self, query: Query) -> Answer:
        # A cursor of our own: the caller's connection may make anything of a row.
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            try:
                cursor.execute(with_marks(query.sql), query.parameters)
            except UndefinedTable as problem:
                raise StoreUnusable(_NO_TABLES) from problem
            return Answer(cursor.fetchall() if cursor.description else (), cursor.rowcount)


class AsyncPostgresInbox(_Common):
    """``PostgresInbox`` for an ``AsyncConnection``: the same tables, the same rules, and methods to be awaited."""

    def __init__(self, connection: AsyncConnection[Any], **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._connection = connection

    async def create_tables(self) -> None:
        """Create the tables where they are missing. See ``PostgresInbox.create_tables``."""
        async with self._connection.transaction():
            for query in self._creating():
                await self._execute(query)

    async def is_new(self, event: AccountChanged) -> bool:
        """Record *event*, and return whether to apply it. Raises what ``receive`` raises."""
        return await self.receive(event) is Verdict.NEW

    async def receive(self, event: AccountChanged) -> Verdict:
        """Record *event* in the caller's open transaction. See ``PostgresInbox.receive``.

        Raises:
            StoreUnusable: there are no tables, or the connection commits each statement at once.
            psycopg.Error: from the database.

        """
        if commits_at_once(self._connection):
            raise StoreUnusable(_COMMITS_AT_ONCE)
        steps = self._statements.receiving(event, self._clock())
        query = next(steps)
        while True:
            answer = await self._execute(query)
            try:
                query = steps.send(answer)
            except StopIteration as done:
                return self._told(event, done.value)

    async def prune(self, older_than: timedelta, at_most: int = PRUNE_ROWS) -> int:
        """Forget ids that came longer ago than *older_than*. See ``PostgresInbox.prune``.

        Raises:
            psycopg.Error: from the database.

        """
        return (await self._execute(self._statements.pruning(older_than, self._clock(), at_most))).changed

    async def _execute(self, query: Query) -> Answer:
        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            try:
                await cursor.execute(with_marks(query.sql), query.parameters)
            except UndefinedTable as problem:
                raise StoreUnusable(_NO_TABLES) from problem
            return Answer(await cursor.fetchall() if cursor.description else (), cursor.rowcount)


def commits_at_once(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Tell whether a statement on *connection* would be committed by itself."""
    return connection.autocommit and connection.info.transaction_status is TransactionStatus.IDLE


def with_marks(sql: str) -> bytes:
    """Return *sql* with the marks of psycopg in place of ``:name``."""
    return _MARK.sub(r"%(\1)s", sql).encode()
