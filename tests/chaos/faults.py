"""What is done to the bridge and its neighbours, and in which order: a plan made from a seed."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """One way to disturb."""

    BRIDGE_SIGKILL = "bridge_sigkill"
    BRIDGE_SIGTERM = "bridge_sigterm"
    BRIDGE_SIGSTOP = "bridge_sigstop"
    BROKER_KILL = "broker_kill"
    BROKER_ALARM = "broker_alarm"
    CONSUMER_KILL = "consumer_kill"
    CUT_MID_FRAME = "cut_mid_frame"
    BLACK_HOLE = "black_hole"
    DELAY = "delay"
    HALF_OPEN = "half_open"
    DATABASE_RESTART = "database_restart"
    """Of the server that has the store: as an administrator does it, or as a crash."""
    DATABASE_CUT = "database_cut"
    """An administrator ends all sessions of the store."""
    DATABASE_FAILOVER = "database_failover"
    """The server that has the store is gone, and its standby is promoted."""
    CONNECTIONS_USED_UP = "connections_used_up"
    """All sessions of the store end, and somebody else has every connection that the server allows, for seconds."""
    OLD_SNAPSHOT = "old_snapshot"
    """Somebody looked at the store in a transaction and left it open, until the next one does."""
    STORE_SET_BACK = "store_set_back"
    STORE_LOST = "store_lost"
    BROKER_EMPTIED = "broker_emptied"
    PBX_SET_BACK = "pbx_set_back"
    PBX_FAILED_OVER = "pbx_failed_over"
    PBX_REDIALS = "pbx_redials"
    """The PBX that dials does so anew, a few times, and a bridge may hold its former connection to be good."""
    RELOAD = "reload"
    CLOCK_OFF = "clock_off"
    """The clock of one bridge is set, by hours, while it runs."""
    BRIDGE_ADDED = "bridge_added"
    """There is one bridge more; the next time that one is stopped, and stays away."""


class Link(StrEnum):
    """A connection of the bridge."""

    BROKER = "broker"
    PBX = "pbx"
    DIALLED = "pbx that dials"
    """Each time it dials another bridge, where there are several."""
    LOG = "log"
    """By the stream protocol; there is none where the exchange feeds the log."""
    STORE = "store"
    """Where that is in PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One disturbance; *link* is where, for those that happen to a connection."""

    kind: Kind
    link: Link | None = None
    with_bridge: bool = False
    """The bridge is killed too, while the broker starts: a kill of the bridge that is counted as such."""
    unsent: int = 0
    """Events that waited in the copy of the store that was put back: they are published again."""
    gone: int = 0
    """Events that waited in the store that was lost or set back, for one sink or the other: nobody can send them."""
    is_shared: bool = False
    """Several bridges share the store: one that was away for a while gives up its session with the broker, too."""

    def __str__(self) -> str:
        return self.kind if self.link is None else f"{self.kind} of the connection to the {self.link}"

    @property
    def may_repeat(self) -> bool:
        """True where a publisher's session ends without a goodbye: what it had in flight is published again."""
        if self.is_shared and (self.kind in _OUTLASTS_LEASES or self.link is Link.STORE):
            return True
        return self.kind in _ENDS_SESSIONS or (self.kind in _BREAKS_LINKS and self.link is Link.BROKER)


_ENDS_SESSIONS: Final = frozenset({Kind.BRIDGE_SIGKILL, Kind.BROKER_KILL, Kind.STORE_SET_BACK, Kind.STORE_LOST})
TAKES_STORE: Final = frozenset({Kind.STORE_SET_BACK, Kind.STORE_LOST, Kind.DATABASE_FAILOVER})
TO_A_PBX: Final = frozenset({Link.PBX, Link.DIALLED})
OF_A_BRIDGE: Final = frozenset({Kind.BRIDGE_SIGKILL, Kind.BRIDGE_SIGTERM, Kind.BRIDGE_SIGSTOP})
_OUTLASTS_LEASES: Final = frozenset(
    {
        Kind.BRIDGE_SIGSTOP,
        Kind.DATABASE_RESTART,
        Kind.DATABASE_CUT,
        Kind.DATABASE_FAILOVER,
        Kind.CONNECTIONS_USED_UP,
    }
)
OF_SEVERAL: Final = frozenset({Kind.CLOCK_OFF, Kind.BRIDGE_ADDED})
"""Where there are several bridges; a single one plays ``CLOCK_OFF`` where that is asked for."""
OF_A_DATABASE: Final = _OUTLASTS_LEASES - OF_A_BRIDGE | {Kind.OLD_SNAPSHOT}
_BREAKS_LINKS: Final = frozenset({Kind.CUT_MID_FRAME, Kind.BLACK_HOLE, Kind.HALF_OPEN})

_ONE_IN: Final[dict[Kind, int]] = {
    Kind.CONSUMER_KILL: 5,
    Kind.RELOAD: 5,
    Kind.CUT_MID_FRAME: 10,
    Kind.BRIDGE_SIGTERM: 10,
    Kind.BRIDGE_SIGSTOP: 25,
    Kind.DELAY: 25,
    Kind.BROKER_ALARM: 40,
    Kind.BLACK_HOLE: 50,
    Kind.HALF_OPEN: 50,
    Kind.DATABASE_RESTART: 10,
    Kind.DATABASE_CUT: 10,
    Kind.DATABASE_FAILOVER: 20,
    Kind.CONNECTIONS_USED_UP: 20,
    Kind.OLD_SNAPSHOT: 20,
    Kind.PBX_REDIALS: 5,
    Kind.CLOCK_OFF: 10,
    Kind.BRIDGE_ADDED: 10,
    Kind.STORE_SET_BACK: 50,
    Kind.STORE_LOST: 100,
    Kind.BROKER_EMPTIED: 250,
    Kind.PBX_SET_BACK: 50,
    Kind.PBX_FAILED_OVER: 50,
}
"""For so many kills of the bridge there is one of these; those that take long are rare."""


def plan(  # noqa: PLR0913 - what there may be of each
    *,
    bridge_kills: int,
    broker_kills: int,
    seed: int,
    links: Sequence[Link] = (Link.BROKER, Link.PBX, Link.DIALLED),
    at_least: Mapping[Kind, int] | None = None,
    is_alone: bool = False,
    is_shared: bool = False,
) -> Sequence[Fault]:
    """Return the faults in a random order that is the same for the same *seed*; every kind happens at least once.

    Of some there are *at_least* so many; with *is_alone* there is nothing beside them but kills. What happens to a
    connection happens to all *links* in turn. With every other kill of the broker the bridge is killed too.
    """
    at_least = at_least or {}
    left_out = (frozenset() if Link.STORE in links else OF_A_DATABASE) | (
        frozenset() if is_shared else OF_SEVERAL - at_least.keys()
    )
    together = min(bridge_kills, broker_kills // 2)
    faults = [Fault(Kind.BRIDGE_SIGKILL)] * (bridge_kills - together)
    faults += [Fault(Kind.BROKER_KILL, with_bridge=number < together) for number in range(broker_kills)]
    for kind, one_in in _ONE_IN.items():
        if kind in left_out or (is_alone and kind not in at_least):
            continue
        count = max(1, bridge_kills // one_in, at_least.get(kind, 0))
        if kind in _BREAKS_LINKS or kind is Kind.DELAY:
            faults += [Fault(kind, links[number % len(links)]) for number in range(max(len(links), count))]
        else:
            faults += [Fault(kind)] * count
    random.Random(f"plan {seed}").shuffle(faults)  # noqa: S311 - a plan, no secret
    return [replace(fault, is_shared=is_shared) for fault in faults]
