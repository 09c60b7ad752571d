"""What bridges and operators want of the bridge that has a source: written into the database, and answered there.

Bridges never talk to each other. Whoever has a source finds within a second what is wanted of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from bridge.model import SourceName
from bridge.store.sharing import WISHED_SECONDS, Wish


class Database(Protocol):
    """What wishes need of the store that they are part of."""

    @property
    def life(self) -> str:
        """The life of this bridge."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def together(self) -> Any:
        """Return a context in which all changes become durable together."""


class Wishes:
    """The wishes in *database*; raises ``StoreUnusable`` where it cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return "<Wishes>"

    def ask(self, source: SourceName, kind: str, arguments: Mapping[str, Any]) -> int | None:
        """Want something of whoever has *source*, and return its number; ``None`` where there is no such source."""
        told = {"name": source, "kind": kind, "arguments": orjson.dumps(arguments).decode()}
        with self._database.together():
            found = self._database.query("add_wish", **told, asked_by=self._database.life)
        return int(found[0]["id"]) if found else None

    def answer_to(self, number: int) -> Mapping[str, Any] | None:
        """Return what became of a wish; ``None`` as long as nothing did."""
        found = self._database.query("answer_to", id=number)
        return orjson.loads(found[0]["answer"]) if found else None

    def give_up(self, number: int) -> None:
        """Want it no more."""
        self._database.change("drop_wish", id=number)

    def for_us(self) -> Sequence[Wish]:
        """Return what is wanted of sources that are ours, and of which the answer is still waited for; oldest first."""
        return [
            Wish(row["id"], SourceName(row["source"]), row["kind"], orjson.loads(row["arguments"]), row["age"])
            for row in self._database.query("wishes_for_us", seconds=WISHED_SECONDS)
        ]

    def answer(self, number: int, answer: Mapping[str, Any]) -> None:
        """Tell what became of a wish."""
        self._database.change("answer_wish", id=number, answer=orjson.dumps(answer).decode())

    def forget_old(self) -> None:
        """Forget those that nobody asks about any more."""
        self._database.change("forget_wishes")
