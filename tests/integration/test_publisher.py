import asyncio
import math
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage

from bridge.broker.connection import connect
from bridge.broker.declare import verify
from bridge.broker.fence import FENCES_AT_ONCE
from bridge.broker.publisher import CLAIMED_FIRST, ExchangePublisher, ExchangeSession
from bridge.broker.session import CLAIMED_AT_ONCE
from bridge.broker.topology import Subscription, Topology
from bridge.errors import (
    BridgeError,
    BrokerDidNotConfirm,
    BrokerRefusedEvent,
    BrokerRefusedLogin,
    BrokerUnreachable,
    EventUnroutable,
    FenceHeld,
    TopologyMismatch,
)
from bridge.events.cloudevents import DOUBT_HEADER, ID_HEADER
from bridge.model import OutboxRow, SourceName
from tests.support.outcomes import all_confirmed, all_outcomes
from tests.support.pages import rights
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

    def publisher(
        self, topology: Topology | None = None, *, fence: str = "", deadline: float = 30
    ) -> ExchangePublisher:
        return ExchangePublisher(
            lambda: [self.url],
            topology=topology or self.topology,
            sources=[HQ] if fence else [],
            name_fence=(lambda _source: fence) if fence else None,
            confirm_deadline_seconds=deadline,
            on_state=self.states.append,
        )

    def name_fence(self, source: SourceName) -> str:
        return f"{self.topology.exchange}.writer.{source}"

    async def take(self, count: int) -> list[AbstractIncomingMessage]:
        async with asyncio.timeout(30), connect([self.broker.url], client_name="test") as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(self.queue, passive=True)
            taken: list[AbstractIncomingMessage] = []
            while len(taken) < count:
                message = await queue.get(no_ack=True, fail=False, timeout=30)
                if message is not None:
                    taken.append(message)
            extra = await queue.get(no_ack=True, fail=False, timeout=30)
            assert extra is None, "more than was asked for"
            return taken

    async def take_until(self, event_id: str) -> list[str | None]:
        """Ids of everything in front of this event, which must come."""
        async with asyncio.timeout(60), connect([self.broker.url], client_name="test") as connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=1000)
            queue = await channel.declare_queue(self.queue, passive=True)
            arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
            await queue.consume(arrived.put, no_ack=True)
            taken: list[str | None] = []
            while (taken_id := (await arrived.get()).message_id) != event_id:
                taken.append(taken_id)
            return taken

    async def until_state(self, begin: str) -> None:
        async with asyncio.timeout(30):
            while not self.states[-1].startswith(begin):
                await asyncio.sleep(0.05)


@pytest.fixture
def place(broker: PrivateBroker) -> Place:
    return Place(broker)


async def failure_of(session: ExchangeSession) -> BridgeError:
    async with asyncio.timeout(60):
        try:
            while True:
                await session.outcomes()
        except BridgeError as failure:
            return failure


async def test_rows_arrive_in_order_with_their_properties(place: Place) -> None:
    sent = rows(500)
    async with place.publisher().session() as session:
        await session.send(sent[:300])
        await session.send(sent[300:])
        await all_confirmed(session, 500)
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
        await all_confirmed(session, 3)
    assert [message.body for message in await place.take(3)] == [row.body for row in sent]


async def test_what_no_queue_takes_is_refused_and_nothing_else(place: Place) -> None:
    sent = [*rows(20), *rows(1, first=21, key="nobody"), *rows(20, first=22)]
    async with place.publisher().session() as session:
        await session.send(sent)
        confirmed, refused = await all_outcomes(session, 41)
        assert sorted(confirmed) == [tag for tag in range(1, 42) if tag != 21]
        ((tag, reason),) = refused
        assert (tag, type(reason)) == (21, EventUnroutable)
        assert re.search(r"'nobody'.*Bind a queue", str(reason))
        await session.send(rows(1, first=42))
        assert await all_outcomes(session, 1) == ([42], [])


