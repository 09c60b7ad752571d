"""The broker: connections whose failures speak our language, and the exchange and queues we want to find there.

A connection here is used until its first failure and then thrown away; nothing restores itself behind our back.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aio_pika
import aiormq.exceptions as amqp
from aio_pika.abc import AbstractChannel, AbstractConnection
from yarl import URL

from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch

DEADLINE_SECONDS: Final = 10.0
"""For one answer of the broker."""

CLOSE_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue that is declared before its subscriber first connects."""

    queue: str
    keys: Sequence[str] = ("*.account.*",)
    delivery_limit: int = 20
    queue_type: str = "quorum"


@dataclass(frozen=True, slots=True)
class Topology:
    """What the bridge wants to find at the broker."""

    exchange: str = "pbx.accounts"
    has_log: bool = True
    log_max_age: str = "30D"
    log_max_bytes: int = 5_000_000_000
    subscriptions: Sequence[Subscription] = ()

    @property
    def log(self) -> str:
        """Name of the stream that keeps everything."""
        return f"{self.exchange}.log"

    @property
    def dead_letter_exchange(self) -> str:
        """Where messages go that a subscriber could not handle."""
        return f"{self.exchange}.dead"


@asynccontextmanager
async def connect(
    urls: Sequence[str],
    *,
    client_name: str,
    deadline_seconds: float = DEADLINE_SECONDS,
    heartbeat_seconds: int = 10,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[AbstractConnection]:
    """Connect to the first of *urls* that lets us in, and close behind the caller.

    Raises:
        BrokerUnreachable: nobody answers at any of them.
        BrokerRefusedLogin: user, password or virtual host are wrong, or the certificate does not verify.

    """
    connection = await _first_connection(urls, client_name, deadline_seconds, heartbeat_seconds, ssl_context)
    try:
        yield connection
    finally:
        with suppress(TimeoutError, OSError, amqp.AMQPError, RuntimeError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close()


async def _first_connection(
    urls: Sequence[str], client_name: str, deadline_seconds: float, heartbeat_seconds: int, context: Any
) -> AbstractConnection:
    problem: BrokerUnreachable | None = None
    for url in urls:
        try:
            with translated(url):
                async with asyncio.timeout(deadline_seconds):
                    connection = aio_pika.Connection(
                        URL(url),
                        ssl_context=context if url.startswith("amqps:") else None,
                        heartbeat=heartbeat_seconds,
                        client_properties={"connection_name": client_name},
                    )
                    await connection.connect(timeout=deadline_seconds)
                    return connection
        except BrokerUnreachable as unreachable:
            problem = unreachable
    raise problem or BrokerUnreachable("no broker is configured")


async def declare(connection: AbstractConnection, topology: Topology) -> None:
    """Make sure that everything in *topology* is there.

    Raises:
        TopologyMismatch: something is there in another form, or may not be declared by this user.
        BrokerUnreachable: the connection broke.

    """
    name = topology.exchange
    async with _step(connection, f"the exchange {name}") as channel:
        await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
    if topology.has_log:
        async with _step(connection, f"the stream {topology.log}") as channel:
            arguments: dict[str, Any] = {
                "x-queue-type": "stream",
                "x-max-age": topology.log_max_age,
                "x-max-length-bytes": topology.log_max_bytes,
            }
            stream = await channel.declare_queue(topology.log, durable=True, arguments=arguments)
            await stream.bind(name, "#")
    for subscription in topology.subscriptions:
        await _declare_subscription(connection, topology, subscription)


async def _declare_subscription(connection: AbstractConnection, topology: Topology, wanted: Subscription) -> None:
    dead, dead_exchange = f"{wanted.queue}.dead", topology.dead_letter_exchange
    async with _step(connection, f"the exchange {dead_exchange}") as channel:
        await channel.declare_exchange(dead_exchange, aio_pika.ExchangeType.DIRECT, durable=True)
    for queue, more in (
        (dead, {}),
        (
            wanted.queue,
            {"x-dead-letter-exchange": dead_exchange, "x-dead-letter-routing-key": wanted.queue}
            | ({"x-delivery-limit": wanted.delivery_limit} if wanted.queue_type == "quorum" else {}),
        ),
    ):
        async with _step(connection, f"the queue {queue}") as channel:
            arguments: dict[str, Any] = {"x-queue-type": wanted.queue_type, **more}
            declared = await channel.declare_queue(queue, durable=True, arguments=arguments)
            if queue == dead:
                await declared.bind(dead_exchange, wanted.queue)
            else:
                for key in wanted.keys:
                    await declared.bind(topology.exchange, key)


async def verify(connection: AbstractConnection, topology: Topology) -> None:
    """Look for everything in *topology* without changing anything.

    Raises:
        TopologyMismatch: something is missing.
        BrokerUnreachable: the connection broke.

    """
    async with _step(connection, f"the exchange {topology.exchange}") as channel:
        await channel.declare_exchange(topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True, passive=True)
    queues = [topology.log] * topology.has_log + [wanted.queue for wanted in topology.subscriptions]
    for queue in queues:
        async with _step(connection, f"the queue {queue}") as channel:
            await channel.declare_queue(queue, passive=True)


async def hold_fence(connection: AbstractConnection, name: str) -> None:
    """Declare an exclusive queue that lives as long as *connection*: no second writer gets past it.

    Without it, messages that the broker still holds of a connection that died could land behind those of the next one.

    Raises:
        BrokerUnreachable: another connection holds it; waiting helps if that one is dying.

    """
    try:
        async with _step(connection, f"the fence {name}") as channel:
            await channel.declare_queue(name, durable=False, exclusive=True)
    except TopologyMismatch as problem:
        if isinstance(problem.__cause__, amqp.ChannelLockedResource):
            raise BrokerUnreachable(
                f"another connection publishes for this source (it holds the queue {name}): either our own last one, "
                "whose end the broker will notice soon, or a second bridge for the same PBX, which must be stopped"
            ) from problem
        raise


@asynccontextmanager
async def _step(connection: AbstractConnection, what: str) -> AsyncIterator[AbstractChannel]:
    """Open a channel for one thing, since a refusal closes its channel, and say what was refused."""
    with translated(None, what):
        async with asyncio.timeout(DEADLINE_SECONDS):
            channel = await connection.channel(publisher_confirms=False)
            yield channel
            await channel.close()


@contextmanager
def translated(url: str | None, what: str = "") -> Iterator[None]:
    """Turn whatever the client library raises into an error of ours; no sentence holds a password."""
    try:
        yield
    except asyncio.CancelledError as problem:
        # The client library cancels whoever waits when heartbeats stay out; that is not our being stopped.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise BrokerUnreachable("the broker fell silent") from problem
    except (OSError, amqp.AMQPError, RuntimeError) as problem:
        raise translation(problem, url, what) from problem


def translation(problem: BaseException, url: str | None = None, what: str = "") -> BridgeError:
    """Return the error of ours that says what *problem* says, about *what* at *url*."""
    where = f"the broker at {_place(url)}" if url else "the broker"
    for foreign, ours, sentence in _TRANSLATIONS:
        if isinstance(problem, foreign):
            return ours(sentence.format(where=where, what=what, text=_text(problem)))
    return BrokerUnreachable(f"no connection to {where}: {_text(problem)}")


_TRANSLATIONS: Final[Sequence[tuple[type[BaseException], type[BridgeError], str]]] = (  # the first that fits
    (
        amqp.ChannelAccessRefused,
        TopologyMismatch,
        (
            "the broker's user may not touch {what}. Allow it, for example: rabbitmqctl set_permissions -p VHOST USER "
            "'^pbx\\.accounts' '^pbx\\.accounts' '^pbx\\.accounts'"
        ),
    ),
    (
        amqp.ChannelPreconditionFailed,
        TopologyMismatch,
        (
            "{what} exists in another form: {text}. Delete it, name another one, or set rabbitmq.declare = false if it "
            "is meant to be so"
        ),
    ),
    (
        amqp.ChannelNotFoundEntity,
        TopologyMismatch,
        "{what} does not exist. Create it, or set rabbitmq.declare = true",
    ),
    (amqp.ChannelClosed, TopologyMismatch, "the broker refused {what}: {text}"),
    (
        ssl.SSLCertVerificationError,
        BrokerRefusedLogin,
        "the certificate of {where} does not verify: {text}. Set rabbitmq.ca_file to the CA that signed it",
    ),
    (
        amqp.AuthenticationError,
        BrokerRefusedLogin,
        (
            "{where} refused user and password. Set the right ones in rabbitmq.url, or at the broker: rabbitmqctl "
            "change_password USER PASSWORD"
        ),
    ),
    (
        amqp.ProbableAuthenticationError,
        BrokerRefusedLogin,
        (
            "{where} refused user and password. Set the right ones in rabbitmq.url, or at the broker: rabbitmqctl "
            "change_password USER PASSWORD"
        ),
    ),
    (
        amqp.ConnectionNotAllowed,
        BrokerRefusedLogin,
        "{where} does not let this user into the virtual host: {text}",
    ),
    (
        amqp.InvalidFrameError,  # what the client library makes of the broker's closing it while the host is opened
        BrokerRefusedLogin,
        (
            "{where} does not let this user into the virtual host, or there is none of that name. Is it right, at the "
            "end of rabbitmq.url?"
        ),
    ),
    (TimeoutError, BrokerUnreachable, "{where} did not answer in time"),
)


def _place(url: str) -> str:
    parts = urlsplit(url)
    vhost = unquote(parts.path.removeprefix("/")) or "/"
    return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)} (virtual host {vhost})"


def _text(problem: BaseException) -> str:
    told = getattr(problem, "strerror", None) or getattr(problem, "reason", None) or str(problem)
    return str(told).split("\n", 1)[0][:300] or type(problem).__name__
