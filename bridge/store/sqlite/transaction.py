"""One transaction of the SQLite store: how its statements are run."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from bridge.model import Mirrored, NewEvent, SourceName
from bridge.store.sqlite.sql import queries
from bridge.store.tables.moments import as_text
from bridge.store.tables.transaction import Holding, TableTransaction


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

    def _save_accounts(self, source_id: int, accounts: Mapping[str, Mirrored], walk: int) -> None:
        self._db.executemany(
            queries()["save_account"],
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
        self._db.executemany(
            queries()["add_event"],
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
