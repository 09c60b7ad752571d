"""How the bridge is doing, as values: what a person, a load balancer and a container engine want to know.

Health means delivery: an open socket is not health, an answered question, a confirmed event and a short outbox are.

Moments are for people and come from the clock of the machine, which may be set while the bridge runs. Whether a task is
alive is judged by a steady clock alone; what else is a duration is put right as soon as the clock was set
(``BridgeStatus.keep_pace``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Final, Protocol

from bridge.model import SourceName
from bridge.observability.cluster_status import ClusterStatus
from bridge.observability.component_status import ComponentStatus, Level, StreamStatus, Waits, shifted, worst
from bridge.observability.source_status import SourceStatus
from bridge.store.records import InboundPbx, Left

MAX_UNSENT_AGE: Final = timedelta(minutes=5)
"""An event that waits longer than this makes the bridge not ready, unless configured otherwise."""

MAX_WALK_STALL: Final = timedelta(minutes=5)
"""A full walk that reads no account for longer than this is stuck, unless configured otherwise."""


READY_SHARE: Final = 0.5
"""Where fewer PBXs than this are read, the trouble is probably ours, unless configured otherwise."""

CLOCK_WAS_SET: Final = timedelta(seconds=1)
"""By so much more or less than the steady clock; a clock that drifts, or is pulled gently, moves less in a second."""


MAX_WAITING: Final = 50
"""New PBXs that wait for a yes and are shown."""


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
    certificate_trouble: str = ""
    """What is wrong with the certificate that PBXs are shown."""

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
    """Everything the bridge knows about itself; ``runtime`` keeps it up to date."""

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
    cluster: ClusterStatus | None = None
    """The bridges that share the PBXs; ``None`` where this one has all."""
    left: Mapping[SourceName, Left] = field(default_factory=dict)
    """What the store has of PBXs that are not followed."""
    insecurities: Sequence[str] = ()
    """Sentences about what was configured to be insecure on purpose."""
    config_trouble: str = ""
    """Why the configuration, read again, was not taken over."""
    unusable_files: Mapping[str, str] = field(default_factory=dict)
    """Files of PBXs that have a mistake, and what it is."""
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
    free_bytes: int | None = 0
    """Left on the disk of the store; ``None`` where nobody here can see that."""
    commit_seconds: float = 0.0
    """How long the store's last commit took."""
    store_repeats: Mapping[str, int] = field(default_factory=dict)
    """How often the store had to repeat something, by the database's code for the reason."""
    loop_lag_seconds: float = 0.0
    """How late the event loop was, at the last look."""
    tasks: dict[str, Watchdog] = field(default_factory=dict)
    expected: dict[str, Running] = field(default_factory=dict)
    """Tasks that should run."""
    locked: Callable[[], str] = str
    """Tells what the store waits for while somebody else has locked it; empty while it is free."""
    scrub: Callable[[str], str] = str
    """Takes secrets out of what ended a task."""
    ready_share: float = READY_SHARE
    """Of the PBXs that are not paused, so many have to be read for the bridge to be ready; one in any case."""
    max_unsent_age: timedelta = MAX_UNSENT_AGE
    max_walk_stall: timedelta = MAX_WALK_STALL
    pace: tuple[datetime, float] | None = None
    """The clock of the machine and the steady one, when they were compared last."""

    def has_waiting(self, backlog: Waits, now: datetime) -> None:
        """Record what is in the outbox and not done."""
        self.unsent, self.unsent_bytes = backlog.rows, backlog.bytes
        self.held, self.parked = backlog.held_rows, backlog.parked
        self.oldest_unsent_at = (self.oldest_unsent_at or now) if self.unsent else None

    def confirmed(self, events: int, oldest_at: datetime, newest_at: datetime, now: datetime) -> None:
        """Record that the broker confirmed events, made between these two times."""
        self.published += events
        self.oldest_unsent_at = newest_at if self.unsent else None
        self.last_lag_seconds = max(0.0, (now - oldest_at).total_seconds())
        self.broker.last_progress_at = now
        self.broker.confirmed_working(now)

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

    def forget_task(self, name: str) -> None:
        """Let the task of that name end, since it is wanted no more."""
        self.expected.pop(name, None)
        self.tasks.pop(name, None)

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
            self.oldest_unsent_at = shifted(self.oldest_unsent_at, by)
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
            or self.config_trouble
            or self.unusable_files
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
        if self.cluster is not None and any(self.cluster.troubles()):
            yield Level.ERROR
        if self.full:
            yield Level.PAUSED
        if self.is_late(now) or self.stuck():
            yield Level.ERROR

    def assess(self, part: SourceStatus, now: datetime) -> Level:
        """Return how bad it is with one PBX."""
        words = (part.warning, part.oddity, part.file_trouble, part.doubt, part.unread, part.unobserved, part.held_back)
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
        """Tell whether changes flow: room in the outbox, nothing waiting for long, the broker and enough PBXs usable.

        A PBX that an operator paused is no reason to be not ready.
        """
        if self.full or self.is_late(now) or not all(way.is_usable for way in self.ways):
            return False
        if self.cluster is not None and not self.cluster.is_leased:
            return False
        wanted = [part for part in self.sources.values() if not part.is_paused]
        flowing = sum(part.is_usable and not part.held_back and not part.fenced for part in wanted)
        enough = ceil(round(self.ready_share * len(wanted), 6))  # 7 % of a hundred are a little more than 7, as floats
        return not wanted or flowing >= max(1, enough)


def _past(moment: datetime | None, now: datetime) -> datetime | None:
    return None if moment is None else min(moment, now)


def age_words(age: timedelta) -> str:
    """Return *age* as people say it: ``20 s``, ``7 min``, ``3 h``, ``4 days``."""
    seconds = max(0, int(age.total_seconds()))
    for limit, unit, word in ((120, 1, "s"), (2 * 3600, 60, "min"), (2 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit} {word}"
    return f"{seconds // 86400} days"
