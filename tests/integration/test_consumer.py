"""Subscribers against a real broker. Whatever these tests wait for ends by itself or by a deadline."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from pamqp.commands import Basic

import bridge.consumer
from bridge.broker.connection import connect
from bridge.broker.declare import declare
from bridge.broker.topology import Subscription, Topology
from bridge.consumer.inbox.sqlite import SqliteInbox
from bridge.consumer.log.reader import LogEntry, LogReader
from bridge.consumer.subscriber import Subscriber, subscribe
from bridge.errors import BadEvent, BridgeError, BrokerRefusedLogin, PbxUnreachable, StoreUnusable, TopologyMismatch
from bridge.events.cloudevents import ACCOUNT_CHANGED, SOURCE_VERIFIED, AccountChanged, SourceVerified
from tests.support.events import LINEAGE, body, certificate_body, change
from tests.support.rabbit import PrivateBroker, free_port

DEADLINE_SECONDS = 60
CONFIRM_SECONDS = 5
CHANGES = 400


class Place:
    """An exchange of our own, and what a subscriber to it may look at."""

    def __init__(self, broker: PrivateBroker) -> None:
        self.broker = broker
        self.exchange = f"pbx.accounts.{uuid4().hex[:8]}"
        self.queue = f"{self.exchange}.crm"

    def subscriber(self, **options: Any) -> Subscriber:
        chosen = {"queue": self.queue, "exchange": self.exchange, "longest_pause_seconds": 0.05, **options}
        return Subscriber(self.broker.url, **chosen)

    def reader(self, **options: Any) -> LogReader:
        return LogReader(self.broker.url, stream=f"{self.exchange}.log", **options)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[AbstractChannel]:
        async with connect([self.broker.url], client_name="test") as connection:
            yield await connection.channel()

    async def make_log(self) -> None:
        async with connect([self.broker.url], client_name="test") as connection:
            await declare(connection, Topology(self.exchange))

    async def publish(
        self,
        *messages: int | bytes,
        kind: str | None = ACCOUNT_CHANGED,
        key: str = "hq.account.updated",
        is_mandatory: bool = True,
    ) -> None:
        """Publish changes with these revisions, or these bytes as they are, and wait for the confirms."""
        async with self.channel() as channel:
            exchange = await channel.get_exchange(self.exchange, ensure=False)
            for each in messages:
                told = body(change(revision=each), sequence=each) if isinstance(each, int) else each
                message = aio_pika.Message(told, delivery_mode=2, type=kind, message_id=str(uuid4()))
                confirmation = await exchange.publish(message, key, mandatory=is_mandatory)
                assert isinstance(confirmation, Basic.Ack), confirmation

    async def publish_as_the_bridge(self, *revisions: int) -> None:
        """Publish to a broker that has just started: check what is there, and send again what is not confirmed.

        For a moment it does not find its streams, refuses messages, or never answers for one.
        """
        async with asyncio.timeout(DEADLINE_SECONDS):
            for revision in revisions:
                while True:
                    with suppress(BridgeError, aio_pika.exceptions.DeliveryError, TimeoutError):
                        await self.make_log()
                        async with asyncio.timeout(CONFIRM_SECONDS):
                            await self.publish(revision)
                        break

    async def waiting(self, queue: str | None = None) -> int:
        """Return how many messages the queue holds for whoever comes next."""
        async with self.channel() as channel:
            found = await channel.declare_queue(queue or self.queue, passive=True)
            return found.declaration_result.message_count or 0

    async def dead(self) -> list[bytes]:
        bodies = []
        async with self.channel() as channel:
            queue = await channel.declare_queue(f"{self.queue}.dead", passive=True)
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                bodies.append(message.body)
        return bodies

    async def exist(self, **options: Any) -> None:
        """Make exchange and queues by subscribing once."""
        subscriber = self.subscriber(**options)
        running = asyncio.create_task(subscriber.run(nothing))
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await self._is_consumed():
                assert not running.done(), running.result()
        subscriber.stop()
        await running

    async def _is_consumed(self) -> bool:
        try:
            async with self.channel() as channel:
                found = await channel.declare_queue(self.queue, passive=True)
                return bool(found.declaration_result.consumer_count)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False


@pytest.fixture
def place(broker: PrivateBroker) -> Place:
    return Place(broker)


@pytest.fixture(scope="module")
def breakable() -> Iterator[PrivateBroker]:
    with PrivateBroker() as started:
        yield started


async def nothing(_: AccountChanged) -> None:
    return


class Crm:
    """A handler that notes what it is given, and stops its subscriber at *until*."""

    def __init__(self, subscriber: Subscriber, until: int | None = None) -> None:
        self.seen: list[int] = []
        self._subscriber = subscriber
        self._until = until

    async def __call__(self, event: AccountChanged) -> None:
        self.seen.append(event.revision)
        if event.revision == self._until:
            self._subscriber.stop()

    def has(self, revision: int) -> bool:
        return revision in self.seen


async def run(subscriber: Subscriber, until: int) -> list[int]:
    """Run until revision *until* came, and return what came."""
    crm = Crm(subscriber, until)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await subscriber.run(crm)
    return crm.seen


async def eventually(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not what():
            await asyncio.sleep(0.01)


async def test_each_change_is_handed_over_in_order_and_acknowledged(place: Place) -> None:
    await place.exist()
    await place.publish(*range(1, 201))
    assert await run(place.subscriber(), 200) == list(range(1, 201))
    assert await place.waiting() == 0


async def test_what_is_published_before_the_subscriber_first_runs_waits_in_a_queue_that_the_bridge_made(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue of ``[[subscriber]]`` and the one a sharing subscriber makes are the same."""
    async with connect([place.broker.url], client_name="test") as connection:
        await declare(connection, Topology(place.exchange, has_log=False, subscriptions=[Subscription(place.queue)]))
    await place.publish(1, 2)
    assert await run(place.subscriber(ordered=False), 2) == [1, 2]
    assert not [record for record in caplog.records if record.message == "topology.differs"]


