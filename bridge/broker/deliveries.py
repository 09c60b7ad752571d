"""What a consumer is delivered, as bytes: the frames of its channel are taken off the line before the client library.

Why by hand: the library builds objects for each of the three frames of a message and starts a task for each message,
120 µs of CPU; so it is 11 µs, the reading of the body included (20 000 events of a log, `scan_log`). A log is read to
its end for one number of each source, and of nearly all messages only the body counts. Everything else goes on to the
library, which also acknowledges, and notices when the connection ends.
"""

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, cast

from aio_pika.abc import AbstractConnection
from pamqp.header import ContentHeader

from bridge.broker.connection import CLOSE_SECONDS, find_transport, in_time
from bridge.broker.errors import connection_broke, consumer_ended, translated
from bridge.errors import BridgeError, BrokerUnreachable

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_FRAME: Final = struct.Struct(">BHI")
_FRAME_BYTES: Final = _FRAME.size + 1
_DELIVER: Final = struct.pack(">HH", 60, 60)
_TAG: Final = struct.Struct(">Q")
_BODY_SIZE_AT: Final = 4
"""In a header frame, behind class and weight."""
_HEARTBEAT: Final = struct.pack(">BHIB", 8, 0, 0, _END)
_KINDS: Final = frozenset({_METHOD, _HEADER, _BODY, _HEARTBEAT[0]})

HEARTBEAT_SECONDS: Final = 1.0
"""While messages come, the library hears so often that the connection is alive; it sees nothing of them."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One message: its delivery tag, its header frame as it came, and its body."""

    tag: int
    header: bytes
    body: bytes

    @property
    def message_id(self) -> str | None:
        """What its publisher called it.

        Raises:
            ValueError: its header cannot be read, see ``headers``.

        """
        return cast("str | None", self._properties.message_id)

    @property
    def headers(self) -> Mapping[str, Any]:
        """What its publisher and the broker added to it.

        Raises:
            ValueError: its header cannot be read: a name that is no UTF-8, a time that there is not, a deep nesting.

        """
        return cast("Mapping[str, Any] | None", self._properties.headers) or {}

    @property
    def _properties(self) -> Any:
        header = ContentHeader()
        try:
            header.unmarshal(self.header)
        except (ArithmeticError, LookupError, OSError, RecursionError, TypeError, struct.error) as problem:
            raise ValueError(f"the header of a message cannot be read: {problem}") from problem
        return header.properties


