"""The log as a plain reader finds it, and a bridge that writes it by the stream protocol."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
import orjson

from bridge.runtime.log_scan import MARK
from tests.support.rabbit import GivenBroker, PrivateBroker
from tests.support.site import Site, site

QUIET_SECONDS = 1.0
"""A reader that hears nothing for so long, after everything came, has read to the end."""


@dataclass
class Reading:
    """What was in the log, in order; the reader keeps nothing but its place."""

    events: list[dict[str, object]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [str(event["id"]) for event in self.events]

    @property
    def sequences(self) -> list[int]:
        return [int(str(event["sequence"])) for event in self.events if event["type"] == "pbx.account.changed"]

    @property
    def twice(self) -> int:
        return len(self.ids) - len(set(self.ids))


async def read_log(broker: PrivateBroker | GivenBroker, streams: Sequence[str], *, until: int) -> list[Reading]:
    """Read *streams* from their beginning, until *until* account changes came and then nothing more."""
    readings = [Reading() for _ in streams]
    arrived: asyncio.Queue[tuple[int, aio_pika.abc.AbstractIncomingMessage]] = asyncio.Queue()
    connection = await aio_pika.connect(broker.url)
    async with connection:
        for number, stream in enumerate(streams):
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=2000)
            queue = await channel.get_queue(stream, ensure=False)

            async def take(message: aio_pika.abc.AbstractIncomingMessage, number: int = number) -> None:
                await arrived.put((number, message))

            await queue.consume(take, arguments={"x-stream-offset": "first"})
        patience = 20.0
        while True:
            try:
                async with asyncio.timeout(patience):
                    number, message = await arrived.get()
            except TimeoutError:
                return readings
            await message.ack()
            if message.type == MARK:
                continue  # as every reader passes over what it does not know
            readings[number].events.append(orjson.loads(message.body))
            if sum(len(reading.sequences) for reading in readings) >= until:
                patience = QUIET_SECONDS


@asynccontextmanager
async def streamed_site(
    folder: Path, broker: PrivateBroker, *, accounts: int, round_trip_seconds: float = 0.0
) -> AsyncIterator[Site]:
    """A site whose bridge writes the log by the stream protocol."""
    async with site(folder, broker, accounts=accounts, round_trip_seconds=round_trip_seconds) as place:
        place.environment["BRIDGE_RABBITMQ_STREAM_URL"] = broker.stream_url
        yield place


def log_of(place: Site, partitions: int = 1) -> list[str]:
    """Return the names of the streams that are the log of *place*."""
    name = f"{place.exchange}.log"
    return [name] if partitions == 1 else [f"{name}-{number}" for number in range(partitions)]
