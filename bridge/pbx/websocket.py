"""A WebSocket, from either end: bytes in, messages out one after the other, answers written in the same turn.

The rules of RFC 6455 are the library's, in its core without input and output. Here is what a connection needs beside
them: one way in, room for so much and no more, deadlines, and an end.

- *One way in.* Bytes that came wait in ``_unfed``, whole messages in ``_inbox``, and whoever listens (``listen``) or
  waits (``receive``) gets the first of them. So no message overtakes another, however the stream was cut.
- *Back-pressure.* While nobody takes messages, or the other end does not take what we send, nothing is parsed and
  nothing more is read. Kept are then, beside one message, what one read of the system brought (256 KiB) and the
  messages of one slice. A turn of the event loop is over after ``FRAMES_A_TURN`` frames; the rest has the next.
- *Nothing for nothing.* Frames that bring nothing (pings, pongs, empty ones) are counted, and so is everything that
  comes from somebody unknown (``Allowance``): more than anybody needs ends the connection with code 1008.
- *The end.* Whatever came before it is handed over first. A goodbye, and output that nobody reads, have deadlines.
"""

import asyncio
import ssl
import sys
import urllib.parse
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import thread_time
from typing import Final, Protocol, cast

from websockets.client import ClientProtocol
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    SecurityError,
)
from websockets.frames import Frame, Opcode
from websockets.http11 import USER_AGENT, Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI, parse_uri

from bridge.logs import get_logger

SLICE_BYTES: Final = 1024
"""Fed to the core at a time: what it makes of them is done in one go, 512 pings in 2 to 8 ms at worst."""

STRANGERS_SLICE_BYTES: Final = 256
"""The same as long as nobody vouches for the other end."""

FRAMES_A_TURN: Final = 32

MAX_FRAGMENTS: Final = 4096
"""Of one message, as the library's own connections have it."""

EMPTY_FRAMES: Final = 64
EMPTY_FRAMES_PER_SECOND: Final = 8.0
"""Pings, pongs and empty frames: so many at once, and so many in the long run. Usual is one ping in 20 s."""

UNREAD_BYTES: Final = 1 << 15
"""Of output, before nothing more is read."""

UNHEARD_BYTES: Final = 1 << 18
"""Read and thrown away of somebody whose connection was failed, so that he gets our goodbye; more is cut off."""

CLOSE_SECONDS: Final = 5.0
WRITE_SECONDS: Final = 30.0
MAX_REDIRECTS: Final = 10

LOGIN_BYTES: Final = 1 << 16
"""Of messages before a login is through, introductions included: as much as the vendor's own buffers hold."""

CUT: Final = 1006
"""No goodbye."""
NORMAL: Final = 1000
GOING_AWAY: Final = 1001
NOT_ALLOWED: Final = 1008
TOO_BIG: Final = 1009
OUR_FAULT: Final = 1011

_REDIRECTS: Final = frozenset({300, 301, 302, 303, 307, 308})
_FAILING: Final = (State.CONNECTING, State.OPEN)
_FIRST_CONTROL: Final = Opcode.CLOSE
"""This opcode and those above it are control frames."""

log = get_logger(__name__)


class Tap(Protocol):
    """Hears what passes on a connection, as it is sent and before it is dealt with.

    *at* is for what is told later: a time of the steady clock.
    """

    def sent(self, text: str, *, at: float | None = None) -> None:
        """Take a message of ours."""

    def received(self, data: bytes, *, at: float | None = None) -> None:
        """Take one of the other end's."""

    def ended(self, code: int, *, is_ours: bool, at: float | None = None) -> None:
        """Take note that the connection is no more, by which code, and whether we ended it."""


def _code_of(end: ConnectionClosed) -> int:
    frame = end.rcvd or end.sent
    return CUT if frame is None else frame.code


@dataclass(slots=True)
class Allowance:
    """What is taken from somebody of whom nothing is known: *opening* bytes of HTTP, then *content* bytes in frames."""

    opening: int
    content: int
    frames: int


