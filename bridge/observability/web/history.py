"""What the charts show: a bounded record of the board, in memory. The last hour finely, the last day coarsely."""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from bridge.observability.status import BridgeStatus

STEP: Final = timedelta(seconds=10)
POINTS: Final = 360
"""An hour."""
COARSE: Final = 30
"""Points of the last hour that make one of the last day: five minutes."""
COARSE_POINTS: Final = 288


@dataclass(frozen=True, slots=True)
class Point:
    """What happened during one step."""

    changes: int
    unsent: int
    """The most that waited."""
    lag: float
    """Seconds from hearing of a change to the broker's confirm, the longest; of what still waits, its age."""


class History:
    """Samples of one board."""

    def __init__(self, board: BridgeStatus) -> None:
        self._board = board
        self._hour: deque[Point] = deque(maxlen=POINTS)
        self._day: deque[Point] = deque(maxlen=COARSE_POINTS)
        self._changes = self._published = 0
        self._taken = 0
        self._until: datetime | None = None

    def __repr__(self) -> str:
        return f"<History of {len(self._hour)} and {len(self._day)} points>"

    def sample(self, now: datetime) -> None:
        """Take the next point."""
        board = self._board
        changes = sum(part.changes for part in board.sources.values())
        waited = (now - board.oldest_unsent_at).total_seconds() if board.oldest_unsent_at is not None else 0.0
        lag = board.last_lag_seconds if board.published > self._published else 0.0
        self._hour.append(Point(max(0, changes - self._changes), board.unsent + board.held, max(waited, lag, 0.0)))
        self._changes, self._published = changes, board.published
        self._until = now
        self._taken += 1
        if self._taken % COARSE == 0:
            self._day.append(_together(list(self._hour)[-COARSE:]))

    def as_json(self, *, is_day: bool) -> dict[str, Any]:
        """Return the points as columns, the oldest first."""
        points = self._day if is_day else self._hour
        step = STEP * COARSE if is_day else STEP
        return {
            "until": self._until,
            "step_seconds": step.total_seconds(),
            "points": COARSE_POINTS if is_day else POINTS,
            "changes": [point.changes for point in points],
            "unsent": [point.unsent for point in points],
            "lag_seconds": [round(point.lag, 3) for point in points],
        }


def _together(points: list[Point]) -> Point:
    return Point(
        sum(point.changes for point in points),
        max(point.unsent for point in points),
        max(point.lag for point in points),
    )
