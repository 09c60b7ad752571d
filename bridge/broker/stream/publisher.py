"""Outbox rows to the log, by the stream protocol: the one place where the broker itself can hold each event once.

RabbitMQ keeps, for every named producer of a stream, its highest publishing id, together with what it wrote, and
drops what comes with an id that is not above it (and confirms it). So whatever was in doubt when a session died is
simply asked about by the next one, and goes on behind it; nothing lands twice.

The producer is called ``account-bridge.<generation>``: one for the store, not one for each source. A store's positions
ascend over all its sources, so one producer is enough, and a source that is renamed changes nothing. A connection has
256 producers at most, and the broker remembers only the 255 of a stream that wrote last (read in osiris 1.3,
``osiris_tracking``): a producer for each of hundreds of PBXs would sooner or later be forgotten. The generation is in
the name because a lost store begins to count again at 1, and an older copy of one gives numbers that were given before:
whatever such a store sends would be dropped as known. See ``store.lineage``.

As for the exchange, a session is used until the first failure of any kind and then thrown away whole. It holds an
AMQP connection too: for declaring, and for the fence, because two bridges with two stores would each write
everything.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractConnection
from rstream import schema
from rstream.encoding import encode_publish

from bridge.broker.connection import CLOSE_SECONDS, DEADLINE_SECONDS, connect, step
from bridge.broker.declare import provide_queue
from bridge.broker.errors import translation
from bridge.broker.fence import LateFences
from bridge.broker.session import ConfirmSession
from bridge.broker.stream.connection import StreamConnection, connect_stream
from bridge.broker.stream.errors import refusal
from bridge.broker.stream.message import stream_message
from bridge.broker.stream.partitions import choose_partition
from bridge.broker.topology import Topology
from bridge.errors import BridgeError, BrokerRefusedEvent, BrokerUnreachable
from bridge.events.cloudevents import APP_ID
from bridge.model import OutboxRow, SourceName

_FRAME_OVERHEAD_BYTES: Final = 64
"""More than the frame and a message in it take beside the message's bytes (13 and 12)."""

_MESSAGE_OVERHEAD_BYTES: Final = 12

_MUCH_OVERHEAD_BYTES: Final = 8192
"""More than a message can have beside its body: five names of at most 255 bytes each, four times where repeated."""

PRODUCER: Final = "account-bridge"

SUPER_STREAM_EXCHANGE: Final = {"x-super-stream": True}


def name_producer(generation: str) -> str:
    """Return the name under which a store of this generation writes."""
    return f"{PRODUCER}.{generation}"


