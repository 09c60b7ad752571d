"""When a PBX is to be walked from its start again: decided from times that others measure."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zlib import crc32

SPREAD: Final = timedelta(minutes=30)
"""Nightly walks of several PBXs begin within this span, each PBX at a time of its own."""

FIRST_RETRY: Final = timedelta(minutes=15)
LAST_RETRY: Final = timedelta(hours=24)

_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)

CONFIRM_AFTER: Final = timedelta(minutes=10)
"""A walk that did not see some accounts is repeated so soon, to know whether they are gone."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What an operator wants; times of day are local."""

    nightly_at: time | None = time(2, 0)
    after_outage: timedelta = timedelta(minutes=10)
    quiet_from: time | None = None
    quiet_until: time | None = None

    def are_quiet(self, now: time) -> bool:
        """Tell whether no walk should begin by itself at this time of day."""
        begin, end = self.quiet_from, self.quiet_until
        if begin is None or end is None:
            return False
        return begin <= now < end if begin <= end else now >= begin or now < end


class WalkSchedule:
    """The walks of one PBX. *verified_at* is the end of the last proven one in the present epoch, if any.

    *absent* accounts were not seen by that one and may be gone.
    """

    def __init__(self, name: str, habits: Habits, verified_at: datetime | None, *, absent: int = 0) -> None:
        self._habits = habits
        self._offset = SPREAD * (crc32(name.encode()) % 1000) / 1000
        self._verified_at = verified_at
        self._last_over: datetime | None = verified_at
        self._unproven = 0
        self._is_under_way = False
        self._is_asked = False
        self._was_away = False
        self._confirm_at = verified_at + CONFIRM_AFTER if verified_at is not None and absent else None

    def ask(self) -> None:
        """Take the wish of an operator, which no quiet hours hold up."""
        self._is_asked = True

    def came_back(self, away: timedelta) -> None:
        """Take note that the PBX was not reached for so long."""
        self._was_away |= away >= self._habits.after_outage

    def began(self, *, is_new_epoch: bool) -> None:
        """Take note that a walk has begun, for whatever reason."""
        self._is_under_way = True
        if is_new_epoch:
            self._verified_at = None

    def over(self, now: datetime, *, is_proven: bool, absent: int = 0) -> None:
        """Take note that it is over; *absent* accounts were not seen and may be gone."""
        self._is_under_way = False
        self._is_asked = self._was_away = False
        self._last_over = now
        if is_proven:
            self._verified_at = now
            self._unproven = 0
            self._confirm_at = now + CONFIRM_AFTER if absent else None
        else:
            self._unproven += 1
            if self._confirm_at is not None:
                self._confirm_at = now + self._retry

    def due(self, now: datetime) -> str:
        """Return why a walk should begin now, or nothing. *now* is local and aware."""
        if self._is_under_way:
            return ""
        if self._is_asked:
            return "asked for"
        if self._habits.are_quiet(now.time()):
            return ""
        reasons = {
            "not verified yet": self._verified_at is None and now >= (self._last_over or _LONG_AGO) + self._retry,
            "the PBX was away": self._was_away,
            "some accounts were not seen": self._confirm_at is not None and now >= self._confirm_at,
            "nightly": self._last_over is not None and self._last_over < self._last_night(now),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    @property
    def _retry(self) -> timedelta:
        doublings = min(2 * max(self._unproven - 1, 0), 16)
        return min(LAST_RETRY, FIRST_RETRY * (1 << doublings))

    def _last_night(self, now: datetime) -> datetime:
        if self._habits.nightly_at is None:
            return _LONG_AGO
        tonight = datetime.combine(now.date(), self._habits.nightly_at, now.tzinfo) + self._offset
        return tonight if tonight <= now else tonight - timedelta(days=1)
