"""A reader's place in a PBX's list, and the ways in which such a list ends."""

from dataclasses import dataclass, field
from enum import StrEnum

from bridge.model import AccountGuid, Cursor, Row


class Step(StrEnum):
    """Where a row led."""

    FORWARD = "forward"
    REPEATED = "repeated"
    CYCLE = "cycle"


FORWARD, REPEATED, CYCLE = Step.FORWARD, Step.REPEATED, Step.CYCLE


class CycleFinder:
    """Notices a list that bites its own tail, in constant memory (Brent's algorithm)."""

    def __init__(self) -> None:
        self._mark: Cursor | None = None
        self._steps = 0
        self._limit = 1

    def closes_with(self, cursor: Cursor) -> bool:
        """Take the next place, and tell whether it was passed before."""
        if cursor == self._mark:
            return True
        self._steps += 1
        if self._steps == self._limit:
            self._mark, self._steps, self._limit = cursor, 0, self._limit * 2
        return False


@dataclass(slots=True)
class Chain:
    """A reader's place in the list: question, row, question behind that row, and so on."""

    cursor: Cursor
    before: Cursor | None = None
    """The place before this one, where it is known."""
    last_account: AccountGuid | None = None
    cycle: CycleFinder = field(default_factory=CycleFinder)

    def take(self, row: Row) -> Step:
        """Move behind *row*, whose guid is the chain's."""
        is_same_place = row.cursor == self.cursor
        last, self.last_account = self.last_account, row.account_guid
        if is_same_place and last == row.account_guid:
            return REPEATED
        if not is_same_place:
            self.before, self.cursor = self.cursor, row.cursor
        return CYCLE if self.cycle.closes_with(row.cursor) else FORWARD

    def rest(self) -> None:
        """Forget the way here; the next question begins a new stretch."""
        self.cycle = CycleFinder()
