"""How much may wait in the outbox before the PBXs are read no further.

A PBX keeps its changes for as long as nobody asks for them, so not reading is the safe thing to do where the broker is
away for long or the disk fills up.
"""

from dataclasses import dataclass
from typing import Final

from bridge.store.records import Backlog

RESUME_SHARE: Final = 0.9
"""Of a limit: reading goes on below it, so that it does not stop and go on with every event."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the outbox and its disk may come to."""

    max_events: int = 1_000_000
    max_bytes: int = 2_000_000_000
    min_free_bytes: int = 200_000_000

    def reached(self, backlog: Backlog, free_bytes: int | None, *, is_full: bool) -> str:
        """Return which limit is reached, in a sentence; empty while there is room. *is_full*: one was, before."""
        share = RESUME_SHARE if is_full else 1.0
        events, size = backlog.rows + backlog.held_rows, backlog.bytes + backlog.held_bytes
        if events >= self.max_events * share:
            reached = f"the outbox is full: {events} events wait (store.max_unsent_events is {self.max_events})"
        elif size >= self.max_bytes * share:
            reached = f"the outbox is full: {_mb(size)} wait (store.max_unsent_bytes is {_mb(self.max_bytes)})"
        elif free_bytes is not None and free_bytes < self.min_free_bytes / share:
            reached = (
                f"the disk of the store is almost full: {_mb(free_bytes)} are left (store.min_free_bytes is "
                f"{_mb(self.min_free_bytes)}). Make room on it"
            )
        else:
            return ""
        held = f"; {backlog.held_rows} of the events are held: account-bridge parked" if backlog.held_rows else ""
        return f"{reached}{held}. The PBXs are not read until there is room; they keep their changes, nothing is lost"


def _mb(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB"
