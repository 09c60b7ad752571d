"""How many may be connected, and how often an address may try to log in: decided without a clock and without sockets.

A PBX logs in within a few round trips, so where too many are connected that did not log in, the oldest of *those* goes:
a crowd of silent strangers keeps nobody out. Wrong logins make an address wait, longer each time, before the next one
from there is looked at; a good one ends that, because behind a proxy all PBXs come from one address.
"""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FIRST_PAUSE_SECONDS: Final = 1.0
LAST_PAUSE_SECONDS: Final = 30.0
FORGET_SECONDS: Final = 900.0
"""An address that failed is as good as any other after so long."""

MAX_ADDRESSES: Final = 10_000
"""Remembered of those that failed: about 2 MB."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections there may be."""

    total: int = 1000
    per_address: int = 64
    unauthenticated: int = 128


class Ticket:
    """One connection; *drop* ends it from our side."""

    __slots__ = ("address", "drop", "is_in")

    def __init__(self, address: str, drop: Callable[[], None]) -> None:
        self.address = address
        self.drop = drop
        self.is_in = False

    def __repr__(self) -> str:
        return f"<Ticket of {self.address}>"


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last_at: float = 0.0
    next_at: float = 0.0
    """When the next login from there may be looked at."""

    @property
    def pause(self) -> float:
        return min(LAST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self.count - 1, 16))


class Gate:
    """Counts connections and failures; times are seconds of any steady clock."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.strangers = 0
        """How many have left that never logged in."""
        self._all: set[Ticket] = set()
        self._of_address: Counter[str] = Counter()
        self._unauthenticated: OrderedDict[Ticket, None] = OrderedDict()
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Gate {len(self._all)} connected, {len(self._unauthenticated)} of them not logged in>"

    @property
    def connected(self) -> int:
        """How many are connected."""
        return len(self._all)

    def enter(self, address: str, drop: Callable[[], None]) -> Ticket | None:
        """Let in a new connection, or not. Perhaps another one, that has not logged in, goes for it."""
        place = place_of(address)
        if self._of_address[place] >= self._bounds.per_address or len(self._all) >= self._bounds.total:
            return None
        if len(self._unauthenticated) >= self._bounds.unauthenticated:
            oldest, _ = self._unauthenticated.popitem(last=False)
            oldest.drop()
        ticket = Ticket(place, drop)
        self._all.add(ticket)
        self._of_address[place] += 1
        self._unauthenticated[ticket] = None
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Take note that a connection is over."""
        self._all.discard(ticket)
        self._unauthenticated.pop(ticket, None)
        self.strangers += not ticket.is_in
        self._of_address[ticket.address] -= 1
        if self._of_address[ticket.address] <= 0:
            del self._of_address[ticket.address]

    def logged_in(self, ticket: Ticket) -> None:
        """Take note of a good login: the connection may stay, and its address is forgiven."""
        ticket.is_in = True
        self._unauthenticated.pop(ticket, None)
        self._failures.pop(ticket.address, None)

    def judged_at(self, ticket: Ticket, now: float) -> float | None:
        """Return when a login that has come may be looked at; ``None``: too many wait, so it is refused unseen."""
        failures = self._failures.get(ticket.address)
        if failures is None or now - failures.last_at > FORGET_SECONDS:
            return now
        due = max(now, failures.next_at)
        if due - now > LAST_PAUSE_SECONDS:
            return None
        failures.next_at = due + failures.pause
        return due

    def failed(self, ticket: Ticket, now: float) -> None:
        """Take note of a login that was not good."""
        failures = self._failures.setdefault(ticket.address, _Failures())
        if now - failures.last_at > FORGET_SECONDS:
            failures.count = 0
        failures.count += 1
        failures.last_at = now
        failures.next_at = max(failures.next_at, now + failures.pause)
        self._failures.move_to_end(ticket.address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)


def place_of(address: str) -> str:
    """Return whom *address* is counted with: itself, or of IPv6 the network (/64), which is what one customer gets."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