async def test_a_queue_in_another_form_is_used_as_it_is_and_the_difference_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.exist(ordered=False)
    await place.publish(1)
    assert await run(place.subscriber(ordered=True), 1) == [1]
    assert "x-single-active-consumer" in str([vars(record).get("problem") for record in caplog.records])


async def test_a_handler_that_fails_is_tried_again_before_the_next_change(place: Place) -> None:
    await place.exist()
    await place.publish(1, 2)
    subscriber = place.subscriber(attempts=3)
    tries: list[int] = []

    async def fails_twice(event: AccountChanged) -> None:
        tries.append(event.revision)
        if len(tries) < 3:
            raise LookupError("not yet")
        if event.revision == 2:
            subscriber.stop()

    await asyncio.wait_for(subscriber.run(fails_twice), DEADLINE_SECONDS)
    assert tries == [1, 1, 1, 2]
    assert await place.dead() == []


async def test_a_change_that_no_attempt_can_handle_is_dead_lettered_and_holds_up_nobody(place: Place) -> None:
    await place.exist()
    await place.publish(1, 2)
    subscriber = place.subscriber(attempts=2)
    tries: list[int] = []

    async def hates_the_first(event: AccountChanged) -> None:
        tries.append(event.revision)
        if event.revision == 1:
            raise LookupError("never")
        subscriber.stop()

    await asyncio.wait_for(subscriber.run(hates_the_first), DEADLINE_SECONDS)
    assert tries == [1, 1, 2]
    assert await place.dead() == [body(change(revision=1), sequence=1)]