async def test_what_a_full_queue_refuses_is_refused_and_the_session_goes_on(place: Place) -> None:
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
        confirmed, refused = await all_outcomes(session, 30)
        assert len(confirmed) >= 10
        assert refused, "there is room for ten"
        assert {type(reason) for _, reason in refused} == {BrokerDidNotConfirm}
        assert "reject-publish" in str(refused[0][1])
        await place.take(10)
        await session.send(rows(1, first=31))
        assert await all_outcomes(session, 1) == ([31], [])


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
        async with ExchangePublisher(lambda: ["amqp://127.0.0.1:1/"], topology=place.topology).session():
            pass
    both = ExchangePublisher(lambda: ["amqp://127.0.0.1:1/", place.url], topology=place.topology)
    async with both.session() as session:
        await session.send(rows(1))
        await all_confirmed(session, 1)


async def test_an_exchange_of_another_type_is_named_with_the_remedy(place: Place) -> None:
    async with connect([place.url], client_name="test") as connection:
        channel = await connection.channel()
        await channel.declare_exchange(place.topology.exchange, "fanout", durable=True)
    with pytest.raises(TopologyMismatch, match=rf"exchange {place.topology.exchange} exists in another form.*declare"):
        async with place.publisher().session():
            pass


async def test_without_declaring_a_missing_exchange_is_named_and_nothing_is_made(place: Place) -> None:
    publisher = ExchangePublisher(lambda: [place.url], topology=place.topology, is_declaring=False)
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


async def test_the_rights_on_the_page_are_enough_and_reach_no_further(broker: PrivateBroker) -> None:
    name = f"user{uuid4().hex[:6]}"
    broker.ctl("add_user", name, "pw")
    broker.ctl("set_permissions", "-p", "/", name, *rights())
    place = Place(broker, url=broker.url_of(name, "pw"))
    topology = Topology(exchange=place.topology.exchange, subscriptions=place.topology.subscriptions)
    async with place.publisher(topology, fence=f"{topology.exchange}.writer.hq").session() as session:
        await session.send(rows(1))
        await all_confirmed(session, 1)
    with pytest.raises(TopologyMismatch, match="may not touch"):
        async with place.publisher(Topology(exchange="other")).session():
            pass


async def test_the_log_keeps_everything_without_any_subscriber(place: Place) -> None:
    topology = Topology(exchange=place.topology.exchange)
    async with place.publisher(topology).session() as session:
        await session.send(rows(5))
        await all_confirmed(session, 5)
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
    async with place.publisher(fence=fence).session(), place.publisher(fence=fence).session() as second:
        assert "second bridge for the same PBX" in str(second.fenced[HQ])
        with pytest.raises(FenceHeld, match="second bridge for the same PBX"):
            await second.send(rows(1))
    async with place.publisher(fence=fence).session() as session:
        assert not session.fenced


async def test_a_source_that_turns_up_later_is_fenced_before_its_first_event(place: Place) -> None:
    def name_fence(source: SourceName) -> str:
        return f"{place.topology.exchange}.writer.{source}"

    def publisher() -> ExchangePublisher:
        return ExchangePublisher(lambda: [place.url], topology=place.topology, name_fence=name_fence)

    async with publisher().session() as first, publisher().session() as second:
        await first.send(rows(1))
        await all_confirmed(first, 1)
        with pytest.raises(FenceHeld, match="second bridge for the same PBX"):
            await second.send(rows(1))
    assert len(await place.take(1)) == 1


@asynccontextmanager
async def ending(session: ExchangeSession, kind: type[BridgeError]) -> AsyncIterator[None]:
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
    async with place.publisher().session():
        pass
    # RabbitMQ 3.10 loses a quorum queue that was declared within the last moments before a kill: let it write it down.
    await asyncio.to_thread(broken.stop)
    await asyncio.to_thread(broken.start)
    sent = list[OutboxRow]()
    async with place.publisher().session() as session:

        async def send() -> None:
            while True:
                sent.extend(rows(200, first=len(sent) + 1))
                await session.send(sent[-200:])

        sending = asyncio.create_task(send())
        told = list[int]()
        while len(told) < 1000:
            told += (await session.outcomes()).confirmed
        await asyncio.to_thread(broken.kill)
        with pytest.raises(BrokerUnreachable):
            async with asyncio.timeout(30):
                while True:
                    told += (await session.outcomes()).confirmed
        with pytest.raises(BrokerUnreachable):
            await sending
    await asyncio.to_thread(broken.start)
    last = rows(1)
    async with place.publisher().session() as session:
        await session.send(last)
        await all_confirmed(session, 1)
    arrived = await place.take_until(last[0].event_id)
    assert arrived == [row.event_id for row in sent[: len(arrived)]]
    assert set(told) <= set(range(1, len(arrived) + 1)), "whatever was confirmed survived"


