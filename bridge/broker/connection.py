"""The broker: connections whose failures speak our language, and the exchange and queues we want to find there.

A connection here is used until its first failure and then thrown away; nothing restores itself behind our back.
"""

import asyncio
import re
import shlex
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Container, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import aio_pika
import aiormq.exceptions as amqp
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import ChannelFrame
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp import commands
from pamqp.exceptions import PAMQPException
from yarl import URL

from bridge.broker.differences import SINGLE_ACTIVE_CONSUMER, Difference, difference_in, sentence_of
from bridge.broker.errors import name_vhost, translated
from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable, FenceHeld, TopologyMismatch
from bridge.model import SourceName

DEADLINE_SECONDS: Final = 10.0
"""For one answer of the broker."""

CLOSE_SECONDS: Final = 3.0
"""For a farewell; then the socket is cut."""

FENCES_AT_ONCE: Final = 256
"""Declared in one write, with one answer. A broker declares about 300 in a second, so the deadline holds for each."""

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
    is_ordered: bool | None = None
    """A single active consumer: one at a time receives, so that changes stay in order, and the others stand by. With
    ``None`` either is right where the queue exists, and it is made without."""

    def arguments(self, dead_letter_exchange: str) -> Mapping[str, Any]:
        """Return how it is declared, by whomever: the bridge, a subscriber in Python, one in any other language."""
        return {
            "x-queue-type": self.queue_type,
            "x-dead-letter-exchange": dead_letter_exchange,
            "x-dead-letter-routing-key": self.queue,
            **({"x-delivery-limit": self.delivery_limit} if self.queue_type == "quorum" else {}),
            **({SINGLE_ACTIVE_CONSUMER: True} if self.is_ordered else {}),
        }


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
async def connect(  # noqa: PLR0913 - how patient to be, by name
    urls: Sequence[str],
    *,
    client_name: str,
    deadline_seconds: float = DEADLINE_SECONDS,
    close_seconds: float = CLOSE_SECONDS,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    ssl_context: ssl.SSLContext | None = None,
    on_progress: Callable[[], None] = lambda: None,
) -> AsyncIterator[AbstractConnection]:
    """Connect to the first of *urls* that lets us in, and close behind the caller, within *close_seconds*.

    *deadline_seconds* is for each of them, and later for each ``step``; *on_progress* is called behind either. A
    ``heartbeat`` in an URL counts more than *heartbeat_seconds*.

    Raises:
        BrokerUnreachable: none of them answers; the sentence names each.
        BrokerRefusedLogin: none lets us in, and at least one because user, password or virtual host are wrong, or
            because its certificate does not verify.

    """
    connection = await _first_connection(
        urls, client_name, deadline_seconds, heartbeat_seconds, ssl_context, on_progress
    )
    try:
        yield connection
    finally:
        try:
            with suppress(BridgeError), translated(None):  # it is thrown away: how its end went makes no difference
                async with in_time(connection, close_seconds):
                    await connection.close()
        finally:
            _find_line(connection).cut()


async def _first_connection(  # noqa: PLR0913, PLR0917 - private, and called once
    urls: Sequence[str],
    client_name: str,
    deadline_seconds: float,
    heartbeat_seconds: int,
    context: ssl.SSLContext | None,
    on_progress: Callable[[], None],
) -> AbstractConnection:
    problems: list[BridgeError] = []
    for url in urls:
        # Both go into the URL, where every version of the client library looks for them.
        target = URL(url)
        heartbeat = target.query.get("heartbeat", str(heartbeat_seconds))
        target = target.update_query(heartbeat=heartbeat, name=client_name)
        connection = aio_pika.Connection(target, ssl_context=context if target.scheme == "amqps" else None)
        line = connection.kwargs[_LINE] = _Line(deadline_seconds, on_progress)
        try:
            with translated(url):
                async with in_time(connection):
                    await connection.connect()
        except BaseException as problem:
            line.cut()
            if not isinstance(problem, (BrokerUnreachable, BrokerRefusedLogin)):
                raise
            problems.append(problem)
            line.on_progress()  # there may be another host
        else:
            return connection
    raise _pick_worst(problems)