async def test_what_is_no_event_is_dead_lettered_at_once_and_logged_without_its_body(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.exist()
    poison = [
        b"pr1vate: not json",
        body(change(revision=1)).replace(b'"updated"', b'"pr1vate"').replace(b"created", b"pr1vate"),
    ]
    await place.publish(*poison, 2)
    with caplog.at_level(logging.DEBUG, logger="bridge"):
        assert await run(place.subscriber(), 2) == [2]
    assert await place.dead() == poison
    told = [vars(record) for record in caplog.records if record.message == "delivery.not_an_event"]
    assert [entry["bytes"] for entry in told] == [len(each) for each in poison]
    assert "pr1vate" not in str(told)


async def test_events_of_other_kinds_are_passed_over(place: Place) -> None:
    """Binding to everything also brings the certificates of the bridge."""
    await place.exist()
    await place.publish(b"{}", kind="pbx.source.verified")
    await place.publish(1)
    assert await run(place.subscriber(keys=["#"]), 1) == [1]
    assert await place.dead() == []


async def test_certificates_come_in_order_with_the_changes_where_they_are_wanted(place: Place) -> None:
    """What a certificate says is true once all before it is dealt with, and it is acknowledged as a change is."""
    await place.exist()
    certificate: dict[str, Any] = {"kind": SOURCE_VERIFIED, "key": "hq.source.verified"}
    await place.publish(certificate_body(), **certificate, is_mandatory=False)  # nobody is bound to it yet
    await place.publish(1, 2)
    subscriber = place.subscriber()
    seen: list[int | str] = []

    async def apply(event: AccountChanged) -> None:
        seen.append(event.revision)
        if event.revision == 4:
            subscriber.stop()

    async def note(certificate: SourceVerified) -> None:
        seen.append(certificate.lineage)
        if len(seen) < 5:
            raise LookupError("not yet")

    running = asyncio.create_task(subscriber.run(apply, note))
    await eventually(lambda: seen[:2] == [1, 2])
    await place.publish(certificate_body(), **certificate)
    await place.publish(3, 4)
    await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert seen == [1, 2, LINEAGE, LINEAGE, LINEAGE, 3, 4]
    assert await place.waiting() == 0


async def test_certificates_are_iterated_over_too_where_they_are_wanted(place: Place) -> None:
    await place.exist(keys=["#"])
    await place.publish(1)
    await place.publish(certificate_body(), kind=SOURCE_VERIFIED, key="hq.source.verified")
    await place.publish(2)
    came: list[object] = []
    subscriber = place.subscriber()
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(subscriber.events()) as deliveries:
        async for delivery in deliveries:
            came.append(delivery.event)
            await delivery.ack()
            if len(came) == 3:
                subscriber.stop()
    assert [type(each) for each in came] == [AccountChanged, SourceVerified, AccountChanged]
    assert await place.waiting() == 0


async def test_a_certificate_that_cannot_be_read_is_dead_lettered_where_it_is_wanted(place: Place) -> None:
    await place.exist(keys=["#"])
    poison = certificate_body().replace(b"source-verified:1", b"source-verified:2")
    await place.publish(poison, kind=SOURCE_VERIFIED)
    await place.publish(1)
    subscriber = place.subscriber()

    async def stop(_: AccountChanged) -> None:
        subscriber.stop()

    async def note(_: SourceVerified) -> None:
        raise AssertionError("it cannot be read")

    await asyncio.wait_for(subscriber.run(stop, note), DEADLINE_SECONDS)
    assert await place.dead() == [poison]


async def test_an_event_without_a_type_beside_it_is_known_by_its_own(place: Place) -> None:
    """Not everybody who puts a message back keeps its properties."""
    await place.exist(keys=["#"])
    await place.publish(certificate_body(), 1, kind=None)
    assert await run(place.subscriber(), 1) == [1]
    assert await place.dead() == []


async def test_a_queue_that_subscribe_makes_loses_nothing_that_cannot_be_read(place: Place) -> None:
    await place.make_log()
    later = body(change()).replace(b"account-changed:1", b"account-changed:2")
    urls = [place.broker.url]
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        subscribe(urls, exchange=place.exchange, queue=place.queue) as deliveries,
    ):
        await place.publish(later, 2)
        async for delivery in deliveries:
            await delivery.ack()
            assert delivery.event.revision == 2
            break
    assert await place.dead() == [later]


