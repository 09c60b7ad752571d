"""A connection in RabbitMQ's stream protocol, used until its first failure and then thrown away.

The frames are those of ``rstream`` (``rstream.schema``, ``rstream.encoding``); the connection is our own, because
that of rstream 1.1 cannot keep our promise. Read in its source: a socket that breaks while it publishes is logged and
not raised; a broker that falls silent is logged and waited for; a frame that cannot be read ends its reader and wakes
nobody; a ``Close`` of the broker is swallowed by a mistake in its handler; ``query_publisher_sequence`` answers 0
where the broker refuses to answer; reading 256 bytes at a time makes it slow; and its producer connects anew behind
the caller's back.

Whichever node is asked passes what is published on to the one that leads the stream, so the hosts of the URL are used
as they are: what a broker behind a container or a balancer advertises is often out of reach.
"""

import asyncio
import itertools
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from rstream import schema
from rstream.constants import Key
from rstream.encoding import decode_frame, encode_frame

from bridge.broker.stream.errors import refusal
from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable
from bridge.security.tls import name_distrust

DEADLINE_SECONDS: Final = 10.0
"""For one answer of the broker."""

CLOSE_SECONDS: Final = 3.0

HEARTBEAT_SECONDS: Final = 10
"""Sent this often; a connection on which nothing arrives for three of them counts as dead."""

FRAME_MAX_BYTES: Final = 16 << 20
"""Where the broker names no limit."""

PLAIN_PORT: Final = 5552
TLS_PORT: Final = 5551
TLS_SCHEME: Final = "rabbitmq-stream+tls"
SCHEMES: Final = ("rabbitmq-stream", TLS_SCHEME)

_WELL: Final = 1
_NONE: Final[Mapping[str, str]] = {}

Answer = TypeVar("Answer", bound=schema.Frame)