_LINE: Final = "transport_factory"
"""What the client library calls it among the arguments of a connection."""


class _Line(TransportFactory):
    """Opens the socket of a connection, can cut it, and knows how long an answer may take.

    The client library keeps the socket to itself, and its farewell waits for a broker that may never answer: for as
    long as there is something to write, or for the end of TLS.
    """

    def __init__(self, deadline_seconds: float, on_progress: Callable[[], None]) -> None:
        self.deadline_seconds = deadline_seconds
        self.on_progress = on_progress
        self._transport: asyncio.WriteTransport | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self._transport = writer.transport
        return reader, writer

    def cut(self) -> None:
        """Let go of the socket at once, which ends whatever still waits for the broker; nothing where it is closed."""
        if self._transport is not None:
            self._transport.abort()


def _find_line(connection: AbstractConnection) -> _Line:
    line = connection.kwargs.get(_LINE)
    return line if isinstance(line, _Line) else _Line(DEADLINE_SECONDS, lambda: None)  # opened by somebody else


@asynccontextmanager
async def in_time(connection: AbstractConnection, seconds: float | None = None) -> AsyncIterator[None]:
    """Cut *connection* where what is done inside takes longer than *seconds*, or than its deadline.

    Cancelling alone does not end it: the client library answers a cancellation by writing that a channel or the
    connection is closed, and waits for room to do so.

    Raises:
        TimeoutError: it took longer, whatever the client library makes of its end.

    """
    line = _find_line(connection)
    seconds = line.deadline_seconds if seconds is None else seconds
    cutting = asyncio.get_running_loop().call_later(seconds, line.cut)
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except (OSError, amqp.AMQPError, PAMQPException, RuntimeError) as problem:
        if limit.expired():
            raise TimeoutError from problem
        raise
    finally:
        cutting.cancel()
    line.on_progress()


def _pick_worst(problems: Sequence[BridgeError]) -> BridgeError:
    """Return what to tell of several hosts: a refusal, which somebody has to mend, rather than a host that is down."""
    if not problems:
        return BrokerUnreachable("no broker is configured: set rabbitmq.url")
    refusal = next((problem for problem in problems if isinstance(problem, BrokerRefusedLogin)), None)
    if refusal is not None or len(problems) == 1:
        return refusal or problems[0]
    several = BrokerUnreachable("; ".join(map(str, problems)))
    several.__cause__ = problems[-1]
    return several


async def declare(connection: AbstractConnection, topology: Topology) -> Sequence[str]:
    """Make sure that everything in *topology* is there, and return what is there in another form, in sentences.

    That is used as it is: nobody's change of a setting is a reason to stop publishing.

    Raises:
        TopologyMismatch: the exchange is of another type, or something may not be declared by this user.
        BrokerUnreachable: the connection broke, or the broker is still starting.

    """
    try:
        return [told async for told in _declare(connection, topology)]
    except TopologyMismatch as problem:
        if isinstance(problem.__cause__, amqp.ChannelNotFoundEntity):
            # A starting broker lets clients in before it has found all of its queues again.
            raise BrokerUnreachable(f"the broker is still starting: {problem}") from problem
        raise


async def _declare(connection: AbstractConnection, topology: Topology) -> AsyncGenerator[str, None]:
    name = topology.exchange
    async for told in _provide_exchange(connection, topology, name, aio_pika.ExchangeType.TOPIC):
        yield told
    if topology.is_log_bound:
        told = await provide_queue(
            connection, topology, f"the stream {topology.log}", topology.log, topology.log_arguments
        )
        if told:
            yield told
        async with step(connection, f"a binding of the stream {topology.log}", topology) as channel:
            stream = await channel.get_queue(topology.log, ensure=False)
            await stream.bind(name, "#")
    elif topology.has_log:
        # It may still be bound from former times, and would have everything twice. No error where it is not.
        async with step(connection, f"the binding of the stream {topology.log}", topology) as channel:
            former = await channel.get_queue(topology.log, ensure=False)
            await former.unbind(name, "#")
    for subscription in topology.subscriptions:
        async for told in _declare_subscription(connection, topology, subscription):
            yield told


