"""One transaction of the PostgreSQL store: what is not asked back is sent along with what comes next."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from bridge.errors import LeaseLost
from bridge.model import Mirrored, NewEvent, SourceName
from bridge.store.postgres.errors import source_taken
from bridge.store.postgres.rows import Row
from bridge.store.postgres.session import Session
from bridge.store.records import SourceState
from bridge.store.tables.moments import as_text
from bridge.store.tables.transaction import Holding, TableTransaction, state_in


class PostgresTransaction(TableTransaction):
    """The transaction contract of ``store.contract`` in an open transaction of *session*."""

    def __init__(
        self,
        session: Session,
        sources: dict[SourceName, int],
        sinks: Sequence[Holding],
        new_lineage: Callable[[], str],
    ) -> None:
        super().__init__(sources, sinks, new_lineage)
        self._session = session

    def _query(self, name: str, /, **parameters: Any) -> Sequence[Row]:
        return self._session.rows(name, parameters)

    def _change(self, name: str, /, **parameters: Any) -> int:
        return self._session.count(name, parameters)

    def _run(self, name: str, /, **parameters: Any) -> None:
        self._session.send(name, parameters)

    def _save_accounts(self, source_id: int, accounts: Mapping[str, Mirrored], walk: int) -> None:
        if not accounts:
            return
        told = [
            {
                "key": key,
                "account_guid": account.account_guid,
                "guid": account.cursor.guid,
                "usn": account.cursor.usn,
                "ausn": account.cursor.ausn,
                "digest": account.digest.hex(),
                "content": account.account,
                "revision": account.revision,
                "is_deleted": account.is_deleted,
            }
            for key, account in accounts.items()
        ]
        self._run("save_account", source_id=source_id, walk=walk, accounts=orjson.dumps(told).decode())

    def _append_events(self, source_id: int, events: Sequence[NewEvent]) -> None:
        if not events:
            return
        told = [
            {
                "sequence": event.sequence,
                "event_id": event.event_id,
                "event_type": event.event_type,
                "account": event.account,
                "routing_key": event.routing_key,
                "body": b64encode(event.body).decode(),
                "created_at": as_text(event.created_at),
            }
            for event in events
        ]
        self._run("add_event", source_id=source_id, events=orjson.dumps(told).decode())


class SharedTransaction(PostgresTransaction):
    """The same for one of several bridges: whatever is about a source begins by making sure that it is ours.

    *epoch_of* returns under which epoch the life *me* holds a source, or one that never was.
    """

    def __init__(  # noqa: PLR0913 - its parts
        self,
        session: Session,
        sources: dict[SourceName, int],
        sinks: Sequence[Holding],
        new_lineage: Callable[[], str],
        *,
        me: str,
        epoch_of: Callable[[SourceName], int],
    ) -> None:
        super().__init__(session, sources, sinks, new_lineage)
        self._me = me
        self._epoch_of = epoch_of
        self._locked: set[SourceName] = set()

    def place(self, source: SourceName) -> SourceState:
        """Return where *source* stands.

        Raises:
            LeaseLost: it is not ours.

        """
        found = self._query("held_source", name=source, me=self._me, epoch=self._epoch_of(source))
        if not found:
            raise LeaseLost(source_taken())
        self._sources[source] = found[0]["id"]
        self._locked.add(source)
        return state_in(found[0])

    def _number(self, source: SourceName) -> int:
        number = self._sources[source]
        if source not in self._locked:
            self._run("hold_source", source_id=number, me=self._me, epoch=self._epoch_of(source))
            self._locked.add(source)
        return number
