"""When a PBX has to rest, so that one PBX does not take the time of all others: decided without a clock."""

from typing import Final

CHEAP_SECONDS: Final = 0.002
"""Of the event loop's time, for an answer. A usual one takes a tenth of a millisecond."""

SHARE: Final = 0.1
"""Of real time, for what is dear or was not asked for."""

BEHIND: Final = 3.0
"""So much work is behind an answer that takes long to read: comparing, keeping and sending what it tells."""

BURST_SECONDS: Final = 0.05
"""So much of that may come at once."""

MAX_REST_SECONDS: Final = 1.0
"""Far below the time in which an answer must have come."""


class Rest:
    """What one PBX owes, whatever connections it had.

    Answers come at the pace at which we ask, and are free up to ``CHEAP_SECONDS`` each, their frames included.
    What an answer takes beyond that (``BEHIND`` times, since reading it is not all the work it makes), and all that
    anything else takes, is paid for at ``SHARE`` of real time: a PBX that pushes without end, or says things that take
    long to read, is read more slowly, and nobody else is.
    """

    def __init__(self) -> None:
        self._owed = 0.0
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<Rest {self._owed:.3f} s owed>"

    def due(self, spent: float, now: float, *, is_answer: bool) -> float:
        """Return how many seconds to rest behind a message that took *spent* seconds; for most of them 0."""
        dear = (spent - CHEAP_SECONDS) * BEHIND if is_answer else spent
        if dear <= 0.0:
            return 0.0
        self._owed = max(0.0, self._owed - (now - self._at) * SHARE) + dear
        self._at = now
        return min(max(0.0, self._owed - BURST_SECONDS) / SHARE, MAX_REST_SECONDS)
