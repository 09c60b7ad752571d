"""Sources that are in the store and followed no more: what is left of them, and how they go."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final, Protocol

from bridge.model import Sink, SourceName
from bridge.store.records import Left
from bridge.store.tables.moments import as_text

RETIRED: Final = "retired:"
"""What the name of a source is noted behind from when it is retired until its rows are gone."""

ELSEWHERE: Final = "elsewhere:"
"""What the name of a source is noted behind that was not followed here when the log had higher numbers of it."""

_ENDED: Final = " ended"
"""What the note of one ends with whose accounts were told to be gone."""


class Lane(Protocol):
    """A sink, as far as it matters whether it has everything of a source."""

    sink: Sink

    def through_of(self, source: int) -> int:
        """Return up to which position everything of a source is confirmed, as far as it is not aside."""


class Database(Protocol):
    """What leaving needs of a store."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def erasing(self) -> AbstractContextManager[None]:
        """Return a context in which changes are made together and what is deleted is overwritten."""

    def lanes_of_all(self) -> Sequence[Lane]:
        """Return the sinks that want events."""

    def together(self) -> AbstractContextManager[None]:
        """Return a context in which all changes become durable together; inside another one, with that."""

    def renew(self, source: int) -> None:
        """Begin a source anew, in the open transaction: nothing is known of it, and a new lineage begins."""

    def lock_free(self, source: int) -> bool:
        """Keep others from a source until the open transaction is over; False where another bridge has it."""

    def keep_floor(self) -> None:
        """Keep the newest lineage that was given, whatever becomes of its source."""

    def reload(self) -> None:
        """Read anew what sources there are and what waits of them."""


class Leavers:
    """What a store does with sources that are followed no more; raises ``StoreUnusable`` where it cannot."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return "<Leavers>"

    def left(self, followed: AbstractSet[SourceName]) -> Mapping[SourceName, Left]:
        """Return what is kept of each source that is not *followed*."""
        retired = self._retired()
        return {
            name: Left(
                accounts=self._database.query("count_accounts", source_id=row["id"], missed=0)[0][0],
                is_waiting=self._is_waiting(row["id"]),
                is_retired=name in retired,
            )
            for row in self._database.query("source_ids")
            if (name := SourceName(row["name"])) not in followed
        }

    def sent(self, sources: AbstractSet[SourceName]) -> Sequence[SourceName]:
        """Return those of *sources* of which every sink has everything, and nothing waits for an operator."""
        return [
            source
            for source in sources
            if not any(self._is_waiting(row["id"]) for row in self._database.query("source", name=source))
        ]

    def retire(self, source: SourceName, at: datetime, *, is_ended: bool) -> None:
        """Have all rows of *source* go as soon as nothing of it waits; *is_ended*: subscribers are told that it is."""
        value = f"{as_text(at)}{_ENDED if is_ended else ''}".encode()
        self._database.change("set_meta_value", name=f"{RETIRED}{source}", value=value)

    def keep(self, source: SourceName) -> None:
        """Follow *source* after all, as far as it is still here.

        Anew where subscribers were told that it has ended, or heard of it from another bridge meanwhile: of what is
        told under numbers that come before those they take no notice.
        """
        notes = {kind: self._database.query("meta_value", name=f"{kind}{source}") for kind in (RETIRED, ELSEWHERE)}
        if not any(notes.values()):
            return
        is_ended = any(bytes(row["value"]).endswith(_ENDED.encode()) for row in notes[RETIRED])
        with self._database.together():
            for row in self._database.query("source", name=source) if is_ended or notes[ELSEWHERE] else ():
                self._database.renew(row["id"])
            for kind in notes:
                self._database.change("drop_meta_value", name=f"{kind}{source}")

    def remove_retired(self, *, at_once: SourceName | None = None) -> Sequence[SourceName]:
        """Remove the retired sources of which nothing waits any more and that no other bridge has, and return them.

        *at_once* one of which something may wait, which is never sent then; not while anybody sends it.
        """
        if not self._retired():
            return []
        numbers = {SourceName(row["name"]): row["id"] for row in self._database.query("source_ids")}
        if not (gone := self._that_may_go(numbers, at_once)):
            return gone
        with self._database.erasing():
            self._database.keep_floor()
            locked = {name: numbers[name] for name in gone if self._database.lock_free(numbers[name])}
            gone = self._that_may_go(locked, at_once)  # up to then another bridge may have told of it, or kept it
            for name in gone:
                for statement in _ROWS_OF_A_SOURCE:
                    self._database.change(statement, source_id=numbers[name])
                self._database.change("drop_notes", suffix=f":{name}")
        self._database.reload()
        return gone

    def _that_may_go(self, numbers: Mapping[SourceName, int], at_once: SourceName | None) -> Sequence[SourceName]:
        retired = sorted(self._retired() & numbers.keys())
        return [name for name in retired if name == at_once or not self._is_waiting(numbers[name])]

    def _retired(self) -> frozenset[SourceName]:
        rows = self._database.query("meta_values", pattern=f"{RETIRED}*")
        return frozenset(SourceName(row["name"].removeprefix(RETIRED)) for row in rows)

    def _is_waiting(self, number: int) -> bool:
        return any(
            self._database.query("is_waiting", source_id=number, sink=lane.sink, through=lane.through_of(number))[0][0]
            for lane in self._database.lanes_of_all()
        )


_ROWS_OF_A_SOURCE: Final = (
    "drop_aside",
    "drop_events",
    "drop_lines",
    "drop_accounts",
    "drop_caller",
    "drop_source",
)
