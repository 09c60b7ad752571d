import asyncio
import shlex
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest
import trustme
from aio_pika import Message
from aio_pika.abc import AbstractConnection

from bridge.broker.connection import Subscription, Topology, connect, declare, hold_fence, verify
from bridge.broker.errors import translated
from bridge.errors import BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch
from tests.support.rabbit import PrivateBroker, free_port


@pytest.fixture
def broken() -> Iterator[PrivateBroker]:
    """A broker that the test may break."""
    with PrivateBroker() as started:
        yield started


@pytest.fixture
def topology() -> Topology:
    name = f"pbx.accounts.{uuid4().hex[:8]}"
    return Topology(exchange=name, subscriptions=(Subscription(f"{name}.crm", delivery_limit=7),))


def user_of(broker: PrivateBroker, rights: str) -> str:
    name = f"user{uuid4().hex[:6]}"
    broker.ctl("add_user", name, "pw")
    broker.ctl("set_permissions", "-p", "/", name, rights, rights, rights)
    return name


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[AbstractConnection]:
    async with asyncio.timeout(60), connect([url], client_name="test") as connection:
        yield connection


async def test_everything_is_declared_and_found_and_declared_again(broker: PrivateBroker, topology: Topology) -> None:
    async with connected(broker.url) as connection:
        await declare(connection, topology)
        await verify(connection, topology)
        await declare(connection, topology)
    queues = dict(line.split("\t", 1) for line in broker.ctl("list_queues", "name", "type", "arguments").splitlines())
    crm = topology.subscriptions[0].queue
    assert queues[topology.log].startswith("stream")
    assert queues[crm].startswith("quorum")
    assert '{"x-delivery-limit",7}' in queues[crm]
    assert f"{crm}.dead" in queues


async def test_what_a_subscriber_cannot_handle_ends_in_its_own_queue_of_dead_letters(
    broker: PrivateBroker, topology: Topology
) -> None:
    other = replace(topology.subscriptions[0], queue=f"{topology.exchange}.hr")
    topology = replace(topology, subscriptions=(*topology.subscriptions, other))
    async with connected(broker.url) as connection:
        await declare(connection, topology)
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.exchange)
        await exchange.publish(Message(b"broken"), "hq.account.created")
        for wanted, is_understood in zip(topology.subscriptions, (False, True), strict=True):
            queue = await channel.get_queue(wanted.queue)
            message = await queue.get(timeout=30)
            await (message.ack() if is_understood else message.reject(requeue=False))
        dead = await channel.get_queue(f"{topology.subscriptions[0].queue}.dead")
        while (letter := await dead.get(no_ack=True, fail=False, timeout=30)) is None:
            await asyncio.sleep(0.05)
        assert letter.body == b"broken"
        others = await channel.get_queue(f"{other.queue}.dead")
        assert await others.get(no_ack=True, fail=False, timeout=30) is None


async def test_a_queue_of_another_form_is_named_with_what_differs(broker: PrivateBroker, topology: Topology) -> None:
    queue = topology.subscriptions[0].queue
    async with connected(broker.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "classic"})
        match = rf"the queue {queue} exists in another form: .*inequivalent arg 'x-.*{queue}.* but current is .*declare"
        with pytest.raises(TopologyMismatch, match=match) as mismatch:
            await declare(connection, topology)
        assert "%" not in str(mismatch.value), "the client library keeps unfilled templates"


@pytest.mark.parametrize("missing", ["exchange", "log", "crm"])
async def test_looking_names_what_is_missing(broker: PrivateBroker, topology: Topology, missing: str) -> None:
    async with connected(broker.url) as connection:
        await declare(connection, topology)
        channel = await connection.channel()
        if missing == "exchange":
            await channel.exchange_delete(topology.exchange)
        else:
            await channel.queue_delete(f"{topology.exchange}.{missing}")
        with pytest.raises(TopologyMismatch, match=rf"{missing}.* does not exist"):
            await verify(connection, topology)


async def test_looking_takes_no_rights(broker: PrivateBroker, topology: Topology) -> None:
    async with connected(broker.url) as connection:
        await declare(connection, topology)
    nobody = user_of(broker, "^$")
    async with connected(broker.url_of(nobody, "pw")) as connection:
        await verify(connection, topology)


