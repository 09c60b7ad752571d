"""The inbox in the caller's PostgreSQL database; needs ``psycopg`` (``pip install pbx-account-bridge[postgres]``)."""

import re
from collections.abc import Generator, Sequence
from typing import Any, Final

from bridge.consumer.extras import from_extra
from bridge.consumer.inbox.rule import COMMITS_AT_ONCE, NO_TABLES, Answer, InboxStatements, Query, QueryResult
from bridge.errors import StoreUnusable
from bridge.events.cloudevents import AccountChanged, SourceVerified
from bridge.model import AccountGuid

with from_extra("postgres"):
    from psycopg import AsyncConnection, Connection
    from psycopg.errors import UndefinedTable
    from psycopg.pq import TransactionStatus
    from psycopg.rows import tuple_row

_MARK: Final = re.compile(r":([a-z_]+)")

_LOCKING: Final = "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"
"""Waits for every transaction that has accepted something, and is waited for by those that will."""


def _statements(table: str) -> InboxStatements:
    return InboxStatements(table, collation='"C"', locking=_LOCKING)


def _creating(table: str, statements: InboxStatements) -> Sequence[Query]:
    # "IF NOT EXISTS" alone lets two that begin at the same moment collide.
    return Query("SELECT pg_advisory_xact_lock(hashtext(:name))", {"name": table}), statements.creating


class PostgresInbox:
    """Where each account stands, on the caller's connection and in the caller's transaction.

    Ends no transaction of the caller's. Errors of the database are the caller's, as ``psycopg`` raises them. Changes
    of one account that are applied by several processes at the same moment wait for each other.

    Args:
        connection: on which the effect of a change is written too.
        table: the name of the inbox's table; two subscribers in one schema need two.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(self, connection: Connection[Any], *, table: str = "pbx_inbox") -> None:
        self._connection = connection
        self._statements = _statements(table)
        self._table = table

    def __repr__(self) -> str:
        return f"<PostgresInbox {self._table}>"

    def create_tables(self) -> None:
        """Create the table where it is missing; to be called once, before the first change.

        Commits, unless the caller has a transaction open.
        """
        with self._connection.transaction():
            for query in _creating(self._table, self._statements):
                self._execute(query)

    def accept(self, event: AccountChanged) -> bool:
        """Record *event* in the caller's open transaction, and return whether to apply it: it is newer than what was.

        Raises:
            StoreUnusable: there is no table, or the connection commits each statement at once, which would record the
                change as applied before it is.
            psycopg.Error: from the database.

        """
        return self._execute(self._statements.accepting(event)).changed == 1

    def gone(self, certificate: SourceVerified) -> Sequence[AccountGuid]:
        """Return the accounts that are gone by *certificate*, as they were spelled, and record that they are.

        None, unless it completes a lineage, and each account once, however often the certificate is delivered. Nothing
        of an older lineage is accepted any more. Raises what ``accept`` raises.
        """
        return self._run(self._statements.completing(certificate))

    def difference(self, certificate: SourceVerified) -> str:
        """Return how the present accounts differ from what *certificate* says, as a sentence; empty: they do not.

        To be asked when the certificate is handled, in its turn and behind ``gone``: what was applied before it, and
        nothing else, is what it tells of. Raises what ``accept`` raises.
        """
        return self._run(self._statements.comparing(certificate))

    def _run(self, steps: Generator[Query, QueryResult, Answer]) -> Answer:
        try:
            query = next(steps)
            while True:
                query = steps.send(self._execute(query))
        except StopIteration as done:
            answer: Answer = done.value
            return answer

    def _execute(self, query: Query) -> QueryResult:
        if commits_at_once(self._connection):
            raise StoreUnusable(COMMITS_AT_ONCE)
        # A cursor of our own: the caller's connection may make anything of a row.
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            try:
                cursor.execute(with_marks(query.sql), query.parameters)
            except UndefinedTable as problem:
                raise StoreUnusable(NO_TABLES) from problem
            return QueryResult(cursor.fetchall() if cursor.description else (), cursor.rowcount)


class AsyncPostgresInbox:
    """``PostgresInbox`` for an ``AsyncConnection``: the same table, the same rules, and methods to be awaited."""

    def __init__(self, connection: AsyncConnection[Any], *, table: str = "pbx_inbox") -> None:
        self._connection = connection
        self._statements = _statements(table)
        self._table = table

    def __repr__(self) -> str:
        return f"<AsyncPostgresInbox {self._table}>"

    async def create_tables(self) -> None:
        """Create the table where it is missing. See ``PostgresInbox.create_tables``."""
        async with self._connection.transaction():
            for query in _creating(self._table, self._statements):
                await self._execute(query)

    async def accept(self, event: AccountChanged) -> bool:
        """Record *event*, and return whether to apply it. See ``PostgresInbox.accept``."""
        return (await self._execute(self._statements.accepting(event))).changed == 1

    async def gone(self, certificate: SourceVerified) -> Sequence[AccountGuid]:
        """Return the accounts that are gone by *certificate*, and record it. See ``PostgresInbox.gone``."""
        return await self._run(self._statements.completing(certificate))

    async def difference(self, certificate: SourceVerified) -> str:
        """Return how the present accounts differ from what *certificate* says. See ``PostgresInbox.difference``."""
        return await self._run(self._statements.comparing(certificate))

    async def _run(self, steps: Generator[Query, QueryResult, Answer]) -> Answer:
        try:
            query = next(steps)
            while True:
                query = steps.send(await self._execute(query))
        except StopIteration as done:
            answer: Answer = done.value
            return answer

    async def _execute(self, query: Query) -> QueryResult:
        if commits_at_once(self._connection):
            raise StoreUnusable(COMMITS_AT_ONCE)
        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            try:
                await cursor.execute(with_marks(query.sql), query.parameters)
            except UndefinedTable as problem:
                raise StoreUnusable(NO_TABLES) from problem
            return QueryResult(await cursor.fetchall() if cursor.description else (), cursor.rowcount)


def commits_at_once(connection: Connection[Any] | AsyncConnection[Any]) -> bool:
    """Tell whether a statement on *connection* would be committed by itself."""
    return connection.autocommit and connection.info.transaction_status is TransactionStatus.IDLE


def with_marks(sql: str) -> bytes:
    """Return *sql* with the marks of psycopg in place of ``:name``."""
    return _MARK.sub(r"%(\1)s", sql).encode()
