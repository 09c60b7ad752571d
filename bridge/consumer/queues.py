"""The queue of a subscriber: made where it is missing, in a form that loses nothing; used as it is where it exists."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import ChannelPreconditionFailed

from bridge.broker.connection import DEADLINE_SECONDS
from bridge.broker.errors import translated
from bridge.broker.topology import Subscription, Topology
from bridge.consumer.connection import log
from bridge.errors import TopologyMismatch

Step = Callable[[AbstractChannel], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A queue as its subscriber wants it."""

    queue: str
    exchange: str
    keys: Sequence[str]
    is_ordered: bool
    """A single active consumer: one at a time receives, the others stand by."""
    delivery_limit: int
    """Deliveries without an acknowledgement after which a message counts as poison."""


async def provide(connection: AbstractConnection, wanted: Wanted) -> None:
    """Make the queue, its dead-letter queue and its bindings where they are missing.

    A queue that exists in another form (made by the bridge, or by an administrator) is used as it is, and the
    difference is logged. Bindings are added, never removed.

    Raises:
        TopologyMismatch: something is missing that this user may not make.
        BrokerUnreachable: the connection broke.

    """
    exchange, dead_exchange = wanted.exchange, Topology(wanted.exchange).dead_letter_exchange
    form = Subscription(wanted.queue, delivery_limit=wanted.delivery_limit, is_ordered=wanted.is_ordered)
    dead = form.dead_letter_queue
    await _provide_exchange(connection, exchange, ExchangeType.TOPIC)
    await _provide_exchange(connection, dead_exchange, ExchangeType.DIRECT)
    await _provide_queue(connection, dead, {"x-queue-type": "quorum"})
    await _bind(connection, dead, dead_exchange, [wanted.queue])
    await _provide_queue(connection, wanted.queue, dict(form.arguments(dead_exchange)))
    await _bind(connection, wanted.queue, exchange, wanted.keys)


async def provide_temporary(connection: AbstractConnection, queue: str, exchange: str, keys: Sequence[str]) -> None:
    """Make a queue that only *connection* can read and that goes with it.

    Raises:
        TopologyMismatch: there is no such exchange, another connection holds a queue of this name, or this user may
            not make it.
        BrokerUnreachable: the connection broke.

    """
    async with _step(connection, f"the queue {queue}") as channel:
        await channel.declare_queue(queue, exclusive=True, auto_delete=True)
    await _bind(connection, queue, exchange, keys)


async def _provide_exchange(connection: AbstractConnection, name: str, kind: ExchangeType) -> None:
    async def make(channel: AbstractChannel) -> None:
        await channel.declare_exchange(name, kind, durable=True)

    async def find(channel: AbstractChannel) -> None:
        await channel.declare_exchange(name, kind, passive=True)

    await _make_or_find(connection, f"the exchange {name}", make, find)


async def _provide_queue(connection: AbstractConnection, name: str, arguments: dict[str, Any]) -> None:
    async def make(channel: AbstractChannel) -> None:
        await channel.declare_queue(name, durable=True, arguments=arguments)

    async def find(channel: AbstractChannel) -> None:
        await channel.declare_queue(name, passive=True)

    await _make_or_find(connection, f"the queue {name}", make, find)


async def _make_or_find(connection: AbstractConnection, what: str, make: Step, find: Step) -> None:
    try:
        async with _step(connection, what) as channel:
            await make(channel)
    except TopologyMismatch as refusal:
        try:
            async with _step(connection, what) as channel:
                await find(channel)
        except TopologyMismatch:
            raise refusal from None
        if isinstance(refusal.__cause__, ChannelPreconditionFailed):
            log.warning("topology.differs", extra={"what": what, "problem": str(refusal.__cause__)})


async def _bind(connection: AbstractConnection, queue: str, exchange: str, keys: Sequence[str]) -> None:
    async with _step(connection, f"a binding of the queue {queue} to the exchange {exchange}") as channel:
        bound = await channel.get_queue(queue, ensure=False)
        for key in keys:
            await bound.bind(exchange, key)


@asynccontextmanager
async def _step(connection: AbstractConnection, what: str) -> AsyncIterator[AbstractChannel]:
    """Open a channel for one thing, since a refusal closes its channel, and say what was refused."""
    with translated(None, what):
        async with asyncio.timeout(DEADLINE_SECONDS):
            channel = await connection.channel(publisher_confirms=False)
            yield channel
            await channel.close()
