"""The clocks of the bridge; what decides by time takes them as arguments."""

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present time, aware."""
    return datetime.now(UTC)


def steady() -> float:
    """Return the seconds of a clock that nobody sets, for durations; they mean nothing but their differences."""
    return time.monotonic()
