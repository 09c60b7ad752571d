"""Boards of a bridge that is well, for tests that make it unwell."""

from datetime import UTC, datetime, timedelta

from bridge.observability.component_status import ComponentStatus, Level
from bridge.observability.source_status import SourceStatus
from bridge.observability.status import BridgeStatus

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


class Steady:
    """A steady clock in the hand of a test."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def wait(told: BridgeStatus, time: timedelta) -> None:
    """Let time pass on the steady clock of a board made here."""
    assert isinstance(told.steady, Steady)
    told.steady.seconds += time.total_seconds()


def board(now: datetime = NOW, *names: str) -> BridgeStatus:
    """Return a board on which the broker and every PBX (by default ``hq``) are as they should be."""
    made = BridgeStatus(
        "0.1.0", now, ComponentStatus(now), {name: SourceStatus(now) for name in names or ("hq",)}, steady=Steady()
    )
    made.broker.set_doing("connected", Level.OK, now)
    for part in made.sources.values():
        part.set_doing("up to date", Level.OK, now)
        part.last_progress_at = now
    return made
