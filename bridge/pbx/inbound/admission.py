"""How many may be connected, and how often an address may try to log in: decided without a clock and without sockets.

A PBX logs in within a few round trips, so where too many are connected that did not log in, one of *those* goes: the
oldest of the address that has most of them, and of an address from which somebody logged in before only where there are
no others. So neither a crowd of silent strangers keeps PBXs out, nor one behind the same proxy.

Wrong logins make an address wait, longer each time, before the next one from there is looked at; a good one ends that.
Who logged in from there before with the same claim (names and guid of its App object, which a stranger does not know)
is not held up by the others behind its proxy.

How often strangers may come at all is bounded (``bridge.security.rate``), since a TLS handshake costs us a millisecond
or two. An address from which somebody logged in before has its own share, which the others cannot take.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bridge.security.forwarded import find_network
from bridge.security.rate import Rate, Share

FIRST_PAUSE_SECONDS: Final = 1.0
LAST_PAUSE_SECONDS: Final = 30.0
FORGET_SECONDS: Final = 900.0
"""An address that failed is as good as any other after so long."""

MAX_ADDRESSES: Final = 10_000
"""Remembered of those that failed: about 2 MB; and as many of those that logged in."""

EACH: Final = Share(256, 20)
"""New connections from one address, behind which may be many PBXs."""

TOGETHER: Final = Share(100, 20)
"""New connections of all strangers: 20 TLS handshakes are 4 % of a core, and PBXs that are new are few in an hour."""

WHILE_SECONDS: Final = 3.0
"""A PBX that is turned away waits for longer soon, and counts as a newcomer then."""

Claim = tuple[str, ...]
"""Whom a login speaks for; of a PBX that was here before it is known."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections there may be."""

    total: int = 1000
    per_address: int = 64
    unauthenticated: int = 128


class Ticket:
    """One connection; *drop* ends it from our side."""

    __slots__ = ("address", "drop", "is_dropped", "is_in")

    def __init__(self, address: str, drop: Callable[[], None]) -> None:
        self.address = address
        self.drop = drop
        self.is_in = False
        self.is_dropped = False

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


