"""Boards of a bridge that is well, for tests that make it unwell."""

from datetime import UTC, datetime

from bridge.status import Board, Level, Part, SourcePart

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def board(now: datetime = NOW, *names: str) -> Board:
    """Return a board on which the broker and every PBX (by default ``hq``) are as they should be."""
    made = Board("0.1.0", now, Part(now), {name: SourcePart(now) for name in names or ("hq",)})
    made.broker.does("connected", Level.OK, now)
    for part in made.sources.values():
        part.does("up to date", Level.OK, now)
        part.last_progress_at = now
    return made
