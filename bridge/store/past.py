"""What happened before this process began, for who looks at the board."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from bridge.cloudevents import ACCOUNT_CHANGED
from bridge.model import LastHeard, SourceName
from bridge.store.transaction import as_moment


class Database(Protocol):
    """What the past needs of the store it is part of."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""


class Past:
    """What a store knows of former runs; raises ``StoreUnusable`` where it cannot be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return "<Past>"

    def last_heard(self, source: SourceName) -> LastHeard:
        """Return what was heard of *source* last, as far as that is kept, and when the broker confirmed something."""
        event = next(iter(self._database.query("last_event", name=source, event_type=ACCOUNT_CHANGED)), None)
        confirmed = next(iter(self._database.query("last_confirmed", name=source)), None)
        return LastHeard(
            None if event is None else as_moment(event["created_at"]),
            None if event is None or event["forgotten_at"] is not None else event["body"],
            None if confirmed is None else as_moment(confirmed["at"]),
        )

    def last_confirmed_at(self) -> datetime | None:
        """Return when the broker confirmed something last."""
        at = self._database.query("last_published")[0]["at"]
        return None if at is None else as_moment(at)