class ConnectionLimiter:
    """Counts connections and failures; times are seconds of any steady clock."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._rate = Rate(EACH, TOGETHER, WHILE_SECONDS)
        self.strangers = 0
        """How many have left that never logged in."""
        self._all: set[Ticket] = set()
        self._of_address: Counter[str] = Counter()
        self._unauthenticated: OrderedDict[Ticket, None] = OrderedDict()
        self._waiting_of: Counter[str] = Counter()
        """Of each address, how many of these."""
        self._failures: OrderedDict[tuple[str, Claim], _Failures] = OrderedDict()
        self._good: OrderedDict[tuple[str, Claim], None] = OrderedDict()
        """Who logged in from where."""
        self._good_of: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<ConnectionLimiter {len(self._all)} connected, {len(self._unauthenticated)} of them not logged in>"

    @property
    def connected(self) -> int:
        """How many are connected."""
        return len(self._all)

    def may_come(self, address: str, now: float) -> bool:
        """Tell whether a new connection from *address* may be looked at at all, and count it if so."""
        place = find_network(address)
        return self._rate.may(place, now, is_known=place in self._good_of)

    def enter(self, address: str, drop: Callable[[], None]) -> Ticket | None:
        """Let in a new connection, or not. Perhaps another one, that has not logged in, goes for it."""
        ticket = Ticket(find_network(address), drop)
        return ticket if self._enter(ticket) else None

    def is_known(self, ticket: Ticket) -> bool:
        """Tell whether somebody logged in from there before."""
        return ticket.address in self._good_of

    def expect(self, address: str, claim: Claim) -> None:
        """Take note of who logged in from where before we were started."""
        self._remember((find_network(address), claim))

    def comes_from(self, ticket: Ticket, address: str) -> bool:
        """Count a connection with *address* from now on, as its proxy says; False: that one has enough of them."""
        if ticket.is_dropped:
            return False
        self._let_go(ticket)
        self._all.discard(ticket)
        ticket.address, ticket.is_dropped = find_network(address), False
        is_let_in = self._enter(ticket)
        ticket.is_dropped = not is_let_in
        self._all.add(ticket)  # in any case, until its file descriptor is closed
        return is_let_in

    def _enter(self, ticket: Ticket) -> bool:
        place = ticket.address
        if self._of_address[place] >= self._bounds.per_address and not self._make_room(place):
            return False
        if len(self._all) >= self._bounds.total:
            is_far_beyond = len(self._all) >= self._bounds.total + self._bounds.unauthenticated
            if is_far_beyond or not self._make_room():
                return False
        if len(self._unauthenticated) >= self._bounds.unauthenticated:
            self._make_room()
        self._all.add(ticket)
        self._of_address[place] += 1
        self._unauthenticated[ticket] = None
        self._waiting_of[place] += 1
        return True

    def _make_room(self, place: str | None = None) -> bool:
        """Have one go that has not logged in, *place* saying of which address; return whether there is one."""
        if place is None:
            strangers = [address for address in self._waiting_of if address not in self._good_of]
            place = max(strangers or self._waiting_of, key=self._waiting_of.__getitem__, default="")
        oldest = next((ticket for ticket in self._unauthenticated if ticket.address == place), None)
        if oldest is None:
            return False
        self._let_go(oldest)
        oldest.drop()
        return True

    def leave(self, ticket: Ticket) -> None:
        """Take note that a connection is over."""
        self._all.discard(ticket)
        self.strangers += not ticket.is_in
        self._let_go(ticket)

    def _let_go(self, ticket: Ticket) -> None:
        """Count it no more with its address; in all it counts until its file descriptor is closed."""
        if not ticket.is_dropped:
            ticket.is_dropped = True
            self._less(self._of_address, ticket.address)
            self._waits_no_more(ticket)

    def _waits_no_more(self, ticket: Ticket) -> None:
        if ticket in self._unauthenticated:
            del self._unauthenticated[ticket]
            self._less(self._waiting_of, ticket.address)

    @staticmethod
    def _less(counter: Counter[str], key: str) -> None:
        counter[key] -= 1
        if counter[key] <= 0:
            del counter[key]

    def logged_in(self, ticket: Ticket, claim: Claim = ()) -> None:
        """Take note of a good login: the connection may stay, and its address is forgiven."""
        ticket.is_in = True
        self._waits_no_more(ticket)
        for lane in ((ticket.address, ()), (ticket.address, claim)):
            self._failures.pop(lane, None)
        self._remember((ticket.address, claim))

    def _remember(self, lane: tuple[str, Claim]) -> None:
        if lane not in self._good:
            self._good_of[lane[0]] += 1
        self._good[lane] = None
        self._good.move_to_end(lane)
        if len(self._good) > MAX_ADDRESSES:
            (address, _), _ = self._good.popitem(last=False)
            self._less(self._good_of, address)

    def _lane(self, ticket: Ticket, claim: Claim) -> tuple[str, Claim]:
        """Return with whom a login waits: alone who was here before, otherwise with all of its address."""
        return (ticket.address, claim if (ticket.address, claim) in self._good else ())

    def judged_at(self, ticket: Ticket, now: float, claim: Claim = ()) -> float | None:
        """Return when a login that has come may be looked at; ``None``: too many wait, so it is refused unseen."""
        failures = self._failures.get(self._lane(ticket, claim))
        if failures is None or now - failures.last_at > FORGET_SECONDS:
            return now
        due = max(now, failures.next_at)
        if due - now > LAST_PAUSE_SECONDS:
            return None
        failures.next_at = due + failures.pause
        return due

    def failed(self, ticket: Ticket, now: float, claim: Claim = ()) -> None:
        """Take note of a login that was not good."""
        lane = self._lane(ticket, claim)
        failures = self._failures.setdefault(lane, _Failures())
        if now - failures.last_at > FORGET_SECONDS:
            failures.count = 0
        failures.count += 1
        failures.last_at = now
        failures.next_at = max(failures.next_at, now + failures.pause)
        self._failures.move_to_end(lane)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