async def _declare_subscription(
    connection: AbstractConnection, topology: Topology, wanted: Subscription
) -> AsyncGenerator[str, None]:
    dead, dead_exchange = f"{wanted.queue}.dead", topology.dead_letter_exchange
    indifferent = frozenset([SINGLE_ACTIVE_CONSUMER]) if wanted.is_ordered is None else frozenset[str]()
    async for told in _provide_exchange(connection, topology, dead_exchange, aio_pika.ExchangeType.DIRECT):
        yield told
    for queue, arguments, exchange, keys in (
        (dead, {"x-queue-type": wanted.queue_type}, dead_exchange, [wanted.queue]),
        (wanted.queue, wanted.arguments(dead_exchange), topology.exchange, wanted.keys),
    ):
        what = f"the queue {queue}"
        try:
            if told := await provide_queue(connection, topology, what, queue, arguments, indifferent):
                yield told
        except TopologyMismatch as problem:
            if not isinstance(problem.__cause__, amqp.ChannelLockedResource):
                raise
            yield (
                f"The queue {queue} belongs to one connection alone (exclusive), so the bridge cannot bind it. Have "
                "its subscriber declare it durable and not exclusive"
            )
            continue
        async with step(connection, f"a binding of {what}", topology) as channel:
            bound = await channel.get_queue(queue, ensure=False)
            for key in keys:
                await bound.bind(exchange, key)


async def _provide_exchange(
    connection: AbstractConnection, topology: Topology, name: str, kind: aio_pika.ExchangeType
) -> AsyncGenerator[str, None]:
    try:
        async with step(connection, f"the exchange {name}", topology) as channel:
            await channel.declare_exchange(name, kind, durable=True)
    except TopologyMismatch as problem:
        told = difference_in(str(problem.__cause__))
        if told is None or told.argument == "type":
            raise
        yield f"The exchange {name} exists in another form and is used as it is: {told.words}"


