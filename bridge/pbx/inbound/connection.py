"""A WebSocket that a PBX has opened to us."""

import asyncio
from collections.abc import Callable

from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from bridge.clock import steady
from bridge.pbx.websocket import Allowance, Tap, WebSocket

MakeTap = Callable[[float], Tap]
"""Makes what hears along on a connection that began at a time of the steady clock."""


class HeldTap:
    """Holds what passes on a connection, from now on, until it is known who hears along, if anybody does."""

    def __init__(self) -> None:
        self._since = steady()
        self._held: list[Callable[[Tap], None]] = []

    def sent(self, text: str, *, at: float | None = None) -> None:
        """Hold a message of ours."""
        at = at or steady()
        self._held.append(lambda tap: tap.sent(text, at=at))

    def received(self, data: bytes, *, at: float | None = None) -> None:
        """Hold one of the other end's."""
        at = at or steady()
        self._held.append(lambda tap: tap.received(data, at=at))

    def ended(self, code: int, *, is_ours: bool, at: float | None = None) -> None:
        """Hold that the connection is no more."""
        at = at or steady()
        self._held.append(lambda tap: tap.ended(code, is_ours=is_ours, at=at))

    def handed_over(self, make: MakeTap) -> Tap:
        """Return what *make* makes, once it was told what was held."""
        tap = make(self._since)
        for tell in self._held:
            tell(tap)
        return tap


class AcceptedWebSocket(WebSocket):
    """A connection that somebody opens to us, who is a stranger until ``trust``.

    *look_at* returns the answer to a request that is not to become a WebSocket, *on_open* is called once one is open.
    If it is not within *open_seconds* (behind TLS), it is given up.
    """

    def __init__(  # noqa: PLR0913 - its limits, and who looks after it
        self,
        look_at: Callable[["AcceptedWebSocket", Request], Response | None],
        *,
        on_open: Callable[["AcceptedWebSocket"], None],
        allowance: Allowance,
        max_message_bytes: int,
        open_seconds: float,
        close_seconds: float,
    ) -> None:
        self.server = ServerProtocol(max_size=max_message_bytes)
        """The core, which makes answers."""
        super().__init__(self.server, close_seconds=close_seconds, allowance=allowance)
        self._look_at = look_at
        self._on_open = on_open
        self._open_seconds = open_seconds
        self._opening: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """Who it is, as far as the network tells."""
        peer = self.transport.get_extra_info("peername")
        return str(peer[0]) if peer else "unknown"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request, and not for long."""
        super().connection_made(transport)
        self._opening = self._loop.call_later(self._open_seconds, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        super().connection_lost(exc)
        self._opening_over()

    def _shake(self, greeting: Request | Response) -> None:
        assert isinstance(greeting, Request)  # noqa: S101 - a server's core makes nothing else
        answer = self._look_at(self, greeting) or self.server.accept(greeting)
        self.server.send_response(answer)
        self._flush()
        self._opening_over()
        if self.is_open:
            self._on_open(self)

    def _opening_over(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
