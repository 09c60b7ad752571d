"""The connection in the stream protocol, to a real broker and to some that fail."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import trustme
from rstream import schema
from rstream.encoding import encode_frame

from bridge.broker.stream.connection import connect_stream
from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch
from tests.support.rabbit import PrivateBroker, free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def broker(authority: trustme.CA, tls_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateBroker]:
    folder = tmp_path_factory.mktemp("certificates")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    configuration = "\n".join(
        (
            f"stream.listeners.ssl.1 = 127.0.0.1:{tls_port}",
            f"ssl_options.cacertfile = {folder / 'ca.pem'}",
            f"ssl_options.certfile = {folder / 'server.pem'}",
            f"ssl_options.keyfile = {folder / 'server.pem'}",
        )
    )
    with PrivateBroker(configuration, streams=True) as started:
        yield started


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[str]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"rabbitmq-stream://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def logged_in(url: str, context: ssl.SSLContext | None = None) -> int:
    async with asyncio.timeout(30), connect_stream([url], client_name="test", ssl_context=context) as connection:
        return connection.frame_max


def test_the_log_is_reached_by_tls_where_the_certificate_verifies(
    broker: PrivateBroker, authority: trustme.CA, tls_port: int
) -> None:
    assert broker.stream_port
    context = ssl.create_default_context()
    authority.configure_trust(context)
    url = f"rabbitmq-stream+tls://guest:guest@127.0.0.1:{tls_port}/"
    assert asyncio.run(logged_in(url, context)) > 0
    with pytest.raises(BrokerRefusedLogin, match=r"certificate.*does not verify.*rabbitmq\.ca_file"):
        asyncio.run(logged_in(url, ssl.create_default_context()))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("guest:guest", "guest:wrong"), BrokerRefusedLogin, "refused user and password"),
        (("/", "/nowhere"), BrokerRefusedLogin, "virtual host"),
    ],
)
async def test_a_login_that_is_refused_says_which_part_is_wrong(
    broker: PrivateBroker, change: tuple[str, str], error: type[BridgeError], said: str
) -> None:
    start, _, end = broker.stream_url.rpartition("/") if change[0] == "/" else (broker.stream_url, "", "")
    url = f"{start}{change[1]}{end}" if change[0] == "/" else start.replace(*change)
    with pytest.raises(error, match=said):
        await logged_in(url)


async def test_a_stream_that_is_not_there_is_named(broker: PrivateBroker) -> None:
    async with connect_stream([broker.stream_url], client_name="test") as connection:
        with pytest.raises(TopologyMismatch, match=r"no stream pbx\.nothing\.log"):
            await connection.declare_publisher(0, "test", "pbx.nothing.log")


async def test_of_several_hosts_the_first_that_answers_is_taken(broker: PrivateBroker) -> None:
    dead = f"rabbitmq-stream://127.0.0.1:{free_port()}/"
    async with connect_stream([dead, broker.stream_url], client_name="test") as connection:
        assert connection.frame_max > 0
    with pytest.raises(BrokerUnreachable, match=r"rabbitmq-plugins enable rabbitmq_stream"):
        await logged_in(dead)


async def test_a_host_that_accepts_and_says_nothing_is_given_up_at_the_deadline() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with served(say_nothing) as url:
        with pytest.raises(BrokerUnreachable, match="did not answer in time"):
            async with asyncio.timeout(5), connect_stream([url], client_name="test", deadline_seconds=0.3):
                pass


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "broke: the broker ended it"),
        (b"\0\0\0\4\x7f\xff\0\1", "sent what cannot be read"),
        (encode_frame(schema.Close(1, code=1, reason="maintenance")), "closed the connection: maintenance"),
    ],
)
async def test_whatever_ends_a_connection_wakes_who_waits(sent: bytes, said: str) -> None:
    """The client library's own connection would wait for its deadline in the last two cases."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(sent)
        await writer.drain()
        if sent:
            await reader.read()
        writer.close()

    async with served(answer) as url:
        with pytest.raises(BrokerUnreachable, match=said):
            await logged_in(url)


async def test_a_broker_that_falls_silent_counts_as_gone_after_three_heartbeats() -> None:
    with PrivateBroker(streams=True) as broken:
        async with connect_stream([broken.stream_url], client_name="test", heartbeat_seconds=1) as connection:
            ended: asyncio.Future[BridgeError] = asyncio.get_running_loop().create_future()
            connection.on_end = ended.set_result
            broken.pause()
            try:
                assert "silent" in str(await asyncio.wait_for(ended, 30))
            finally:
                broken.go_on()
