"""How the bridge is doing, as values: what a person, a load balancer and a container engine want to know.

Health means delivery: an open socket is not health, an answered question, a confirmed event and a short outbox are.

Moments are for people and come from the clock of the machine, which may be set while the bridge runs. Whether a task is
alive is judged by a steady clock alone; what else is a duration is put right as soon as the clock was set
(``BridgeStatus.keep_pace``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from bridge.model import Certificate, Cursor, SourceName
from bridge.store.records import InboundPbx, Left

MAX_UNSENT_AGE: Final = timedelta(minutes=5)
"""An event that waits longer than this makes the bridge not ready, unless configured otherwise."""

MAX_WALK_STALL: Final = timedelta(minutes=5)
"""A full walk that reads no account for longer than this is stuck, unless configured otherwise."""

OWN_CONNECTION: Final = timedelta(minutes=1)
"""So long the broker may take our own last connection to be alive; who holds a fence for longer is a second bridge."""

CLOCK_WAS_SET: Final = timedelta(seconds=1)
"""By so much more or less than the steady clock; a clock that drifts, or is pulled gently, moves less in a second."""


MAX_WAITING: Final = 50
"""New PBXs that wait for a yes and are shown."""


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
        self.level_since = _moved(self.level_since, by)
        self.last_progress_at = _moved(self.last_progress_at, by)

    def _becomes(self, level: Level, now: datetime) -> None:
        if level is not self.level:
            self.level_since = now
        self.level = level
        self.is_usable = level is Level.OK


@dataclass(frozen=True, slots=True)
class LastChange:
    """The change of which was heard last."""

    at: datetime
    account: str
    """What people call it; whatever it is, it is only a text."""
    what: str


@dataclass(slots=True)
class WalkProgress:
    """A full walk under way."""

    started_at: datetime
    progress_at: datetime
    """When it last read an account."""
    accounts: int = 0
    """Read so far."""
    expected: int | None = None
    """As many as the last proven walk found."""


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

    def shift(self, by: timedelta) -> None:
        """Move what began in the past along with a clock that was set by so much."""
        ComponentStatus.shift(self, by)
        self.oldest_unsent_at = _moved(self.oldest_unsent_at, by)


@dataclass(slots=True)
class SourceStatus(ComponentStatus):
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
    """``known``: what a full walk did not see is gone. ``unknown``: no end of a walk could be proven. Otherwise, of how
    many accounts they are ``held`` or ``not decided``."""
    deletions_held: int = 0
    """Accounts that are gone, too many to delete unasked."""
    absent: int = 0
    """Accounts that the last proven walk did not see and that are not deleted, held ones included."""
    second_look_at: datetime | None = None
    """When a walk is to tell whether those that are not held are gone, if there are any."""
    warning: str = ""
    """What somebody should look at although changes flow; stands until the next proven full walk."""
    is_paused: bool = False
    """An operator wants it not to be read: no fault, and no reason to be not ready."""
    retelling: str = ""
    """That other things are published of it than before, until a full walk has told the difference."""
    oddity: str = ""
    """What is unlike before about a PBX that dialled; stands until somebody says that it is right."""
    note: str = ""
    """What a PBX that dialled says about itself and looks wrong."""
    unread: str = ""
    """What it tells of accounts and nobody can read; stands until a proven full walk has none of it."""
    unreadable_messages: int = 0
    """Messages that could not be read."""
    last_change_at: datetime | None = None
    last_change: LastChange | None = None
    last_confirm_at: datetime | None = None
    """When the broker last confirmed an event of this PBX."""
    caught_up_at: datetime | None = None
    """When the end of the list was last reached and proven."""
    cursor: Cursor = field(default_factory=Cursor)
    """As far as it is durably read."""
    walk: WalkProgress | None = None
    unsent: int = 0
    """Its events that are not done: waiting, held or parked."""
    parked: int = 0
    held_back: str = ""
    """Why the exchange does not take its next event, so that those behind it wait; empty while it does."""
    held_cause: str = ""
    """The same in one word, for machines."""
    held_since: datetime | None = None
    fenced: dict[str, str] = field(default_factory=dict)
    """Why its events wait that somebody else sends for it, by the way out: ``broker``, ``log``."""
    fenced_since: datetime | None = None
    in_doubt: int = 0
    """Its events that may have reached the broker although no confirm came; they are sent again."""

    @property
    def doubt(self) -> str:
        """The remark, as long as no full walk has shown that it makes no difference."""
        return "" if self.verified_at is not None else self.note

    @property
    def seen(self) -> int | None:
        """How many accounts the last proven walk saw, all of which are as they were published."""
        return None if self.accounts is None else self.accounts - self.absent

    @property
    def unseen(self) -> int:
        """How many accounts wait for another walk to tell whether they are gone."""
        return self.absent - self.deletions_held

    def is_held_back(self, why: str, cause: str, now: datetime) -> None:
        """Record that the exchange did not take its next event, once more or for the first time."""
        self.held_back, self.held_cause = why, cause
        self.held_since = self.held_since or now

    def goes_out(self) -> None:
        """Record that the exchange took its next event."""
        self.held_back = self.held_cause = ""
        self.held_since = None

    def is_fenced(self, way: str, why: str, now: datetime) -> None:
        """Record that somebody else sends for it, once more or for the first time."""
        self.fenced[way] = why
        self.fenced_since = self.fenced_since or now

    def is_unfenced(self, way: str) -> None:
        """Record that nobody else sends for it that way any more."""
        self.fenced.pop(way, None)
        self.fenced_since = self.fenced_since if self.fenced else None

    def fence_level(self, now: datetime) -> Level:
        """Return how bad it is that somebody else sends for it: our own last connection is over within a minute."""
        if self.fenced_since is None:
            return Level.OK
        return Level.ERROR if now - self.fenced_since > OWN_CONNECTION else Level.WARN

    def certified(self, certificate: Certificate) -> None:
        """Record what a proven walk found."""
        self.verified_at = certificate.verified_at
        self.accounts = certificate.accounts
        self.absent = certificate.absent
        self.deletions_held = certificate.held
        self.deletions = "known"
        if self.absent:
            self.deletions = f"{certificate.held} held" if certificate.held else f"{self.unseen} not decided"

    def begins_anew(self) -> None:
        """Record that what was certified is void, since the PBX's list is another one."""
        self.verified_at = self.second_look_at = None
        self.absent = self.deletions_held = 0
        self.deletions = "unknown"

    def shift(self, by: timedelta) -> None:
        """Move what began in the past along with a clock that was set by so much."""
        ComponentStatus.shift(self, by)
        self.last_change_at = _moved(self.last_change_at, by)
        self.last_confirm_at = _moved(self.last_confirm_at, by)
        self.caught_up_at = _moved(self.caught_up_at, by)
        self.second_look_at = _moved(self.second_look_at, by)
        self.held_since = _moved(self.held_since, by)
        self.fenced_since = _moved(self.fenced_since, by)
        if self.walk is not None:
            self.walk.started_at += by
            self.walk.progress_at += by


