"""The list of accounts of one PBX node, ordered by when each last changed; and the numbers (usn, ausn) it hands out.

How the two numbers relate is documented nowhere. Whatever they are, a PBX must be able to tell from a pair where to go
on, so each order below maps a pair to a *position*, and positions only grow:

- ``ord-lex``, ``ord-walk``: ausn counts edits of templates, usn everything else; ausn comes first. One such edit issues
  all accounts again, each with its old usn.
- ``ord-indep``: both are drawn from one clock, an edit of a template advances ausn, everything else usn; the larger one
  is the position.
- ``ord-const``, ``ord-absent``: usn alone counts.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bridge.simulator.modes import Order
from bridge.simulator.people import Record

_AUSN_WEIGHT: Final = 1 << 64
_CONSTANT_AUSN: Final = 1


@dataclass(frozen=True, slots=True)
class Before:
    """What an account was before its last change."""

    record: Record
    usn: int
    ausn: int


@dataclass(slots=True, eq=False)
class Entry:
    """One account as it became by one change."""

    position: int
    usn: int
    ausn: int
    record: Record
    is_deleted: bool = False
    before: Before | None = None
    written: tuple[object, str] | None = None
    """Its JSON, and for whom it was made."""

    def __repr__(self) -> str:
        return f"<Entry {self.record.h323} usn {self.usn} ausn {self.ausn}{' deleted' if self.is_deleted else ''}>"


@dataclass(frozen=True, slots=True)
class TableWalk:
    """A walk along the table instead of along the changes; *until* is where the changes stood when it began."""

    until: int
    entries: list[Entry]


def find_position(order: Order, usn: int, ausn: int) -> int:
    """Return where a pair leads; positions grow in the order of the list."""
    match order:
        case Order.LEX | Order.WALK:
            return ausn * _AUSN_WEIGHT + usn
        case Order.INDEP:
            return max(usn, ausn)
        case Order.CONST | Order.ABSENT:
            return usn


class ChangeList:
    """The accounts of one node; *first_usn* is the number before the first it hands out."""

    def __init__(self, order: Order, *, guid: str, first_usn: int = 0, log_limit: int | None = None) -> None:
        self.order = order
        self.guid = guid
        """Of this node, for those who take the guid for that."""
        self.current: dict[str, Entry] = {}
        """By account guid; deleted accounts stay until they are purged."""
        self.horizon = -1
        """Changes before this position are forgotten."""
        self._usn = first_usn
        self._ausn = _CONSTANT_AUSN
        self._live: list[Entry] = []
        self._live_positions: list[int] = []
        self._stale = 0
        self._log: list[Entry] = []
        self._log_positions: list[int] = []
        self._log_limit = log_limit

    def __repr__(self) -> str:
        return f"<ChangeList {self.order}: {len(self.current)} accounts, head {self.head}>"

    @property
    def head(self) -> int:
        """The position of the newest change; -1 where there is none."""
        return self._live_positions[-1] if self._live_positions else -1

    @property
    def newest(self) -> Entry | None:
        """The newest change."""
        return self._live[-1] if self._live else None

    @property
    def stale_entries(self) -> int:
        """How many entries a reader has to step over that newer ones have replaced."""
        return self._stale

    def position(self, usn: int, ausn: int) -> int:
        """Return where a pair leads."""
        return find_position(self.order, usn, ausn)

    def change(self, record: Record, *, is_deleted: bool = False) -> Entry:
        """Note that an account is now *record*."""
        before = self.current.get(record.guid)
        self._usn = max(self._usn, self._ausn if self.order is Order.INDEP else 0) + 1
        ausn = before.ausn if before is not None and self.order is Order.INDEP else self._ausn
        if self.order is Order.INDEP and before is None:
            ausn = _CONSTANT_AUSN
        return self._append(record, self._usn, ausn, before, is_deleted=is_deleted)

    def reissue(self, guids: Iterable[str]) -> list[Entry]:
        """Note that something changed on which these accounts depend, but that is not their own record."""
        chosen = set(guids)
        touched = [entry for entry in self.live() if entry.record.guid in chosen and not entry.is_deleted]
        if self.order in {Order.LEX, Order.WALK} and touched:
            self._ausn += 1
            touched.sort(key=lambda entry: entry.usn)
        return [self._reissue(entry) for entry in touched]

    def _reissue(self, entry: Entry) -> Entry:
        match self.order:
            case Order.LEX | Order.WALK:
                usn, ausn = entry.usn, self._ausn
            case Order.INDEP:
                self._ausn = max(self._usn, self._ausn) + 1
                usn, ausn = entry.usn, self._ausn
            case Order.CONST | Order.ABSENT:
                self._usn += 1
                usn, ausn = self._usn, self._ausn
        return self._append(entry.record, usn, ausn, entry)

    def _append(self, record: Record, usn: int, ausn: int, before: Entry | None, *, is_deleted: bool = False) -> Entry:
        told = Before(before.record, before.usn, before.ausn) if before is not None else None
        entry = Entry(self.position(usn, ausn), usn, ausn, record, is_deleted, told)
        self._stale += before is not None
        self.current[record.guid] = entry
        self._live.append(entry)
        self._live_positions.append(entry.position)
        self._log.append(entry)
        self._log_positions.append(entry.position)
        if self._stale > 64 + len(self.current) // 8:
            self._tidy()
        if self._log_limit is not None and len(self._log) > 2 * self._log_limit:
            del self._log[: -self._log_limit]
            del self._log_positions[: -self._log_limit]
        return entry

    def _tidy(self) -> None:
        self._live = list(self.live())
        self._live_positions = [entry.position for entry in self._live]
        self._stale = 0

    def live(self) -> Iterator[Entry]:
        """Return the newest entry of every account, oldest change first."""
        current = self.current
        return (entry for entry in self._live if current.get(entry.record.guid) is entry)

    def after(self, position: int) -> Iterator[Entry]:
        """Return the newest entries behind *position*, oldest first."""
        current = self.current
        live = self._live
        for index in range(bisect_right(self._live_positions, position), len(live)):
            entry = live[index]
            if current.get(entry.record.guid) is entry:
                yield entry

    def log_after(self, position: int) -> Iterator[Entry]:
        """Return every change behind *position*, also those that later ones have replaced."""
        log = self._log
        for index in range(bisect_right(self._log_positions, position), len(log)):
            yield log[index]

    def at_or_before(self, position: int) -> Iterator[Entry]:
        """Return the newest entries up to *position*, newest first."""
        for index in range(bisect_right(self._live_positions, position) - 1, -1, -1):
            entry = self._live[index]
            if self.current.get(entry.record.guid) is entry:
                yield entry

    def forget_before_last(self, changes: int) -> None:
        """Shorten the history to the last so many *changes*."""
        if len(self._log_positions) > changes:
            self.horizon = max(self.horizon, self._log_positions[-changes - 1] if changes else self.head)

    def purge_deleted(self) -> None:
        """Forget that deleted accounts ever were."""
        self.current = {guid: entry for guid, entry in self.current.items() if not entry.is_deleted}
        self._tidy()

    def copy(self) -> "ChangeList":
        """Return this list as it is now; a later change touches only one of the two."""
        twin = ChangeList(self.order, guid=self.guid, log_limit=self._log_limit)
        twin.current = dict(self.current)
        twin.horizon = self.horizon
        twin._usn, twin._ausn, twin._stale = self._usn, self._ausn, self._stale
        twin._live, twin._live_positions = list(self._live), list(self._live_positions)
        twin._log, twin._log_positions = list(self._log), list(self._log_positions)
        return twin
