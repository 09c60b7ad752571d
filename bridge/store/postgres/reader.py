"""A look into a store in PostgreSQL, whether a bridge has it open or not; a standby will do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import psycopg

from bridge.errors import StoreUnusable
from bridge.store.postgres.connecting import Connection, Database
from bridge.store.postgres.errors import as_ours
from bridge.store.postgres.opening import read_tables
from bridge.store.postgres.rows import Row
from bridge.store.postgres.sql import migrations, queries
from bridge.store.tables.reader import PAGE_ROWS, TableReader


class PostgresReader(TableReader):
    """The store in *database*, to look at; opened by ``with``.

    Raises:
        StoreUnreachable: it cannot be reached.
        StoreRefusedLogin: it does not let us in.
        StoreUnusable: there is none, it cannot be read, or another version of the bridge wrote it.

    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Connection | None = None

    def __repr__(self) -> str:
        return f"<PostgresReader of {self._database.place}>"

    def __enter__(self) -> Self:
        try:
            with self._translated():
                self._connection = self._database.connect(to_write=False)
                applied, oldest = read_tables(self._database, self._connection)
            self._refuse_others(applied, oldest)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _refuse_others(self, applied: int, oldest: int) -> None:
        place, known = self._database.place, migrations()[-1].number
        if not applied:
            raise StoreUnusable(f"there is no store in {place} yet: account-bridge run makes it")
        if not oldest <= known <= applied:
            raise StoreUnusable(
                f"the store {place} was written by another version of the bridge (tables {applied}, this one knows "
                f"{known}). Ask with that version, or start this one first"
            )

    def __exit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._translated():
                connection.close()

    def _rows(self, query: str, /, **parameters: Any) -> Sequence[Row]:
        if self._connection is None:
            raise StoreUnusable(f"the store {self._database.place} is not open")
        with self._translated():
            return self._database.ask(self._connection, queries()[query], parameters).fetchall()

    def _page_of_accounts(self, last: Row | None) -> Sequence[Row]:
        source, key = (0, "") if last is None else (last["source_id"], last["key"])
        return self._rows("known_accounts", after_source=source, after_key=key, limit=PAGE_ROWS)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as problem:
            raise as_ours(self._database.place, problem) from problem