class StreamConnection:
    """Requests and their answers; other frames go to ``on_frame``, and ``on_end`` hears why it ended."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        where: str,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._close_seconds = close_seconds
        self._reader = reader
        self._writer = writer
        self._where = where
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[schema.Frame]] = {}
        self._tune: asyncio.Future[schema.Frame] = asyncio.get_running_loop().create_future()
        self._failure: BridgeError | None = None
        self._heard_at = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self.frame_max = FRAME_MAX_BYTES
        self.version: tuple[int, ...] = ()
        """Of the broker, once logged in."""
        self.on_frame: Callable[[schema.Frame], None] = lambda _frame: None
        self.on_end: Callable[[BridgeError], None] = lambda _failure: None

    def __repr__(self) -> str:
        return f"<StreamConnection to {self._where}, {self._failure or 'open'}>"

    def start(self) -> None:
        """Begin to listen."""
        self._tasks.append(asyncio.create_task(self._listen()))

    async def login(self, *, user: str, password: str, vhost: str, name: str, heartbeat_seconds: int) -> None:
        """Say who we are, agree on sizes, and enter the virtual host.

        Raises:
            BrokerRefusedLogin: user, password or virtual host are wrong.
            BrokerUnreachable: it broke, or there was no answer in time.

        """
        told = [schema.Property("connection_name", name), schema.Property("product", "pbx-account-bridge")]
        peer = await self.ask(schema.PeerProperties(self._number(), properties=told), schema.PeerPropertiesResponse)
        said = next((each.value for each in peer.properties if each.key == "version"), "")
        self.version = tuple(map(int, re.findall(r"\d+", said)[:3]))
        await self.ask(schema.SaslHandshake(self._number()), schema.SaslHandshakeResponse)
        secret = b"\0" + user.encode() + b"\0" + password.encode()
        await self.ask(
            schema.SaslAuthenticate(self._number(), mechanism="PLAIN", data=secret), schema.SaslAuthenticateResponse
        )
        tune = cast("schema.Tune", await self._in_time(self._tune))
        self.frame_max = tune.frame_max or FRAME_MAX_BYTES
        await self.write(encode_frame(schema.Tune(frame_max=tune.frame_max, heartbeat=heartbeat_seconds)))
        await self.ask(schema.Open(self._number(), virtual_host=vhost), schema.OpenResponse)
        self._tasks.append(asyncio.create_task(self._beat(heartbeat_seconds)))

    async def declare_publisher(self, number: int, name: str, stream: str) -> int:
        """Become the producer *name* of *stream*, and return the last publishing id that the broker has of it.

        Raises:
            BridgeError: what the broker refused, or it broke.

        """
        await self.ask(
            schema.DeclarePublisher(self._number(), publisher_id=number, reference=name, stream=stream),
            schema.DeclarePublisherResponse,
            stream,
        )
        return await self.query_last(name, stream)

    async def delete_publisher(self, number: int) -> None:
        """Be the producer of that number no more, so that the number is free.

        Raises:
            BridgeError: what the broker refused, or it broke.

        """
        await self.ask(schema.DeletePublisher(self._number(), publisher_id=number), schema.DeletePublisherResponse)

    async def query_last(self, name: str, stream: str) -> int:
        """Return the last publishing id that the broker has of the producer *name*; 0 where it knows none.

        Raises:
            BridgeError: what the broker refused, or it broke.

        """
        request = schema.QueryPublisherSequence(self._number(), publisher_ref=name, stream=stream)
        return (await self.ask(request, schema.QueryPublisherSequenceResponse, stream)).sequence

    async def subscribe(
        self, stream: str, offset: schema.OffsetSpec, credit: int, properties: Mapping[str, str] = _NONE
    ) -> None:
        """Begin to receive *stream*: ``Deliver`` frames, as many chunks as there is credit for.

        Raises:
            BridgeError: what the broker refused, or it broke.

        """
        request = schema.Subscribe(
            self._number(),
            subscription_id=0,
            stream=stream,
            offset_spec=offset,
            credit=credit,
            properties=[schema.Property(key, value) for key, value in properties.items()],
        )
        await self.ask(request, schema.SubscribeResponse, stream)

    async def grant(self, credit: int) -> None:
        """Let the broker send so many more chunks.

        Raises:
            BridgeError: it broke.

        """
        await self.write(encode_frame(schema.Credit(subscription_id=0, credit=credit)))

    async def ask(self, request: schema.Frame, answer: type[Answer], stream: str = "") -> Answer:
        """Send *request*, and return its answer.

        Raises:
            BrokerRefusedLogin, TopologyMismatch: as the broker's code says.
            BrokerUnreachable: another code, or it broke, or there was no answer in time.

        """
        self._check()
        future = asyncio.get_running_loop().create_future()
        number = cast("int", request.corr_id)
        self._waiting[number] = future
        try:
            await self.write(encode_frame(request))
            frame = await self._in_time(future)
        finally:
            self._waiting.pop(number, None)
        code = getattr(frame, "response_code", _WELL)
        if code != _WELL:
            raise refusal(code, self._where, stream)
        if not isinstance(frame, answer):
            raise BrokerUnreachable(f"the broker at {self._where} answered something else than was asked")
        return frame

    async def write(self, data: bytes) -> None:
        """Write *data*; returns when there is room for more, within the deadline.

        Raises:
            BrokerUnreachable: it broke, or the broker took nothing in time.

        """
        self._check()
        try:
            self._writer.write(data)
            async with asyncio.timeout(self._deadline_seconds):
                await self._writer.drain()
        except TimeoutError as problem:
            self.end(BrokerUnreachable(f"the broker at {self._where} takes no more: has it a memory or disk alarm?"))
            raise self._failure or problem from problem
        except OSError as problem:
            self.end(self._broke(problem))
            raise self._failure or problem from problem

    def end(self, failure: BridgeError) -> None:
        """Let nobody wait any more; the first reason given is the one that counts."""
        if self._failure is not None:
            return
        self._failure = failure
        for future in (*self._waiting.values(), self._tune):
            if not future.done():
                future.set_exception(failure)
                future.exception()  # looked at: nobody may be waiting
        self.on_end(failure)

    async def close(self) -> None:
        """Say good-bye, within the deadline, and let go of the socket."""
        try:
            with suppress(BridgeError, TimeoutError):
                async with asyncio.timeout(self._close_seconds):
                    await self.ask(schema.Close(self._number(), code=1, reason="OK"), schema.CloseResponse)
        finally:
            self.end(BrokerUnreachable("this connection is closed"))
            await self._let_go()

    async def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        # Nothing is written any more that somebody wants, and a broker that takes nothing would be waited for.
        self._writer.transport.abort()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._close_seconds):
                await self._writer.wait_closed()
        for task in self._tasks:
            if not task.cancelled():
                task.result()  # raises: only a mistake of ours ends listening with anything else than a failure

    def _number(self) -> int:
        return next(self._numbers)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _in_time(self, future: "asyncio.Future[schema.Frame]") -> schema.Frame:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await future
        except TimeoutError as problem:
            self.end(BrokerUnreachable(f"the broker at {self._where} did not answer in time"))
            raise self._failure or problem from problem

    async def _listen(self) -> None:
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                frame = decode_frame(await self._reader.readexactly(size))
                self._heard_at = time.monotonic()
                self._take(frame)
        except (OSError, asyncio.IncompleteReadError) as problem:
            self.end(self._broke(problem))
        except (ValueError, KeyError) as problem:
            self.end(BrokerUnreachable(f"the broker at {self._where} sent what cannot be read: {problem}"))
        finally:
            self.end(BrokerUnreachable("nobody listens to this connection any more"))

    def _take(self, frame: schema.Frame) -> None:
        waiting = self._waiting.get(frame.corr_id or 0)
        if isinstance(frame, schema.Tune) and not self._tune.done():
            self._tune.set_result(frame)
        elif isinstance(frame, schema.Close):
            self.end(BrokerUnreachable(f"the broker at {self._where} closed the connection: {frame.reason}"))
        elif isinstance(frame, schema.ConsumerUpdateResponse):  # a question of the broker's, with a number of its own
            self.on_frame(frame)
        elif waiting is not None and not waiting.done():
            waiting.set_result(frame)
        elif frame.key is not Key.Heartbeat:
            self.on_frame(frame)

    async def _beat(self, seconds: int) -> None:
        while self._failure is None:
            await asyncio.sleep(seconds)
            if time.monotonic() - self._heard_at > 3 * seconds:
                self.end(BrokerUnreachable("the broker fell silent: nothing came for three heartbeats"))
            with suppress(BridgeError):  # it has ended, and says so by itself
                await self.write(encode_frame(schema.Heartbeat()))

    def _broke(self, problem: BaseException) -> BrokerUnreachable:
        ended = isinstance(problem, asyncio.IncompleteReadError)
        words = "the broker ended it" if ended else str(problem)[:300] or type(problem).__name__
        return BrokerUnreachable(f"the stream connection to {self._where} broke: {words}")


@asynccontextmanager
async def connect_stream(  # noqa: PLR0913 - how patient to be, by name
    urls: Sequence[str],
    *,
    client_name: str,
    deadline_seconds: float = DEADLINE_SECONDS,
    close_seconds: float = CLOSE_SECONDS,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[StreamConnection]:
    """Connect to the first of *urls* that lets us in, and close behind the caller, within *close_seconds*.

    *deadline_seconds* is for each answer of the broker.

    Raises:
        BrokerUnreachable: none of them answers in time; the sentence names each.
        BrokerRefusedLogin: user, password or virtual host are wrong, or the certificate does not verify.

    """
    problems: list[BridgeError] = []
    for url in urls:
        try:
            connection = await _connected(
                url,
                client_name,
                heartbeat_seconds,
                ssl_context,
                deadline_seconds=deadline_seconds,
                close_seconds=close_seconds,
            )
        except (BrokerUnreachable, BrokerRefusedLogin) as problem:
            problems.append(problem)
            continue
        try:
            yield connection
        finally:
            await connection.close()
        return
    raise next((problem for problem in problems if isinstance(problem, BrokerRefusedLogin)), None) or BrokerUnreachable(
        "; ".join(map(str, problems)) or "no stream port is configured: set rabbitmq.stream_url"
    )


async def _connected(  # noqa: PLR0913 - private, and called once
    url: str,
    name: str,
    heartbeat_seconds: int,
    context: ssl.SSLContext | None,
    *,
    deadline_seconds: float,
    close_seconds: float,
) -> StreamConnection:
    parts = urlsplit(url)
    is_secret = parts.scheme == TLS_SCHEME
    host, port = parts.hostname or "localhost", parts.port or (TLS_PORT if is_secret else PLAIN_PORT)
    where = f"{host}:{port} (streams)"
    try:
        async with asyncio.timeout(deadline_seconds):
            reader, writer = await asyncio.open_connection(host, port, ssl=context if is_secret else None)
    except ssl.SSLCertVerificationError as problem:
        raise BrokerRefusedLogin(
            f"the certificate of the broker at {where} does not verify: {name_distrust(problem, 'rabbitmq.')}"
        ) from problem
    except (OSError, TimeoutError) as problem:
        raise BrokerUnreachable(
            f"no connection to the broker at {where}: {problem or 'no answer in time'}. Is the plugin rabbitmq_stream "
            "enabled (rabbitmq-plugins enable rabbitmq_stream), and the port open?"
        ) from problem
    connection = StreamConnection(reader, writer, where, deadline_seconds=deadline_seconds, close_seconds=close_seconds)
    connection.start()
    try:
        await connection.login(
            user=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            vhost=unquote(parts.path.removeprefix("/")) or "/",
            name=name,
            heartbeat_seconds=heartbeat_seconds,
        )
    except BaseException:
        await connection.close()
        raise
    return connection
