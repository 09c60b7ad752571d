import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage

from bridge.broker import Subscription, Topology, connect, verify
from bridge.errors import (
    BridgeError,
    BrokerDidNotConfirm,
    BrokerRefusedLogin,
    BrokerUnreachable,
    TopologyMismatch,
)
from bridge.model import OutboxRow
from bridge.publisher import Publisher, PublisherSession
from tests.support.rabbit import PrivateBroker
from tests.support.rows import HQ

AT = datetime(2026, 11, 23, tzinfo=UTC)


def rows(count: int, *, first: int = 1, key: str = "hq.account.created", size: int = 200) -> list[OutboxRow]:
    return [
        OutboxRow(number, HQ, number, str(uuid4()), "pbx.account.changed", key, b"x" * size, AT)
        for number in range(first, first + count)
    ]


class Place:
    """An exchange with one queue, both with names of their own."""

    def __init__(self, broker: PrivateBroker, *, url: str | None = None) -> None:
        name = f"pbx.accounts.{uuid4().hex[:8]}"
        self.broker = broker
        self.queue = f"{name}.q"
        self.states: list[str] = []
        self.topology = Topology(exchange=name, has_log=False, subscriptions=(Subscription(self.queue),))
        self.url = url or broker.url

    def publisher(self, topology: Topology | None = None, *, fence: str = "", deadline: float = 30) -> Publisher:
        return Publisher(
            lambda: [self.url],
            topology=topology or self.topology,
            fences=[fence] if fence else [],
            confirm_deadline_seconds=deadline,
            on_state=self.states.append,
        )

    async def take(self, count: int) -> list[AbstractIncomingMessage]:
        async with asyncio.timeout(30), connect([self.broker.url], client_name="test") as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(self.queue, passive=True)
            taken: list[AbstractIncomingMessage] = []
            while len(taken) < count:
                message = await queue.get(no_ack=True, fail=False)
                if message is not None:
                    taken.append(message)
            extra = await queue.get(no_ack=True, fail=False)
            assert extra is None, "more than was asked for"
            return taken


@pytest.fixture
def place(broker: PrivateBroker) -> Place:
    return Place(broker)


@pytest.fixture
def broken() -> Iterator[PrivateBroker]:
    """A broker that the test may break."""
    with PrivateBroker() as started:
        yield started


async def confirm(session: PublisherSession, count: int) -> None:
    async with asyncio.timeout(30):
        while await session.confirmed() < count:
            pass


async def failure_of(session: PublisherSession) -> BridgeError:
    async with asyncio.timeout(60):
        try:
            while True:
                await session.confirmed()
        except BridgeError as failure:
            return failure


async def test_rows_arrive_in_order_with_their_properties(place: Place) -> None:
    sent = rows(500)
    async with place.publisher().session() as session:
        await session.send(sent[:300])
        await session.send(sent[300:])
        await confirm(session, 500)
    arrived = await place.take(500)
    assert [message.message_id for message in arrived] == [row.event_id for row in sent]
    first = arrived[0]
    assert (first.content_type, first.delivery_mode, first.type) == (
        "application/cloudevents+json",
        2,
        "pbx.account.changed",
    )
    assert first.timestamp == AT


async def test_a_body_larger_than_a_frame_arrives_whole(place: Place) -> None:
    sent = rows(3, size=400_000)
    async with place.publisher().session() as session:
        await session.send(sent)
        await confirm(session, 3)
    assert [message.body for message in await place.take(3)] == [row.body for row in sent]


async def test_what_no_queue_takes_is_held_and_what_was_sent_before_it_counts(place: Place) -> None:
    sent = [*rows(20), *rows(1, first=21, key="nobody"), *rows(20, first=22)]
    async with place.publisher().session() as session:
        await session.send(sent)
        confirmed = 0
        with pytest.raises(BrokerDidNotConfirm, match=r"nobody.*Bind a queue"):
            async with asyncio.timeout(30):
                while True:
                    confirmed = await session.confirmed()
    assert confirmed == 20


