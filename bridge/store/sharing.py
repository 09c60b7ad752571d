"""How bridges that work on one store share its sources out: what one of them decides, from what it saw in the database.

Nothing here reads a clock, asks anybody or remembers more than it is told. Three rules keep sources from going to and
fro: they stay where they are; only what is free is taken; and of those that have too many, just the one that has most
gives some away, to the one that has least, and only where both are better off.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from bridge.model import SourceName

RENEWALS: Final = 5
"""In the time of one lease, so that a few may fail. A bridge takes its lease to be over one of them before it is."""

LEFT_OVER_SECONDS: Final = 3.0
"""So long a source is free before somebody takes it who has its share: the others may not be configured for it."""

STARTING_SECONDS: Final = 10.0
"""So long a bridge that takes no sources yet is expected to do so soon."""

SETTLED_SECONDS: Final = 60.0
"""So old all bridges are before any of them gives a source away: during an upgrade they come and go."""

SLACK: Final = 2
SLACK_SHARE: Final = 0.05
"""So much more than its share a bridge may have, in sources, or as a part of it."""

GIVEN_AT_ONCE: Final = 10
GIVING_SECONDS: Final = 10.0
"""So many sources are given away at most, once in so many seconds: each is a connection made anew."""

KEPT_SECONDS: Final = 5.0
"""So long a source that was given away is there for the one it is meant for."""


WISHED_SECONDS: Final = 20.0
"""So long a wish is begun with: whoever asked waits little longer, and may have decided otherwise since."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A bridge that lives, as the database knows it."""

    life: str
    age_seconds: float
    held: int
    """How many sources it has."""
    serves: str = ""
    """Digest of what it is configured for."""
    is_ready: bool = True
    """False while it takes no sources yet."""
    name: str = ""
    """Its host and process, for a person."""


@dataclass(frozen=True, slots=True)
class Free:
    """A source that nobody has."""

    name: SourceName
    seconds: float
    """For how long."""
    kept_for: str | None = None
    """The life it is kept for at present."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants of the bridge that has a source."""

    number: int
    source: SourceName
    kind: str
    arguments: Mapping[str, Any]
    age_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class View:
    """What there is in the database."""

    peers: Sequence[Peer]
    """Who lives, ourselves included."""
    free: Sequence[Free]
    """What nobody has."""
    is_as_believed: bool = True
    """False where we have something else than we believe to have."""


class Tenure:
    """What a bridge believes of its own lease of *lease_seconds*, by a clock that runs on while the machine sleeps.

    This is courtesy: it ends a bridge's work soon after the others may take it over. What protects is that the
    database compares life and epoch in each transaction.
    """

    def __init__(self, lease_seconds: float, began_at: float) -> None:
        self._lease_seconds = lease_seconds
        self._renewed_at = began_at
        """When the last renewal that succeeded was sent."""
        self._steady_since = began_at
        """Since when none failed or came late."""

    def __repr__(self) -> str:
        return f"<Tenure of {self._lease_seconds} s, renewed at {self._renewed_at}>"

    @property
    def good_until(self) -> float:
        """Until when nobody else can have what is ours: a part of the lease earlier than the database thinks."""
        return self._renewed_at + self._lease_seconds * (1 - 1 / RENEWALS)

    def renewed(self, sent_at: float) -> None:
        """Take the news that a renewal which was sent then succeeded."""
        if sent_at > self.good_until:  # we slept, or nobody could be reached: so may the others
            self._steady_since = sent_at
        self._renewed_at = max(self._renewed_at, sent_at)

    def failed(self, now: float) -> None:
        """Take the news that a renewal failed, or that its answer is not clear."""
        self._steady_since = now

    def is_good(self, now: float) -> bool:
        """Tell whether the bridge may go on reading and sending."""
        return now < self.good_until

    def may_bury(self, now: float) -> bool:
        """Tell whether the silence of others means anything: only to one who could renew for a whole lease.

        Otherwise the first one back after an outage would bury all others.
        """
        return self.is_good(now) and now - self._steady_since >= self._lease_seconds


def count_share(sources: int, peers: int) -> int:
    """Return how many of *sources* each of *peers* bridges should have."""
    return -(-sources // max(1, peers))


def choose_claims(  # noqa: PLR0913, PLR0917 - all that it depends on
    me: str,
    free: Sequence[Free],
    peers: Sequence[Peer],
    servable: AbstractSet[SourceName],
    held: int,
    looking_seconds: float,
) -> Sequence[SourceName]:
    """Return which of the *free* sources to take: up to our share at once, and what nobody wants a little later.

    *servable* are those that we are configured for, *held* is how many we have, and for *looking_seconds* we have been
    looking at what is free.
    """
    mine = [one for one in free if one.name in servable and one.kept_for in {None, me}]
    taking = sum(peer.is_ready or peer.age_seconds < STARTING_SECONDS for peer in peers)
    room = count_share(len(servable), taking) - held
    wanted = [one.name for one in mine if one.kept_for == me]
    others = [one for one in mine if one.kept_for is None]
    at_once = [one.name for one in others][: max(0, room - len(wanted))]
    left_over = [one.name for one in others[len(at_once) :] if min(one.seconds, looking_seconds) >= LEFT_OVER_SECONDS]
    return [*wanted, *at_once, *left_over]


def choose_gifts(
    me: str, peers: Sequence[Peer], movable: Collection[SourceName], servable: int
) -> tuple[str, Sequence[SourceName]]:
    """Return to which bridge to give which of the *movable* sources we have, if any, as there are *servable* in all.

    The one that has most, of those that are configured alike, gives to the one that has least.
    """
    us = next((peer for peer in peers if peer.life == me), None)
    if us is None or any(peer.age_seconds < SETTLED_SECONDS or not peer.is_ready for peer in peers):
        return "", ()
    alike = [peer for peer in peers if peer.serves == us.serves]
    share = count_share(servable, len(alike))
    slack = max(SLACK, int(share * SLACK_SHARE))
    fullest = max(alike, key=lambda peer: (peer.held, peer.life))
    emptiest = min(alike, key=lambda peer: (peer.held, peer.life))
    if fullest is not us or us.held <= share + slack or emptiest.held >= share:
        return "", ()
    count = min(GIVEN_AT_ONCE, us.held - share, share - emptiest.held)
    return emptiest.life, sorted(movable)[:count]
