"""What is measured, what it should be, and how several rounds become one number. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should reach."""

    limit: float
    is_at_least: bool
    """True where more is better."""

    def is_met_by(self, value: float) -> bool:
        return value >= self.limit if self.is_at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.is_at_least else '≤'} {self.limit:g}"


def at_least(limit: float) -> Goal:
    return Goal(limit, is_at_least=True)


def at_most(limit: float) -> Goal:
    return Goal(limit, is_at_least=False)


GOALS: Mapping[str, Goal] = {
    "walk_loopback": at_least(0.80),
    "walk_1ms": at_least(0.97),
    "publish": at_least(1.0),
    "latency_p99": at_most(2.0),
    "mirror_growth": at_most(1.15),
    "idle_memory_kb": at_most(60),
    "idle_cpu_share": at_most(0.03),
    "outbox_first_confirm_s": at_most(1.0),
    "outbox_memory_mb": at_most(30),
    **{
        f"{fleet}_{figure}": at_most(limit)
        for fleet in ("fleet", "fleet_1000")
        for figure, limit in {"first_confirm_s": 5, "cpu": 1.2, "peak_mb": 250, "steady_mb": 150, "live_p99": 3}.items()
    },
    "postgres_ingest": at_most(2.0),
    "postgres_ingest_cpu": at_most(1.0),
    "postgres_mark_us": at_most(10),
    "postgres_drain": at_most(1.3),
    "postgres_growth": at_most(1.3),
}
"""Figures that somebody promised; there are others beside them, without a goal."""


@dataclass(slots=True)
class Figure:
    """One number, measured in several rounds."""

    name: str
    what: str
    unit: str = ""
    values: list[float] = field(default_factory=list)
    """One per round."""
    ours: list[float] = field(default_factory=list)
    """What the values were made of, per round: our side …"""
    reference: list[float] = field(default_factory=list)
    """… and the other one."""
    side_unit: str = ""
    """Unit of ``ours`` and ``reference``."""
    note: str = ""
    missing: str = ""
    """What is missing, where it could not be measured."""

    @property
    def goal(self) -> Goal | None:
        return GOALS.get(self.name)

    @property
    def value(self) -> float | None:
        return median(self.values) if self.values else None

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; ``None`` where there is no goal, or nothing was measured."""
        return None if self.goal is None or self.value is None else self.goal.is_met_by(self.value)

    def add(self, ours: float, reference: float, value: float) -> None:
        """Take one round."""
        self.ours.append(ours)
        self.reference.append(reference)
        self.values.append(value)

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "value": rounded(self.value),
            "goal": self.goal.limit if self.goal else None,
            "met": self.is_met,
            "ours": rounded(middle(self.ours)),
            "reference": rounded(middle(self.reference)),
            "spread": rounded(spread(self.values)),
            "rounds": len(self.values),
            "unit": self.unit,
            "side_unit": self.side_unit,
            "what": self.what,
        }
        return {**told, **{key: getattr(self, key) for key in ("note", "missing") if getattr(self, key)}}


def middle(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Return the distance of the extremes as a share of the median; 0 where there was one round only."""
    if not values:
        return None
    between = max(values) - min(values)
    return between / abs(median(values)) if between else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def rounded(value: float | None) -> float | None:
    """Return three digits that say something."""
    return None if value is None else float(f"{value:.3g}")