async def test_a_blocked_broker_is_waited_for_and_gets_everything_once(broken: PrivateBroker) -> None:
    """Reconnecting instead was measured: every message twice."""
    place = Place(broken)
    sent = rows(300)
    async with place.publisher(deadline=2).session() as session:
        await session.send(sent[:100])
        await all_confirmed(session, 100)
        await asyncio.to_thread(broken.alarm)
        sending = asyncio.create_task(session.send(sent[100:]))
        await place.until_state("blocked")
        waited = asyncio.create_task(all_confirmed(session, 200))
        done, _ = await asyncio.wait([waited], timeout=3 * 2)  # thrice the deadline for confirms
        assert not done, "neither confirmed nor given up"
        await asyncio.to_thread(broken.end_alarm)
        await sending
        await waited
        await place.until_state("connected")
    assert [message.message_id for message in await place.take(300)] == [row.event_id for row in sent]


async def test_a_row_in_doubt_is_marked_on_the_wire(place: Place) -> None:
    plain, doubtful = rows(1)[0], replace(rows(1, first=2)[0], is_in_doubt=True)
    async with place.publisher().session() as session:
        await session.send([plain, doubtful])
        await all_confirmed(session, 2)
    told = [(message.headers.get(ID_HEADER), message.headers.get(DOUBT_HEADER)) for message in await place.take(2)]
    assert told == [(plain.event_id, None), (doubtful.event_id, True)]


async def test_a_send_that_is_cancelled_ends_the_session(broken: PrivateBroker) -> None:
    """Which message the next confirm is for, nobody could say."""
    place = Place(broken)
    async with place.publisher().session() as session:
        broken.pause()
        try:
            sending = asyncio.create_task(session.send(rows(20, size=1_000_000)))
            await asyncio.wait([sending], timeout=0.5)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            with pytest.raises(BrokerUnreachable, match="interrupted"):
                await session.send(rows(1))
            assert isinstance(await failure_of(session), BrokerUnreachable)
        finally:
            broken.go_on()


async def test_leaving_a_session_ends_it_for_whoever_still_waits(place: Place) -> None:
    async with place.publisher().session() as session:
        waiting = asyncio.create_task(session.outcomes())
        await asyncio.sleep(0)
    with pytest.raises(BrokerUnreachable, match="over"):
        await waiting


async def test_a_session_that_cannot_be_watched_ends_loudly(place: Place) -> None:
    class MistakeError(Exception):
        pass

    def fail(state: str) -> None:
        if state == "connected":
            watched.set()
            raise MistakeError

    watched = asyncio.Event()
    with pytest.raises(MistakeError):
        async with ExchangePublisher(lambda: [place.url], topology=place.topology, on_state=fail).session():
            await watched.wait()


async def test_a_frozen_broker_ends_the_session_within_the_deadline(broken: PrivateBroker) -> None:
    place = Place(broken)
    async with place.publisher(deadline=2).session() as session:
        broken.pause()
        try:
            async with ending(session, BrokerDidNotConfirm):
                await session.send(rows(10))
        finally:
            broken.go_on()


async def test_the_fences_of_many_sources_are_taken_with_few_answers_and_each_is_held(place: Place) -> None:
    """One by one, four round trips each, those of 500 PBXs took more than a minute on a busy loop."""
    sources = [SourceName(f"pbx{number}") for number in range(2 * FENCES_AT_ONCE + 1)]
    steps = list[None]()
    publisher = ExchangePublisher(
        lambda: [place.url],
        topology=place.topology,
        sources=sources,
        name_fence=place.name_fence,
        on_progress=lambda: steps.append(None),
    )
    async with publisher.session():
        # The connection; exchange, queue and dead letters, each on a channel of its own; the first fences; our channel.
        assert len(steps) == 1 + 6 + 1 + 1
        rest = math.ceil((len(sources) - CLAIMED_FIRST) / CLAIMED_AT_ONCE)
        async with asyncio.timeout(30):
            while len(steps) < 9 + rest:
                await asyncio.sleep(0.01)
        for number in (0, FENCES_AT_ONCE, len(sources) - 1):
            async with place.publisher(fence=place.name_fence(sources[number])).session() as other:
                assert f"holds the queue {place.name_fence(sources[number])})" in str(other.fenced[HQ])