async def provide_queue(  # noqa: PLR0913, PLR0917 - a queue, as somebody wants it
    connection: AbstractConnection,
    topology: Topology,
    what: str,
    name: str,
    arguments: Mapping[str, Any],
    indifferent: Container[str] = (),
) -> str:
    """Make a durable queue where there is none, and return in a sentence what differs where there is another.

    Of *indifferent* arguments it makes no difference.

    Raises:
        TopologyMismatch: this user may not.
        BrokerUnreachable: the connection broke.

    """
    found: list[Difference] = []
    properties: dict[str, Any] = {"durable": True, "exclusive": False, "auto_delete": False}
    tried = dict(arguments)
    while True:
        try:
            async with step(connection, what, topology) as channel:
                await channel.declare_queue(name, arguments=tried, **properties)
            break
        except TopologyMismatch as problem:
            told = difference_in(str(problem.__cause__))
            if told is None or any(told.argument == known.argument for known in found):
                raise
        # The broker tells the first difference only. With that one out of the way it tells the next.
        found.append(told)
        if told.argument in properties:
            properties[told.argument] = told.found
        elif told.found is None:
            tried.pop(told.argument, None)
        else:
            tried[told.argument] = told.found
    found = [told for told in found if told.argument not in indifferent]
    return sentence_of(what, name, found, name_vhost(str(getattr(connection, "url", "")))) if found else ""


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
        FenceHeld: another connection holds it; waiting helps if that one is dying.
        BrokerUnreachable: no answer in time.
        TopologyMismatch: this user may not declare it.

    """
    for held in (await hold_fences(connection, [name], topology)).values():
        raise held


async def hold_fences(
    connection: AbstractConnection, names: Sequence[str], topology: Topology
) -> Mapping[str, FenceHeld]:
    """Declare several of them, see ``hold_fence``: many in one write and with one answer.

    Returns those that another connection holds; all others are held by this one.

    Raises:
        BrokerUnreachable: no answer in time.
        TopologyMismatch: this user may not declare one of them.

    """
    held: dict[str, FenceHeld] = {}
    for start in range(0, len(names), FENCES_AT_ONCE):
        held |= await _hold_some(connection, names[start : start + FENCES_AT_ONCE], topology)
    return held


async def _hold_some(
    connection: AbstractConnection, names: Sequence[str], topology: Topology
) -> Mapping[str, FenceHeld]:
    """Declare *names* together; of a refusal the broker does not say whose it is, so that each half is asked then."""
    half = len(names) // 2
    try:
        async with step(connection, "the fences" if half else f"the fence {names[0]}", topology) as channel:
            await _declare_fences(channel, names)
    except TopologyMismatch as problem:
        if half:
            first = await _hold_some(connection, names[:half], topology)
            return {**first, **await _hold_some(connection, names[half:], topology)}
        if not isinstance(problem.__cause__, amqp.ChannelLockedResource):
            raise
        held = FenceHeld(
            f"another connection publishes for this source (it holds the queue {names[0]}): either our own last one, "
            "whose end the broker will notice soon, or a second bridge for the same PBX, which must be stopped"
        )
        held.__cause__ = problem
        return {names[0]: held}
    return {}


async def _declare_fences(channel: AbstractChannel, names: Sequence[str]) -> None:
    underlay: Any = await channel.get_underlay_channel()  # its queue is not in the library's abstract class
    *others, last = names
    if others:
        frames = [commands.Queue.Declare(queue=name, durable=False, exclusive=True, nowait=True) for name in others]
        await underlay.write_queue.put(ChannelFrame.marshall(underlay.number, frames))
    # The broker takes what a channel says one by one, so that this answer is for all. Of a refusal it says nothing but
    # that it closes the channel.
    await channel.declare_queue(last, durable=False, exclusive=True)


class LateFences:
    """The fences that *connection* holds: of sources, each taken before the first event of its source is sent.

    *name_fence* names them; without it there are none.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        topology: Topology,
        name_fence: Callable[[SourceName], str] | None,
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._name_fence = name_fence
        self._taken: set[SourceName] = set()
        self._fenced: dict[SourceName, FenceHeld] = {}

    def __repr__(self) -> str:
        return f"<LateFences {len(self._taken)} taken, {len(self._fenced)} not>"

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources whose fence another connection held when it was asked for last, and what to say of that."""
        return self._fenced

    def missing(self, sources: Iterable[SourceName]) -> Sequence[SourceName]:
        """Return those of *sources* whose fence has to be taken before anything of them may be sent."""
        return [] if self._name_fence is None else [source for source in sources if source not in self._taken]

    async def take(self, sources: Sequence[SourceName]) -> None:
        """Take the fences of *sources*, which were missing; those that another connection holds are in ``fenced``.

        Raises:
            BrokerUnreachable: there was no answer in time.
            TopologyMismatch: this user may not declare one of them.

        """
        if self._name_fence is None:
            return
        names = {source: self._name_fence(source) for source in sources}
        held = await hold_fences(self._connection, list(names.values()), self._topology)
        for source, name in names.items():
            if name in held:
                self._fenced[source] = held[name]
            else:
                self._fenced.pop(source, None)
                self._taken.add(source)


@asynccontextmanager
async def step(connection: AbstractConnection, what: str, topology: Topology) -> AsyncIterator[AbstractChannel]:
    """Open a channel for one thing, since a refusal closes its channel, and say what was refused.

    A broker that takes longer for it than the deadline of *connection* is hung up on: see ``in_time``.
    """
    with translated(None, what, permission_command(connection, topology)):
        async with in_time(connection):
            channel = await connection.channel(publisher_confirms=False)
            yield channel
            await channel.close()


def permission_command(connection: AbstractConnection, topology: Topology) -> str:
    """Return the line that allows the user of *connection* everything in *topology*, and little else."""
    url: URL = getattr(connection, "url", URL())  # not in the library's abstract class
    prefixes = [re.escape(topology.exchange)]
    prefixes += [re.escape(queue) for queue in topology.queues if not queue.startswith(topology.exchange)]
    pattern = f"^{prefixes[0]}" if len(prefixes) == 1 else f"^({'|'.join(prefixes)})"
    vhost = name_vhost(str(url))
    return shlex.join(["rabbitmqctl", "set_permissions", "-p", vhost, url.user or "guest", pattern, pattern, pattern])