async def test_a_queue_that_subscribe_finds_is_used_as_it_is(place: Place) -> None:
    """Its name and form are somebody else's choice; what it needs is the right to read and to bind it."""
    await place.make_log()
    async with place.channel() as channel:
        await channel.declare_queue(place.queue, durable=True, arguments={"x-max-length": 7})
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        subscribe([place.broker.url], exchange=place.exchange, queue=place.queue) as deliveries,
    ):
        await place.publish(2)
        assert [(await anext(deliveries)).event.revision] == [2]
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await place.dead()


async def test_a_database_that_is_locked_is_waited_for_and_counts_as_no_attempt(place: Place, tmp_path: Path) -> None:
    await place.exist()
    await place.publish(*range(1, 11))
    subscriber = place.subscriber(attempts=2)
    tries: list[int] = []
    with (
        closing(sqlite3.connect(tmp_path / "letters.db", timeout=0)) as letters,
        closing(sqlite3.connect(tmp_path / "letters.db", isolation_level=None)) as other,
    ):
        letters.execute("CREATE TABLE letter (revision INTEGER)")
        inbox = SqliteInbox(letters)
        inbox.create_tables()
        letters.commit()
        other.execute("BEGIN IMMEDIATE")

        async def apply(event: AccountChanged) -> None:
            tries.append(event.revision)
            if len(tries) == 6:
                other.execute("ROLLBACK")
            with letters:
                if inbox.accept(event):
                    letters.execute("INSERT INTO letter VALUES (?)", (event.revision,))
            if event.revision == 10:
                subscriber.stop()

        await asyncio.wait_for(subscriber.run(apply), DEADLINE_SECONDS)
        written = [row[0] for row in letters.execute("SELECT revision FROM letter ORDER BY rowid")]
    assert (tries[:6], written) == ([1] * 6, list(range(1, 11)))
    assert await place.dead() == []


async def test_a_handler_that_says_waiting_helps_is_waited_for(place: Place) -> None:
    """A database that is away for an hour must not send an hour of changes to the dead letters."""
    await place.exist()
    await place.publish(1)
    subscriber = place.subscriber(attempts=1)
    tries: list[int] = []

    async def waits(event: AccountChanged) -> None:
        tries.append(event.revision)
        if len(tries) < 5:
            raise PbxUnreachable("the CRM is away")
        subscriber.stop()

    await asyncio.wait_for(subscriber.run(waits), DEADLINE_SECONDS)
    assert tries == [1] * 5
    assert await place.dead() == []


async def test_a_handler_can_put_a_change_aside_at_once(place: Place) -> None:
    await place.exist()
    await place.publish(1, 2)
    subscriber = place.subscriber(attempts=5)
    tries: list[int] = []

    async def refuses_the_first(event: AccountChanged) -> None:
        tries.append(event.revision)
        if event.revision == 1:
            raise BadEvent("an account without a name")
        subscriber.stop()

    await asyncio.wait_for(subscriber.run(refuses_the_first), DEADLINE_SECONDS)
    assert tries == [1, 2]
    assert len(await place.dead()) == 1


async def test_a_fatal_error_of_the_handler_ends_the_run_and_loses_nothing(place: Place) -> None:
    await place.exist()
    await place.publish(1, 2)

    async def cannot(_: AccountChanged) -> None:
        raise StoreUnusable("the inbox has no tables")

    with pytest.raises(StoreUnusable):
        await asyncio.wait_for(place.subscriber().run(cannot), DEADLINE_SECONDS)
    assert await run(place.subscriber(), 2) == [1, 2]


async def test_a_cancellation_from_within_the_handler_is_a_failure_like_any_other(place: Place) -> None:
    await place.exist()
    await place.publish(1)
    subscriber = place.subscriber()
    tries: list[int] = []

    async def waits_for_something_cancelled(event: AccountChanged) -> None:
        tries.append(event.revision)
        if len(tries) == 1:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled
        subscriber.stop()

    await asyncio.wait_for(subscriber.run(waits_for_something_cancelled), DEADLINE_SECONDS)
    assert tries == [1, 1]


