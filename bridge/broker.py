"""The broker: connections whose failures speak our language, and the exchange and queues we want to find there.

A connection here is used until its first failure and then thrown away; nothing restores itself behind our back.
"""

import asyncio
import re
import shlex
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import aio_pika
import aiormq.exceptions as amqp
from aio_pika.abc import AbstractChannel, AbstractConnection
from pamqp.exceptions import AMQPInternalError, PAMQPException
from yarl import URL

from bridge.errors import BridgeError, BrokerRefusedEvent, BrokerRefusedLogin, BrokerUnreachable, TopologyMismatch
from bridge.model import OutboxRow, SourceName
from bridge.secret import scrub

DEADLINE_SECONDS: Final = 10.0
"""For one answer of the broker."""

CLOSE_SECONDS: Final = 3.0

HEARTBEAT_SECONDS: Final = 10
"""Asked of the broker. A connection on which nothing arrives counts as dead after three of them and a bit (33 s)."""


SEGMENT_BYTES: Final = 500_000_000
"""RabbitMQ's own default for the pieces of a stream."""

SEGMENTS: Final = 10
"""A log is kept in at least so many pieces, and loses one at a time."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue that is declared before its subscriber first connects."""

    queue: str
    keys: Sequence[str] = ("*.account.*",)
    delivery_limit: int = 100
    """After so many deliveries without an acknowledgement a change is put aside. Every end of a connection counts as
    one for whatever was under way, so a low limit puts aside sound changes of a subscriber that restarts often."""
    queue_type: str = "quorum"


@dataclass(frozen=True, slots=True)
class Topology:
    """What the bridge wants to find at the broker: a topic exchange, a log of everything, queues of subscribers."""

    exchange: str = "pbx.accounts"
    has_log: bool = True
    log_max_age: str = "30D"
    log_max_bytes: int = 5_000_000_000
    log_partitions: int = 0
    """How many streams the log is, where it is written by the stream protocol; 0: the exchange feeds it."""
    subscriptions: Sequence[Subscription] = ()

    @property
    def log(self) -> str:
        """Name of the stream that keeps everything."""
        return f"{self.exchange}.log"

    @property
    def log_streams(self) -> Sequence[str]:
        """Names of the streams that are the log."""
        if self.log_partitions <= 1:
            return [self.log]
        return [f"{self.log}-{number}" for number in range(self.log_partitions)]

    @property
    def log_arguments(self) -> Mapping[str, Any]:
        """How long the log keeps things."""
        segment = self.log_max_bytes // SEGMENTS
        # Whole segments are removed, and they are of 500 MB unless something else is said: too much for a small log.
        smaller = {"x-stream-max-segment-size-bytes": segment} if segment < SEGMENT_BYTES else {}
        return {
            "x-queue-type": "stream",
            "x-max-age": self.log_max_age,
            "x-max-length-bytes": self.log_max_bytes,
            **smaller,
        }

    @property
    def is_log_bound(self) -> bool:
        """Whether the exchange feeds the log."""
        return self.has_log and not self.log_partitions

    @property
    def dead_letter_exchange(self) -> str:
        """Where messages go that a subscriber could not handle."""
        return f"{self.exchange}.dead"

    @property
    def queues(self) -> Sequence[str]:
        """Names of the queues of the subscribers."""
        return [wanted.queue for wanted in self.subscriptions]


