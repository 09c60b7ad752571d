"""A plain consumer that writes down every delivery of one queue, in order."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import aio_pika

from tests.support.rabbit import PrivateBroker

_END = b"the end of this queue"


@dataclass
class Witness:
    """What a queue has held, read to its end."""

    deliveries: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.deliveries]

    @property
    def first_deliveries(self) -> list[dict[str, Any]]:
        """Each event where it came first."""
        seen: dict[str, dict[str, Any]] = {}
        for event in self.deliveries:
            seen.setdefault(event["id"], event)
        return list(seen.values())

    @property
    def sequences(self) -> list[int]:
        return [int(event["sequence"]) for event in self.first_deliveries]


async def bind(broker: PrivateBroker, exchange: str, queue: str, key: str = "*.account.*") -> None:
    """Make the exchange and a quorum queue that takes every account change, or what has another *key*."""
    connection = await aio_pika.connect(broker.url)
    async with connection:
        channel = await connection.channel()
        declared = await channel.declare_exchange(exchange, "topic", durable=True)
        made = await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
        await made.bind(declared, key)


async def read(broker: PrivateBroker, queue: str, *, until: int) -> Witness:
    """Read until *until* different events came, and then to the end of the queue.

    A last message of our own says where that is: a queue that is empty may have sent what did not arrive yet.
    """
    witness = Witness()
    connection = await aio_pika.connect(broker.url)
    async with connection, asyncio.timeout(60):
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=500)
        declared = await channel.declare_queue(queue, passive=True)
        arrived: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
        await declared.consume(arrived.put, no_ack=True)
        while len(set(witness.ids)) < until:
            witness.deliveries.append(json.loads((await arrived.get()).body))
        await channel.default_exchange.publish(aio_pika.Message(_END), queue)
        while (last := (await arrived.get()).body) != _END:
            witness.deliveries.append(json.loads(last))
    return witness
