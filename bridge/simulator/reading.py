"""Which account comes next: the list as one connection reads it."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from bridge.simulator import writing
from bridge.simulator.changelist import ChangeList, Entry, TableWalk
from bridge.simulator.modes import Coalescing, Deletion, HistoryMode, Modes, Order, Scope, Walk
from bridge.simulator.pbx import Pbx

START = -1
"""The position before all accounts."""

_UNTOLD_DELETIONS = frozenset({Deletion.NONE, Deletion.NEWGUID})


class Found(NamedTuple):
    """The next account, or nothing."""

    entry: Entry | None
    is_epoch_over: bool = False
    """The place was too old, and the PBX began anew under another guid."""


NOTHING = Found(None)


class PushListener(Protocol):
    """The connection that is read to."""

    @property
    def modes(self) -> Modes:
        """How the PBX behaves on it."""

    def blame(self, mistake: str) -> None:
        """Note what the other end did that no bridge should."""


class ListReader:
    """What one connection has yet to be told."""

    def __init__(self, pbx: Pbx, connection: PushListener) -> None:
        self._pbx = pbx
        self._connection = connection
        self._walks_until = START
        """Where the changes stood when this connection last began from the start."""

    def position(self, usn: Any, ausn: Any) -> int:
        """Return the position a question's numbers stand for; unusable ones count as none, as a strict parser would."""
        modes = self._connection.modes
        order = self._pbx.accounts.order
        if usn is None and ausn is None:
            return START
        usn_number = writing.write_number(usn, modes.cursor)
        ausn_number = 1 if order is Order.ABSENT and ausn is None else writing.write_number(ausn, modes.cursor)
        if usn_number is None or ausn_number is None:
            self._connection.blame(f"did not send usn and ausn as it got them ({modes.cursor})")
            return START
        return self._pbx.accounts.position(usn_number, ausn_number)

    def is_walking(self, position: int) -> bool:
        """Tell whether a row at *position* is part of a first reading."""
        return position <= self._walks_until

    def at(self, position: int) -> Entry | None:
        """Return the account at exactly that position, if it is still there."""
        entry = next(self._pbx.accounts.at_or_before(position), None)
        return entry if entry is not None and entry.position == position and self._is_told(entry) else None

    def at_or_before(self, position: int) -> Entry | None:
        """Return the last account up to *position*."""
        return next((entry for entry in self._pbx.accounts.at_or_before(position) if self._is_told(entry)), None)

    def told_after(self, position: int, limit: int) -> list[Entry]:
        """Return the changes behind *position* that are to be told, at most *limit*."""
        told = (entry for entry in self._pbx.accounts.after(position) if self._is_told(entry))
        return [entry for entry, _ in zip(told, range(limit), strict=False)]

    def next_after(self, position: int) -> Found:
        """Return what comes behind *position*."""
        pbx, modes = self._pbx, self._connection.modes
        accounts = pbx.accounts
        is_table = modes.walk is not Walk.USN or accounts.order is Order.WALK
        place = pbx.walk_places.get(position) if is_table else None
        if place is None and self._is_forgotten(position):
            if modes.history is HistoryMode.NEWGUID:
                pbx.new_epoch()
                return Found(None, is_epoch_over=True)
            position = accounts.horizon if modes.history is HistoryMode.GAP else START
        if position == START:
            self._walks_until = accounts.head
            if is_table:
                place = (self._begin_walk(), 0)
        if place is not None:
            walk, index = place
            in_table = self._next_in_table(walk, index)
            if in_table is not None:
                return Found(in_table)
            position = walk.until
        for entry in self._changes_after(accounts, position):
            if self._is_told(entry):
                if is_table:
                    pbx.walk_places.pop(entry.position, None)
                return Found(entry)
        return NOTHING

    def _is_forgotten(self, position: int) -> bool:
        """Tell whether the history has ended behind *position*; what a first reading passes is not history."""
        is_known = position >= self._pbx.accounts.horizon or position < self._walks_until
        return not (is_known or position == START or self._connection.modes.history is HistoryMode.KEEP)

    def _changes_after(self, accounts: ChangeList, position: int) -> Iterator[Entry]:
        if self._connection.modes.coalescing is Coalescing.LOG and position >= self._walks_until:
            return accounts.log_after(position)
        return accounts.after(position)

    def _is_told(self, entry: Entry) -> bool:
        modes = self._connection.modes
        if not entry.is_deleted and modes.scope is Scope.USERS:
            return entry.record.kind == "user"
        if self._pbx.is_listed(entry, modes):
            return True
        # Gone, or never there: a first reading does not tell of what was gone before it began.
        was_listed = entry.record.kind == "user" or modes.scope is Scope.ALL
        return was_listed and modes.deletion not in _UNTOLD_DELETIONS and entry.position > self._walks_until

    def _begin_walk(self) -> TableWalk:
        accounts = self._pbx.accounts
        entries = [entry for entry in accounts.live() if not entry.is_deleted]
        if self._connection.modes.walk is not Walk.SNAPSHOT:
            entries.sort(key=lambda entry: entry.record.guid)
        self._pbx.walk_places.clear()
        return TableWalk(accounts.head, entries)

    def _next_in_table(self, walk: TableWalk, index: int) -> Entry | None:
        is_frozen = self._connection.modes.walk is Walk.SNAPSHOT
        current = self._pbx.accounts.current
        for following in range(index, len(walk.entries)):
            then = walk.entries[following]
            entry = then if is_frozen else current.get(then.record.guid)
            if entry is not None and self._pbx.is_listed(entry, self._connection.modes):
                self._pbx.walk_places[entry.position] = (walk, following + 1)
                return entry
        return None
