"""What operators' commands do at the broker: look, and lead events to one queue. None of it is needed to publish."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import aio_pika
from aio_pika.abc import AbstractConnection

from bridge.broker.connection import step
from bridge.broker.topology import Subscription, Topology


def describe_server(connection: AbstractConnection) -> str:
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


@asynccontextmanager
async def private_exchange(connection: AbstractConnection, topology: Topology, queue: str) -> AsyncIterator[str]:
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
