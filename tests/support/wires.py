"""WebSockets of ours whose transport a test holds in its hand; their other end is the library's core."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.testing import capture_logs
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from bridge.pbx.inbound.connection import AcceptedWebSocket
from bridge.pbx.websocket import Allowance, DialledWebSocket, WebSocket

MOST = 80_000
"""Bytes of a message that our end takes."""


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and knows whether it would be read from."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.protocol = protocol
        self.written = b""
        self._reads = True
        self.is_shut = False
        """Nothing more is written."""
        self.is_aborted = False

    def write(self, data: Any) -> None:
        assert not self.is_shut
        self.written += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        assert self._reads
        self._reads = False

    def resume_reading(self) -> None:
        assert not self._reads
        self._reads = True

    def reads(self) -> bool:
        return self._reads

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_shut = True

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        """As real ones do, once the event loop comes to it."""
        if not self.is_aborted:
            self.is_aborted = True
            self._reads = False
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Pair:
    """An open connection of ours as *side*, and the other end; with *allowance* the other end is a stranger."""

    def __init__(self, side: Side, *, allowance: Allowance | None = None, **options: Any) -> None:
        options = {"close_seconds": 5.0, **options}
        if side is Side.CLIENT:
            core = ClientProtocol(parse_uri("ws://pbx/x"), max_size=MOST)
            self.socket: WebSocket = DialledWebSocket(core, write_seconds=options.pop("write_seconds", 30.0), **options)
            self.other: Protocol = ServerProtocol(max_size=None)
        else:
            self.socket = AcceptedWebSocket(
                lambda _socket, _request: None,
                on_open=lambda _socket: None,
                allowance=allowance or Allowance(1 << 14, 1 << 16, 32),
                max_message_bytes=MOST,
                open_seconds=5.0,
                **options,
            )
            self.other = ClientProtocol(parse_uri("ws://bridge/x"), max_size=None)
        self.core: Protocol = self.socket._core  # noqa: SLF001 - to see what was said last
        self.wire = Wire(self.socket)
        self.socket.connection_made(self.wire)
        self._open()
        if isinstance(self.socket, AcceptedWebSocket) and allowance is None:
            self.socket.trust()

    def _open(self) -> None:
        if isinstance(self.other, ClientProtocol):
            self.other.send_request(self.other.connect())
            self.arrive(b"".join(self.other.data_to_send()))
            assert isinstance(self.heard()[0], Response)
        else:
            assert isinstance(self.other, ServerProtocol)
            (request,) = self.heard()
            assert isinstance(request, Request)
            self.other.send_response(self.other.accept(request))
            self.arrive(b"".join(self.other.data_to_send()))
        assert self.socket.is_open

    @property
    def masks(self) -> bool:
        """Whether frames of the other end have to be masked."""
        return self.other.side is Side.CLIENT

    def arrive(self, data: bytes) -> None:
        """Have this come from the other end, as an event loop would: not while nothing is read."""
        assert self.wire.reads()
        self.socket.data_received(data)

    def frames(self, *frames: Frame) -> None:
        self.arrive(b"".join(frame.serialize(mask=self.masks) for frame in frames))

    def heard(self) -> list[Any]:
        """Return what the other end understands of what we wrote since the last time."""
        written, self.wire.written = self.wire.written, b""
        if written:
            self.other.receive_data(written)
        return self.other.events_received()

    def said_last(self) -> int | None:
        """The code of our goodbye."""
        return None if self.core.close_sent is None else self.core.close_sent.code


async def until(is_so: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0)


@contextmanager
def logging_on() -> Iterator[list[Any]]:
    """Collect what is logged, which tests otherwise keep quiet."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.stdlib.BoundLogger)
    try:
        with capture_logs() as logged:
            yield logged
    finally:
        structlog.configure(**before)
