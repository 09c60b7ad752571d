"""Times as the tables have them."""

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=64)  # what becomes durable together has one time
def as_text(moment: datetime) -> str:
    """Return *moment* as the tables have it: texts that sort like the times they name."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


@lru_cache(maxsize=64)
def as_moment(found: str | datetime) -> datetime:
    """Return the time that ``as_text`` wrote, as an engine gives it back."""
    return found.astimezone(UTC) if isinstance(found, datetime) else datetime.fromisoformat(found)


def as_moment_or_none(found: str | datetime | None) -> datetime | None:
    """Return the same, and ``None`` where nothing was written."""
    return None if found is None else as_moment(found)
