import asyncio
import gc
import logging
import shlex
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import trustme
from aio_pika import Message
from aio_pika.abc import AbstractConnection

from bridge.broker.connection import connect
from bridge.broker.declare import declare, verify
from bridge.broker.errors import translated
from bridge.broker.fence import hold_fence
from bridge.broker.topology import Subscription, Topology
from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch
from tests.support.rabbit import PrivateBroker, free_port


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


async def delivered(connection: AbstractConnection, topology: Topology, queue: str) -> bool:
    """Tell whether what is published arrives in *queue*."""
    channel = await connection.channel()
    exchange = await channel.get_exchange(topology.exchange, ensure=False)
    await exchange.publish(Message(b"told"), "hq.account.created")
    found = await channel.get_queue(queue, ensure=False)
    return (await found.get(no_ack=True, fail=False)) is not None


async def test_a_queue_of_another_form_is_used_and_all_that_differs_is_told(
    broker: PrivateBroker, topology: Topology
) -> None:
    queue = topology.subscriptions[0].queue
    async with connected(broker.url) as connection:
        channel = await connection.channel()
        made: dict[str, Any] = {"x-queue-type": "classic", "x-max-length": 9}
        await channel.declare_queue(queue, durable=True, auto_delete=True, arguments=made)
        (told,) = await declare(connection, topology)
        assert told.startswith(f"The queue {queue} exists in another form and is used as it is: ")
        for what in (
            "auto_delete is true, not false",
            "queue-type is classic, not quorum",
            f"it has no dead-letter-exchange ({topology.exchange}.dead is wanted)",
            "it has max-length 9",
            'queue_type = "classic"',
        ):
            assert what in told
        assert "elete it" not in told
        assert await declare(connection, topology) == [told]
        assert await delivered(connection, topology, queue)


async def test_the_policy_in_the_sentence_makes_of_a_queue_what_is_wanted(
    broker: PrivateBroker, topology: Topology
) -> None:
    """What somebody made without dead letters gets them by the line as it stands."""
    queue = topology.subscriptions[0].queue
    async with connected(broker.url) as connection:
        channel = await connection.channel()
        made: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 9}
        found = await channel.declare_queue(queue, durable=True, arguments=made)
        (told,) = await declare(connection, topology)
        assert "delivery_limit = 9" in told
        program, *arguments = shlex.split(told.split("counts more for it: ")[1].split(". (")[0])
        assert program == "rabbitmqctl"
        await asyncio.to_thread(broker.ctl, *arguments)  # the connection wants to be looked after meanwhile
        assert f"{queue}\taccount-bridge {queue}\n" in await asyncio.to_thread(
            broker.ctl, "list_queues", "name", "policy"
        )
        exchange = await channel.get_exchange(topology.exchange)
        await exchange.publish(Message(b"broken"), "hq.account.created")
        await (await found.get(timeout=30)).reject(requeue=False)
        dead = await channel.get_queue(f"{queue}.dead")
        while await dead.get(no_ack=True, fail=False, timeout=30) is None:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("before", "after", "remedy"),
    [
        ({"log_max_age": "30D"}, {"log_max_age": "60D"}, 'rabbitmq.log_max_age = "30D"'),
        ({"log_max_age": "30D"}, {"log_max_age": "7D"}, '{"max-age":"7D"}'),
        ({"log_max_bytes": 10**9}, {"log_max_bytes": 2 * 10**9}, "rabbitmq.log_max_bytes = 1000000000"),
        ({"log_max_bytes": 10**10}, {"log_max_bytes": 10**9}, '{"max-length-bytes":1000000000}'),
    ],
)
async def test_a_setting_of_the_log_that_is_changed_is_a_warning_with_the_remedy(
    broker: PrivateBroker, topology: Topology, before: dict[str, Any], after: dict[str, Any], remedy: str
) -> None:
    async with connected(broker.url) as connection:
        assert await declare(connection, replace(topology, **before)) == []
        (told,) = await declare(connection, replace(topology, **after))
        assert told.startswith(f"The stream {topology.log} exists in another form and is used as it is: ")
        assert remedy in told


