"""A WebSocket, from either end: bytes in, messages out one after the other, answers written in the same turn.

The rules of RFC 6455 are the library's, in its core without input and output. Here is what a connection needs beside
them: one way in, room for so much and no more, deadlines, and an end.

- *One way in.* Bytes that came wait in ``_unfed``, whole messages in ``_inbox``, and whoever listens (``listen``) or
  waits (``receive``) gets the first of them. So no message overtakes another, however the stream was cut.
- *Back-pressure.* While nobody takes messages, or the other end does not take what we send, nothing is parsed and
  nothing more is read. Kept are then, beside one message, what one read of the system brought (256 KiB) and the
  messages of one slice. A turn of the event loop is over after ``FRAMES_A_TURN`` frames; the rest has the next.
- *Nothing for nothing.* Frames that bring nothing (pings, pongs, empty ones) are counted, and so is everything that
  comes before a login is good (``Allowance``): more than anybody needs ends the connection with code 1008.
- *Time has its price.* What frames take of the event loop's time is paid for (``Rest``) with the message that they
  bring, and at the end of the connection where they bring none.
- *The end.* Whatever came before it is handed over first. A goodbye, and output that nobody reads, have deadlines.
"""

import asyncio
import ssl
import urllib.parse
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import thread_time
from typing import Final, TypeVar, cast

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
from bridge.pbx.rest import Rest

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

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
NOT_ALLOWED: Final = 1008
TOO_BIG: Final = 1009
OUR_FAULT: Final = 1011

_REDIRECTS: Final = frozenset({300, 301, 302, 303, 307, 308})
_FAILING: Final = (State.CONNECTING, State.OPEN)
_FIRST_CONTROL: Final = Opcode.CLOSE
"""This opcode and those above it are control frames."""

OPENING_BYTES: Final = 1 << 16
"""Of HTTP from somebody whom we dialled."""

LOGIN_BYTES: Final = 1 << 16
"""Of all frames before a login is good: as much as the vendor's own buffers hold."""

LOGIN_FRAMES: Final = 1024
"""The same, of somebody whom we dialled: some cut their messages into many."""

TOO_MANY_FRAGMENTS: Final = "a message in too many fragments"
TOO_LONG_OPENING: Final = "an opening that is too long"
TOO_MUCH: Final = "too much before the login"
OUR_REASONS: Final = frozenset({TOO_MANY_FRAGMENTS, TOO_LONG_OPENING, TOO_MUCH})
"""Of code 1009, beside a message that is too large."""

Understood = TypeVar("Understood")

log = get_logger(__name__)


@dataclass(slots=True)
class Allowance:
    """What is taken from somebody of whom nothing is known: *opening* bytes of HTTP, then *content* bytes in frames."""

    opening: int
    content: int
    frames: int


