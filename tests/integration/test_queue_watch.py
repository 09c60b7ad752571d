import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractConnection

from bridge.broker.connection import connect
from bridge.broker.declare import declare
from bridge.broker.queue_watch import LOOK_SECONDS, Missed, QueueWatch
from bridge.broker.topology import Subscription, Topology
from bridge.errors import TopologyMismatch
from tests.support.rabbit import PrivateBroker

AT = datetime(2026, 11, 28, 20, tzinfo=UTC)


@pytest.fixture
def topology() -> Topology:
    name = f"pbx.accounts.{uuid4().hex[:8]}"
    queues = [Subscription(f"{name}.{short}") for short in ("crm", "hr")]
    return Topology(exchange=name, subscriptions=queues)


@asynccontextmanager
async def connected(broker: PrivateBroker) -> AsyncIterator[AbstractConnection]:
    async with asyncio.timeout(60), connect([broker.url], client_name="test") as connection:
        yield connection


async def is_there(connection: AbstractConnection, topology: Topology, queue: str) -> bool:
    """Tell whether *queue* is there and gets what is published."""
    try:
        async with await connection.channel() as channel:
            found = await channel.declare_queue(queue, passive=True)
            exchange = await channel.get_exchange(topology.exchange, ensure=False)
            await exchange.publish(Message(b"told"), "hq.account.created")
            return await found.get(no_ack=True, fail=False) is not None
    except Exception:  # noqa: BLE001 - it is not there
        return False


async def test_a_deleted_queue_is_made_again_and_since_when_it_missed_is_told(
    broker: PrivateBroker, topology: Topology
) -> None:
    """Seen by looking, while nobody restarts anything; the others are left alone."""
    crm, _ = topology.queues
    told: list[Missed] = []
    watch = QueueWatch(topology, on_missed=told.append)
    async with connected(broker) as connection:
        await watch.provide(connection)
        begun = datetime.now(UTC)
        looking = asyncio.create_task(watch.keep_looking(lambda: [broker.url], look_seconds=0.2))
        await asyncio.sleep(0)
        for queue in (crm, topology.log):
            # Between looks: in the midst of one it would be made again unseen.
            async with watch._turn, await connection.channel() as channel:  # noqa: SLF001 - see above
                await channel.queue_delete(queue)
            async with asyncio.timeout(30):
                while not told or told[-1].queue != queue:
                    await asyncio.sleep(0.05)
        assert await is_there(connection, topology, crm)
        looking.cancel()
        await asyncio.wait([looking])
    crms, log = told
    assert crms.until is not None
    assert begun - timedelta(seconds=5) <= crms.since <= crms.until <= datetime.now(UTC)
    assert f"replay --queue {crm} --since" in crms.words
    assert log.is_log
    assert log.words.startswith(f"The log {topology.log} was deleted after")
    assert LOOK_SECONDS <= 60, "a deleted queue is noticed within a minute"


async def test_a_deleted_queue_of_dead_letters_is_told_as_what_it_is(broker: PrivateBroker, topology: Topology) -> None:
    crm, _ = topology.queues
    told: list[Missed] = []
    watch = QueueWatch(topology, on_missed=told.append, clock=lambda: AT)
    async with connected(broker) as connection:
        await watch.provide(connection)
        async with await connection.channel() as channel:
            await channel.queue_delete(f"{crm}.dead")
        await watch.provide(connection)
        await watch.provide(connection)
        async with await connection.channel() as channel:
            await channel.declare_queue(f"{crm}.dead", passive=True)
    assert told == [Missed(f"{crm}.dead", AT, AT, dead_letters_of=crm)], "once"
    assert "what was put aside in it is gone" in told[0].words
    assert told[0].words.endswith(f"account-bridge snapshot --queue {crm}")


async def test_a_queue_that_was_deleted_between_two_sessions_is_told_as_well(
    broker: PrivateBroker, topology: Topology
) -> None:
    crm, hr = topology.queues
    told: list[Missed] = []
    moments = iter([AT, AT + timedelta(minutes=5), AT + timedelta(minutes=6)])
    watch = QueueWatch(topology, on_missed=told.append, clock=lambda: next(moments))
    async with connected(broker) as connection:
        await watch.provide(connection)
        async with await connection.channel() as channel:
            await channel.queue_delete(crm)
        await watch.provide(connection)
        await watch.provide(connection)
        assert await is_there(connection, topology, crm)
        assert await is_there(connection, topology, hr)
    assert told == [Missed(crm, AT, AT + timedelta(minutes=5))]


async def test_without_declaring_a_deleted_queue_is_told_and_nothing_is_made(
    broker: PrivateBroker, topology: Topology
) -> None:
    crm, _ = topology.queues
    told: list[Missed] = []
    watch = QueueWatch(topology, is_declaring=False, on_missed=told.append, clock=lambda: AT)
    async with connected(broker) as connection:
        await declare(connection, topology)
        await watch.provide(connection)
        async with await connection.channel() as channel:
            await channel.queue_delete(crm)
        for _ in range(2):
            await watch.provide(connection)  # whoever publishes goes on: the other queues have done nothing
        assert told == [Missed(crm, AT, None)], "once"
        assert "rabbitmq.declare = false the bridge does not" in told[0].words
        assert not await is_there(connection, topology, crm)
        await declare(connection, topology)
        await watch.provide(connection)
    assert told[1:] == [Missed(crm, AT, AT)], "somebody made it again"


async def test_without_declaring_a_queue_that_was_never_there_is_a_mistake(
    broker: PrivateBroker, topology: Topology
) -> None:
    crm, _ = topology.queues
    watch = QueueWatch(topology, is_declaring=False)
    async with connected(broker) as connection:
        await declare(connection, topology)
        async with await connection.channel() as channel:
            await channel.queue_delete(crm)
        with pytest.raises(TopologyMismatch, match=r"crm does not exist"):
            await watch.provide(connection)


async def test_a_binding_that_somebody_took_away_is_made_again(broker: PrivateBroker, topology: Topology) -> None:
    crm, _ = topology.queues
    watch = QueueWatch(topology)
    async with connected(broker) as connection:
        await watch.provide(connection)
        async with await connection.channel() as channel:
            await (await channel.get_queue(crm)).unbind(topology.exchange, "*.account.*")
        assert not await is_there(connection, topology, crm)
        await watch.provide(connection)
        assert await is_there(connection, topology, crm)


async def test_what_differs_is_told_each_time_in_full(broker: PrivateBroker, topology: Topology) -> None:
    crm, _ = topology.queues
    told: list[int] = []
    watch = QueueWatch(topology, on_differences=lambda sentences: told.append(len(sentences)))
    async with connected(broker) as connection:
        async with await connection.channel() as channel:
            await channel.declare_queue(crm, durable=True, arguments={"x-queue-type": "quorum"})
        await watch.provide(connection)
        async with await connection.channel() as channel:
            await channel.queue_delete(crm)
        await watch.provide(connection)
    assert told == [1, 0]
