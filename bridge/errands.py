"""What operators' commands do at the broker: look, and lead events to one queue. None of it is needed to publish."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from bridge.broker import Subscription, Topology, step

LOG_FIRST_SECONDS: Final = 1.0
"""How long to wait for the first message at the end of the log; an empty one has none."""
LOG_TAIL_SECONDS: Final = 0.2
"""And for each one behind it."""
LOG_TAIL_MESSAGES: Final = 10_000
"""More than any chunk has."""


def server_of(connection: AbstractConnection) -> str:
    """Return what the broker says about itself."""
    transport: Any = connection.transport
    properties: Mapping[str, Any] = {} if transport is None else transport.connection.server_properties
    return f"{properties.get('product', 'a broker')} {properties.get('version', 'of unknown version')}"


async def may_publish(connection: AbstractConnection, topology: Topology) -> None:
    """Return if this user may publish to the exchange; what is tried for that reaches nobody.

    Raises:
        TopologyMismatch: this user may not.
        BrokerUnreachable: the connection broke.

    """
    async with step(connection, f"the exchange {topology.exchange}", topology) as channel:
        underlying: Any = await channel.get_underlay_channel()
        await underlying.tx_select()
        await underlying.basic_publish(b"", exchange=topology.exchange, routing_key="account-bridge.check")
        await underlying.tx_rollback()  # before which nothing is delivered


async def depth(connection: AbstractConnection, topology: Topology, queue: str) -> tuple[int, int]:
    """Return how many messages wait in a queue, and how many consumers read it.

    Raises:
        TopologyMismatch: there is no such queue.
        BrokerUnreachable: the connection broke.

    """
    async with step(connection, f"the queue {queue}", topology) as channel:
        declared = (await channel.declare_queue(queue, passive=True)).declaration_result
        return declared.message_count or 0, declared.consumer_count or 0


async def newest_in_log(connection: AbstractConnection, topology: Topology) -> Sequence[bytes]:
    """Return the messages at the end of the log, the last one among them; none where it is empty.

    The broker keeps a stream in chunks and tells of no end: what comes at once is the last chunk.

    Raises:
        TopologyMismatch: there is no log, or this user may not read it.
        BrokerUnreachable: the connection broke.

    """
    came: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    found: list[bytes] = []
    async with step(connection, f"the stream {topology.log}", topology) as channel:
        await channel.set_qos(prefetch_count=LOG_TAIL_MESSAGES)
        stream = await channel.declare_queue(topology.log, passive=True)
        tag = await stream.consume(came.put, arguments={"x-stream-offset": "last"})
        with suppress(TimeoutError):
            while len(found) < LOG_TAIL_MESSAGES:
                async with asyncio.timeout(LOG_TAIL_SECONDS if found else LOG_FIRST_SECONDS):
                    message = await came.get()
                await message.ack()
                found.append(message.body)
        await stream.cancel(tag)
    return found


@asynccontextmanager
async def detour(connection: AbstractConnection, topology: Topology, queue: str) -> AsyncIterator[str]:
    """Make an exchange that leads to *queue* and nowhere else, as long as inside; yields its name.

    Its name begins like that of the real one, so that the same permissions do. The default exchange would need another.

    Raises:
        TopologyMismatch: there is no such queue, or this user may not bind it.
        BrokerUnreachable: the connection broke.

    """
    name = f"{topology.exchange}.detour.{uuid4().hex[:12]}"
    wanted = replace(topology, subscriptions=[Subscription(queue)])
    async with step(connection, f"the queue {queue}", wanted) as channel:
        await channel.declare_queue(queue, passive=True)
    async with step(connection, f"a binding of the queue {queue} to the exchange {name}", wanted) as channel:
        exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.FANOUT, auto_delete=True)
        bound = await channel.get_queue(queue, ensure=False)
        await bound.bind(exchange)
    try:
        yield name
    finally:
        async with step(connection, f"the exchange {name}", wanted) as channel:
            await channel.exchange_delete(name)