async def test_a_queue_of_a_foreign_name_needs_the_rights_that_the_sentence_gives(
    broker: PrivateBroker, topology: Topology
) -> None:
    """The line in the sentence is typed as it stands, and nothing else is needed."""
    foreign = replace(topology, subscriptions=(*topology.subscriptions, Subscription(f"crm-{uuid4().hex[:6]}")))
    name = user_of(broker, r"^pbx\.accounts")
    async with connected(broker.url_of(name, "pw")) as connection:
        with pytest.raises(TopologyMismatch, match=r"may not touch the queue crm-") as refused:
            await declare(connection, foreign)
    program, *arguments = shlex.split(str(refused.value).split("Allow it: ")[1])
    assert program == "rabbitmqctl"
    broker.ctl(*arguments)
    async with connected(broker.url_of(name, "pw")) as connection:
        await declare(connection, foreign)
        await hold_fence(connection, f"{foreign.exchange}.writer.hq", foreign)
        with pytest.raises(TopologyMismatch, match="may not touch"):
            await declare(connection, Topology(exchange="somebody-elses", has_log=False))


async def test_a_broker_without_streams_says_how_to_go_on() -> None:
    with PrivateBroker(environment={"RABBITMQ_FEATURE_FLAGS": "quorum_queue"}) as old:
        async with connected(old.url) as connection:
            with pytest.raises(TopologyMismatch, match=r"log.*3\.9.*rabbitmq\.log_stream = false"):
                await declare(connection, Topology())
        async with connected(old.url) as connection:
            await declare(connection, Topology(has_log=False))


async def test_a_host_that_refuses_us_does_not_hide_one_that_lets_us_in(broker: PrivateBroker) -> None:
    wrong = broker.url_of("guest", "s3cret-pw")
    async with connect([wrong, broker.url], client_name="test") as connection:
        assert not connection.is_closed


async def test_a_refusal_is_told_rather_than_a_host_that_is_down(broker: PrivateBroker) -> None:
    """The one can wait, the other has to be mended by somebody."""
    down = f"amqp://127.0.0.1:{free_port()}/"
    for urls in ([down, broker.url_of("guest", "s3cret-pw")], [broker.url_of("guest", "s3cret-pw"), down]):
        with pytest.raises(BrokerRefusedLogin, match=f":{broker.port} .*refused user and password") as refused:
            async with connect(urls, client_name="test"):
                pass
        assert "s3cret-pw" not in str(refused.value)


async def test_all_hosts_that_do_not_answer_are_named() -> None:
    ports = [free_port(), free_port()]
    with pytest.raises(BrokerUnreachable, match=f":{ports[0]} .*:{ports[1]} ") as unreachable:
        async with connect([f"amqp://me:s3cret-pw@127.0.0.1:{port}/" for port in ports], client_name="test"):
            pass
    assert "s3cret-pw" not in str(unreachable.value)


async def test_a_certificate_of_nobody_we_know_is_a_sentence_about_the_certificate() -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.issue_cert("127.0.0.1").configure_cert(served)
    trusted = ssl.create_default_context()
    ours.configure_trust(trusted)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=served)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerRefusedLogin, match=rf"certificate of the broker at .*:{port} .*rabbitmq\.ca_file"):
            async with connect([f"amqps://127.0.0.1:{port}/"], client_name="test", ssl_context=trusted):
                pass


async def test_a_host_that_accepts_and_says_nothing_is_given_up_at_the_deadline() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnreachable, match=rf":{port} .*did not answer in time"):
            async with connect([f"amqp://127.0.0.1:{port}/"], client_name="test", deadline_seconds=0.3):
                pass


async def test_the_heartbeat_is_ours_unless_the_url_says_otherwise(broker: PrivateBroker) -> None:
    """The client library ignores it as an argument and would take 60 s: three minutes until a dead host is noticed."""
    async with (
        connect([broker.url], client_name="name of one", heartbeat_seconds=7),
        connect([f"{broker.url}?heartbeat=3"], client_name="name of two", heartbeat_seconds=7),
    ):
        listed = await asyncio.to_thread(broker.ctl, "list_connections", "timeout", "client_properties")
    agreed = {
        name: line.split("\t")[0]
        for line in listed.splitlines()
        for name in ("one", "two")
        if f"name of {name}" in line
    }
    assert agreed == {"one": "7", "two": "3"}


async def test_a_broker_that_falls_silent_is_unreachable_and_no_cancellation(broken: PrivateBroker) -> None:
    """The client library cancels whoever waits; taken for our own cancellation, it would end a task without a word."""
    async with connect([broken.url], client_name="test", heartbeat_seconds=1) as connection:
        channel = await connection.channel()
        broken.pause()
        try:
            with pytest.raises(BrokerUnreachable):
                async with asyncio.timeout(60):
                    with translated(None, "an answer"):
                        await channel.declare_queue("never-answered", exclusive=True, timeout=None)
        finally:
            broken.go_on()


async def test_our_own_cancellation_stays_one(broken: PrivateBroker) -> None:
    async with connect([broken.url], client_name="test") as connection:
        broken.pause()
        try:
            declaring = asyncio.create_task(declare(connection, Topology()))
            await asyncio.wait([declaring], timeout=0.2)
            declaring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await declaring
        finally:
            broken.go_on()
