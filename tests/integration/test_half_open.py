"""A broker that is there and says nothing any more, from any moment on: every wait ends in its time.

A proxy passes on so many chunks of what the bridge sends, one more in each turn, and from then on takes nothing from
anybody; nobody is told. That makes every step of connecting, declaring, fencing, sending, fencing late,
confirming and closing the last one that is heard of.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from bridge.broker.connection import connect
from bridge.broker.publisher import ExchangePublisher
from bridge.broker.stream.publisher import StreamPublisher
from bridge.broker.topology import Subscription, Topology
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerUnreachable
from bridge.model import OutboxRow, SourceName
from tests.support.outcomes import all_confirmed
from tests.support.proxy import Proxy
from tests.support.rabbit import PrivateBroker
from tests.support.rows import HQ

STEP_SECONDS, CONFIRM_SECONDS, CLOSE_SECONDS = 0.4, 0.8, 0.3
LONGEST_SECONDS = 5.0
"""One step that is not answered, one farewell for each of two connections, and time for a busy machine."""

SMALL_CHUNKS, CHUNKS_OF_A_LARGE_ROW = 25, 40
"""What is small goes in one chunk each; of the large row not every one is worth a turn."""

BRANCH = SourceName("branch")


def rows(count: int, *, source: SourceName = HQ, first: int = 1, size: int = 200) -> list[OutboxRow]:
    now = datetime.now(UTC)
    return [
        OutboxRow(number, source, number, str(uuid4()), "pbx.account.changed", "x.account.created", b"x" * size, now)
        for number in range(first, first + count)
    ]


async def exchange_session(_broker: PrivateBroker, proxy: Proxy) -> None:
    name = f"pbx.accounts.{uuid4().hex[:8]}"
    publisher = ExchangePublisher(
        lambda: [f"amqp://guest:guest@127.0.0.1:{proxy.port}/"],
        topology=Topology(
            exchange=name, has_log=False, subscriptions=(Subscription(f"{name}.q", queue_type="classic"),)
        ),
        sources=[HQ],
        name_fence=lambda source: f"{name}.writer.{source}",
        deadline_seconds=STEP_SECONDS,
        confirm_deadline_seconds=CONFIRM_SECONDS,
        close_seconds=CLOSE_SECONDS,
    )
    async with publisher.session() as session:
        await session.send(rows(5))
        await all_confirmed(session, 5)
        await session.send(rows(5, source=BRANCH))  # a source that nobody knew of
        await session.send(rows(1, size=12_000_000))  # more than fits between here and there
        await all_confirmed(session, 6)


async def log_session(broker: PrivateBroker, proxy: Proxy, *, is_stream: bool) -> None:
    name = f"pbx.accounts.{uuid4().hex[:8]}"
    ports = (broker.port, proxy.port) if is_stream else (proxy.port, broker.stream_port)
    publisher = StreamPublisher(
        lambda: [f"amqp://guest:guest@127.0.0.1:{ports[0]}/"],
        lambda: [f"rabbitmq-stream://guest:guest@127.0.0.1:{ports[1]}/"],
        topology=Topology(exchange=name, log_partitions=1, log_max_bytes=10_000_000),
        producer=lambda: "account-bridge.test",
        sources=[HQ],
        name_fence=lambda source: f"{name}.log.writer.{source}",
        deadline_seconds=STEP_SECONDS,
        confirm_deadline_seconds=CONFIRM_SECONDS,
        close_seconds=CLOSE_SECONDS,
    )
    async with publisher.session() as session:
        await session.send(rows(5))
        await all_confirmed(session, 5)
        await session.send(rows(5, source=BRANCH, first=6))
        await session.send(rows(15, first=11, size=900_000))
        await all_confirmed(session, 20)


async def log_session_by_its_stream(broker: PrivateBroker, proxy: Proxy) -> None:
    await log_session(broker, proxy, is_stream=True)


async def log_session_by_its_fences(broker: PrivateBroker, proxy: Proxy) -> None:
    await log_session(broker, proxy, is_stream=False)


@pytest.mark.parametrize(
    ("session", "is_stream", "at_least"),
    [
        (exchange_session, False, 20),
        (log_session_by_its_stream, True, 8),
        (log_session_by_its_fences, False, 12),
    ],
)
async def test_a_broker_that_falls_silent_at_any_step_is_given_up_in_time(
    broker: PrivateBroker,
    session: Callable[[PrivateBroker, Proxy], Awaitable[None]],
    at_least: int,
    *,
    is_stream: bool,
) -> None:
    chunks, turns, is_well = 1, 0, False
    async with Proxy(broker.stream_port if is_stream else broker.port) as proxy:
        while not is_well:
            proxy.freeze_after(chunks)
            async with asyncio.timeout(LONGEST_SECONDS):
                try:
                    await session(broker, proxy)
                except (BrokerUnreachable, BrokerDidNotConfirm):
                    assert proxy.is_frozen or turns < 200, "it fails whatever the proxy does"
                else:
                    is_well = not proxy.is_frozen
            chunks += 1 if chunks < SMALL_CHUNKS else CHUNKS_OF_A_LARGE_ROW
            turns += 1
            proxy.reset()
    assert turns > at_least


async def test_a_broker_that_falls_silent_wakes_whoever_waits_with_the_reason(broker: PrivateBroker) -> None:
    """The fence of a late source gets no answer: both who sends and who waits for outcomes hear of it."""
    name = f"pbx.accounts.{uuid4().hex[:8]}"
    async with Proxy(broker.port) as proxy:
        publisher = ExchangePublisher(
            lambda: [f"amqp://guest:guest@127.0.0.1:{proxy.port}/"],
            topology=Topology(exchange=name, has_log=False),
            name_fence=lambda source: f"{name}.writer.{source}",
            deadline_seconds=STEP_SECONDS,
            close_seconds=CLOSE_SECONDS,
        )
        async with asyncio.timeout(LONGEST_SECONDS), publisher.session() as session:
            waiting = asyncio.create_task(session.outcomes())
            await asyncio.sleep(0)
            proxy.black_hole()
            with pytest.raises(BridgeError) as of_send:
                await session.send(rows(1))
            with pytest.raises(BridgeError) as of_outcomes:
                await waiting
            with pytest.raises(BridgeError) as later:
                await session.send(rows(1))
            assert of_send.value is of_outcomes.value is later.value


async def test_a_late_fence_that_another_holds_ends_the_session(broker: PrivateBroker) -> None:
    name = f"pbx.accounts.{uuid4().hex[:8]}"
    publisher = ExchangePublisher(
        lambda: [broker.url],
        topology=Topology(exchange=name, has_log=False),
        name_fence=lambda source: f"{name}.writer.{source}",
    )
    async with connect([broker.url], client_name="another bridge") as other:
        channel = await other.channel()
        await channel.declare_queue(f"{name}.writer.{BRANCH}", exclusive=True)
        async with asyncio.timeout(LONGEST_SECONDS), publisher.session() as session:
            waiting = asyncio.create_task(session.outcomes())
            with pytest.raises(BrokerUnreachable, match=f"holds the queue {name}.writer.{BRANCH}"):
                await session.send([*rows(1), *rows(1, source=BRANCH)])
            with pytest.raises(BrokerUnreachable, match="second bridge for the same PBX"):
                await waiting
