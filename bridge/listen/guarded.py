"""A listening socket that asks before it accepts, and knows when what it accepted is gone.

A WebSocket server learns of a connection only after its TLS handshake. Whoever never finishes that one would be counted
nowhere; here it is counted from the first packet to the close of its file descriptor.
"""

import socket
from collections.abc import Callable
from typing import Any, Final

from bridge.errors import BadConfig
from bridge.listen.gate import Gate, Ticket

BACKLOG: Final = 128

KEEPALIVE_IDLE_SECONDS: Final = 30
KEEPALIVE_INTERVAL_SECONDS: Final = 10
KEEPALIVE_PROBES: Final = 3
UNSENT_SECONDS: Final = 60
"""How long the system tries to bring out what we wrote."""


class Accepted(socket.socket):
    """A connection that tells when it is closed."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it, and tell once."""
        super().close()
        told, self.on_close = self.on_close, None
        if told is not None:
            told()


class GuardedSocket(socket.socket):
    """Listens on *host* and *port*; *on_refused* is told the address of whom *gate* did not let in.

    Raises:
        BadConfig: the address cannot be listened on.

    """

    def __init__(self, host: str, port: int, gate: Gate, on_refused: Callable[[str], None]) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            super().__init__(family, kind, protocol)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.setblocking(False)  # noqa: FBT003 - the library's own signature
            self.bind(address)
        except OSError as problem:
            self.close()
            raise BadConfig(
                f"PBXs cannot dial {host}:{port}, since it cannot be listened on: {problem.strerror}. "
                "Set listen.host and listen.port to what is free"
            ) from problem
        self._gate = gate
        self._on_refused = on_refused
        self._tickets: dict[int, Ticket] = {}

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept whom the gate lets in.

        Raises:
            ConnectionAbortedError: it did not, and the event loop looks for the next one.

        """
        plain, address = super().accept()
        accepted = Accepted(plain.family, plain.type, plain.proto, fileno=plain.detach())
        ticket = self._gate.enter(str(address[0]), lambda: _hang_up(accepted))
        if ticket is None:
            accepted.close()
            self._on_refused(str(address[0]))
            raise ConnectionAbortedError("not let in")
        number = accepted.fileno()
        self._tickets[number] = ticket

        def over() -> None:
            del self._tickets[number]
            self._gate.leave(ticket)

        accepted.on_close = over
        _watch_the_line(accepted)
        return accepted, address

    def hang_up(self) -> None:
        """End all connections that are left, those in the midst of their TLS handshake included."""
        for ticket in list(self._tickets.values()):
            ticket.drop()

    def ticket(self, number: int) -> Ticket | None:
        """Return the ticket of the open connection with this file descriptor; ``None`` where there is none."""
        return self._tickets.get(number)


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