async def test_a_refused_message_ends_the_session_behind_the_last_accepted_one(place: Place) -> None:
    async with connect([place.broker.url], client_name="test") as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(place.topology.exchange, "topic", durable=True)
        queue = await channel.declare_queue(
            place.queue, durable=True, arguments={"x-max-length": 10, "x-overflow": "reject-publish"}
        )
        await queue.bind(exchange, "#")
    topology = Topology(exchange=place.topology.exchange, has_log=False)
    async with place.publisher(topology).session() as session:
        await session.send(rows(30))
        assert isinstance(await failure_of(session), BrokerDidNotConfirm)
    with pytest.raises(BrokerDidNotConfirm):
        await session.send(rows(1))


async def test_a_wrong_password_is_a_sentence_without_the_password(broker: PrivateBroker) -> None:
    place = Place(broker, url=broker.url_of("guest", "s3cret-pw"))
    with pytest.raises(BrokerRefusedLogin, match="refused user and password") as refused:
        async with place.publisher().session():
            pass
    assert "s3cret-pw" not in str(refused.value)


async def test_a_virtual_host_that_is_not_there_is_named(broker: PrivateBroker) -> None:
    place = Place(broker, url=broker.url + "nowhere")
    with pytest.raises(BrokerRefusedLogin, match=r"virtual host nowhere"):
        async with place.publisher().session():
            pass


async def test_nobody_at_the_address_is_unreachable_and_the_next_host_is_tried(place: Place) -> None:
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:1 "):
        async with Publisher(lambda: ["amqp://127.0.0.1:1/"], topology=place.topology).session():
            pass
    both = Publisher(lambda: ["amqp://127.0.0.1:1/", place.url], topology=place.topology)
    async with both.session() as session:
        await session.send(rows(1))
        await confirm(session, 1)


async def test_an_exchange_of_another_type_is_named_with_the_remedy(place: Place) -> None:
    async with connect([place.url], client_name="test") as connection:
        channel = await connection.channel()
        await channel.declare_exchange(place.topology.exchange, "fanout", durable=True)
    with pytest.raises(TopologyMismatch, match=rf"exchange {place.topology.exchange} exists in another form.*declare"):
        async with place.publisher().session():
            pass


async def test_without_declaring_a_missing_exchange_is_named_and_nothing_is_made(place: Place) -> None:
    publisher = Publisher(lambda: [place.url], topology=place.topology, is_declaring=False)
    for _ in range(2):
        with pytest.raises(TopologyMismatch, match=r"does not exist.*declare = true"):
            async with publisher.session():
                pass


async def test_a_user_without_rights_is_told_which_ones(broker: PrivateBroker) -> None:
    name = f"user{uuid4().hex[:6]}"
    broker.ctl("add_user", name, "pw")
    broker.ctl("set_permissions", "-p", "/", name, "^$", "^$", "^$")
    with pytest.raises(TopologyMismatch, match=r"may not touch the exchange.*set_permissions"):
        async with Place(broker, url=broker.url_of(name, "pw")).publisher().session():
            pass


async def test_the_rights_of_the_readme_are_enough_and_reach_no_further(broker: PrivateBroker) -> None:
    name = f"user{uuid4().hex[:6]}"
    own = r"^pbx\.accounts"
    broker.ctl("add_user", name, "pw")
    broker.ctl("set_permissions", "-p", "/", name, own, own, own)
    place = Place(broker, url=broker.url_of(name, "pw"))
    topology = Topology(exchange=place.topology.exchange, subscriptions=place.topology.subscriptions)
    async with place.publisher(topology, fence=f"{topology.exchange}.writer.hq").session() as session:
        await session.send(rows(1))
        await confirm(session, 1)
    with pytest.raises(TopologyMismatch, match="may not touch"):
        async with place.publisher(Topology(exchange="other")).session():
            pass