@dataclass(slots=True)
class Watchdog:
    """A task that has to make progress; being idle for a good reason counts as progress."""

    limit: timedelta
    progress_at: float
    """Seconds of the steady clock."""

    def age(self, seconds: float) -> timedelta:
        """Return for how long it has not moved; *seconds* are those of the steady clock now."""
        return timedelta(seconds=seconds - self.progress_at)

    def is_stuck(self, seconds: float) -> bool:
        """Tell whether it has not moved for too long."""
        return self.age(seconds) > self.limit


class Running(Protocol):
    """A task, as far as it matters whether it goes on; ``asyncio.Task`` matches by shape."""

    def done(self) -> bool:
        """Tell whether it has ended."""

    def cancelled(self) -> bool:
        """Tell whether it was ended by being cancelled."""

    def exception(self) -> BaseException | None:
        """Return what ended it, if it was not cancelled."""


@dataclass(slots=True)
class ListenerStatus:
    """Where PBXs dial us."""

    url: str
    connections: int = 0
    """Open ones, of strangers too."""
    pbxs: int = 0
    """Logged in."""
    refusals: Mapping[str, int] = field(default_factory=dict)
    """How many were not let in, by reason."""
    waiting: dict[str, InboundPbx] = field(default_factory=dict)
    """New PBXs that wait for a yes, by the name of their source; the newest last."""

    def expect(self, caller: InboundPbx) -> None:
        """Have a new PBX wait for a yes; of more than so many the oldest is forgotten until it dials again."""
        self.waiting.pop(caller.source, None)
        self.waiting[caller.source] = caller
        if len(self.waiting) > MAX_WAITING:
            del self.waiting[next(iter(self.waiting))]

    def sentence(self) -> str:
        """Return what a person wants to know of it."""
        told = f"Listening for PBXs on {self.url}: {self.pbxs} connected."
        if not self.refusals:
            return told
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(self.refusals.items()))
        return f"{told} Refused since the start: {reasons}."