async def test_a_cancelled_run_cancels_its_handler_and_the_change_comes_again(place: Place) -> None:
    await place.exist()
    await place.publish(1, 2, 3)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hangs_on_the_second(event: AccountChanged) -> None:
        if event.revision == 2:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    running = asyncio.create_task(place.subscriber().run(hangs_on_the_second))
    await asyncio.wait_for(begun.wait(), DEADLINE_SECONDS)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert ended.is_set()
    redelivered = []
    subscriber = place.subscriber()
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(subscriber.__aiter__()) as deliveries:
        async for delivery in deliveries:
            redelivered.append((delivery.event.revision, delivery.is_redelivered))
            await delivery.ack()
            if delivery.event.revision == 3:
                subscriber.stop()
    assert redelivered == [(2, True), (3, True)]


async def test_stopping_finishes_and_acknowledges_what_is_in_hand_and_nothing_else(place: Place) -> None:
    await place.exist()
    await place.publish(*range(1, 21))
    subscriber = place.subscriber()
    handled: list[int] = []

    async def is_told_to_stop_in_the_middle(event: AccountChanged) -> None:
        if event.revision == 3:
            subscriber.stop()
            await asyncio.sleep(0)
        handled.append(event.revision)

    await asyncio.wait_for(subscriber.run(is_told_to_stop_in_the_middle), DEADLINE_SECONDS)
    assert handled == [1, 2, 3]
    assert await run(place.subscriber(), 20) == list(range(4, 21))


async def test_stopping_does_not_wait_for_a_handler_to_succeed_at_last(place: Place) -> None:
    await place.exist()
    await place.publish(1)
    subscriber = place.subscriber(attempts=1000, longest_pause_seconds=3600)
    tried = asyncio.Event()

    async def fails(_: AccountChanged) -> None:
        tried.set()
        raise LookupError("never")

    running = asyncio.create_task(subscriber.run(fails))
    await asyncio.wait_for(tried.wait(), DEADLINE_SECONDS)
    subscriber.stop()
    await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert await run(place.subscriber(), 1) == [1]
    assert await place.dead() == []


async def test_stopping_ends_the_wait_for_a_broker_that_is_away() -> None:
    subscriber = Subscriber(f"amqp://127.0.0.1:{free_port()}/", queue="crm")
    running = asyncio.create_task(subscriber.run(nothing))
    await asyncio.sleep(0)
    subscriber.stop()
    await asyncio.wait_for(running, DEADLINE_SECONDS)


async def test_the_one_who_stands_by_goes_on_where_the_one_who_stops_ended(place: Place) -> None:
    """Order holds across each hand-over, though many changes were under way to the one who stopped."""
    await place.exist()
    handled: list[int] = []
    ends = range(50, 501, 50)

    async def receive(active: Subscriber, end: int) -> None:
        async def handle(event: AccountChanged) -> None:
            handled.append(event.revision)
            if event.revision >= end:
                active.stop()

        await active.run(handle)

    async with asyncio.timeout(DEADLINE_SECONDS), asyncio.TaskGroup() as group:
        for end in ends:
            subscriber = place.subscriber()
            group.create_task(receive(subscriber, end))
            await eventually(partial(_is_open, subscriber))
        await place.publish(*range(1, 501))
    assert handled == list(range(1, 501))


def _is_open(what: object) -> bool:
    return "open" in repr(what)


async def test_a_wrong_password_is_told_at_once(broker: PrivateBroker) -> None:
    with pytest.raises(BrokerRefusedLogin):
        await asyncio.wait_for(Subscriber(broker.url_of("guest", "wrong"), queue="crm").run(nothing), DEADLINE_SECONDS)


async def test_a_queue_that_is_not_to_be_made_has_to_be_there(place: Place) -> None:
    with pytest.raises(TopologyMismatch, match=r"\.crm does not exist"):
        await asyncio.wait_for(place.subscriber(declare=False).run(nothing), DEADLINE_SECONDS)


