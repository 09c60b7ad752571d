"""A listening socket that asks before it accepts, and knows when what it accepted is gone.

A WebSocket server learns of a connection only after its TLS handshake. Whoever never finishes that one would be counted
nowhere; here it is counted from the first packet to the close of its file descriptor.
"""

import socket
import time
from collections.abc import Callable
from typing import Any, Final

from bridge.errors import BadConfig
from bridge.pbx.inbound.admission import ConnectionLimiter, Ticket
from bridge.security.forwarded import Proxies
from bridge.security.proxy_protocol import V2_MAX_BYTES, introduced

BACKLOG: Final = 128
"""Connections that the system keeps for us until their turn comes."""

ACCEPTS_A_TURN: Final = 4
"""New connections that are taken in one turn of the event loop, as most of what strangers cost is what follows."""

INTRODUCTION_SECONDS: Final = 5
"""How long the system waits for the first packet of a connection, where proxies introduce them."""

KEEPALIVE_IDLE_SECONDS: Final = 30
KEEPALIVE_INTERVAL_SECONDS: Final = 10
KEEPALIVE_PROBES: Final = 3
UNSENT_SECONDS: Final = 60
"""How long the system tries to bring out what we wrote."""


class AcceptedSocket(socket.socket):
    """A connection that tells when it is closed."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it, and tell once."""
        super().close()
        told, self.on_close = self.on_close, None
        if told is not None:
            told()


class ListeningSocket(socket.socket):
    """Listens on *host* and *port*; *on_refused* is told the reason and address of whom *gate* did not let in.

    A connection of one of *proxies* is counted once it is known whence it comes. Where it *is_introduced*, it has to
    begin with the PROXY protocol, which is taken off before anybody else sees it; otherwise its headers say so later,
    and whoever reads them counts it.

    Raises:
        BadConfig: the address cannot be listened on.

    """

    def __init__(  # noqa: PLR0913 - where, who, and how they come
        self,
        host: str,
        port: int,
        gate: ConnectionLimiter,
        on_refused: Callable[[str, str], None],
        proxies: Proxies,
        *,
        is_introduced: bool = False,
    ) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            super().__init__(family, kind, protocol)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_introduced:
                # A proxy says what it has to say in its first packet, so that is there when we hear of the connection.
                self.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, INTRODUCTION_SECONDS)
            self.setblocking(False)  # noqa: FBT003 - the library's own signature
            self.bind(address)
        except OSError as problem:
            self.close()
            raise BadConfig(
                f"PBXs cannot dial {host}:{port}, since it cannot be listened on: {problem.strerror}. "
                "Set listen.host and listen.port to what is free, or stop what listens there"
            ) from problem
        self._gate = gate
        self._on_refused = on_refused
        self._proxies = proxies
        self._is_introduced = is_introduced
        self._tickets: dict[int, Ticket] = {}
        self._is_shut = False

    def listen(self, _at_a_time: int = 0, /) -> None:
        """Listen with room for many, whatever the event loop takes at a time."""
        super().listen(BACKLOG)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept whom the gate lets in.

        Raises:
            ConnectionAbortedError: it did not, and the event loop looks for the next one.

        """
        if self._is_shut:
            raise ConnectionAbortedError("shut")
        plain, address = super().accept()
        accepted = AcceptedSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        peer = origin = str(address[0])
        is_proxy = self._proxies.trust(peer)
        try:
            if is_proxy and self._is_introduced:
                origin = _introduced_origin(accepted) or peer
        except (OSError, ValueError):
            accepted.close()
            self._on_refused("a proxy that does not speak the PROXY protocol", origin)
            raise ConnectionAbortedError("not introduced") from None
        is_counted_later = is_proxy and not self._is_introduced
        if not is_counted_later and not self._gate.may_come(origin, time.monotonic()):
            accepted.close()
            self._on_refused("too many connections in a short time", origin)
            raise ConnectionAbortedError("not let in")
        ticket = self._gate.enter(origin, lambda: _hang_up(accepted))
        if ticket is None:
            accepted.close()
            self._on_refused("too many connections", origin)
            raise ConnectionAbortedError("not let in")
        number = accepted.fileno()
        self._tickets[number] = ticket

        def over() -> None:
            del self._tickets[number]
            self._gate.leave(ticket)

        accepted.on_close = over
        _watch_the_line(accepted)
        return accepted, address

    def shut(self) -> None:
        """Accept nobody more. What was accepted a moment ago has to reach its server before that one is closed."""
        self._is_shut = True

    def hang_up(self) -> None:
        """End all connections that are left, those in the midst of their TLS handshake included."""
        for ticket in list(self._tickets.values()):
            ticket.drop()

    def ticket(self, number: int) -> Ticket | None:
        """Return the ticket of the open connection with this file descriptor; ``None`` where there is none."""
        return self._tickets.get(number)


def _introduced_origin(accepted: socket.socket) -> str:
    """Return where a connection comes from, as its proxy says, and take off what that said; empty where it does not.

    Raises:
        OSError: nothing has come, or it is gone.
        ValueError: something else has come, or not all of it.

    """
    accepted.setblocking(False)  # noqa: FBT003 - the library's own signature
    seen = accepted.recv(V2_MAX_BYTES, socket.MSG_PEEK)
    found = introduced(seen)
    if found is None:
        raise ValueError("the PROXY protocol came in parts")
    accepted.recv(len(seen) - len(found.rest))
    return found.address


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already


def _watch_the_line(connection: socket.socket) -> None:
    """Have the system find out that the other end is gone without a goodbye: it asks whether the PBX's system lives."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", UNSENT_SECONDS * 1000),
    ):
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