class DeliveryFrames:
    """Takes the deliveries of one channel out of what arrives on a connection, wherever that is cut into pieces.

    *lose* is called where that does not begin with a frame, as in the middle of one that the library has the rest of:
    nobody knows then what is a delivery, and all goes to the library.
    """

    def __init__(self, channel: int, take: Callable[[Delivered], None], lose: Callable[[str], None]) -> None:
        self._channel = channel
        self._take = take
        self._lose = lose
        self._is_lost = False
        self._rest = b""
        self._tag = 0
        self._header = b""
        self._missing = 0
        """Bytes of the body that have not come yet."""
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, and return what of it is for the client library: whole frames."""
        if self._is_lost:
            return data
        if self._rest:
            data = self._rest + data
        at, others = 0, []
        while len(data) - at >= _FRAME_BYTES:
            kind, channel, size = _FRAME.unpack_from(data, at)
            until = at + _FRAME_BYTES + size
            if kind not in _KINDS or (until <= len(data) and data[until - 1] != _END):
                self._is_lost = True
                self._lose("what the broker sent does not begin with a frame")
                others.append(data[at:])  # where it is none, the library has the words for it
                at = len(data)
                break
            if until > len(data):
                break
            payload = at + _FRAME.size
            if channel == self._channel and (kind != _METHOD or data.startswith(_DELIVER, payload)):
                self._take_frame(kind, data[payload : until - 1])
            else:
                others.append(data[at:until])
            at = until
        self._rest = data[at:]
        return b"".join(others)

    def flush(self) -> bytes:
        """Return what arrived of a frame that is not whole yet, and forget it."""
        rest, self._rest = self._rest, b""
        return rest

    def _take_frame(self, kind: int, payload: bytes) -> None:
        if kind == _METHOD:
            behind_name = len(_DELIVER) + 1 + payload[len(_DELIVER)]
            (self._tag,) = _TAG.unpack_from(payload, behind_name)
            return
        if kind == _HEADER:
            self._header, self._body = payload, []
            (self._missing,) = _TAG.unpack_from(payload, _BODY_SIZE_AT)
        elif kind == _BODY:
            self._body.append(payload)
            self._missing -= len(payload)
        if self._missing <= 0:
            self._take(Delivered(self._tag, self._header, b"".join(self._body)))


class Diverter(asyncio.Protocol):
    """Between a socket and the client library: takes out what is not for that."""

    def __init__(self, behind: asyncio.Protocol, frames: DeliveryFrames) -> None:
        self._behind = behind
        self._frames = frames
        self._heard_at = 0.0

    def data_received(self, data: bytes) -> None:
        """Take the deliveries, and hand on the rest."""
        others, now = self._frames.feed(data), asyncio.get_running_loop().time()
        if not others and now - self._heard_at >= HEARTBEAT_SECONDS:
            others = _HEARTBEAT
        if others:
            self._heard_at = now
            self._behind.data_received(others)

    def eof_received(self) -> bool | None:
        """Hand it on."""
        return self._behind.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand it on."""
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand it on."""
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        """Hand it on."""
        self._behind.resume_writing()


class Deliveries:
    """What one consumer is delivered, in order, until its channel or its connection ends."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._arrived: deque[Delivered] = deque()
        self._news = asyncio.Event()
        self._problem = ""
        self._channel: Any = None

    def __repr__(self) -> str:
        return f"<Deliveries of {self._queue}, {len(self._arrived)} arrived, {self._problem or 'open'}>"

    async def begin(self, channel: Any, arguments: Mapping[str, Any]) -> None:
        """Consume on *channel*; whoever diverts its deliveries calls ``take`` with each."""
        self._channel = channel
        channel.closing.add_done_callback(self._channel_closed)
        channel.on_consumer_cancel_callbacks.add(self._consumer_cancelled)
        await channel.basic_consume(self._queue, self._passed_by, arguments=dict(arguments))

    async def next(self, most: int) -> Sequence[Delivered]:
        """Return the next messages once there is one, up to *most*.

        Raises:
            BrokerUnreachable: consumer, channel or connection ended.

        """
        while not self._arrived and not self._problem:
            self._news.clear()
            await self._news.wait()
        if self._problem:
            raise BrokerUnreachable(self._problem)
        return [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]

    async def acknowledge(self, through: Delivered) -> None:
        """Let as many more come as there are up to *through*.

        Raises:
            BrokerUnreachable: the connection broke.

        """
        with translated(None, f"the queue {self._queue}"):
            await self._channel.basic_ack(through.tag, multiple=True)

    def take(self, message: Delivered) -> None:
        """Take a message that was delivered."""
        self._arrived.append(message)
        self._news.set()

    async def _passed_by(self, _message: object) -> None:
        self.lose("the client library got a message that was to be taken off the line before it")

    def _consumer_cancelled(self, _: object) -> None:
        self.lose(consumer_ended(self._queue))

    def _channel_closed(self, closing: "asyncio.Future[Any]") -> None:
        self.lose(connection_broke(closing))

    def lose(self, problem: str) -> None:
        """Return no message any more, because of *problem*."""
        self._problem = self._problem or problem
        self._news.set()


@asynccontextmanager
async def deliveries(
    connection: AbstractConnection, queue: str, *, prefetch: int, arguments: Mapping[str, Any]
) -> AsyncIterator[Deliveries]:
    """Consume *queue* while inside, with at most *prefetch* messages that are not acknowledged.

    One at a time on a connection: whoever ends first would take the line from the other.

    Raises:
        BrokerUnreachable: the connection broke, or there was no answer in time.
        TopologyMismatch: there is no such queue, or this user may not read it.

    """
    found, transport = Deliveries(queue), find_transport(connection)
    farewell_seconds: float | None = CLOSE_SECONDS  # who ends with a failure, or is cancelled, waits for nothing
    with translated(None, f"the queue {queue}"):
        async with in_time(connection):
            channel = await connection.channel(publisher_confirms=False)
            await channel.set_qos(prefetch_count=prefetch)
            underlay: Any = await channel.get_underlay_channel()
    frames = DeliveryFrames(underlay.number, found.take, found.lose)
    behind = cast("asyncio.Protocol", transport.get_protocol())
    transport.set_protocol(Diverter(behind, frames))
    try:
        with translated(None, f"the queue {queue}"):
            async with in_time(connection):
                await found.begin(underlay, arguments)
        yield found
        farewell_seconds = None  # as long as for any answer, since the connection is used on
    finally:
        # Nothing of this channel comes behind its end, so the library may have the line back.
        with suppress(BridgeError), translated(None):
            async with in_time(connection, farewell_seconds):
                await channel.close()
        transport.set_protocol(behind)
        if rest := frames.flush():
            behind.data_received(rest)
