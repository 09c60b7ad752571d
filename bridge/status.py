"""How the bridge is doing, as values: what a person, a load balancer and a container engine want to know.

Health means delivery: an open socket is not health, an answered question, a confirmed event and a short outbox are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

MAX_UNSENT_AGE: Final = timedelta(minutes=5)
"""An event that waits longer than this makes the bridge not ready."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


@dataclass(slots=True)
class Part:
    """One end of the bridge: a PBX, or the broker."""

    since: datetime
    """Of ``doing``."""
    doing: str = "starting"
    level: Level = Level.WARN
    is_usable: bool = False
    """Whether changes can pass through it."""
    problem: str = ""
    """What is wrong and what to do, in a sentence; empty where nothing is."""
    last_progress_at: datetime | None = None
    """A PBX's last answer; the broker's last confirm."""

    def does(self, doing: str, level: Level, now: datetime) -> None:
        """Record what this end is doing now."""
        if doing != self.doing:
            self.since = now
        self.doing = doing
        self.level = level
        self.is_usable = level is Level.OK
        if self.is_usable:
            self.problem = ""

    def fails(self, problem: str, level: Level, now: datetime) -> None:
        """Record that this end does not work at the moment."""
        self.does("waiting to try again", level, now)
        self.problem = problem


@dataclass(slots=True)
class LogPart(Part):
    """The log, where it is written by the stream protocol: a second way out of the same outbox."""

    unsent: int = 0
    """Events that are to be written, held ones not among them."""
    unsent_bytes: int = 0
    held: int = 0
    parked: int = 0
    oldest_unsent_at: datetime | None = None
    written: int = 0
    """Events confirmed since the start of the bridge."""
    settled: int = 0
    """Of those, how many the log had already when a session began: in doubt before, and not sent again."""
    warning: str = ""
    """What somebody should look at although events are written."""


@dataclass(slots=True)
class SourcePart(Part):
    """A PBX as the bridge sees it."""

    rows: int = 0
    """Delivered since the start of the bridge."""
    changes: int = 0
    """Of those, published."""
    accounts: int | None = None
    """Present at the last proven full walk."""
    verified_at: datetime | None = None
    """End of the last proven full walk."""
    deletions: str = "unknown"
    """``known``: what a full walk did not see is gone. ``unknown``: no end of a walk could be proven."""
    warning: str = ""
    """What somebody should look at although changes flow; stands until the next proven full walk."""
    is_paused: bool = False
    """An operator wants it not to be read: no fault, and no reason to be not ready."""
    noise: int = 0
    """Messages that could not be read."""
    last_change_at: datetime | None = None
    caught_up_at: datetime | None = None
    """When the end of the list was last reached and proven."""


@dataclass(slots=True)
class Door:
    """Where PBXs dial us."""

    url: str
    connections: int = 0
    """Open ones, of strangers too."""
    pbxs: int = 0
    """Logged in."""
    refusals: Mapping[str, int] = field(default_factory=dict)
    """How many were not let in, by reason."""

    def sentence(self) -> str:
        """Return what a person wants to know of it."""
        told = f"Listening for PBXs on {self.url}: {self.pbxs} connected."
        if not self.refusals:
            return told
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(self.refusals.items()))
        return f"{told} Refused since the start: {reasons}."


@dataclass(slots=True)
class Board:
    """Everything the bridge knows about itself; ``service`` keeps it up to date."""

    version: str
    started_at: datetime
    broker: Part
    sources: dict[str, SourcePart] = field(default_factory=dict)
    log: LogPart | None = None
    """``None`` where the exchange feeds the log, or there is none."""
    door: Door | None = None
    """Where PBXs may dial us; ``None`` where they may not."""
    insecurities: Sequence[str] = ()
    """Sentences about what was configured to be insecure on purpose."""
    unsent: int = 0
    """Events that are to be sent, held ones not among them."""
    unsent_bytes: int = 0
    held: int = 0
    """Events that wait for an operator: parked ones, and those of the same accounts behind them."""
    parked: int = 0
    """Events that the broker refused for good."""
    oldest_unsent_at: datetime | None = None
    published: int = 0
    """Events confirmed since the start of the bridge."""

    def level(self, now: datetime) -> Level:
        """Return the worst level of any part."""
        levels = [self.broker.level, *(source.level for source in self.sources.values())]
        levels += [Level.WARN for source in self.sources.values() if source.warning]
        levels += [Level.WARN] * bool(self.parked or self.insecurities)
        if self.log is not None:
            levels += [self.log.level, *([Level.WARN] * bool(self.log.parked or self.log.warning))]
        if self._is_late(now):
            levels.append(Level.ERROR)
        return max(levels, key=list(Level).index)

    def is_ready(self, now: datetime) -> bool:
        """Tell whether changes flow: both ends usable, nothing waiting for long."""
        parts: list[Part] = [self.broker, *(source for source in self.sources.values() if not source.is_paused)]
        parts += [self.log] if self.log is not None else []
        return not self._is_late(now) and all(part.is_usable for part in parts)

    def _is_late(self, now: datetime) -> bool:
        oldest = [self.oldest_unsent_at, self.log.oldest_unsent_at if self.log is not None else None]
        return any(moment is not None and now - moment > MAX_UNSENT_AGE for moment in oldest)

    def sentences(self, now: datetime) -> list[str]:
        """Return what a person wants to know first."""
        log = self.log
        if self.unsent + self.held or (log is not None and log.unsent + log.held):
            behind = "" if log is None else f", {log.unsent} to be written to the log"
            told = [f"{self.unsent} events wait to be sent{behind}."]
        else:
            told = ["Everything sent."]
        if self.parked:
            told.append(
                f"The broker refused {self.parked} events for good, and {self.held - self.parked} wait behind them. "
                "Why, and what to do: account-bridge parked"
            )
        if log is not None and log.parked:
            told.append(
                f"The log refused {log.parked} events for good, and {log.held - log.parked} wait behind them. "
                "Why, and what to do: account-bridge parked"
            )
        told += [f"{name}: {_sentence(part, now)} {_completeness(part)}" for name, part in self.sources.items()]
        if self.door is not None:
            told.append(self.door.sentence())
        told.append(f"Broker: {_sentence(self.broker, now)}")
        if log is not None:
            told.append(f"Log: {_sentence(log, now)} {log.warning}".strip())
        told += self.insecurities
        return told

    def as_json(self, now: datetime) -> Mapping[str, Any]:
        """Return the whole board for machines."""
        return {"level": self.level(now), "ready": self.is_ready(now), "sentences": self.sentences(now), **asdict(self)}


def _sentence(part: Part, now: datetime) -> str:
    words = f"{part.doing} since {_age(now - part.since)}"
    if part.last_progress_at is not None:
        words += f", last answer {_age(now - part.last_progress_at)} ago"
    return f"{words}. {part.problem}".strip() if part.problem else f"{words}."


def _completeness(part: SourcePart) -> str:
    if part.verified_at is None:
        return "Deletions unknown: no full walk was proven yet."
    counted = f"{part.accounts} accounts, " if part.accounts is not None else ""
    match = "" if part.warning else "all match, "
    words = f"{counted}{match}verified {part.verified_at.astimezone():%Y-%m-%d %H:%M}. Deletions {part.deletions}."
    return f"{words} {part.warning}".strip()


def _age(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    if seconds < 120:  # noqa: PLR2004 - two minutes read better as seconds
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 2 * 3600 else f"{seconds // 3600} h"