@dataclass(slots=True)
class BridgeStatus:
    """Everything the bridge knows about itself; ``service`` keeps it up to date."""

    version: str
    started_at: datetime
    broker: ComponentStatus
    steady: Callable[[], float] = field(kw_only=True)
    """Seconds of a clock that nobody sets."""
    sources: dict[str, SourceStatus] = field(default_factory=dict)
    log: StreamStatus | None = None
    """``None`` where the exchange feeds the log, or there is none."""
    listener: ListenerStatus | None = None
    """Where PBXs may dial us; ``None`` where they may not."""
    left: Mapping[SourceName, Left] = field(default_factory=dict)
    """What the store has of PBXs that are not followed."""
    insecurities: Sequence[str] = ()
    """Sentences about what was configured to be insecure on purpose."""
    uncompared: str = ""
    """Why the log could not be compared with the store at the start, so that everything is told anew each time."""
    differences: dict[str, Sequence[str]] = field(default_factory=dict)
    """What is at the broker in another form than configured and used as it is, in sentences, by who found it."""
    missed: dict[str, str] = field(default_factory=dict)
    """Queues that were deleted since the start of the bridge, and what happened to each, in a sentence."""
    unsent: int = 0
    """Events that are to be sent, held ones not among them."""
    unsent_bytes: int = 0
    held: int = 0
    """Events that wait for an operator: parked ones, and those of the same accounts behind them."""
    parked: int = 0
    """Events that the broker refused for good."""
    in_doubt: int = 0
    oldest_unsent_at: datetime | None = None
    published: int = 0
    """Events confirmed since the start of the bridge."""
    last_lag_seconds: float = 0.0
    """Of the events confirmed last: from hearing of a change to the broker's confirm."""
    full: str = ""
    """Why no PBX is read at the moment: the outbox or its disk is full; empty while there is room."""
    free_bytes: int = 0
    """Left on the disk of the store."""
    loop_lag_seconds: float = 0.0
    """How late the event loop was, at the last look."""
    tasks: dict[str, Watchdog] = field(default_factory=dict)
    expected: dict[str, Running] = field(default_factory=dict)
    """Tasks that should run."""
    locked: Callable[[], str] = str
    """Tells what the store waits for while somebody else has locked it; empty while it is free."""
    scrub: Callable[[str], str] = str
    """Takes secrets out of what ended a task."""
    max_unsent_age: timedelta = MAX_UNSENT_AGE
    max_walk_stall: timedelta = MAX_WALK_STALL
    pace: tuple[datetime, float] | None = None
    """The clock of the machine and the steady one, when they were compared last."""

    def watch(self, task: str, limit: timedelta) -> None:
        """Expect progress of *task* from now on, never more than *limit* apart."""
        self.tasks[task] = Watchdog(limit, self.steady())

    def beat(self, task: str) -> None:
        """Record progress of *task*; one that nobody watches may make some, too."""
        if task in self.tasks:
            self.tasks[task].progress_at = self.steady()

    def expect(self, name: str, task: Running) -> None:
        """Expect *task* to run from now on; that it has ended, for whatever reason, is told."""
        self.expected[name] = task

    def expect_nothing(self) -> None:
        """Let every task end: the bridge stops."""
        self.expected.clear()

    def ended(self) -> list[str]:
        """Return the tasks that should run and have ended, in words, failures first; may be called from any thread."""
        ended = [(name, task) for name, task in list(self.expected.items()) if task.done()]
        failures = {name: task.exception() for name, task in ended if not task.cancelled()}
        failed = [
            f"the task {name!r} has ended: {self.scrub(str(problem))}" for name, problem in failures.items() if problem
        ]
        return failed + [f"the task {name!r} has ended" for name, _ in ended if not failures.get(name)]

    def stuck(self) -> list[str]:
        """Return the tasks that have ended or make no progress, in words; none while the bridge is alive."""
        seconds = self.steady()
        return self.ended() + [
            f"the task {name!r} has made no progress for {age_words(task.age(seconds))} "
            f"(its limit is {age_words(task.limit)})"
            for name, task in self.tasks.items()
            if task.is_stuck(seconds)
        ]

    def keep_pace(self, now: datetime) -> timedelta:
        """Notice that the clock of the machine was set, put durations right, and return by how much; call it often."""
        seconds = self.steady()
        before, self.pace = self.pace or (now, seconds), (now, seconds)
        by = now - before[0] - timedelta(seconds=seconds - before[1])
        if abs(by) < CLOCK_WAS_SET:
            by = timedelta(0)
        else:
            self.started_at += by
            self.oldest_unsent_at = _moved(self.oldest_unsent_at, by)
            for part in (*self.ways, *self.sources.values()):
                part.shift(by)
        # An event that was made by a clock that was ahead waits since now at the latest.
        self.oldest_unsent_at = _past(self.oldest_unsent_at, now)
        if self.log is not None:
            self.log.oldest_unsent_at = _past(self.log.oldest_unsent_at, now)
        return by

    def level(self, now: datetime) -> Level:
        """Return how bad it is altogether."""
        ways = [part.level for part in self.ways]
        return worst(*ways, *(self.assess(part, now) for part in self.sources.values()), *self._own(now))

    @property
    def ways(self) -> list[ComponentStatus]:
        """The ways out of the outbox: the exchange, and the log where the bridge writes it itself."""
        return [self.broker] if self.log is None else [self.broker, self.log]

    def _own(self, now: datetime) -> Iterator[Level]:
        if self.locked():
            yield Level.WARN
        if (
            self.insecurities
            or self.uncompared
            or self.missed
            or any(self.differences.values())
            or self.parked
            or (self.log is not None and (self.log.parked or self.log.warning))
        ):
            yield Level.WARN
        if any(way.file_trouble for way in self.ways):
            yield Level.WARN
        if self.listener is not None and self.listener.waiting:
            yield Level.WARN
        if self.full:
            yield Level.PAUSED
        if self.is_late(now) or self.stuck():
            yield Level.ERROR

    def assess(self, part: SourceStatus, now: datetime) -> Level:
        """Return how bad it is with one PBX."""
        words = (part.warning, part.oddity, part.file_trouble, part.doubt, part.unread, part.held_back)
        needs_a_look = any(words) or part.parked or self.is_stalled(part, now)
        return worst(part.level, Level.WARN if needs_a_look else Level.OK, part.fence_level(now))

    def is_late(self, now: datetime) -> bool:
        """Tell whether an event waits for too long."""
        oldest = self.oldest
        return oldest is not None and now - oldest > self.max_unsent_age

    @property
    def oldest(self) -> datetime | None:
        """Since when an event waits, for the exchange or for the log."""
        moments = (self.oldest_unsent_at, None if self.log is None else self.log.oldest_unsent_at)
        return min((moment for moment in moments if moment is not None), default=None)

    def is_stalled(self, part: SourceStatus, now: datetime) -> bool:
        """Tell whether the full walk of a PBX is stuck."""
        return part.walk is not None and now - part.walk.progress_at > self.max_walk_stall

    def is_ready(self, now: datetime) -> bool:
        """Tell whether changes flow: both ends usable, room in the outbox, nothing waiting for long.

        A PBX that an operator paused is no reason to be not ready.
        """
        if self.full or self.is_late(now):
            return False
        if any(part.held_back or part.fenced for part in self.sources.values()):
            return False
        sources = (source for source in self.sources.values() if not source.is_paused)
        return all(part.is_usable for part in (*self.ways, *sources))


def _moved(moment: datetime | None, by: timedelta) -> datetime | None:
    return None if moment is None else moment + by


def _past(moment: datetime | None, now: datetime) -> datetime | None:
    return None if moment is None else min(moment, now)


def age_words(age: timedelta) -> str:
    """Return *age* as people say it: ``20 s``, ``7 min``, ``3 h``, ``4 days``."""
    seconds = max(0, int(age.total_seconds()))
    for limit, unit, word in ((120, 1, "s"), (2 * 3600, 60, "min"), (2 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit} {word}"
    return f"{seconds // 86400} days"