class WebSocket(asyncio.Protocol, ABC):
    """One connection. Subclasses bring the opening (``_shake``).

    *write_seconds* is how long output may stay unread. With an *allowance* the other end is a stranger until ``trust``.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        core: ClientProtocol | ServerProtocol,
        *,
        close_seconds: float = CLOSE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
        allowance: Allowance | None = None,
    ) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the connection is no more. What came over it may not have been taken yet."""
        self.is_over = False
        """True once it is gone and everything that came was taken."""
        self.is_stalled = False
        """True if it was given up because the other end does not take what we send."""
        self.pongs = 0
        """How many came."""
        self.tap: Tap | None = None
        """Who hears along."""
        self._core = core
        self._close_seconds = close_seconds
        self._write_seconds = write_seconds
        self._allowance = allowance
        self._slice_bytes = SLICE_BYTES if allowance is None else STRANGERS_SLICE_BYTES
        self._loop = asyncio.get_running_loop()
        self._unfed = b""
        self._fed = 0
        """So many of those are fed already."""
        self._inbox: deque[bytes] = deque()
        self._message: bytearray | None = None
        """What came of a message in several frames."""
        self._fragments = 0
        self._on_message: Callable[[bytes], None] | None = None
        self._on_over: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        """Somebody is in ``receive``."""
        self._is_held = False
        self._is_clogged = False
        """The other end does not take what we send."""
        self._is_paused = False
        """Nothing is read."""
        self._is_at_end = False
        """The other end says nothing more."""
        self._is_leaving = False
        """We want no more messages."""
        self._is_deaf = False
        """Not even frames, after what the other end did."""
        self._unheard = 0
        self._turn: asyncio.Handle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._stalling: asyncio.TimerHandle | None = None
        self._empty_frames = 0.0
        self._empty_at = 0.0
        self._spent = 0.0
        """Seconds of our time that frames took since somebody asked."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.state.name.lower()}, {len(self._inbox)} messages wait>"

    # For whoever uses it.

    @property
    def is_open(self) -> bool:
        """Whether a message can be sent: the opening is done, and neither end has said goodbye."""
        return self._core.state is State.OPEN and not self.gone.done()

    @property
    def end(self) -> ConnectionClosed:
        """How the connection ended, once ``is_over``."""
        core = self._core
        if core.state is State.CLOSED:
            return core.close_exc
        return ConnectionClosedError(core.close_rcvd, core.close_sent, core.close_rcvd_then_sent)

    def listen(self, on_message: Callable[[bytes], None], on_over: Callable[[], None]) -> None:
        """Have *on_message* called with each message from now on, those that wait included, and *on_over* at the end.

        *on_message* deals with exceptions itself: one that comes out of it ends the connection without a goodbye.
        """
        if self.is_over:
            on_over()
            return
        self._on_message, self._on_over = on_message, on_over
        self._pump()

    def hold(self) -> None:
        """Hand no message over until ``go_on``."""
        self._is_held = True

    def go_on(self) -> None:
        """Hand messages over again, those that waited first."""
        if self._is_held:
            self._is_held = False
            self._pump()

    async def receive(self) -> bytes:
        """Return the next message, text or binary; only while nobody listens.

        Raises:
            ConnectionClosed: there is none any more.

        """
        while not self._inbox:
            if self.is_over:
                raise self.end
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._inbox.popleft()
        if self.tap is not None:
            self.tap.received(message)
        self._pump()
        return message

    def send(self, text: str) -> None:
        """Send a message. Nobody would get it once the connection is closing, and its end is told to who listens."""
        if self.is_open:
            if self.tap is not None:
                self.tap.sent(text)
            self._core.send_text(text.encode())
            self._flush()

    def ping(self) -> None:
        """Ask whether the other end lives; ``pongs`` counts the answers."""
        if self.is_open:
            self._core.send_ping(b"lives?")
            self._flush()

    def trust(self, frames: int | None = None) -> None:
        """Lift the limits for strangers; with *frames* no more than so many may come until it is called once more."""
        self._allowance = None if frames is None else Allowance(0, sys.maxsize, frames)
        self._slice_bytes = SLICE_BYTES

    def take_spent(self) -> float:
        """Return how many seconds of our time its frames took since this was asked last."""
        spent, self._spent = self._spent, 0.0
        return spent

    async def close(self, code: int = NORMAL) -> None:
        """Say goodbye and wait until the other end did, within the deadline; messages that still come are dropped."""
        self._leave()
        if self.is_open:
            self._core.send_close(code)
            self._flush()
        elif not self._core.close_expected():
            self.abort()
        self._pump()
        try:
            await asyncio.wait([self.gone])
        finally:
            self.abort()

    def abort(self) -> None:
        """End it at once, without a goodbye; what was not taken is dropped."""
        self._leave()
        self._unfed, self._fed = b"", 0
        if not self.gone.done():
            self.transport.abort()

    # For subclasses.

    @abstractmethod
    def _shake(self, greeting: Request | Response) -> None:
        """Deal with the other end's half of the opening."""

    def _opening_over(self) -> None:
        """Take note that the opening is over, whatever came of it."""

    def _fail(self, code: int, reason: str) -> None:
        """End it because of what the other end did; nothing that it sent behind that counts."""
        if self._core.state in _FAILING:
            self._core.fail(code, reason)
            self._flush()
        self._leave()
        self._unfed, self._fed = b"", 0
        self._is_deaf = True

    def _flush(self) -> None:
        """Write what the core wants to be written."""
        if self.gone.done():
            return
        for data in self._core.data_to_send():
            if data:
                self.transport.write(data)
            elif self.transport.can_write_eof():
                try:
                    self.transport.write_eof()
                except OSError:
                    self.transport.abort()  # the other end was faster: the connection is gone already
            else:
                self.transport.close()
        if self._core.state is not State.OPEN and self._closing is None and self._core.close_expected():
            self._closing = self._loop.call_later(self._close_seconds, self.abort)

    # For the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(UNREAD_BYTES)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._is_deaf:
            self._unheard += len(data)
            if self._unheard > UNHEARD_BYTES:
                self.abort()
            return
        self._unfed = data if not self._unfed else self._unfed[self._fed :] + data
        if self._fed:
            self._fed = 0
        self._pump()

    def eof_received(self) -> None:
        """Take note that no more comes; the transport closes itself."""
        self._is_at_end = True
        self._pump()

    def pause_writing(self) -> None:
        """Read nothing until the other end has read what we sent, or its time is up."""
        self._is_clogged = True
        self._stalling = self._loop.call_later(self._write_seconds, self._give_up)
        self._look_ahead()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_clogged = False
        if self._stalling is not None:
            self._stalling.cancel()
            self._stalling = None
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand over what came before, and then tell of the end."""
        del exc  # how it ended is told by what was said before
        for timer in (self._closing, self._stalling):
            if timer is not None:
                timer.cancel()
        self._is_clogged = False
        self._is_at_end = True
        self.gone.set_result(None)
        self._pump()
        if self.tap is not None:
            end = self.end
            self.tap.ended(_code_of(end), is_ours=self._is_leaving and not end.rcvd_then_sent)

    # What happens in a turn.

    def _pump(self) -> None:
        """Hand over what came until nobody takes it, or nothing is left, or this turn was long enough."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        try:
            left = FRAMES_A_TURN
            while not self._is_clogged:
                if left <= 0:
                    self._turn = self._loop.call_soon(self._pump)
                    break
                if self._inbox:
                    if self._on_message is None or self._is_held:
                        break
                    left -= 1
                    message = self._inbox.popleft()
                    if self.tap is not None:
                        self.tap.received(message)
                    self._on_message(message)
                elif self._unfed:
                    left -= self._feed()
                else:
                    break
            self._look_ahead()
        except Exception:
            # Nobody else would tell: these are turns of the event loop, whose own log is not shown.
            log.exception("websocket.failed", connection=repr(self))
            self.abort()

    def _feed(self) -> int:
        """Give the core its next bytes, and return how many frames came that are no end of a message."""
        began = thread_time()
        data = self._unfed
        if len(data) - self._fed <= self._slice_bytes:
            if self._fed:
                data = data[self._fed :]
            self._unfed, self._fed = b"", 0
        else:
            begin, self._fed = self._fed, self._fed + self._slice_bytes
            data = data[begin : self._fed]
        if self._allowance is not None:
            self._spend(self._allowance, len(data))
        core = self._core
        core.receive_data(data)
        events = core.events_received()
        self._flush()
        for event in events:
            if isinstance(event, Frame):
                self._take(event)
            else:
                self._shake(event)
        if self._allowance is not None:
            self._count(self._allowance, len(events))
        if core.handshake_exc is not None:
            self._opening_over()
        self._spent += thread_time() - began
        return len(events) - len(self._inbox)

    def _take(self, frame: Frame) -> None:
        opcode, data = frame.opcode, frame.data
        if (opcode >= _FIRST_CONTROL or not data) and opcode is not Opcode.CLOSE:
            self.pongs += opcode is Opcode.PONG
            self._count_empty()
        if opcode >= _FIRST_CONTROL or self._is_leaving:
            return
        if opcode is not Opcode.CONT:
            if frame.fin:
                self._inbox.append(bytes(data))
                return
            self._message, self._fragments = bytearray(), 0
        if self._message is not None:
            self._message += data
            self._fragments += 1
            if frame.fin:
                self._inbox.append(bytes(self._message))
                self._message = None
            elif self._fragments >= MAX_FRAGMENTS:
                self._fail(TOO_BIG, "a message in too many fragments")

    def _count_empty(self) -> None:
        now = self._loop.time()
        rested = (now - self._empty_at) * EMPTY_FRAMES_PER_SECOND
        self._empty_frames, self._empty_at = max(0.0, self._empty_frames - rested) + 1, now
        if self._empty_frames > EMPTY_FRAMES:
            self._fail(NOT_ALLOWED, "too many frames that bring nothing")

    def _spend(self, allowance: Allowance, count: int) -> None:
        if self._core.state is State.CONNECTING:
            allowance.opening -= count
            if allowance.opening < 0:
                self._fail(TOO_BIG, "an opening that is too long")
        else:
            allowance.content -= count
            if allowance.content < 0:
                self._fail(TOO_BIG, "too much for a stranger")

    def _count(self, allowance: Allowance, frames: int) -> None:
        allowance.frames -= frames
        if allowance.frames < 0:
            self._fail(NOT_ALLOWED, "too many frames for a stranger")

    def _look_ahead(self) -> None:
        """See whether more is to be read, or this is the end."""
        is_drained = not self._inbox and not self._unfed
        if self._inbox and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._is_at_end:
            if is_drained and not self.is_over:
                self._end()
        elif self._is_paused is (is_drained and not self._is_clogged):
            self._is_paused = not self._is_paused
            if self._is_paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _end(self) -> None:
        """Tell the core that no more comes, and once the connection is gone, whoever waits."""
        try:
            self._core.receive_eof()
            self._flush()
            if self._core.handshake_exc is not None:
                self._opening_over()
        finally:
            if self.gone.done():
                self.is_over = True
                if self._waiter is not None and not self._waiter.done():
                    self._waiter.set_result(None)
                on_over, self._on_over, self._on_message = self._on_over, None, None
                if on_over is not None:
                    on_over()

    def _leave(self) -> None:
        self._is_leaving = True
        self._is_held = False
        self._inbox.clear()
        self._message = None

    def _give_up(self) -> None:
        self.is_stalled = True
        self.abort()