def test_a_queue_without_a_name_can_only_be_a_temporary_one() -> None:
    with pytest.raises(ValueError, match="name of its queue"):
        Subscriber("amqp://localhost/")


async def test_an_exclusive_queue_receives_from_now_on_and_goes_with_the_connection(place: Place) -> None:
    await place.exist()
    await place.publish(1)
    name = f"{place.queue}.mine"
    subscriber = place.subscriber(queue=name, exclusive=True)
    crm = Crm(subscriber, until=2)
    running = asyncio.create_task(subscriber.run(crm))
    await eventually(partial(_is_open, subscriber))
    await place.publish(2)
    await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert crm.seen == [2]
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await place.waiting(name)


async def test_a_queue_that_is_deleted_under_its_subscriber_is_made_again(place: Place) -> None:
    """The broker then ends the consumer only: connection and channel look as healthy as ever."""
    subscriber = place.subscriber()
    crm = Crm(subscriber, until=2)
    running = asyncio.create_task(subscriber.run(crm))
    await eventually(partial(_is_open, subscriber))
    await place.publish(1)
    await eventually(lambda: crm.seen == [1])
    async with place.channel() as channel:
        await channel.queue_delete(place.queue)
    await eventually(lambda: not _is_open(subscriber))
    await eventually(partial(_is_open, subscriber))
    await place.publish(2)
    await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert crm.seen == [1, 2]


async def test_a_broker_that_is_restarted_or_dies_interrupts_and_ends_nothing(breakable: PrivateBroker) -> None:
    """First restarted in good order: what was declared a moment before a kill may never work again (RabbitMQ 3.10)."""
    place = Place(breakable)
    await place.make_log()
    subscriber, reader = place.subscriber(longest_pause_seconds=0.5), place.reader(longest_pause_seconds=0.5)
    crm = Crm(subscriber, until=9)
    async with asyncio.TaskGroup() as group:
        group.create_task(subscriber.run(crm))
        reading = group.create_task(read(reader, until=9, deadline_seconds=3 * DEADLINE_SECONDS))
        await eventually(partial(_is_open, subscriber))
        await place.publish(1, 2, 3)
        for how, revisions in ((breakable.stop, (4, 5, 6)), (breakable.kill, (7, 8, 9))):
            await eventually(partial(crm.has, revisions[0] - 1))
            await asyncio.to_thread(how)
            await eventually(lambda: not _is_open(subscriber))
            await asyncio.to_thread(breakable.start)
            await place.publish_as_the_bridge(*revisions)
    # Acknowledgements and confirms just before a broker dies may die with it: then changes come again.
    assert list(dict.fromkeys(crm.seen)) == list(range(1, 10))
    entries = reading.result()
    assert list(dict.fromkeys(entry.event.revision for entry in entries)) == list(range(1, 10))
    assert len({entry.offset for entry in entries}) == len(entries)
    assert await place.dead() == []


async def test_a_broker_that_falls_silent_is_left_and_nobody_is_cancelled(breakable: PrivateBroker) -> None:
    place = Place(breakable)
    subscriber = place.subscriber(heartbeat_seconds=1, longest_pause_seconds=0.5)
    crm = Crm(subscriber, until=1)
    running = asyncio.create_task(subscriber.run(crm))
    await eventually(partial(_is_open, subscriber))
    breakable.pause()
    try:
        await eventually(lambda: not _is_open(subscriber))
    finally:
        breakable.go_on()
    await place.publish(1)
    await asyncio.wait_for(running, DEADLINE_SECONDS)
    assert crm.seen[:1] == [1]


async def read(reader: LogReader, until: int, deadline_seconds: float = DEADLINE_SECONDS) -> list[LogEntry]:
    entries: list[LogEntry] = []
    async with asyncio.timeout(deadline_seconds), aclosing(reader.__aiter__()) as log:
        async for entry in log:
            entries.append(entry)
            if entry.event.revision == until:
                reader.stop()
    return entries


