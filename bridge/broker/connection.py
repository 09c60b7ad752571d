"""Connections to the broker whose failures speak our language.

A connection here is used until its first failure and then thrown away; nothing restores itself behind our back.
"""

import asyncio
import re
import shlex
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aio_pika
import aiormq.exceptions as amqp
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from pamqp.exceptions import PAMQPException
from yarl import URL

from bridge.broker.errors import name_vhost, translated
from bridge.broker.topology import Topology
from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable

DEADLINE_SECONDS: Final = 10.0
"""For one answer of the broker."""

CLOSE_SECONDS: Final = 3.0
"""For a farewell; then the socket is cut."""


HEARTBEAT_SECONDS: Final = 10
"""Asked of the broker. A connection on which nothing arrives counts as dead after three of them and a bit (33 s)."""


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
        connection = _Connection(target, ssl_context=context if target.scheme == "amqps" else None)
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


class _Connection(aio_pika.Connection):
    """A connection that is closed by whoever opened it, and by nobody else.

    The client library closes one that was never closed, as one that could not connect, when it is collected: as a task
    that nobody waits for, or not at all where another thread happens to collect it.
    """

    def __del__(self) -> None:
        pass


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
        self.transport: asyncio.WriteTransport | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self.transport = writer.transport
        return reader, writer

    def cut(self) -> None:
        """Let go of the socket at once, which ends whatever still waits for the broker; nothing where it is closed."""
        if self.transport is not None:
            self.transport.abort()


def find_transport(connection: AbstractConnection) -> asyncio.Transport:
    """Return the socket of *connection*.

    Raises:
        BrokerUnreachable: it has none, or it was not opened by ``connect``.

    """
    transport = _find_line(connection).transport
    if not isinstance(transport, asyncio.Transport):
        raise BrokerUnreachable("the connection to the broker is closed")
    return transport


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
