"""A look into a store, whether a bridge has it open or not: SQLite lets readers in beside the one writer.

Nothing here can write, and no read lasts longer than a page, so that the bridge's file does not grow behind it.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from bridge.errors import StoreUnusable
from bridge.store.sqlite.errors import of_sqlite
from bridge.store.sqlite.sql import migrations, queries
from bridge.store.tables.reader import PAGE_ROWS, TableReader

BUSY_SECONDS: Final = 5.0


class StoreReader(TableReader):
    """The store in *path*, to look at; opened by ``with``.

    Raises:
        StoreUnusable: there is none, it cannot be read, or another version of the bridge wrote it.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"<StoreReader of {self._path}>"

    def __enter__(self) -> Self:
        if not self._path.exists():
            raise StoreUnusable(
                f"there is no store {self._path} yet: account-bridge run makes it. Is store.url the one of the bridge?"
            )
        with self._translated():
            # Not mode=ro, which cannot open a file whose last writer has tidied up behind itself.
            connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
            connection.row_factory = sqlite3.Row
            self._connection = connection
            connection.execute("PRAGMA query_only=ON")
            applied = connection.execute("PRAGMA user_version").fetchone()[0]
            if applied != migrations()[-1].number:
                self.__exit__()
                raise StoreUnusable(
                    f"the store {self._path} was written by another version of the bridge (tables {applied}, this one "
                    f"knows {migrations()[-1].number}). Ask with that version, or start this one first"
                )
        return self

    def __exit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._translated(), closing(connection):
                pass

    def _rows(self, query: str, /, **parameters: Any) -> list[sqlite3.Row]:
        if self._connection is None:
            raise StoreUnusable(f"the store {self._path} is not open")
        with self._translated():
            return self._connection.execute(queries()[query], parameters).fetchall()

    def _page_of_accounts(self, last: sqlite3.Row | None) -> list[sqlite3.Row]:
        return self._rows("known_accounts", after=0 if last is None else last["number"], limit=PAGE_ROWS)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as problem:
            raise StoreUnusable(of_sqlite(self._path, problem)) from problem
