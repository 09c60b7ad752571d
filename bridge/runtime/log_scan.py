"""The log, read to its end: which numbers it has, so that a store can tell whether it is the newest state of itself.

A stream tells of no end, and silence proves nothing. So a mark is put behind everything: an event that only the log
gets, through an exchange of its own, and that every reader passes over by its type. What was read when the mark comes
is all there was. The offset of the mark is where the next reading goes on. A mark tells which numbers were given when
it was put: a log that the bridge writes itself may be far behind the exchange, or not reached at all.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from uuid import uuid4

import aio_pika
import orjson
from aio_pika.abc import AbstractConnection

from bridge.broker.admin import private_exchange
from bridge.broker.connection import DEADLINE_SECONDS, permission_command
from bridge.broker.deliveries import Delivered, Deliveries, deliveries
from bridge.broker.errors import translated
from bridge.broker.topology import Topology
from bridge.errors import LogUnreadable, TopologyMismatch
from bridge.events.cloudevents import APP_ID, CONTENT_TYPE
from bridge.model import Numbers, SourceName
from bridge.store.lineage import read_birth
from bridge.store.records import LogContents

MARK: Final = "pbx.log.mark"
"""Type of the message that is put behind everything."""

Find = Callable[[Sequence[str]], Awaitable[None]]
"""Told ids of events that the log has."""

PREFETCH: Final = 200
"""Five times as many cost 8 µs of CPU for each instead of 11, and everything else waits while they are taken."""

PAGE: Final = PREFETCH // 2
"""Messages that are taken at a time, in a millisecond, before others have their turn."""

PATIENCE: Final = 3.0
"""Who is patient rests so many times as long as a page took. A fleet's first start reads back 50 000 events every 15 s:
the broker and this process had 2 s each time in which changes took twice as long."""

PATIENT_SECONDS: Final = 150.0
"""So long patience lasts: a quarter of the time that there is for all of it."""

REST_SECONDS: Final = 1.0
"""At most, behind one page: for one that took that long somebody waited, and nobody was busy."""

STALL_SECONDS: Final = 30.0
"""Without another message, before the end has come: the log cannot be read."""

PLACE_SECONDS: Final = 5.0
"""For the message at the place to go on from; a log that does not have it is read from its first message."""

WHOLE_SECONDS: Final = 600.0
"""For all of it: some ten million messages on a small machine, 57 µs each."""


async def scan_log(  # noqa: PLR0913 - what makes a reading
    connection: AbstractConnection,
    topology: Topology,
    *,
    places: Mapping[str, tuple[int, str]],
    find: Find | None = None,
    given: Mapping[SourceName, Numbers] = MappingProxyType({}),
    is_patient: bool = False,
    stall_seconds: float = STALL_SECONDS,
    on_progress: Callable[[], None] = lambda: None,
) -> LogContents:
    """Return what the log has behind *places*, or where one is unknown or not there any more, all it has.

    With *find* all of it is read, and that is told the ids of the events there, page by page. *given* is what the mark
    tells. Who *is_patient* leaves most of the time to others. *on_progress* is called again and again meanwhile.

    Raises:
        LogUnreadable: there is no log, this user may not read or mark it, or its end did not come in time.
        BrokerUnreachable: the connection broke.

    """
    found = _Found(find, given, on_progress)
    ends: dict[str, tuple[int, str]] = {}
    for stream in topology.log_streams:
        place = None if find is not None else places.get(stream)
        try:
            async with asyncio.timeout(WHOLE_SECONDS):
                patience = PATIENT_SECONDS if is_patient else 0.0
                ends[stream] = await _scan(connection, topology, stream, place, found, stall_seconds, patience)
        except TimeoutError as problem:
            raise LogUnreadable(f"the log {stream} could not be read to its end in time") from problem
        except TopologyMismatch as problem:
            raise LogUnreadable(f"the log {stream} cannot be read to its end: {problem}") from problem
    return LogContents(found.newest, places=ends)


@dataclass(slots=True)
class _Found:
    find: Find | None
    given: Mapping[SourceName, Numbers]
    on_progress: Callable[[], None]
    newest: dict[SourceName, Numbers] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    """Of what was read and not yet told."""

    def take(self, body: bytes) -> None:
        """Take note of an event, or of a mark; what is none of ours is passed over."""
        with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            event = orjson.loads(body)
            if event.get("type") == MARK:
                for name, (lineage, sequence, walk) in event["data"]["given"].items():
                    self._note(SourceName(str(name)), str(lineage), int(sequence), int(walk))
                return
            source = SourceName(str(event["source"]).removeprefix("/pbx/"))
            walk = event["data"].get("walk", 0)
            is_ours = self._note(source, str(event["lineage"]), int(event["sequence"]), int(walk))
            if is_ours and self.find is not None:
                self.ids.append(str(event["id"]))

    async def tell(self) -> None:
        """Tell which events there are."""
        if self.find is not None and self.ids:
            ids, self.ids = self.ids, []
            await self.find(ids)

    def _note(self, source: SourceName, lineage: str, sequence: int, walk: int) -> bool:
        """Take note of numbers, and return whether they are any: a former version's lineages had no order.

        Neither has one that somebody else made up, born on no day. It would hide whatever sorts before it.
        """
        numbers, newest = (lineage, sequence, walk), self.newest.get(source)
        if (newest is None or newest[0] != lineage) and read_birth(lineage) is None:
            return False
        self.newest[source] = numbers if newest is None else max(numbers, newest)
        return True


async def _scan(  # noqa: PLR0913, PLR0917 - private: the parts of one reading
    connection: AbstractConnection,
    topology: Topology,
    stream: str,
    place: tuple[int, str] | None,
    found: _Found,
    stall_seconds: float,
    patient_seconds: float,
) -> tuple[int, str]:
    mark = uuid4().hex
    await _put_mark(connection, topology, stream, mark, found.given)
    time = asyncio.get_running_loop().time
    patient_until = time() + patient_seconds
    async with _reading(connection, stream, place) as reading:
        unacknowledged, began_at = 0, time()
        while True:
            messages = await _next(reading, stall_seconds)
            for message in messages:
                if mark.encode() in message.header and message.message_id == mark:
                    await found.tell()
                    return _offset(message, stream), mark
                found.take(message.body)
            unacknowledged += len(messages)
            if unacknowledged >= PAGE:
                unacknowledged = 0
                found.on_progress()
                await found.tell()
                await reading.acknowledge(messages[-1])
                if (now := time()) < patient_until:
                    await asyncio.sleep(min((now - began_at) * PATIENCE, REST_SECONDS))
                began_at = time()


@asynccontextmanager
async def _reading(
    connection: AbstractConnection, stream: str, place: tuple[int, str] | None
) -> AsyncIterator[Deliveries]:
    """Yield what is behind *place*, or all there is where that is not in this log, or not any more."""
    if place is not None:
        async with _begin(connection, stream, place[0]) as reading:
            if await _is_at(reading, stream, place):
                yield reading
                return
    async with _begin(connection, stream, "first") as reading:
        yield reading


async def _is_at(reading: Deliveries, stream: str, place: tuple[int, str]) -> bool:
    with suppress(TimeoutError, ValueError):  # whatever has a header that cannot be read is no mark of ours
        (message,) = await _next(reading, PLACE_SECONDS, most=1)
        return (_offset(message, stream), message.message_id) == place
    return False


async def _put_mark(
    connection: AbstractConnection, topology: Topology, stream: str, mark: str, given: Mapping[SourceName, Numbers]
) -> None:
    what = f"a mark in the log {stream}"
    async with private_exchange(connection, topology, stream) as name:
        with translated(None, what, permission_command(connection, topology)):
            async with asyncio.timeout(DEADLINE_SECONDS):
                channel = await connection.channel(publisher_confirms=True)
                exchange = await channel.get_exchange(name, ensure=False)
                told = {"specversion": "1.0", "id": mark, "source": "/account-bridge", "type": MARK}
                message = aio_pika.Message(
                    orjson.dumps({**told, "data": {"given": dict(given)}}),
                    type=MARK,
                    message_id=mark,
                    content_type=CONTENT_TYPE,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    app_id=APP_ID,
                )
                await exchange.publish(message, "")
                await channel.close()


def _begin(connection: AbstractConnection, stream: str, offset: str | int) -> AbstractAsyncContextManager[Deliveries]:
    return deliveries(connection, stream, prefetch=PREFETCH, arguments={"x-stream-offset": offset})


async def _next(reading: Deliveries, seconds: float, *, most: int = PAGE) -> Sequence[Delivered]:
    async with asyncio.timeout(seconds):
        return await reading.next(most)


def _offset(message: Delivered, stream: str) -> int:
    offset = message.headers.get("x-stream-offset")
    if not isinstance(offset, int):
        raise TopologyMismatch(f"the queue {stream} is no stream, so it cannot be the log")
    return offset
