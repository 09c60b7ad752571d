"""How often strangers may come: so many at once and so many a second, each and all of them together. No clock here.

Together they get no more than costs little, whatever their number. The last half of that is for who has not tried for a
while, so that a crowd that comes again and again takes nothing from somebody new.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_REMEMBERED: Final = 10_000
"""Addresses: about 2 MB."""


@dataclass(frozen=True, slots=True)
class Share:
    """What is free."""

    at_once: float
    per_second: float


class _Bucket:
    __slots__ = ("at", "left")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at

    def fill(self, share: Share, now: float) -> None:
        self.left = min(share.at_once, self.left + max(0.0, now - self.at) * share.per_second)
        self.at = now


class Rate:
    """Decides who may come; times are seconds of any steady clock, *while_seconds* are the while of a newcomer."""

    def __init__(self, each: Share, together: Share, while_seconds: float) -> None:
        self._each = each
        self._while_seconds = while_seconds
        self._together = together
        self._all = _Bucket(together.at_once, 0.0)
        self._of: OrderedDict[str, _Bucket] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Rate of {len(self._of)} addresses>"

    def may(self, address: str, now: float, *, is_known: bool = False) -> bool:
        """Tell whether somebody from *address* may come now, and count it; who *is_known* has its own share only."""
        bucket = self._of.pop(address, None) or _Bucket(self._each.at_once, now - self._while_seconds)
        self._of[address] = bucket
        if len(self._of) > MAX_REMEMBERED:
            self._of.popitem(last=False)
        is_rare = now - bucket.at >= self._while_seconds
        bucket.fill(self._each, now)
        self._all.fill(self._together, now)
        if bucket.left < 1:
            return False
        if not is_known:
            if self._all.left < (1 if is_rare else max(1.0, self._together.at_once / 2)):
                return False
            self._all.left -= 1
        bucket.left -= 1
        return True
