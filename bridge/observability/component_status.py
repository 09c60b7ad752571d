"""How one end of the bridge is doing: a PBX, the broker, the log."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol


class Level(StrEnum):
    """How bad it is; the later, the worse."""

    OK = "ok"
    WARN = "warn"
    PAUSED = "paused"
    """Nothing is read on purpose, until there is room in the outbox."""
    ERROR = "error"
    """Waiting does not help: somebody has to do something."""


LEVELS: Final = list(Level)
"""From good to bad."""


def worst(*levels: Level) -> Level:
    """Return the worst of *levels*."""
    return max(levels, key=LEVELS.index, default=Level.OK)


@dataclass(slots=True)
class ComponentStatus:
    """One end of the bridge: a PBX, or the broker."""

    since: datetime
    """Of ``doing``."""
    doing: str = "starting"
    level: Level = Level.WARN
    level_since: datetime | None = None
    """Of ``level``; ``None`` until it changes for the first time."""
    is_usable: bool = False
    """Whether changes can pass through it."""
    problem: str = ""
    """What is wrong and what to do, in a sentence; empty where nothing is."""
    cause: str = ""
    """The same as one word for machines: the name of the error."""
    passing: str = ""
    """What else is wrong at the moment, and may pass by itself, while the problem is one that does not."""
    file_trouble: str = ""
    """What is wrong with a file of this end, whose former content is used meanwhile."""
    needs_proof: bool = False
    """True where being connected proves nothing: the problem stands until ``proves``."""
    last_progress_at: datetime | None = None
    """A PBX's last answer; the broker's last confirm."""

    def set_doing(self, doing: str, level: Level, now: datetime) -> None:
        """Record what this end is doing now. As long as there is a problem, trying again does not make it better."""
        if doing != self.doing:
            self.since = now
        self.doing = doing
        if level is Level.OK and not self.needs_proof:
            self.problem = self.cause = self.passing = ""
        self._becomes(worst(level, self.level) if self.problem else level, now)

    def failed(self, problem: str, level: Level, now: datetime, *, cause: str = "", needs_proof: bool = False) -> None:
        """Record that this end does not work at the moment. *needs_proof*: only ``proves`` will end that.

        What somebody has to mend stays in sight until this end works again, whatever may pass meanwhile.
        """
        if self.problem and self.level is Level.ERROR and level is not Level.ERROR:
            self.passing = problem
            self.set_doing("waiting to try again", level, now)
            return
        self.needs_proof = needs_proof
        self.problem = self.passing = ""
        self.set_doing("waiting to try again", level, now)
        self.problem, self.cause = problem, cause

    def confirmed_working(self, now: datetime) -> None:
        """Record that it does what it is there for."""
        if self.needs_proof:
            self.needs_proof = False
            self.set_doing(self.doing, Level.OK, now)

    def shift(self, by: timedelta) -> None:
        """Move what began in the past along with a clock that was set by so much."""
        self.since += by
        self.level_since = shifted(self.level_since, by)
        self.last_progress_at = shifted(self.last_progress_at, by)

    def _becomes(self, level: Level, now: datetime) -> None:
        if level is not self.level:
            self.level_since = now
        self.level = level
        self.is_usable = level is Level.OK


class Waits(Protocol):
    """How much is in the outbox and not done; ``records.Backlog`` matches by shape."""

    @property
    def rows(self) -> int:
        """Events that are sent in their turn."""

    @property
    def bytes(self) -> int:
        """Their bodies."""

    @property
    def held_rows(self) -> int:
        """Events that wait for an operator, parked ones among them."""

    @property
    def parked(self) -> int:
        """Events that were refused for good."""


@dataclass(slots=True)
class StreamStatus(ComponentStatus):
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

    def has_waiting(self, backlog: Waits, now: datetime) -> None:
        """Record what is to be written."""
        self.unsent, self.unsent_bytes = backlog.rows, backlog.bytes
        self.held, self.parked = backlog.held_rows, backlog.parked
        self.oldest_unsent_at = (self.oldest_unsent_at or now) if self.unsent else None

    def wrote(self, events: int, newest_at: datetime, now: datetime) -> None:
        """Record that the log confirmed events, the last of which was made at *newest_at*."""
        self.written += events
        self.oldest_unsent_at = newest_at if self.unsent else None
        self.last_progress_at = now
        self.confirmed_working(now)

    def recovered(self, events: int, warning: str) -> None:
        """Record how many events the log had already when a session began, and what is wrong with it, if anything."""
        self.settled += events
        self.written += events
        self.warning = warning or self.warning

    def shift(self, by: timedelta) -> None:
        """Move what began in the past along with a clock that was set by so much."""
        ComponentStatus.shift(self, by)
        self.oldest_unsent_at = shifted(self.oldest_unsent_at, by)


def shifted(moment: datetime | None, by: timedelta) -> datetime | None:
    """Return *moment* on a clock that was set by so much."""
    return None if moment is None else moment + by
