"""The log by the stream protocol: the same entries as by AMQP 0-9-1, several times as fast."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self, cast

from rstream import schema
from rstream.amqp import amqp_decoder
from rstream.constants import OffsetType

from bridge.consumer.client import Start
from bridge.consumer.session import Inflow
from bridge.streams import StreamConnection

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

CHUNKS: Final = 4
"""Under way at most: the broker sends whole chunks, of up to some thousand entries."""


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