class DialledWebSocket(WebSocket):
    """A connection that we open."""

    def __init__(self, core: ClientProtocol, *, close_seconds: float, write_seconds: float) -> None:
        super().__init__(core, close_seconds=close_seconds, write_seconds=write_seconds)
        self._client = core
        self._opened: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        super().connection_made(transport)
        request = self._client.connect()
        request.headers["User-Agent"] = USER_AGENT
        self._client.send_request(request)
        self._flush()

    async def until_open(self) -> None:
        """Wait for the answer.

        Raises:
            InvalidHandshake: it is no, or nothing that can be understood.

        """
        await self._opened
        if self._client.handshake_exc is not None:
            raise self._client.handshake_exc

    def _shake(self, greeting: Request | Response) -> None:
        del greeting  # the core has looked at it
        self._opening_over()

    def _opening_over(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)


async def dial(  # noqa: PLR0913 - what there is to say about a connection
    url: str,
    *,
    ssl_context: ssl.SSLContext | None,
    open_seconds: float,
    max_message_bytes: int,
    close_seconds: float = CLOSE_SECONDS,
    write_seconds: float = WRITE_SECONDS,
) -> WebSocket:
    """Return an open connection to *url*; *open_seconds* are for everything up to that, from the name to redirects.

    No proxy is used, whatever the environment says, and no compression offered. Without *ssl_context* the system's CAs
    decide about ``wss``.

    Raises:
        OSError: nobody is there, or TLS came to nothing.
        TimeoutError: it took too long.
        InvalidHandshake: whoever is there does not want to, or speaks something else.
        InvalidURI: *url* is none; ``ValueError`` where its port or its host name cannot be one.

    """
    async with asyncio.timeout(open_seconds):
        for _ in range(MAX_REDIRECTS):
            uri = parse_uri(url)
            socket = await _connected(uri, ssl_context, max_message_bytes, close_seconds, write_seconds)
            try:
                await socket.until_open()
            except InvalidStatus as refusal:
                socket.abort()
                url = _elsewhere(url, uri, refusal)
            except BaseException:
                socket.abort()
                raise
            else:
                return socket
    raise SecurityError(f"more than {MAX_REDIRECTS} redirects")


