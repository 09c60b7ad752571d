"""The one clock of the bridge; what decides by time takes it as an argument."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present time, aware."""
    return datetime.now(UTC)
