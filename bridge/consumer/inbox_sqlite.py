"""The inbox in the caller's SQLite file."""

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from bridge.cloudevents import AccountChanged
from bridge.consumer.inbox import PRUNE_ROWS, Answer, OnGap, Query, Statements, Verdict, utc_now
from bridge.errors import StoreUnusable

_LEGACY_TRANSACTIONS: Final = -1
"""``sqlite3.LEGACY_TRANSACTION_CONTROL``, which Python 3.11 does not name since it knows nothing else."""


class SqliteInbox:
    """The ids of applied changes, on the caller's connection and in the caller's transaction.

    Opens no transaction and ends none, except that pruning and creating tables begin one as any statement does.
    Errors of the database are the caller's, as ``sqlite3`` raises them.

    Args:
        connection: on which the effect of a change is written too.
        table: what the names of the inbox's tables begin with; two subscribers in one file need two.
        on_gap: called, within the transaction, where a revision was left out: another event of this account never
            came. It may be called again for the same change where the transaction is rolled back.
        clock: for the age of ids.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        table: str = "pbx_inbox",
        on_gap: OnGap | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._connection = connection
        self._statements = Statements(table)
        self._table = table
        self._on_gap = on_gap
        self._clock = clock

    def __repr__(self) -> str:
        return f"<SqliteInbox {self._table}>"

    def create_tables(self) -> None:
        """Create the tables where they are missing; to be called once, before the first change."""
        for sql in self._statements.tables:
            self._execute(Query(sql, {}))

    def is_new(self, event: AccountChanged) -> bool:
        """Record *event*, and return whether to apply it. Raises what ``receive`` raises."""
        return self.receive(event) is Verdict.NEW

    def receive(self, event: AccountChanged) -> Verdict:
        """Record *event* in the caller's open transaction, and return what is known about it.

        Raises:
            StoreUnusable: there are no tables, or the connection commits each statement at once, which would record
                the change as applied before it is.
            sqlite3.Error: from the database.

        """
        if commits_at_once(self._connection):
            raise StoreUnusable(
                "the connection of the inbox commits each statement at once: begin a transaction before asking the "
                "inbox, write the effect, and commit both together"
            )
        steps = self._statements.receiving(event, self._clock())
        query = next(steps)
        while True:
            answer = self._execute(query)
            try:
                query = steps.send(answer)
            except StopIteration as done:
                ruling = done.value
                break
        if ruling.missing_revision is not None and self._on_gap is not None:
            self._on_gap(event, ruling.missing_revision)
        return Verdict(ruling.verdict)

    def prune(self, older_than: timedelta, at_most: int = PRUNE_ROWS) -> int:
        """Forget ids that came longer ago than *older_than*, and return how many; *at_most* so many at once.

        Keep them longer than any queue, dead-letter queue or log may hold a change.

        Raises:
            sqlite3.Error: from the database.

        """
        return self._execute(self._statements.pruning(older_than, self._clock(), at_most)).changed

    def _execute(self, query: Query) -> Answer:
        cursor = self._connection.cursor()
        cursor.row_factory = None  # the caller's connection may make anything of a row
        try:
            cursor.execute(query.sql, query.parameters)
            return Answer(cursor.fetchall(), cursor.rowcount)
        except sqlite3.OperationalError as problem:
            if "no such table" in str(problem):
                raise StoreUnusable(f"{problem}: call create_tables() of the inbox once, at the start") from problem
            raise
        finally:
            cursor.close()


def commits_at_once(connection: sqlite3.Connection) -> bool:
    """Tell whether a statement on *connection* would be committed by itself."""
    mode = getattr(connection, "autocommit", _LEGACY_TRANSACTIONS)
    begins_by_itself = connection.isolation_level is not None if mode == _LEGACY_TRANSACTIONS else not mode
    return not connection.in_transaction and not begins_by_itself
