"""Declaring what the bridge wants at the broker: made where it is missing, used as it is where it exists."""

from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import aio_pika
import aiormq.exceptions as amqp
from aio_pika.abc import AbstractConnection

from bridge.broker.connection import step
from bridge.broker.differences import SINGLE_ACTIVE_CONSUMER, Difference, difference_in, sentence_of
from bridge.broker.errors import name_vhost
from bridge.broker.topology import Subscription, Topology
from bridge.errors import BrokerUnreachable, TopologyMismatch


async def declare(connection: AbstractConnection, topology: Topology) -> Sequence[str]:
    """Make sure that everything in *topology* is there, and return what is there in another form, in sentences.

    That is used as it is: nobody's change of a setting is a reason to stop publishing.

    Raises:
        TopologyMismatch: the exchange is of another type, or something may not be declared by this user.
        BrokerUnreachable: the connection broke, or the broker is still starting.

    """
    try:
        return [told async for told in _declare(connection, topology)]
    except TopologyMismatch as problem:
        if isinstance(problem.__cause__, amqp.ChannelNotFoundEntity):
            # A starting broker lets clients in before it has found all of its queues again.
            raise BrokerUnreachable(f"the broker is still starting: {problem}") from problem
        raise


async def _declare(connection: AbstractConnection, topology: Topology) -> AsyncGenerator[str, None]:
    name = topology.exchange
    async for told in _provide_exchange(connection, topology, name, aio_pika.ExchangeType.TOPIC):
        yield told
    if topology.is_log_bound:
        told = await provide_queue(
            connection, topology, f"the stream {topology.log}", topology.log, topology.log_arguments
        )
        if told:
            yield told
        async with step(connection, f"a binding of the stream {topology.log}", topology) as channel:
            stream = await channel.get_queue(topology.log, ensure=False)
            await stream.bind(name, "#")
    elif topology.has_log:
        # It may still be bound from former times, and would have everything twice. No error where it is not.
        async with step(connection, f"the binding of the stream {topology.log}", topology) as channel:
            former = await channel.get_queue(topology.log, ensure=False)
            await former.unbind(name, "#")
    for subscription in topology.subscriptions:
        async for told in _declare_subscription(connection, topology, subscription):
            yield told


async def _declare_subscription(
    connection: AbstractConnection, topology: Topology, wanted: Subscription
) -> AsyncGenerator[str, None]:
    dead, dead_exchange = wanted.dead_letter_queue, topology.dead_letter_exchange
    indifferent = frozenset([SINGLE_ACTIVE_CONSUMER]) if wanted.is_ordered is None else frozenset[str]()
    async for told in _provide_exchange(connection, topology, dead_exchange, aio_pika.ExchangeType.DIRECT):
        yield told
    for queue, arguments, exchange, keys in (
        (dead, {"x-queue-type": wanted.queue_type}, dead_exchange, [wanted.queue]),
        (wanted.queue, wanted.arguments(dead_exchange), topology.exchange, wanted.keys),
    ):
        what = f"the queue {queue}"
        try:
            if told := await provide_queue(connection, topology, what, queue, arguments, indifferent):
                yield told
        except TopologyMismatch as problem:
            if not isinstance(problem.__cause__, amqp.ChannelLockedResource):
                raise
            yield (
                f"The queue {queue} belongs to one connection alone (exclusive), so the bridge cannot bind it. Have "
                "its subscriber declare it durable and not exclusive"
            )
            continue
        async with step(connection, f"a binding of {what}", topology) as channel:
            bound = await channel.get_queue(queue, ensure=False)
            for key in keys:
                await bound.bind(exchange, key)


async def _provide_exchange(
    connection: AbstractConnection, topology: Topology, name: str, kind: aio_pika.ExchangeType
) -> AsyncGenerator[str, None]:
    try:
        async with step(connection, f"the exchange {name}", topology) as channel:
            await channel.declare_exchange(name, kind, durable=True)
    except TopologyMismatch as problem:
        told = difference_in(str(problem.__cause__))
        if told is None or told.argument == "type":
            raise
        yield f"The exchange {name} exists in another form and is used as it is: {told.words}"


async def provide_queue(  # noqa: PLR0913, PLR0917 - a queue, as somebody wants it
    connection: AbstractConnection,
    topology: Topology,
    what: str,
    name: str,
    arguments: Mapping[str, Any],
    indifferent: Container[str] = (),
) -> str:
    """Make a durable queue where there is none, and return in a sentence what differs where there is another.

    Of *indifferent* arguments it makes no difference.

    Raises:
        TopologyMismatch: this user may not.
        BrokerUnreachable: the connection broke.

    """
    found: list[Difference] = []
    properties: dict[str, Any] = {"durable": True, "exclusive": False, "auto_delete": False}
    tried = dict(arguments)
    while True:
        try:
            async with step(connection, what, topology) as channel:
                await channel.declare_queue(name, arguments=tried, **properties)
            break
        except TopologyMismatch as problem:
            told = difference_in(str(problem.__cause__))
            if told is None or any(told.argument == known.argument for known in found):
                raise
        # The broker tells the first difference only. With that one out of the way it tells the next.
        found.append(told)
        if told.argument in properties:
            properties[told.argument] = told.found
        elif told.found is None:
            tried.pop(told.argument, None)
        else:
            tried[told.argument] = told.found
    found = [told for told in found if told.argument not in indifferent]
    return sentence_of(what, name, found, name_vhost(str(getattr(connection, "url", "")))) if found else ""


async def verify(
    connection: AbstractConnection, topology: Topology, *, without: AbstractSet[str] = frozenset()
) -> None:
    """Look for everything in *topology* but the queues *without* and change nothing, which takes no rights at all.

    The broker tells only whether there is something of that name: not of which type, and not how it is bound. What a
    wrong exchange does not deliver comes back when it is published, and is held.

    Raises:
        TopologyMismatch: something is missing.
        BrokerUnreachable: the connection broke.

    """
    async with step(connection, f"the exchange {topology.exchange}", topology) as channel:
        await channel.declare_exchange(topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True, passive=True)
    for queue in [topology.log] * topology.is_log_bound + [name for name in topology.queues if name not in without]:
        async with step(connection, f"the queue {queue}", topology) as channel:
            await channel.declare_queue(queue, passive=True)
