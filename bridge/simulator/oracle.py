"""What really happened in a pretend PBX: what a test compares a mirror, or a stream of events, with."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge.simulator.people import Record


class Mutation(NamedTuple):
    """One thing that was done to the PBX."""

    what: str
    """``create``, ``rename``, ``touch``, ``delete``, …, or an event such as ``reboot``."""
    account_guid: str
    """Empty where it concerns no single account."""
    record: Record | None
    """The account afterwards; for a deletion the last that it was."""


class OracleDelivery(NamedTuple):
    """One account that was handed to a connection, pushed and repeated ones included."""

    connection: int
    guid: str
    """In whose name (epoch) it was handed out, whether or not the row said so."""
    usn: int
    ausn: int
    account_guid: str
    record: Record
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class OracleWatchdog:
    """What a real PBX would not bear: beyond it the pretend one reboots, so that a rude bridge fails its test."""

    max_parallel: int = 8
    """Questions of one connection that wait for their answer; see ``Load.max_parallel``."""
    max_per_second: int = 100_000
    """Questions of all connections."""


@dataclass(slots=True)
class Load:
    """How hard the PBX was asked."""

    questions: int = 0
    rows: int = 0
    max_parallel: int = 0
    """Questions of one connection that waited for an answer at the same time.

    A question waits while its answer is held or delayed; with neither delay nor round trip none ever does.
    """
    max_parallel_probes: int = 0
    """The same, of questions without a guid: those must never be parallel."""
    max_per_second: int = 0
    """Questions of all connections within one second of the clock."""
    logins: int = 0
    refusals: int = 0
    watchdog_reboots: int = 0


@dataclass(slots=True)
class Oracle:
    """The whole truth. *remember* bounds how many mutations and deliveries are kept; ``None`` keeps all."""

    remember: int | None = None
    load: Load = field(default_factory=Load)
    mutations: deque[Mutation] = field(init=False, repr=False)
    deliveries: deque[OracleDelivery] = field(init=False, repr=False)
    mistakes: deque[str] = field(init=False, repr=False)
    """What the other end did that no bridge should: sentences."""

    def __post_init__(self) -> None:
        """Make room."""
        self.mutations = deque(maxlen=self.remember)
        self.deliveries = deque(maxlen=self.remember)
        self.mistakes = deque(maxlen=1000)


class Meter:
    """Counts per second of whatever clock it is told."""

    def __init__(self) -> None:
        self.in_this_second = 0
        self._second = 0

    def count(self, now: float) -> int:
        """Count one, and return how many there were in this second."""
        if int(now) != self._second:
            self._second, self.in_this_second = int(now), 0
        self.in_this_second += 1
        return self.in_this_second