@asynccontextmanager
async def connect(
    urls: Sequence[str],
    *,
    client_name: str,
    deadline_seconds: float = DEADLINE_SECONDS,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[AbstractConnection]:
    """Connect to the first of *urls* that lets us in, and close behind the caller.

    *deadline_seconds* is for each of them. A ``heartbeat`` in an URL counts more than *heartbeat_seconds*.

    Raises:
        BrokerUnreachable: none of them answers; the sentence names each.
        BrokerRefusedLogin: none lets us in, and at least one because user, password or virtual host are wrong, or
            because its certificate does not verify.

    """
    connection = await _first_connection(urls, client_name, deadline_seconds, heartbeat_seconds, ssl_context)
    try:
        yield connection
    finally:
        with suppress(BridgeError), translated(None):  # it is thrown away: how its end went makes no difference
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close()


async def _first_connection(
    urls: Sequence[str],
    client_name: str,
    deadline_seconds: float,
    heartbeat_seconds: int,
    context: ssl.SSLContext | None,
) -> AbstractConnection:
    problems: list[BridgeError] = []
    for url in urls:
        # Both go into the URL, where every version of the client library looks for them.
        target = URL(url)
        heartbeat = target.query.get("heartbeat", str(heartbeat_seconds))
        target = target.update_query(heartbeat=heartbeat, name=client_name)
        try:
            with translated(url):
                async with asyncio.timeout(deadline_seconds):
                    connection = aio_pika.Connection(
                        target,
                        ssl_context=context if target.scheme == "amqps" else None,
                    )
                    await connection.connect(timeout=deadline_seconds)
                    return connection
        except (BrokerUnreachable, BrokerRefusedLogin) as problem:
            problems.append(problem)
    raise _worst_of(problems)


def _worst_of(problems: Sequence[BridgeError]) -> BridgeError:
    """Return what to tell of several hosts: a refusal, which somebody has to mend, rather than a host that is down."""
    if not problems:
        return BrokerUnreachable("no broker is configured: set rabbitmq.url")
    refusal = next((problem for problem in problems if isinstance(problem, BrokerRefusedLogin)), None)
    if refusal is not None or len(problems) == 1:
        return refusal or problems[0]
    several = BrokerUnreachable("; ".join(map(str, problems)))
    several.__cause__ = problems[-1]
    return several


async def declare(connection: AbstractConnection, topology: Topology) -> None:
    """Make sure that everything in *topology* is there.

    Raises:
        TopologyMismatch: something is there in another form, or may not be declared by this user.
        BrokerUnreachable: the connection broke, or the broker is still starting.

    """
    try:
        await _declare(connection, topology)
    except TopologyMismatch as problem:
        if isinstance(problem.__cause__, amqp.ChannelNotFoundEntity):
            # A starting broker lets clients in before it has found all of its queues again.
            raise BrokerUnreachable(f"the broker is still starting: {problem}") from problem
        raise


async def _declare(connection: AbstractConnection, topology: Topology) -> None:
    name = topology.exchange
    async with step(connection, f"the exchange {name}", topology) as channel:
        await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
    if topology.is_log_bound:
        async with step(connection, f"the stream {topology.log}", topology) as channel:
            stream = await channel.declare_queue(topology.log, durable=True, arguments=dict(topology.log_arguments))
            await stream.bind(name, "#")
    elif topology.has_log:
        # It may still be bound from former times, and would have everything twice. No error where it is not.
        async with step(connection, f"the binding of the stream {topology.log}", topology) as channel:
            former = await channel.get_queue(topology.log, ensure=False)
            await former.unbind(name, "#")
    for subscription in topology.subscriptions:
        await _declare_subscription(connection, topology, subscription)


async def _declare_subscription(connection: AbstractConnection, topology: Topology, wanted: Subscription) -> None:
    dead, dead_exchange = f"{wanted.queue}.dead", topology.dead_letter_exchange
    async with step(connection, f"the exchange {dead_exchange}", topology) as channel:
        await channel.declare_exchange(dead_exchange, aio_pika.ExchangeType.DIRECT, durable=True)
    for queue, more in (
        (dead, {}),
        (
            wanted.queue,
            {"x-dead-letter-exchange": dead_exchange, "x-dead-letter-routing-key": wanted.queue}
            | ({"x-delivery-limit": wanted.delivery_limit} if wanted.queue_type == "quorum" else {}),
        ),
    ):
        async with step(connection, f"the queue {queue}", topology) as channel:
            arguments: dict[str, Any] = {"x-queue-type": wanted.queue_type, **more}
            declared = await channel.declare_queue(queue, durable=True, arguments=arguments)
            if queue == dead:
                await declared.bind(dead_exchange, wanted.queue)
            else:
                for key in wanted.keys:
                    await declared.bind(topology.exchange, key)


async def verify(connection: AbstractConnection, topology: Topology) -> None:
    """Look for everything in *topology* without changing anything, which takes no rights at all.

    The broker tells only whether there is something of that name: not of which type, and not how it is bound. What a
    wrong exchange does not deliver comes back when it is published, and is held.

    Raises:
        TopologyMismatch: something is missing.
        BrokerUnreachable: the connection broke.

    """
    async with step(connection, f"the exchange {topology.exchange}", topology) as channel:
        await channel.declare_exchange(topology.exchange, aio_pika.ExchangeType.TOPIC, durable=True, passive=True)
    for queue in [topology.log] * topology.is_log_bound + [*topology.queues]:
        async with step(connection, f"the queue {queue}", topology) as channel:
            await channel.declare_queue(queue, passive=True)


async def hold_fence(connection: AbstractConnection, name: str, topology: Topology) -> None:
    """Declare an exclusive queue that lives as long as *connection*: no second writer gets past it.

    Without it, messages that the broker still holds of a connection that died could land behind those of the next one.

    Raises:
        BrokerUnreachable: another connection holds it; waiting helps if that one is dying.
        TopologyMismatch: this user may not declare it.

    """
    try:
        async with step(connection, f"the fence {name}", topology) as channel:
            await channel.declare_queue(name, durable=False, exclusive=True)
    except TopologyMismatch as problem:
        if isinstance(problem.__cause__, amqp.ChannelLockedResource):
            raise BrokerUnreachable(
                f"another connection publishes for this source (it holds the queue {name}): either our own last one, "
                "whose end the broker will notice soon, or a second bridge for the same PBX, which must be stopped"
            ) from problem
        raise


class LateFences:
    """Fences of sources that turn up while publishing, each taken before the first event of its source is sent.

    *fence_of* names them, *held* are taken already; without *fence_of* none are.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        topology: Topology,
        fence_of: Callable[[SourceName], str] | None,
        held: Sequence[str],
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._fence_of = fence_of
        self._held = set(held)

    def __repr__(self) -> str:
        return f"<LateFences {len(self._held)} held>"

    async def hold(self, rows: Sequence[OutboxRow]) -> None:
        """Take what is missing for *rows*.

        Raises:
            BrokerUnreachable: another connection holds one of them.
            TopologyMismatch: this user may not declare it.

        """
        if self._fence_of is None:
            return
        for fence in map(self._fence_of, {row.source for row in rows}):
            if fence not in self._held:
                await hold_fence(self._connection, fence, self._topology)
                self._held.add(fence)


@asynccontextmanager
async def step(connection: AbstractConnection, what: str, topology: Topology) -> AsyncIterator[AbstractChannel]:
    """Open a channel for one thing, since a refusal closes its channel, and say what was refused."""
    with translated(None, what, permission_command(connection, topology)):
        async with asyncio.timeout(DEADLINE_SECONDS):
            channel = await connection.channel(publisher_confirms=False)
            yield channel
            await channel.close()


def permission_command(connection: AbstractConnection, topology: Topology) -> str:
    """Return the line that allows the user of *connection* everything in *topology*, and little else."""
    url: URL = getattr(connection, "url", URL())  # not in the library's abstract class
    prefixes = [re.escape(topology.exchange)]
    prefixes += [re.escape(queue) for queue in topology.queues if not queue.startswith(topology.exchange)]
    pattern = f"^{prefixes[0]}" if len(prefixes) == 1 else f"^({'|'.join(prefixes)})"
    vhost = unquote(url.raw_path.removeprefix("/")) or "/"
    return shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, url.user or "guest", pattern, pattern, pattern])


@contextmanager
def translated(url: str | None, what: str = "", command: str = "") -> Iterator[None]:
    """Turn whatever the client library raises into an error of ours, see ``translation``."""
    try:
        yield
    except asyncio.CancelledError as problem:
        # The client library cancels whoever waits when heartbeats stay out; that is not our being stopped.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise BrokerUnreachable(_SILENT) from problem
    except (OSError, amqp.AMQPError, PAMQPException, RuntimeError) as problem:
        raise translation(problem, url, what, command) from problem


def translation(problem: BaseException, url: str | None = None, what: str = "", command: str = "") -> BridgeError:
    """Return the error of ours that says what *problem* says, about *what* at *url*; it holds no password.

    *command* is what an administrator types where *what* is not permitted.
    """
    if isinstance(problem, asyncio.CancelledError):
        return BrokerUnreachable(_SILENT)
    if isinstance(problem.__cause__, ssl.SSLCertVerificationError):  # the client library keeps only its words
        problem = problem.__cause__
    where = f"the broker at {_place(url)}" if url else "the broker"
    text = _text(problem)
    for foreign, part, ours, sentence in _TRANSLATIONS:
        if isinstance(problem, foreign) and part in text:
            return ours(sentence.format(where=where, what=what, text=text, command=command or _SOME_COMMAND))
    return BrokerUnreachable(f"no connection to {where}: {text}")


_SILENT: Final = "the broker fell silent: nothing came for three heartbeats"
_SOME_COMMAND: Final = (
    "rabbitmqctl set_permissions -p VHOST USER PATTERN PATTERN PATTERN, with patterns that match its name"
)
_NO_STREAMS: Final = (
    "this broker cannot make {what}: {text}. Streams need RabbitMQ 3.9 or newer with all feature flags on "
    "(rabbitmqctl enable_feature_flag all); without one set rabbitmq.log_stream = false"
)
_NO_HOST: Final = (
    "{where} does not let this user into the virtual host, or there is none of that name. Is it right, at the "
    "end of rabbitmq.url?"
)
_WRONG_LOGIN: Final = (
    "{where} refused user and password. Set the right ones in rabbitmq.url, or at the broker: rabbitmqctl "
    "change_password USER PASSWORD"
)

_TRANSLATIONS: Final[Sequence[tuple[type[BaseException], str, type[BridgeError], str]]] = (
    # What the library raises and a part of the broker's words; what that is to us. The first that fits counts.
    (
        amqp.ChannelAccessRefused,
        "",
        TopologyMismatch,
        "the broker's user may not touch {what}. Allow it: {command}",
    ),
    (
        amqp.ChannelPreconditionFailed,
        "inequivalent arg",
        TopologyMismatch,
        (
            "{what} exists in another form: {text}. Delete it, name another one, or set rabbitmq.declare = false if it "
            "is meant to be so"
        ),
    ),
    (
        amqp.ChannelPreconditionFailed,
        "message size",
        BrokerRefusedEvent,
        ("the broker does not take an event as large as this one: {text}. Raise max_message_size in its rabbitmq.conf"),
    ),
    (amqp.ChannelPreconditionFailed, "'x-queue-type'", TopologyMismatch, _NO_STREAMS),
    (amqp.ConnectionInternalError, "feature flag is disabled", TopologyMismatch, _NO_STREAMS),
    (
        amqp.ChannelNotFoundEntity,
        "",
        TopologyMismatch,
        "{what} does not exist. Is its name right? What is configured is made where rabbitmq.declare = true",
    ),
    (amqp.ChannelClosed, "", TopologyMismatch, "the broker refused {what}: {text}"),
    (
        ssl.SSLCertVerificationError,
        "",
        BrokerRefusedLogin,
        (
            "the certificate of {where} does not verify: {text}. Set rabbitmq.ca_file to the CA that signed it, "
            "rabbitmq.server_name to the name it carries, or rabbitmq.fingerprint (account-bridge check shows it)"
        ),
    ),
    (amqp.AuthenticationError, "", BrokerRefusedLogin, _WRONG_LOGIN),
    (amqp.ProbableAuthenticationError, "", BrokerRefusedLogin, _WRONG_LOGIN),
    (
        amqp.ConnectionNotAllowed,
        "",
        BrokerRefusedLogin,
        "{where} does not let this user into the virtual host: {text}",
    ),
    # What the client library makes of the broker's closing it while the host is opened; the second until aiormq 6.9.
    (amqp.InvalidFrameError, "Connection.OpenOk", BrokerRefusedLogin, _NO_HOST),
    (AMQPInternalError, "", BrokerRefusedLogin, _NO_HOST),
    (TimeoutError, "", BrokerUnreachable, "{where} did not answer in time"),
)


def vhost_of(url: str) -> str:
    """Return the virtual host that *url* names."""
    return unquote(urlsplit(url).path.removeprefix("/")) or "/"


def _place(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    return f"{parts.hostname}:{port} (virtual host {vhost_of(url)})"


def _text(problem: BaseException) -> str:
    """Return the broker's words, which the client library keeps as the last argument of what it raises."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return problem.verify_message
    told = str(problem.args[-1]) if problem.args else ""
    return scrub(told.split("\n", 1)[0][:300]) or type(problem).__name__
