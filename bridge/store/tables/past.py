"""What happened before this process began: what was heard last, and by which rules it was told."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from bridge.events.cloudevents import ACCOUNT_CHANGED
from bridge.model import SourceName
from bridge.store.records import LastHeard, SourceState
from bridge.store.tables.moments import as_moment

PUBLISHES: Final = "publishes:"
"""What the name of a source is noted behind, with what is published of it."""


class Database(Protocol):
    """What the past needs of the store it is part of."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def place(self, source: SourceName) -> SourceState:
        """Return where *source* stands."""

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

    def published_otherwise(self, source: SourceName, publishes: str) -> bool:
        """Tell whether not all that is known of *source* was told as *publishes* says.

        Until ``note_published`` says that it was, the answer stays yes: some of it may be told so meanwhile.
        """
        known = next(iter(self._database.query("meta_value", name=f"{PUBLISHES}{source}")), None)
        if known is None or not self._database.place(source).sequence:  # not kept before, or nothing is told yet
            self.note_published(source, publishes)
            return False
        if bytes(known["value"]) == publishes.encode():
            return False
        self.note_published(source, "")
        return True

    def note_published(self, source: SourceName, publishes: str) -> None:
        """Record that all that is known of *source* was told as *publishes* says."""
        self._database.change("set_meta_value", name=f"{PUBLISHES}{source}", value=publishes.encode())