async def test_which_of_many_fences_another_holds_is_named(place: Place) -> None:
    sources = [SourceName(f"pbx{number}") for number in range(100)]
    others = [sources[number] for number in (0, 57, 99)]

    def publisher(wanted: Sequence[SourceName]) -> ExchangePublisher:
        return ExchangePublisher(
            lambda: [place.url], topology=place.topology, sources=wanted, name_fence=place.name_fence
        )

    async with publisher(others).session(), publisher(sources).session() as session:
        assert list(session.fenced) == others
        for source, problem in session.fenced.items():
            assert re.search(rf"holds the queue {re.escape(place.name_fence(source))}\).*second bridge", str(problem))
        async with publisher(sources[:2]).session() as third:
            assert list(third.fenced) == sources[:2], "all others are held by this one"


async def test_a_fence_that_is_not_permitted_is_named_with_the_remedy(broker: PrivateBroker, place: Place) -> None:
    name, own = f"user{uuid4().hex[:6]}", re.escape(place.topology.exchange)
    broker.ctl("add_user", name, "pw")
    broker.ctl("set_permissions", "-p", "/", name, f"^{own}($|.q|.dead|.writer.a)", ".*", ".*")
    sources = list(map(SourceName, ("a1", "a2", "b1", "a3")))
    publisher = ExchangePublisher(
        lambda: [broker.url_of(name, "pw")], topology=place.topology, sources=sources, name_fence=place.name_fence
    )
    with pytest.raises(TopologyMismatch, match=r"may not touch the fence \S+\.writer\.b1\. Allow it: rabbitmqctl"):
        async with publisher.session():
            pass


async def test_what_keeps_the_urls_from_being_known_is_a_failed_attempt_like_any_other(place: Place) -> None:
    problem = BrokerRefusedLogin("the password file is empty")

    def urls() -> list[str]:
        raise problem

    with pytest.raises(BrokerRefusedLogin, match="file is empty"):
        async with ExchangePublisher(urls, topology=place.topology).session():
            pass


async def test_an_event_that_is_too_large_is_known_from_then_on() -> None:
    """The broker closes the channel and names no message; the limit that it names tells the next session which."""
    with PrivateBroker("max_message_size = 1000") as small:
        place = Place(small)
        publisher = place.publisher()
        large, fits = rows(1, size=1001)[0], rows(1, size=1000)[0]
        async with publisher.session() as session:
            assert session.explain_refusal(large) is None, "nobody knows yet"
            await session.send([fits, large, *rows(3)])
            assert isinstance(await failure_of(session), BrokerRefusedEvent)
        async with publisher.session() as session:
            assert isinstance(session.explain_refusal(large), BrokerRefusedEvent)
            assert re.search(
                r"1001 bytes.*max_message_size is 1000.*try the event once more", str(session.explain_refusal(large))
            )
            assert session.explain_refusal(fits) is None
            await session.send([fits])
            await all_confirmed(session, 1)


async def test_no_cancellation_is_lost_while_a_session_is_opened(place: Place) -> None:
    """At random moments; before it was guarded, 5 to 30 of 200 went on as if nothing had been said."""
    chance = random.Random(15)  # noqa: S311 - when to cancel, no secret
    publisher = place.publisher(fence=f"{place.topology.exchange}.writer.hq")

    async def hold_a_session() -> None:
        async with publisher.session():
            await asyncio.sleep(3600)

    for _ in range(300):
        holding = asyncio.create_task(hold_a_session())
        await asyncio.sleep(chance.uniform(0, 0.04))
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        holding.cancel()
        await asyncio.wait([holding], timeout=10)
        assert holding.done(), "it was lost"
        assert holding.cancelled(), holding.exception()
