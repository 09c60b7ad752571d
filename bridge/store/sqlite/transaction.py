"""One transaction of the SQLite store: how its statements are run."""

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

import orjson

from bridge.model import Mirrored, NewEvent, SourceName
from bridge.store.sqlite.sql import queries
from bridge.store.tables.moments import as_text
from bridge.store.tables.transaction import Holding, TableTransaction

ROWS_AT_ONCE: Final = 8
"""Written by one statement: with each that runs, its thread has to get the interpreter's lock back from the one that
reads. A first start of 300 PBXs took 22.1 s so, and 24.7 s with a statement for each row; 64 rows make nothing faster.
"""


@cache
def _repeated(name: str, times: int) -> str:
    """Return the statement of that name, which writes one row, for so many of them."""
    before, values, after = re.split(r"(?<=VALUES )(\([?, ]+\))", queries()[name])
    return f"{before}{', '.join([values] * times)}{after}"


class SqliteTransaction(TableTransaction):
    """The transaction contract of ``store.contract`` on an open transaction of *connection*.

    Bytes are bound as ``bytearray`` and flags as numbers: for anything but exact numbers, texts and bytearrays the
    ``sqlite3`` module searches its adapters, 3 300 instructions for each value (13 000 of an account's).
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        sources: dict[SourceName, int],
        sinks: Sequence[Holding],
        new_lineage: Callable[[], str],
    ) -> None:
        super().__init__(sources, sinks, new_lineage)
        self._db = connection

    def _query(self, name: str, /, **parameters: Any) -> Sequence[sqlite3.Row]:
        return self._db.execute(queries()[name], parameters).fetchall()

    def _change(self, name: str, /, **parameters: Any) -> int:
        return self._db.execute(queries()[name], parameters).rowcount

    def _write(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows in order; in powers of two, so that few statements have to be prepared."""
        done = 0
        while left := len(rows) - done:
            times = min(ROWS_AT_ONCE, 1 << (left.bit_length() - 1))
            self._db.execute(_repeated(name, times), list(chain.from_iterable(rows[done : done + times])))
            done += times

    def _save_accounts(self, source_id: int, accounts: Mapping[str, Mirrored], walk: int) -> None:
        self._write(
            "save_account",
            [
                (
                    source_id,
                    key,
                    account.account_guid,
                    account.cursor.guid,
                    account.cursor.usn,
                    account.cursor.ausn,
                    bytearray(account.digest),
                    bytearray(orjson.dumps(account.account)),
                    account.revision,
                    int(account.is_deleted),
                    walk,
                )
                for key, account in accounts.items()
            ],
        )

    def _append_events(self, source_id: int, events: Sequence[NewEvent]) -> None:
        self._write(
            "add_event",
            [
                (
                    source_id,
                    event.sequence,
                    event.event_id,
                    event.event_type,
                    event.account,
                    event.routing_key,
                    bytearray(event.body),
                    as_text(event.created_at),
                )
                for event in events
            ],
        )
