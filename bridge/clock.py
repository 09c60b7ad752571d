"""The clocks of the bridge; what decides by time takes them as arguments."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present time, aware."""
    return datetime.now(UTC)


def steady() -> float:
    """Return the seconds of a clock that nobody sets, for durations; they mean nothing but their differences."""
    return time.monotonic()


def steady_through_sleep() -> float:
    """Return the seconds of a clock that nobody sets and that runs on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