@pytest.mark.parametrize(("is_ordered", "differs"), [(None, False), (True, False), (False, True)])
async def test_a_queue_for_one_subscriber_at_a_time_is_right_unless_it_is_to_be_shared(
    broker: PrivateBroker, topology: Topology, *, is_ordered: bool | None, differs: bool
) -> None:
    """So that operator and subscriber may each make it, whoever comes first."""
    made, wanted = (replace(topology.subscriptions[0], is_ordered=ordered) for ordered in (True, is_ordered))
    async with connected(broker.url) as connection:
        assert await declare(connection, replace(topology, subscriptions=[made])) == []
        told = await declare(connection, replace(topology, subscriptions=[wanted]))
        assert ["ordered = true" in sentence for sentence in told] == [True] * differs


async def test_a_queue_that_belongs_to_one_connection_alone_stops_nobody(
    broker: PrivateBroker, topology: Topology
) -> None:
    other = Subscription(f"{topology.exchange}.other")
    topology = replace(topology, subscriptions=(*topology.subscriptions, other))
    async with connected(broker.url) as connection, connected(broker.url) as mine:
        channel = await mine.channel()
        await channel.declare_queue(topology.subscriptions[0].queue, exclusive=True)
        (told,) = await declare(connection, topology)
        assert "belongs to one connection alone" in told
        assert await delivered(connection, topology, other.queue)


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


async def test_a_connection_that_never_came_about_leaves_nothing_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """It may be collected at any time, and by any thread."""
    caplog.set_level(logging.CRITICAL)  # what was logged would keep it
    with pytest.raises(BrokerUnreachable):
        async with connect([f"amqp://127.0.0.1:{free_port()}/"], client_name="test"):
            pass
    gc.collect()
    assert asyncio.all_tasks() == {asyncio.current_task()}


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


async def refused(url: str, topology: Topology | None = None) -> BridgeError:
    with pytest.raises(BridgeError) as problem:
        async with connected(url) as connection:
            await declare(connection, topology or Topology())
    return problem.value


async def test_a_limit_that_is_reached_is_said_with_the_command_that_raises_it(broker: PrivateBroker) -> None:
    """The client library drops what the broker says of some of them; typed as it stands, the command helps."""
    host, user = f"host{uuid4().hex[:6]}", user_of(broker, ".*")
    url = broker.url_of(user, "pw") + host
    broker.ctl("add_vhost", host)
    denied = await refused(url)
    assert isinstance(denied, BrokerRefusedLogin)
    typed: list[str] = []
    for limits, kind in (
        (("set_vhost_limits", "-p", host, '{"max-queues":1}'), TopologyMismatch),
        (("set_vhost_limits", "-p", host, '{"max-connections":0}'), BrokerUnreachable),
        (("set_user_limits", user, '{"max-connections":0}'), BrokerUnreachable),
        (("set_user_limits", user, '{"max-channels":0}'), BrokerUnreachable),
    ):
        if not typed:
            program, *arguments = shlex.split(str(denied).split("name: ")[1])
            assert program == "rabbitmqctl"
            broker.ctl(*arguments)
        broker.ctl(*limits)
        problem = await refused(url, Topology(subscriptions=[Subscription("pbx.accounts.crm")]))
        assert type(problem) is kind
        assert " limit" in str(problem)
        program, *arguments = shlex.split(str(problem).split("take it away: ")[-1].split("limit away: ")[-1])
        assert program == "rabbitmqctl"
        broker.ctl(*arguments)
        typed.append(arguments[0])
    assert typed == ["clear_vhost_limits"] * 2 + ["clear_user_limits"] * 2
    async with connected(url) as connection:
        await declare(connection, Topology(subscriptions=[Subscription("pbx.accounts.crm")]))
    missing = await refused(broker.url + "nowhere")
    assert isinstance(missing, BrokerRefusedLogin)
    assert "there is none of that name" in str(missing)
