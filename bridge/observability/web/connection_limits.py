"""How many may be connected to the page, and for how long without asking anything.

File descriptors are shared with PBXs, broker and health check, so visitors of the page may have few of them. Where all
are taken nobody is turned away: the oldest goes that has not been admitted, of the address that has most of them; and
only where there is none of those the oldest of all. Whoever asks at once, as a probe does, is answered.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bridge.security.forwarded import Proxies
from bridge.security.proxy_protocol import introduced

HEADER_SECONDS: Final = 10.0
"""From connecting to the end of the first request's headers."""

ANSWER_SECONDS: Final = 30.0
"""From the headers of a request to those of the next one: for the answer, and to be idle."""

FIRST_PAUSE_SECONDS: Final = 0.25
LAST_PAUSE_SECONDS: Final = 8.0
"""Of an address that brought wrong tokens, before the next one from there is looked at."""

FORGET_SECONDS: Final = 900.0
MAX_GUESSERS: Final = 1000
"""Addresses that are remembered."""

MAX_WAITING: Final = 64
"""Guesses that wait at a time; more are refused unseen."""


@dataclass(frozen=True, slots=True)
class VisitorLimits:
    """How many there may be."""

    total: int = 64
    per_address: int = 24
    """A browser has six; a proxy that we know is not counted."""


class VisitorLimiter:
    """Everybody who is connected; *clock* gives seconds of any steady clock."""

    def __init__(
        self, clock: Callable[[], float], room: VisitorLimits = VisitorLimits(), proxies: Proxies | None = None
    ) -> None:
        self.proxies = proxies or Proxies()
        self._clock = clock
        self._room = room
        self._all: OrderedDict[Visitor, None] = OrderedDict()
        self._of_address: Counter[str] = Counter()
        self._by_transport: dict[asyncio.BaseTransport, Visitor] = {}
        self._guesses: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Crowd of {len(self._all)}>"

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, visitor: "Visitor") -> None:
        """Take in a new connection; perhaps another one goes for it."""
        place = visitor.address
        if self._of_address[place] >= self._room.per_address and not self.proxies.trust(place):
            self._make_room(place)
        if len(self._all) >= self._room.total:
            self._make_room()
        self._all[visitor] = None
        self._of_address[place] += 1
        if visitor.transport is not None:
            self._by_transport[visitor.transport] = visitor

    def leave(self, visitor: "Visitor") -> None:
        """Take note that a connection is over; does nothing where that is known."""
        if visitor not in self._all:
            return
        del self._all[visitor]
        self._of_address[visitor.address] -= 1
        if self._of_address[visitor.address] <= 0:
            del self._of_address[visitor.address]
        if visitor.transport is not None:
            self._by_transport.pop(visitor.transport, None)

    def visitor(self, transport: asyncio.BaseTransport | None) -> "Visitor | None":
        """Return whose connection it is; ``None`` where it is over."""
        return None if transport is None else self._by_transport.get(transport)

    async def wait_to_try(self, address: str) -> bool:
        """Wait until a token from *address* may be looked at; False: too many wait already."""
        seconds = self.pause(address)
        if not seconds:
            return True
        if self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1
        return True

    def pause(self, address: str) -> float:
        """Return how many seconds a token from *address* has to wait: none before the first wrong one."""
        count = self._wrong(address)
        return 0.0 if not count else min(LAST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(count - 1, 16))

    def tried(self, address: str, *, is_right: bool) -> None:
        """Take note of a token from *address*; a right one forgives the wrong ones."""
        count = self._wrong(address)
        self._guesses.pop(address, None)
        if not is_right:
            self._guesses[address] = (count + 1, self._clock())
            if len(self._guesses) > MAX_GUESSERS:
                self._guesses.popitem(last=False)

    def _wrong(self, address: str) -> int:
        count, last_at = self._guesses.get(address, (0, 0.0))
        return count if self._clock() - last_at < FORGET_SECONDS else 0

    def _make_room(self, place: str | None = None) -> None:
        some = [visitor for visitor in self._all if place is None or visitor.address == place]
        strangers = [visitor for visitor in some if not visitor.is_admitted]
        most = max((self._weight(visitor.address) for visitor in strangers), default=0)
        oldest = next((each for each in strangers if self._weight(each.address) == most), some[0])
        self.leave(oldest)
        oldest.hang_up()

    def _weight(self, address: str) -> int:
        """Return how much of the place an address takes; a proxy stands for many."""
        return 1 if self.proxies.trust(address) else self._of_address[address]


class Visitor(asyncio.Protocol):
    """One connection to the page, handed on to what answers it: *answering*."""

    def __init__(self, crowd: VisitorLimiter, answering: asyncio.Protocol, *, is_introduced: bool = False) -> None:
        self.address = ""
        """Where it comes from, as far as a proxy that speaks the PROXY protocol says so."""
        self.is_admitted = False
        """True once it asked for something that it may see."""
        self.transport: asyncio.Transport | None = None
        self._crowd = crowd
        self._answering = answering
        self._wants_introduction = is_introduced
        self._head = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._is_handed_on = False

    def __repr__(self) -> str:
        return f"<Visitor from {self.address}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, and wait for what it asks."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"a connection that is none: {transport!r}")
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._wants_introduction = self._wants_introduction and self._crowd.proxies.trust(self.address)
        self.expect_within(HEADER_SECONDS)
        self._crowd.enter(self)
        if not self._wants_introduction:
            self._deliver()

    def data_received(self, data: bytes) -> None:
        """Hand it on, once it is known from where it comes."""
        if self._wants_introduction:
            self._head += data
            try:
                found = introduced(self._head)
            except ValueError:
                self.hang_up()
                return
            if found is None:
                return
            data, self._wants_introduction, self._head = found.rest, False, b""
            self._crowd.leave(self)
            self.address = found.address or self.address
            self._crowd.enter(self)
            self._deliver()
        if data and self._is_handed_on:
            self._answering.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand it on."""
        return self._answering.eof_received() if self._is_handed_on else None

    def pause_writing(self) -> None:
        """Hand it on."""
        self._answering.pause_writing()

    def resume_writing(self) -> None:
        """Hand it on."""
        self._answering.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give its place to others."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._crowd.leave(self)
        if self._is_handed_on:
            self._answering.connection_lost(exc)

    def expect_within(self, seconds: float) -> None:
        """Hang up unless it asks something more in that time."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.hang_up)

    def hang_up(self) -> None:
        """End it, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def _deliver(self) -> None:
        self._is_handed_on = True
        if self.transport is not None:
            self._answering.connection_made(self.transport)