async def _connected(
    uri: WebSocketURI,
    ssl_context: ssl.SSLContext | None,
    max_message_bytes: int,
    close_seconds: float,
    write_seconds: float,
) -> DialledWebSocket:
    def socket() -> DialledWebSocket:
        core = ClientProtocol(uri, max_size=max_message_bytes)
        return DialledWebSocket(core, close_seconds=close_seconds, write_seconds=write_seconds)

    _, connected = await asyncio.get_running_loop().create_connection(
        socket,
        uri.host,
        uri.port,
        ssl=(ssl_context or True) if uri.secure else None,
        server_hostname=uri.host if uri.secure else None,
    )
    return connected


def _elsewhere(url: str, uri: WebSocketURI, refusal: InvalidStatus) -> str:
    """Return where *refusal* sends us, or raise it.

    Raises:
        InvalidHandshake: it sends us nowhere, or where TLS would be lost.

    """
    response = refusal.response
    if response.status_code not in _REDIRECTS or "Location" not in response.headers:
        raise refusal
    try:
        target = urllib.parse.urljoin(url, response.headers["Location"])
        is_secure = parse_uri(target).secure
    except (InvalidURI, ValueError) as problem:
        raise InvalidMessage("a redirect that leads to no WebSocket") from problem
    if uri.secure and not is_secure:
        raise SecurityError("a redirect that leads away from TLS") from refusal
    return target