class StreamPublisher:
    """Makes sessions. *urls* and *stream_urls* are asked for each of them, so that a changed password is used.

    *on_differences* is told in sentences what is there in another form. *producer* is asked for the name under which
    the broker remembers what it has: see ``name_producer``. *sources*, *name_fence* and the deadlines are those of
    ``ExchangePublisher``. *on_state* is told ``connecting`` and ``connected``; *on_progress* is called with every step
    on the way into a session, and while a session waits for the broker.
    """

    def __init__(  # noqa: PLR0913 - what an operator may say about a broker
        self,
        urls: Callable[[], Sequence[str]],
        stream_urls: Callable[[], Sequence[str]],
        *,
        topology: Topology,
        producer: Callable[[], str],
        is_declaring: bool = True,
        sources: Collection[SourceName] = (),
        on_differences: Callable[[Sequence[str]], None] = lambda _sentences: None,
        name_fence: Callable[[SourceName], str] | None = None,
        confirm_deadline_seconds: float = 30.0,
        deadline_seconds: float = DEADLINE_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
        ssl_context: ssl.SSLContext | None = None,
        on_state: Callable[[str], None] = lambda _state: None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._urls = urls
        self._stream_urls = stream_urls
        self._topology = topology
        self._producer = producer
        self._is_declaring = is_declaring
        self._sources = sources
        self._on_differences = on_differences
        self._name_fence = name_fence
        self._confirm_deadline_seconds = confirm_deadline_seconds
        self._ssl_context = ssl_context
        self._deadline_seconds = deadline_seconds
        self._close_seconds = close_seconds
        self._on_state = on_state
        self._on_progress = on_progress

    def __repr__(self) -> str:
        return f"<StreamPublisher {self._producer()} to {self._topology.log}>"

    def reconsider(self) -> None:
        """Take the news that what was refused may be taken now: a session knows by its connection alone what is not."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator["StreamSession"]:
        """Connect, check or declare the streams, take the fences, ask what is there already, and write while inside.

        Raises:
            BrokerUnreachable: no connection.
            BrokerRefusedLogin: user, password or virtual host are wrong.
            TopologyMismatch: the streams are not as they should be.
            BridgeError: from *urls* or *stream_urls*.

        """
        self._on_state("connecting")
        context, name = self._ssl_context, f"{APP_ID} log"
        deadline, close = self._deadline_seconds, self._close_seconds
        async with (
            connect(
                self._urls(),
                client_name=name,
                deadline_seconds=deadline,
                close_seconds=close,
                ssl_context=context,
                on_progress=self._on_progress,
            ) as amqp,
            connect_stream(
                self._stream_urls(),
                client_name=name,
                deadline_seconds=deadline,
                close_seconds=close,
                ssl_context=context,
            ) as streams,
        ):
            self._on_progress()
            self._on_differences(await provide_log(amqp, self._topology, is_declaring=self._is_declaring))
            session = await self._begin(amqp, streams)
            self._on_state("connected")
            async with session.watched(self._confirm_deadline_seconds):
                yield session

    async def _begin(self, amqp: AbstractConnection, streams: StreamConnection) -> "StreamSession":
        session = StreamSession(amqp, streams, self._topology, self._on_state, self._on_progress)
        session.fences = LateFences(amqp, self._topology, self._name_fence)
        await session.claim(self._sources)  # before the broker is asked what it has of us
        await session.open(self._producer())
        return session


async def provide_log(connection: AbstractConnection, topology: Topology, *, is_declaring: bool) -> Sequence[str]:
    """Make sure that the streams of the log are there, and where they are several, that they are a super stream.

    Returns in sentences what is there in another form.

    Raises:
        TopologyMismatch: something is missing, or not permitted.
        BrokerUnreachable: the connection broke.

    """
    is_super = topology.log_partitions > 1
    if is_super and is_declaring:
        async with step(connection, f"the exchange {topology.log}", topology) as channel:
            await channel.declare_exchange(
                topology.log, aio_pika.ExchangeType.DIRECT, durable=True, arguments=dict(SUPER_STREAM_EXCHANGE)
            )
    differences = []
    for number, name in enumerate(topology.log_streams):
        what = f"the stream {name}"
        if not is_declaring:
            async with step(connection, what, topology) as channel:
                await channel.declare_queue(name, passive=True)
        elif told := await provide_queue(connection, topology, what, name, topology.log_arguments):
            differences.append(told)
        if is_declaring and is_super:
            async with step(connection, f"a binding of {what}", topology) as channel:
                stream = await channel.get_queue(name, ensure=False)
                await stream.bind(topology.log, str(number), arguments={"x-stream-partition-order": number})
    return differences


class StreamSession(ConfirmSession):
    """The ``Session`` of ``delivery``, and what the broker had before it."""

    def __init__(
        self,
        amqp: AbstractConnection,
        streams: StreamConnection,
        topology: Topology,
        on_state: Callable[[str], None],
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(on_state, on_progress)
        self._amqp = amqp
        self._streams = streams
        self._topology = topology
        self._lasts: Sequence[int] = ()
        self._tags: dict[int, int] = {}
        """Publishing ids on their way, and the place of each in this session, from 1."""

    async def open(self, producer: str) -> None:
        """Become the producer of every stream, and learn what each has.

        Raises:
            BridgeError: what the broker refused, or a connection broke.

        """
        self._listen()
        self._lasts = [
            await self._streams.declare_publisher(number, producer, stream)
            for number, stream in enumerate(self._topology.log_streams)
        ]

    def _listen(self) -> None:
        self._streams.on_frame = self._on_frame
        self._streams.on_end = self.end
        transport: Any = self._amqp.transport
        if transport is None:
            raise BrokerUnreachable("the connection to the broker broke")
        transport.connection.closing.add_done_callback(self._on_fence_lost)

    @property
    def lasts(self) -> Sequence[int]:
        """The highest number that each stream of the log has of this producer, from before this session."""
        return self._lasts

    def choose_stream(self, row: OutboxRow) -> int:
        """Return the number of the stream that *row* belongs to."""
        return choose_partition(row, len(self._lasts))

    def explain_refusal(self, row: OutboxRow) -> BridgeError | None:
        """Return why *row* would be refused for good: it does not fit into a frame."""
        frame_max = self._streams.frame_max
        if len(row.body) + _MUCH_OVERHEAD_BYTES <= frame_max:
            return None
        if len(stream_message(row, exchange=self._topology.exchange)) + _FRAME_OVERHEAD_BYTES <= frame_max:
            return None
        return BrokerRefusedEvent(
            f"the log does not take an event as large as this one: {len(row.body)} bytes in a frame of at most "
            f"{frame_max}. Raise stream.frame_max in the broker's rabbitmq.conf"
        )

    async def _write(self, rows: Sequence[OutboxRow]) -> None:
        self._goes_out(rows)
        messages: dict[int, list[schema.Message]] = {}
        first = self._ledger.sent_count - len(rows) + 1
        for tag, row in enumerate(rows, first):
            data = stream_message(row, exchange=self._topology.exchange)
            self._tags[row.position] = tag
            message = schema.Message(publishing_id=row.position, filter_value=None, data=data)
            messages.setdefault(self._choose_producer(row), []).append(message)
        frame_max = self._streams.frame_max
        frames = [frame for number, some in messages.items() for frame in publish_frames(number, some, frame_max)]
        # The wait ends with the session at the latest, which the watchdog ends if nothing else does.
        await self._unless_ended(self._streams.write(b"".join(frames)))

    def _on_frame(self, frame: schema.Frame) -> None:
        if isinstance(frame, schema.PublishConfirm):
            self._on_confirm([self._tags.pop(number) for number in frame.publishing_ids if number in self._tags])
        elif isinstance(frame, schema.PublishError):
            code = frame.errors[0].response_code if frame.errors else 0
            self.end(refusal(code, "the stream port", self._name_stream(frame.publisher_id)))
        elif isinstance(frame, schema.MetadataUpdate):
            self.end(
                BrokerUnreachable(
                    f"the stream {frame.metadata_info.stream} is not there at the moment: it was deleted, or another "
                    "node takes over"
                )
            )

    def _choose_producer(self, row: OutboxRow) -> int:
        """Return the number of the producer that *row* is written under; here each stream has one."""
        return self.choose_stream(row)

    def _name_stream(self, producer: int) -> str:
        return self._topology.log_streams[producer]

    def _on_confirm(self, tags: list[int]) -> None:
        tags.sort()
        first = self._ledger.first
        if tags == list(range(first, first + len(tags))):
            self._tell(lambda: self._ledger.ack(tags[-1], multiple=True) if tags else None)
        else:
            for tag in tags:
                self._tell(partial(self._ledger.ack, tag, multiple=False))

    def _on_fence_lost(self, closing: "asyncio.Future[Any]") -> None:
        problem = asyncio.CancelledError() if closing.cancelled() else closing.exception()
        self.end(translation(problem or ConnectionError("closed")))


def publish_frames(publisher: int, messages: Sequence[schema.Message], frame_max: int) -> list[bytes]:
    """Return the frames that publish *messages*, none of them larger than *frame_max*."""
    frames: list[bytes] = []
    batch: list[schema.Message] = []
    size = _FRAME_OVERHEAD_BYTES
    for message in messages:
        needed = len(message.data) + _MESSAGE_OVERHEAD_BYTES
        if batch and size + needed > frame_max:
            frames.append(encode_publish(schema.Publish(publisher, batch)))
            batch, size = [], _FRAME_OVERHEAD_BYTES
        batch.append(message)
        size += needed
    if batch:
        frames.append(encode_publish(schema.Publish(publisher, batch)))
    return frames
