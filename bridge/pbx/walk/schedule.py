"""When a PBX is to be walked from its start again: decided from times that others measure.

The clock of the machine may jump, ahead and back, and it may have been wrong when a walk was recorded. So it only says
which night it is and whether hours are quiet; how long ago something was is told by a clock that is never set, and a
record from the future is believed by nobody: when that walk was is not known then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final
from zlib import crc32

SPREAD: Final = timedelta(minutes=30)
"""Nightly walks of several PBXs begin within this span, each PBX at a time of its own."""

FIRST_RETRY: Final = timedelta(minutes=15)
LAST_RETRY: Final = timedelta(hours=24)

CONFIRM_AFTER: Final = timedelta(minutes=10)
"""A walk that did not see some accounts is repeated so soon, to know whether they are gone."""

APART: Final = timedelta(hours=3)
"""From the end of any walk to a nightly one at least: so a clock that is set to and fro cannot make many nights."""

LONGEST_DAY: Final = timedelta(hours=25)
"""Where clocks are put back for winter. After so long without a walk one is due, whatever the clock calls the night."""

DOUBTS_APART: Final = timedelta(hours=1)
"""Between two walks of a PBX that may have been set back."""

SET_BACK: Final = "the PBX may have been set back"


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
    """The walks of one PBX. *verified_at* is the end of the last proven one in the present epoch, if any; local, aware.

    *absent* accounts were not seen by that one and may be gone. *steady* are the seconds of a clock that is never set;
    without it the moments that are given count as such.
    """

    def __init__(
        self,
        name: str,
        habits: Habits,
        verified_at: datetime | None,
        *,
        absent: int = 0,
        steady: Callable[[], float] | None = None,
    ) -> None:
        self._habits = habits
        self._spread = SPREAD * (crc32(name.encode()) % 1000) / 1000
        self._steady = steady
        self._recorded = verified_at
        """Of an earlier process, until it is compared with the present time."""
        self._is_verified = verified_at is not None
        self._over: float | None = None
        """When the last walk was over, proven or not, by the steady clock; ``None`` where that is not known."""
        self._night: date | None = None
        """Which night that was, by the clock of the machine."""
        self._unproven = 0
        self._is_under_way = False
        self._is_asked = False
        self._was_away = False
        self._may_be_gone = verified_at is not None and absent > 0
        """True while accounts were not seen, so that another walk has to tell whether they are gone."""
        self._confirm_at = float("-inf")
        self._is_doubted = self._is_in_question = False
        self._doubts_from: float | None = None
        """Not before then is a PBX walked of which nothing but ignorance speaks for having been set back."""
        self._doubt_ended: float | None = None
        """When the last walk for a doubt was over."""

    def ask(self) -> None:
        """Take the wish of an operator, which no quiet hours hold up, and which stands until a walk is proven."""
        self._is_asked, self._unproven = True, 0

    def came_back(self, away: timedelta) -> None:
        """Take note that the PBX was not reached for so long."""
        self._was_away |= away >= self._habits.after_outage

    def doubt(self, *, is_evident: bool) -> None:
        """Take note that the PBX may have been set back; *is_evident* where it told something that speaks for it."""
        if is_evident:
            self._is_doubted = True
        else:
            self._is_in_question = True

    def began(self, *, is_new_epoch: bool) -> None:
        """Take note that a walk has begun, for whatever reason."""
        self._is_under_way = True
        if is_new_epoch:
            self._is_verified = self._may_be_gone = self._is_doubted = self._is_in_question = False

    def over(self, now: datetime, *, is_proven: bool, absent: int = 0) -> None:
        """Take note that it is over; *absent* accounts were not seen and may be gone. *now* is local and aware."""
        self._recall(now)
        self._is_under_way = False
        self._over, self._night = self._seconds(now), self._find_night(now)
        if self._is_doubted:
            self._doubt_ended = self._over
        if is_proven:
            self._is_verified = True
            self._unproven = 0
            self._may_be_gone = absent > 0
            self._confirm_at = self._over + CONFIRM_AFTER.total_seconds()
            self._is_asked = self._was_away = self._is_doubted = self._is_in_question = False
        else:
            self._unproven += 1
            self._confirm_at = self._over + self._retry.total_seconds()

    def second_look_at(self, now: datetime) -> datetime | None:
        """Return when a walk is to decide about accounts not seen, if there are any. *now* is local and aware."""
        self._recall(now)
        if not self._may_be_gone:
            return None
        moment = now + timedelta(seconds=max(0.0, self._confirm_at - self._seconds(now)))
        until = self._habits.quiet_until
        if until is None or not self._habits.are_quiet(moment.time()):
            return moment
        ends = datetime.combine(moment.date(), until, moment.tzinfo)
        return ends if ends > moment else ends + timedelta(days=1)

    def due(self, now: datetime) -> str:
        """Return why a walk should begin now, or nothing. *now* is local and aware."""
        self._recall(now)
        seconds = self._seconds(now)
        if self._is_in_question and self._doubts_from is None:
            self._doubts_from = seconds + self._spread.total_seconds()
        if self._is_under_way:
            return ""
        if self._is_asked and not self._unproven:
            return "asked for"
        if self._habits.are_quiet(now.time()):
            return ""
        may_try = not self._unproven or self._is_past(self._over, self._retry, seconds)
        reasons = {
            "asked for": self._is_asked and may_try,
            "not verified yet": not self._is_verified and self._is_past(self._over, self._retry, seconds),
            "the PBX was away": self._was_away and may_try,
            SET_BACK: self._is_doubt_due(seconds),
            "some accounts were not seen": self._may_be_gone and seconds >= self._confirm_at,
            "nightly": self._is_night(now, seconds),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _seconds(self, now: datetime) -> float:
        return now.timestamp() if self._steady is None else self._steady()

    def _recall(self, now: datetime) -> None:
        """Put what an earlier process recorded on the steady clock."""
        recorded, self._recorded = self._recorded, None
        if recorded is None:
            return
        age = now - recorded
        if age < timedelta(0):
            return  # when it was is not known
        self._over, self._night = self._seconds(now) - age.total_seconds(), self._find_night(recorded)
        self._confirm_at = self._over + CONFIRM_AFTER.total_seconds()

    @property
    def _retry(self) -> timedelta:
        doublings = min(2 * max(self._unproven - 1, 0), 16)
        return min(LAST_RETRY, FIRST_RETRY * (1 << doublings))

    @staticmethod
    def _is_past(moment: float | None, pause: timedelta, seconds: float) -> bool:
        return moment is None or seconds >= moment + pause.total_seconds()

    def _is_doubt_due(self, seconds: float) -> bool:
        pause = max(DOUBTS_APART, self._retry) if self._unproven else DOUBTS_APART
        if self._is_doubted:
            return self._is_past(self._doubt_ended, pause, seconds)
        is_begun = self._doubts_from is not None and seconds >= self._doubts_from
        return self._is_in_question and is_begun and self._is_past(self._over, pause, seconds)

    def _is_night(self, now: datetime, seconds: float) -> bool:
        if self._habits.nightly_at is None:
            return False
        night = self._find_night(now)
        if self._over is None or self._night is None or night is None:
            return True
        if self._is_past(self._over, LONGEST_DAY, seconds):
            return True
        return night > self._night and self._is_past(self._over, APART, seconds)

    def _find_night(self, now: datetime) -> date | None:
        """Return the day on which the night at *now* began, by what clocks show: so none is left out or comes twice."""
        at = self._habits.nightly_at
        if at is None:
            return None
        begins = timedelta(hours=at.hour, minutes=at.minute, seconds=at.second) + self._spread
        return (now.replace(tzinfo=None) - begins).date()