async def test_the_log_is_read_from_its_beginning_and_on_into_what_is_published(place: Place) -> None:
    await place.make_log()
    await place.publish(*range(1, 101))
    reader = place.reader(prefetch=10)
    reading = asyncio.create_task(read(reader, until=150))
    await place.publish(*range(101, 151))
    assert [entry.event.revision for entry in await reading] == list(range(1, 151))


async def test_the_log_is_read_on_from_an_offset(place: Place) -> None:
    await place.make_log()
    await place.publish(*range(1, 21))
    entries = await read(place.reader(), until=20)
    again = await read(place.reader(start=entries[4].offset + 1), until=20)
    assert again == entries[5:]


async def test_the_log_is_read_from_a_time(place: Place) -> None:
    await place.make_log()
    await place.publish(1)
    entries = await read(place.reader(start=datetime.now(UTC) - timedelta(hours=1)), until=1)
    assert [entry.event.revision for entry in entries] == [1]
    with pytest.raises(ValueError, match="needs a zone"):
        place.reader(start=datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake


async def test_the_log_is_read_from_now_on(place: Place) -> None:
    await place.make_log()
    await place.publish(1, 2)
    reader = place.reader(start="next")
    reading = asyncio.create_task(read(reader, until=3))
    await eventually(partial(_is_open, reader))
    await place.publish(3)
    assert [entry.event.revision for entry in await reading] == [3]


async def test_what_is_no_account_change_is_passed_over_in_the_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.make_log()
    await place.publish(b"{}", kind="pbx.source.verified")
    await place.publish(b"no event", 1)
    entries = await read(place.reader(), until=1)
    assert [(entry.offset, entry.event.revision) for entry in entries] == [(2, 1)]
    assert [record.message for record in caplog.records].count("delivery.not_an_event") == 1


async def test_what_is_no_event_ends_nobody_who_follows_the_log(place: Place) -> None:
    """The broker ends the connection of whoever rejects an entry of a stream."""
    await place.make_log()
    await place.publish(b"no event", 1, b"no event either", 2)
    seen: list[int] = []
    async with subscribe([place.broker.url], exchange=place.exchange, start="first") as deliveries:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for delivery in deliveries:
                await delivery.ack()
                seen.append(delivery.event.revision)
                if seen == [1, 2]:
                    await place.publish(3)
                if len(seen) == 3:
                    break
    assert seen == [1, 2, 3]


def test_the_example_applies_each_change_once_though_it_is_killed_again_and_again(
    broker: PrivateBroker, tmp_path: Path
) -> None:
    """The code that users copy, in a process that dies at any moment, fed with changes and their duplicates."""
    place = Place(broker)
    asyncio.run(place.exist())
    code = textwrap.dedent((bridge.consumer.__doc__ or "").split("::\n", 1)[1].split("\n``subscriber``", 1)[0])
    for written, wanted in {
        '"amqp://guest:guest@localhost/"': repr(broker.url),
        'queue="letters"': f"queue={place.queue!r}, exchange={place.exchange!r}, delivery_limit=20",
        '"letters.db"': repr(str(tmp_path / "letters.db")),
    }.items():
        assert code.count(written) == 1
        code = code.replace(written, wanted)
    asyncio.run(place.publish(*(revision for each in range(1, CHANGES + 1) for revision in (each, each))))
    kills = 0
    while (before := _letters(tmp_path)) < CHANGES:
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            until = time.monotonic() + DEADLINE_SECONDS
            while _letters(tmp_path) < min(before + CHANGES // 5, CHANGES):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.002)
            process.kill()
        kills += 1
    assert kills >= 3
    with closing(sqlite3.connect(tmp_path / "letters.db")) as letters:
        accounts = [row[0] for row in letters.execute("SELECT account FROM letter ORDER BY rowid")]
    assert accounts == [f"anna {revision}" for revision in range(1, CHANGES + 1)]


def _letters(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "letters.db")) as letters:
        try:
            return int(letters.execute("SELECT count(*) FROM letter").fetchone()[0])
        except sqlite3.OperationalError:  # no table yet
            return 0