class WebSocket(asyncio.Protocol, ABC):
    """One connection. Subclasses bring the opening (``_shake``).

    *write_seconds* is how long output may stay unread. With an *allowance* the other end is a stranger until ``trust``.
    What it takes of our time is put down to *rest*, which may know of earlier connections.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        core: ClientProtocol | ServerProtocol,
        *,
        close_seconds: float = CLOSE_SECONDS,
        write_seconds: float = WRITE_SECONDS,
        allowance: Allowance | None = None,
        rest: Rest | None = None,
    ) -> None:
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the connection is no more. What came over it may not have been taken yet."""
        self.is_over = False
        """True once it is gone and everything that came was taken."""
        self.is_stalled = False
        """True if it was given up because the other end does not take what we send."""
        self.pongs = 0
        """How many came."""
        self._core = core
        self._close_seconds = close_seconds
        self._write_seconds = write_seconds
        self._allowance = allowance
        self._slice_bytes = SLICE_BYTES if allowance is None else STRANGERS_SLICE_BYTES
        self._rest = rest or Rest()
        self._unpaid = 0.0
        """Seconds that frames have taken which brought no message yet."""
        self._resting: asyncio.TimerHandle | None = None
        """While there is one, nothing is parsed and no message handed over."""
        self._loop = asyncio.get_running_loop()
        self._unfed = b""
        self._fed = 0
        """So many of those are fed already."""
        self._inbox: deque[bytes] = deque()
        self._message: bytearray | None = None
        """What came of a message in several frames."""
        self._fragments = 0
        self._on_message: Callable[[bytes], bool] | None = None
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

    def listen(self, on_message: Callable[[bytes], bool], on_over: Callable[[], None]) -> None:
        """Have *on_message* called with each message from now on, those that wait included, and *on_over* at the end.

        *on_message* returns whether the message was asked for, which costs less. It deals with exceptions itself: one that comes out of it ends the connection without a goodbye.
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
        """Return the next message, text or binary, once what came before is paid for; only while nobody listens.

        Raises:
            ConnectionClosed: there is none any more.

        """
        while not self._inbox or self._resting is not None:
            if self.is_over:
                raise self.end
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._inbox.popleft()
        self._pump()
        return message

    async def understand(self, read: Callable[[bytes], Understood]) -> Understood:
        """Return what *read* makes of the next message, and have the other end pay for the time that takes.

        Raises:
            ConnectionClosed: there is none any more.

        """
        message = await self.receive()
        began = thread_time()
        try:
            return read(message)
        finally:
            self._pay(thread_time() - began)

    def send(self, text: str) -> None:
        """Send a message. Nobody would get it once the connection is closing, and its end is told to who listens."""
        if self.is_open:
            self._core.send_text(text.encode())
            self._flush()

    def ping(self) -> None:
        """Ask whether the other end lives; ``pongs`` counts the answers."""
        if self.is_open:
            self._core.send_ping(b"lives?")
            self._flush()

    def put_down_to(self, rest: Rest, allowance: Allowance) -> None:
        """Know who it is: what it takes of our time is put down to *rest* from now on, and *allowance* is what it has."""
        self._rest, self._allowance = rest, allowance

    def trust(self) -> None:
        """Lift the limits for strangers."""
        self._allowance = None
        self._slice_bytes = SLICE_BYTES

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

    # What happens in a turn.

    def _pump(self) -> None:
        """Hand over what came until nobody takes it, it has to rest, nothing is left, or this turn was long enough."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        try:
            left, began, is_fed = FRAMES_A_TURN, thread_time(), False
            while not self._is_clogged and self._resting is None:
                if left <= 0:
                    self._turn = self._loop.call_soon(self._pump)
                    break
                if self._inbox:
                    if self._on_message is None or self._is_held:
                        break
                    left -= 1
                    is_answer = self._on_message(self._inbox.popleft())
                    now = thread_time()
                    self._pay(now - began, is_answer=is_answer)
                    began, is_fed = now, False
                elif self._unfed:
                    left -= self._feed()
                    is_fed = True
                else:
                    break
            if is_fed:
                self._unpaid += thread_time() - began
            self._look_ahead()
        except Exception:
            # Nobody else would tell: these are turns of the event loop, whose own log is not shown.
            log.exception("websocket.failed", connection=repr(self))
            self.abort()

    def _pay(self, spent: float, *, is_answer: bool = False) -> None:
        """Have it rest, if need be, behind a message that took *spent* seconds beside those of its frames."""
        pause = self._rest.due(self._unpaid + spent, self._loop.time(), is_answer=is_answer)
        self._unpaid = 0.0
        if pause and not self.is_over:
            if self._resting is not None:
                self._resting.cancel()
            self._resting = self._loop.call_later(pause, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._pump()

    def _feed(self) -> int:
        """Give the core its next bytes, and return how many frames came that are no end of a message."""
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
                self._fail(TOO_BIG, TOO_MANY_FRAGMENTS)

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
                self._fail(TOO_BIG, TOO_LONG_OPENING)
        else:
            allowance.content -= count
            if allowance.content < 0:
                self._fail(TOO_BIG, TOO_MUCH)

    def _count(self, allowance: Allowance, frames: int) -> None:
        allowance.frames -= frames
        if allowance.frames < 0:
            self._fail(NOT_ALLOWED, "too many frames for a stranger")

    def _look_ahead(self) -> None:
        """See whether more is to be read, or this is the end."""
        is_drained = not self._inbox and not self._unfed
        if self._inbox and self._resting is None and self._waiter is not None and not self._waiter.done():
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
                self._pay(0.0)
                if self._resting is not None:
                    self._resting.cancel()
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

    def __init__(
        self, core: ClientProtocol, *, close_seconds: float, write_seconds: float, rest: Rest | None = None
    ) -> None:
        allowance = Allowance(OPENING_BYTES, LOGIN_BYTES, LOGIN_FRAMES)
        super().__init__(
            core, close_seconds=close_seconds, write_seconds=write_seconds, allowance=allowance, rest=rest
        )
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
