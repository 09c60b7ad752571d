"""How many may be connected to the page, and for how long without asking anything.

File descriptors are shared with PBXs, broker and health check, so visitors of the page may have few of them. Where all
are taken nobody is turned away: the oldest goes that has not been admitted, of the address that has most of them; and
only where there is none of those the oldest of all. Whoever asks at once, as a probe does, is answered.

The page takes small requests without a body, one after the other, so whoever sends more is hung up on before anybody
reads it; and so is who comes or asks too often (``bridge.security.rate``) without being admitted.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bridge.security.forwarded import Proxies, find_network
from bridge.security.proxy_protocol import introduced
from bridge.security.rate import Rate, Share

HEADER_SECONDS: Final = 10.0
"""From connecting to the end of the first request's headers."""

ANSWER_SECONDS: Final = 30.0
"""From the headers of a request to those of the next one: for the answer, and to be idle."""

REQUEST_BYTES: Final = 1 << 14
"""Between one request and the next, in headers and everything else: browsers send a tenth of that."""

EACH: Final = Share(100, 20)
"""Connections, and requests for what is not admitted, of one address: 5 probes a second, each on a connection anew."""

TOGETHER: Final = Share(400, 200)
"""The same of all strangers, about a tenth of a core."""

WHILE_SECONDS: Final = 1.0
"""Probes come less often."""

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
        self._rate = Rate(EACH, TOGETHER, WHILE_SECONDS)

    def __repr__(self) -> str:
        return f"<VisitorLimiter of {len(self._all)}>"

    def __len__(self) -> int:
        return len(self._all)

    def enter(self, visitor: "Visitor") -> None:
        """Take in a new connection; perhaps another one goes for it."""
        place = visitor.place
        if self._of_address[place] >= self._room.per_address and not self.proxies.trust(visitor.address):
            self._make_room(place)
        if len(self._all) >= self._room.total:
            self._make_room()
        self._all[visitor] = None
        self._of_address[place] += 1
        if visitor.transport is not None:
            self._by_transport[visitor.transport] = visitor

    def may_come(self, address: str) -> bool:
        """Tell whether somebody from *address* may connect now, or ask for what everybody may see, and count it."""
        return self.proxies.trust(address) or self._rate.may(find_network(address), self._clock())

    def leave(self, visitor: "Visitor") -> None:
        """Take note that a connection is over; does nothing where that is known."""
        if visitor not in self._all:
            return
        del self._all[visitor]
        self._of_address[visitor.place] -= 1
        if self._of_address[visitor.place] <= 0:
            del self._of_address[visitor.place]
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
        address = find_network(address)
        count = self._wrong(address)
        self._guesses.pop(address, None)
        if not is_right:
            self._guesses[address] = (count + 1, self._clock())
            if len(self._guesses) > MAX_GUESSERS:
                self._guesses.popitem(last=False)

    def _wrong(self, address: str) -> int:
        count, last_at = self._guesses.get(find_network(address), (0, 0.0))
        return count if self._clock() - last_at < FORGET_SECONDS else 0

    def _make_room(self, place: str | None = None) -> None:
        some = [visitor for visitor in self._all if place is None or visitor.place == place]
        strangers = [visitor for visitor in some if not visitor.is_admitted]
        most = max((self._weight(visitor) for visitor in strangers), default=0)
        oldest = next((each for each in strangers if self._weight(each) == most), some[0])
        self.leave(oldest)
        oldest.hang_up()

    def _weight(self, visitor: "Visitor") -> int:
        """Return how much of the room is taken where somebody comes from; a proxy stands for many."""
        return 1 if self.proxies.trust(visitor.address) else self._of_address[visitor.place]


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
        self._unasked = 0
        """Bytes since the last request that was looked at."""

    def __repr__(self) -> str:
        return f"<Visitor from {self.address}>"

    @property
    def place(self) -> str:
        """Whom it is counted with."""
        return find_network(self.address)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, and wait for what it asks."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"a connection that is none: {transport!r}")
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self._wants_introduction = self._wants_introduction and self._crowd.proxies.trust(self.address)
        self.expect_within(HEADER_SECONDS)
        if not self._crowd.may_come(self.address):
            self.hang_up()
            return
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
            if not self._crowd.may_come(self.address):
                self.hang_up()
                return
            self._crowd.enter(self)
            self._deliver()
        self._unasked += len(data)
        if self._unasked > REQUEST_BYTES:
            self.hang_up()
        elif data and self._is_handed_on:
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
        self._unasked = 0
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