async def test_the_log_keeps_everything_without_any_subscriber(place: Place) -> None:
    topology = Topology(exchange=place.topology.exchange)
    async with place.publisher(topology).session() as session:
        await session.send(rows(5))
        await confirm(session, 5)
    async with connect([place.url], client_name="test") as connection:
        await verify(connection, topology)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=10)
        log = await channel.declare_queue(topology.log, passive=True)
        seen: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        await log.consume(seen.put, arguments={"x-stream-offset": "first"})
        async with asyncio.timeout(10):
            assert len([await seen.get() for _ in range(5)]) == 5


async def test_two_bridges_cannot_publish_for_the_same_source_at_once(place: Place) -> None:
    fence = f"{place.topology.exchange}.writer.hq"
    async with place.publisher(fence=fence).session():
        with pytest.raises(BrokerUnreachable, match=r"second bridge for the same PBX"):
            async with place.publisher(fence=fence).session():
                pass
    async with place.publisher(fence=fence).session():
        pass


@asynccontextmanager
async def ending(session: PublisherSession, kind: type[BridgeError]) -> AsyncIterator[None]:
    yield
    assert isinstance(await failure_of(session), kind)


async def test_the_exchange_deleted_while_publishing_ends_the_session_with_its_name(place: Place) -> None:
    async with place.publisher().session() as session:
        async with connect([place.url], client_name="test") as connection:
            channel = await connection.channel()
            await channel.exchange_delete(place.topology.exchange)
        async with ending(session, TopologyMismatch):
            await session.send(rows(1))


async def test_a_killed_broker_ends_the_session_and_every_confirm_that_came_counts(broken: PrivateBroker) -> None:
    place = Place(broken)
    sent = rows(20_000)
    confirmed = 0
    async with place.publisher().session() as session:

        async def send() -> None:
            for start in range(0, len(sent), 200):
                await session.send(sent[start : start + 200])

        sending = asyncio.create_task(send())
        while confirmed < 1000:
            confirmed = await session.confirmed()
        broken.kill()
        with pytest.raises(BrokerUnreachable):
            async with asyncio.timeout(30):
                while True:
                    confirmed = await session.confirmed()
        with pytest.raises(BrokerUnreachable):
            await sending
    broken.start()
    async with connect([broken.url], client_name="test") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(place.queue, passive=True)
        arrived = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            arrived.append(message.message_id)
    assert arrived == [row.event_id for row in sent[: len(arrived)]]
    assert len(arrived) >= confirmed, "whatever was confirmed survived"


async def test_a_blocked_broker_is_waited_for_and_gets_everything_once(broken: PrivateBroker) -> None:
    """Reconnecting instead was measured: every message twice."""
    place = Place(broken)
    sent = rows(300)
    async with place.publisher(deadline=2).session() as session:
        await session.send(sent[:100])
        await confirm(session, 100)
        await asyncio.to_thread(broken.alarm)
        sending = asyncio.create_task(session.send(sent[100:]))
        async with asyncio.timeout(30):
            while not any(state.startswith("blocked") for state in place.states):
                await asyncio.sleep(0.05)
            blocked_for = asyncio.get_running_loop().time() + 3 * 2  # thrice the deadline for confirms
            while asyncio.get_running_loop().time() < blocked_for:
                await asyncio.sleep(0.1)
        await asyncio.to_thread(broken.end_alarm)
        await sending
        await confirm(session, 300)
        assert place.states[-1] == "connected"
    assert [message.message_id for message in await place.take(300)] == [row.event_id for row in sent]


async def test_a_frozen_broker_ends_the_session_within_the_deadline(broken: PrivateBroker) -> None:
    place = Place(broken)
    async with place.publisher(deadline=2).session() as session:
        broken.pause()
        try:
            async with ending(session, BrokerDidNotConfirm):
                await session.send(rows(10))
        finally:
            broken.go_on()
