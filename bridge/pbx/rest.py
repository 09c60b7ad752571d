"""When a PBX has to rest, so that one PBX does not take the time of all others: decided without a clock."""

from typing import Final

CHEAP_SECONDS: Final = 0.002
"""Of the event loop's time, for an answer. A usual one takes a tenth of a millisecond."""

SHARE: Final = 0.1
"""Of real time, for what is dear or was not asked for."""

BEHIND: Final = 3.0
"""So much work is behind an answer: comparing, keeping and sending what it tells."""

BURST_SECONDS: Final = 0.05
"""So much of either may come at once."""

MAX_REST_SECONDS: Final = 1.0
"""Far below the time in which an answer must have come."""

MIN_REST_SECONDS: Final = 0.01
"""Less is not worth a timer, and is owed."""

HEAVY_SHARE: Final = 0.3
"""Of real time, for the work of all PBXs that have much to tell, while others have a little.

One that takes less than that itself counts as one with a little: more than three beside each other, that is.
"""

NEWS_SECONDS: Final = 2.0
"""For so long a PBX counts as one that has something to tell."""


class _Debt:
    """Work that is paid off at a share of real time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._at = 0.0

    def add(self, work: float, now: float, share: float) -> float:
        """Return what is owed now beyond a burst."""
        self.seconds = max(0.0, self.seconds - (now - self._at) * share) + work
        self._at = now
        return max(0.0, self.seconds - BURST_SECONDS)


class Crowd:
    """What the PBXs of one bridge have in common: which of them have much to tell just now, and which have a little.

    One that is alone in having something to tell may take all the time there is.
    """

    def __init__(self) -> None:
        self._heavy: dict[Rest, float] = {}
        self._newest: tuple[Rest | None, float] = (None, -NEWS_SECONDS)
        self._newest_of_others: tuple[Rest | None, float] = self._newest
        """Than the one that the newest is of."""

    def __repr__(self) -> str:
        return f"<Crowd, {len(self._heavy)} heavy>"

    def has_news(self, light: "Rest", now: float) -> None:
        """Note that a PBX has told a little."""
        if self._newest[0] is not light:
            self._newest_of_others = self._newest
        self._newest = (light, now)

    def share(self, heavy: "Rest", now: float) -> float:
        """Return the part of real time that *heavy* may take; 1 for all of it."""
        others = self._newest if self._newest[0] is not heavy else self._newest_of_others
        if now - others[1] >= NEWS_SECONDS:
            self._heavy.clear()
            return 1.0
        self._heavy[heavy] = now
        for other in [other for other, at in self._heavy.items() if now - at >= NEWS_SECONDS]:
            del self._heavy[other]
        return HEAVY_SHARE / len(self._heavy)


class Rest:
    """What one PBX owes, whatever connections it had.

    Answers come at the pace at which we ask, and are free up to ``CHEAP_SECONDS`` each, their frames included, as long
    as nobody else of the *crowd* has anything to tell; then who tells more than a burst shares ``HEAVY_SHARE`` with all
    who do. What an answer takes beyond that (``BEHIND`` times, since reading it is not all the work it makes), and all
    that anything else takes, is paid for at ``SHARE`` of real time in any case: a PBX that pushes without end, or says
    things that take long to read, is read more slowly, and nobody else is.
    """

    def __init__(self, crowd: Crowd | None = None) -> None:
        self._crowd = crowd or Crowd()
        self._dear = _Debt()
        self._told = _Debt()
        self._share = HEAVY_SHARE

    def __repr__(self) -> str:
        return f"<Rest {self._dear.seconds:.3f} s and {self._told.seconds:.3f} s owed>"

    def due(self, spent: float, now: float, *, is_answer: bool, is_news: bool = False) -> float:
        """Return how many seconds to rest behind a message that took *spent* seconds; for most of them 0.

        *is_news* says that it tells an account.
        """
        dear = (spent - CHEAP_SECONDS) * BEHIND if is_answer else spent
        rest = self._dear.add(dear, now, SHARE) / SHARE if dear > 0.0 else 0.0
        if is_news:
            rest = max(rest, self._shared(min(spent, CHEAP_SECONDS) * BEHIND, now))
        return min(rest, MAX_REST_SECONDS)

    def _shared(self, work: float, now: float) -> float:
        if self._told.add(work, now, self._share) <= 0.0:
            self._crowd.has_news(self, now)
            self._share = HEAVY_SHARE
            return 0.0
        self._share = self._crowd.share(self, now)
        if self._share >= 1.0:
            self._told.seconds = BURST_SECONDS  # nobody was kept waiting by that
            self._share = HEAVY_SHARE  # or one of two that walk is soon taken for one that tells a little
            return 0.0
        rest = (self._told.seconds - BURST_SECONDS) / self._share
        return rest if rest >= MIN_REST_SECONDS else 0.0
