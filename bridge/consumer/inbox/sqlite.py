"""The inbox in the caller's SQLite file."""

import sqlite3
from collections.abc import Generator, Sequence
from typing import Final

from bridge.consumer.inbox.rule import COMMITS_AT_ONCE, NO_TABLES, Answer, InboxStatements, Query, QueryResult
from bridge.errors import StoreUnusable
from bridge.events.cloudevents import AccountChanged, SourceVerified
from bridge.model import AccountGuid

_LEGACY_TRANSACTIONS: Final = -1
"""``sqlite3.LEGACY_TRANSACTION_CONTROL``, which Python 3.11 does not name since it knows nothing else."""


class SqliteInbox:
    """Where each account stands, on the caller's connection and in the caller's transaction.

    Opens no transaction and ends none, except that creating the table begins one as any statement does. Errors of the
    database are the caller's, as ``sqlite3`` raises them.

    Args:
        connection: on which the effect of a change is written too.
        table: the name of the inbox's table; two subscribers in one file need two.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(self, connection: sqlite3.Connection, *, table: str = "pbx_inbox") -> None:
        self._connection = connection
        self._statements = InboxStatements(table, collation="BINARY")
        self._table = table

    def __repr__(self) -> str:
        return f"<SqliteInbox {self._table}>"

    def create_tables(self) -> None:
        """Create the table where it is missing; to be called once, before the first change."""
        self._execute(self._statements.creating)

    def accept(self, event: AccountChanged) -> bool:
        """Record *event* in the caller's open transaction, and return whether to apply it: it is newer than what was.

        Raises:
            StoreUnusable: there is no table, or the connection commits each statement at once, which would record the
                change as applied before it is.
            sqlite3.Error: from the database.

        """
        if commits_at_once(self._connection):
            raise StoreUnusable(COMMITS_AT_ONCE)
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
        if commits_at_once(self._connection):
            raise StoreUnusable(COMMITS_AT_ONCE)
        try:
            query = next(steps)
            while True:
                query = steps.send(self._execute(query))
        except StopIteration as done:
            answer: Answer = done.value
            return answer

    def _execute(self, query: Query) -> QueryResult:
        cursor = self._connection.cursor()
        cursor.row_factory = None  # the caller's connection may make anything of a row
        try:
            cursor.execute(query.sql, query.parameters)
            return QueryResult(cursor.fetchall(), cursor.rowcount)
        except sqlite3.OperationalError as problem:
            if "no such table" in str(problem):
                raise StoreUnusable(f"{NO_TABLES} ({problem})") from problem
            raise
        finally:
            cursor.close()


def commits_at_once(connection: sqlite3.Connection) -> bool:
    """Tell whether a statement on *connection* would be committed by itself."""
    mode = getattr(connection, "autocommit", _LEGACY_TRANSACTIONS)
    begins_by_itself = connection.isolation_level is not None if mode == _LEGACY_TRANSACTIONS else not mode
    return not connection.in_transaction and not begins_by_itself
