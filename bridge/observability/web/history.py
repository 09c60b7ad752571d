"""What the charts show: a bounded record of the board, in memory. The last hour finely, the last day coarsely."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
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
        changes = self._changes_so_far()
        waited = (now - board.oldest_unsent_at).total_seconds() if board.oldest_unsent_at is not None else 0.0
        lag = board.last_lag_seconds if board.published > self._published else 0.0
        self._hour.append(Point(max(0, changes - self._changes), board.unsent + board.held, max(waited, lag, 0.0)))
        self._changes, self._published = changes, board.published
        self._until = now
        self._taken += 1
        if self._taken % COARSE == 0:
            self._day.append(_together(list(self._hour)[-COARSE:]))

    def recall(self, flow: Sequence[tuple[datetime, datetime | None]], now: datetime) -> None:
        """Begin with what happened before this process: when changes were made, and when confirmed."""
        self._hour.extend(_points(flow, now, STEP, POINTS))
        self._day.extend(_points(flow, now, STEP * COARSE, COARSE_POINTS))
        self._changes, self._until = self._changes_so_far(), now

    def _changes_so_far(self) -> int:
        return sum(part.changes for part in self._board.sources.values())

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


def _points(
    flow: Sequence[tuple[datetime, datetime | None]], now: datetime, step: timedelta, count: int
) -> list[Point]:
    """Return what *flow* says of *count* steps that end *now*, from the first of which it says anything."""
    begin = now - count * step
    changes, lags, waiting = [0] * count, [0.0] * count, [0] * (count + 1)
    for made, confirmed in flow:
        first = (made - begin) // step
        until = count if confirmed is None else (confirmed - begin) // step
        if 0 <= first < count:
            changes[first] += 1
        if max(first, 0) < min(until, count):  # it waited at the end of the step in which it was made, and on
            waiting[max(first, 0)] += 1
            waiting[min(until, count)] -= 1
        if confirmed is not None and 0 <= until < count:
            lags[until] = max(lags[until], (confirmed - made).total_seconds())
    points = [Point(*each) for each in zip(changes, accumulate(waiting), lags, strict=False)]
    known = min(((made - begin) // step for made, _ in flow), default=count)
    return points[max(known, 0) :]


def _together(points: list[Point]) -> Point:
    return Point(
        sum(point.changes for point in points),
        max(point.unsent for point in points),
        max(point.lag for point in points),
    )
