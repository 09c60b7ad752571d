"""What happens at the door, counted, and told in the log without drowning it."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from bridge.events import wording
from bridge.logs import get_logger

INTERVAL_SECONDS: Final = 30.0
"""At most one line about the same thing in so long; it says how many there were."""

MAX_CHARACTERS: Final = 60

MAX_REASONS: Final = 40
"""That are told apart; some have a name in them that the other end chose."""

OTHER: Final = "something else"

log = get_logger(__name__)


class RefusalLog:
    """Counts refusals by reason. What a stranger sent is never logged but for what ``clean`` leaves of it.

    No personal data either: neither names nor numbers of users, only the address and what was wrong.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.refusals: Counter[str] = Counter()
        self._clock = clock
        self._told_at: dict[str, float] = {}
        self._untold: Counter[str] = Counter()

    def refused(self, reason: str, address: str, **more: str) -> None:
        """Count somebody who was not let in, and say so, unless that was said just now."""
        reason = str(reason)  # of an enumeration: JSON wants keys that are text and nothing else
        if reason not in self.refusals and len(self.refusals) >= MAX_REASONS:
            reason = OTHER
        self.refusals[reason] += 1
        self._untold[reason] += 1
        now = self._clock()
        if now - self._told_at.get(reason, -INTERVAL_SECONDS) < INTERVAL_SECONDS:
            return
        self._told_at[reason] = now
        count, self._untold[reason] = self._untold[reason], 0
        cleaned = {name: brief(value) for name, value in more.items()}
        log.warning("listen.refused", reason=reason, address=brief(address), count=count, **cleaned)


def brief(text: str) -> str:
    """Return *text* as it may stand in one line of a log: printable and short."""
    return wording.clean(text[:MAX_CHARACTERS])
