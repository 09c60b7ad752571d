"""The log by the stream protocol: the same entries as by AMQP 0-9-1, several times as fast.

Replicas take turns by RabbitMQ's single active consumer: all subscribe under one name, the broker tells one of them
that it is active, and asks it where to begin. An older broker ignores the wish and sends everything to each of them,
so it is asked for its version first.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self, cast

from rstream import schema
from rstream.amqp import amqp_decoder
from rstream.constants import Key, OffsetType

from bridge.broker.stream.connection import StreamConnection
from bridge.consumer.connection import Inflow, log
from bridge.consumer.subscriber import Start
from bridge.errors import BrokerUnreachable, TopologyMismatch

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

CHUNKS: Final = 4
"""Under way at most: the broker sends whole chunks, of up to some thousand entries."""

SINGLE_ACTIVE_SINCE: Final = (3, 11)
"""The first RabbitMQ that has single active consumer for streams; 3.10 takes the wish and does not heed it."""

STAND_BY_SECONDS: Final = 1.0
"""A replica that is not active after so long says that it stands by."""

_CONSUMER_UPDATE_ANSWER: Final = Key.ConsumerUpdate.value | 0x8000
"""rstream's own frame for it has an offset even where the protocol has none."""

_WELL: Final = 1


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """One entry, by the names that AMQP 0-9-1 has for its parts."""

    headers: Mapping[str, Any]
    body: bytes
    type: str | None
    message_id: str | None
    routing_key: str | None
    inflow: "StreamInflow"

    async def ack(self, *, multiple: bool) -> None:
        """Let the broker send on for all that was received up to this entry; there is nothing else to acknowledge."""
        del multiple
        await self.inflow.taken(self.headers["x-stream-offset"])


class StreamInflow(Inflow):
    """What one subscription receives, in order, until it is stopped or its connection ends."""

    def __init__(self, stream: str, connection: StreamConnection) -> None:
        super().__init__(stream)
        self._connection = connection
        self._ends: deque[int] = deque()
        """Of each chunk that is not dealt with, the offset of its last entry."""
        self._turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Of a replica: the number of the broker's question where it is to begin."""

    @classmethod
    async def subscribe(cls, connection: StreamConnection, stream: str, start: Start) -> Self:
        """Begin to receive *stream* at *start*.

        Raises:
            BrokerUnreachable: the connection broke.
            TopologyMismatch: there is no such stream, or this user may not read it.

        """
        inflow = cls(stream, connection)
        connection.on_frame = inflow._on_frame
        connection.on_end = lambda failure: inflow._lose(str(failure))
        await connection.subscribe(stream, _offset(start), CHUNKS)
        return inflow

    @classmethod
    async def stand_by(cls, connection: StreamConnection, stream: str, name: str) -> Self:
        """Return once the broker has made this the one that reads, of all that share *name*; ``begin`` then receives.

        Raises:
            BrokerUnreachable: the connection broke.
            TopologyMismatch: this broker has no single active consumer for streams, there is no such stream, or this
                user may not read it.

        """
        if connection.version < SINGLE_ACTIVE_SINCE:
            version = ".".join(map(str, connection.version)) or "of an unknown version"
            raise TopologyMismatch(
                f"RabbitMQ {version} has no single active consumer for streams, so that "
                "replicas would all read at once by the stream protocol: upgrade it to 3.11 or newer, or give the "
                "reader an URL that begins with amqp, by which replicas take turns at any version"
            )
        inflow = cls(stream, connection)
        turn = inflow._turn
        connection.on_frame = inflow._on_frame
        connection.on_end = lambda failure: inflow._lose(str(failure))
        properties = {"single-active-consumer": "true", "name": name}
        await connection.subscribe(stream, _offset("next"), CHUNKS, properties)  # where to begin is asked later
        await asyncio.wait({turn}, timeout=STAND_BY_SECONDS)
        if not turn.done():
            log.info("reader.stands_by", extra={"turn": f"{stream}, {name}"})
        await turn
        return inflow

    async def begin_at(self, start: Start) -> Self:
        """Answer the broker, which has made this the active one, where to begin.

        Raises:
            BrokerUnreachable: the connection broke.

        """
        spec = _offset(start)
        value = getattr(spec, "value", None)
        body = struct.pack(">HHIHH", _CONSUMER_UPDATE_ANSWER, 1, self._turn.result(), _WELL, spec.offset_type)
        body += b"" if value is None else struct.pack(">q", value)
        await self._connection.write(struct.pack(">I", len(body)) + body)
        return self

    async def taken(self, offset: int) -> None:
        """Say that everything up to *offset* is dealt with.

        Raises:
            BrokerUnreachable: the connection broke.

        """
        done = 0
        while self._ends and self._ends[0] <= offset:
            self._ends.popleft()
            done += 1
        if done:
            await self._connection.grant(done)

    async def finish(self) -> None:
        """Receive no more."""
        self.stop()

    def _on_frame(self, frame: schema.Frame) -> None:
        if isinstance(frame, schema.MetadataUpdate):
            self._lose("the stream is not there at the moment: it was deleted, or another node takes over")
        elif isinstance(frame, schema.ConsumerUpdateResponse):
            if frame.active and not self._turn.done():
                self._turn.set_result(frame.correlation_id)
            else:
                self._lose("the broker lets another replica read")
        elif isinstance(frame, schema.Deliver):
            messages = frame.get_messages()
            if not messages:
                task = asyncio.ensure_future(self._connection.grant(1))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                return
            self._ends.append(frame.chunk_first_offset + len(messages) - 1)
            for place, data in enumerate(messages):
                record = self._record(frame.chunk_first_offset + place, data)
                # The readers of both protocols use the same few names of it.
                self._arrived.append(cast("AbstractIncomingMessage", record))
            self._news.set()

    def _lose(self, problem: str) -> None:
        super()._lose(problem)
        if not self._turn.done():
            self._turn.set_exception(BrokerUnreachable(problem))
            self._turn.exception()  # looked at: nobody may be waiting

    def _record(self, offset: int, data: bytes) -> StreamRecord:
        message = amqp_decoder(bytes(data))
        told = {_text(key): _text(value) for key, value in (message.application_properties or {}).items()}
        properties = message.properties
        return StreamRecord(
            headers={"x-stream-offset": offset, **told},
            body=message.body if isinstance(message.body, bytes) else b"",  # then it is no event, and passed over
            type=told.get("x-basic-type", told.get("type")),
            message_id=_text(properties.message_id) if properties and properties.message_id is not None else None,
            routing_key=told.get("routing_key"),
            inflow=self,
        )


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _offset(start: Start) -> schema.OffsetSpec:
    if isinstance(start, datetime):
        return schema.OffsetSpec.from_params(OffsetType.TIMESTAMP, int(start.timestamp() * 1000))
    if isinstance(start, int):
        return schema.OffsetSpec.from_params(OffsetType.OFFSET, start)
    kinds = {"first": OffsetType.FIRST, "last": OffsetType.LAST, "next": OffsetType.NEXT}
    return schema.OffsetSpec.from_params(kinds[start], None)
