"""A pretend PBX on a real WebSocket.

    async with serve(pbx, port=8000, round_trip_seconds=0.001, changes_per_second=5.0) as served:
        served.url                     # ws://127.0.0.1:8000/PBX0/APPS/websocket
        pbx.rename(pbx.pick())         # any call of Pbx while it is served: held answers and pushes leave at once
        served.drop_connections()      # cut without a goodbye; drop_connections(1001): with one
        served.stop_answering()        # messages are read and forgotten; start_answering() ends that
        await served.scenario_over()   # where a scenario is played

    async with call(pbx, "ws://bridge:9000/hq") as called: ...    # the other direction: the PBX dials the bridge

``serve(pbx, *, host="127.0.0.1", port=0, round_trip_seconds=0.0, changes_per_second=0.0, ssl_context=None,
scenario=None)``: *port* 0 takes any free one; every reply is sent *round_trip_seconds* late, without keeping others
waiting; *scenario* is a ``scenario.Scenario``. Beside it: ``Pbx(accounts=, seed=, modes=, app=, password=, name=,
domain=, …)``, ``Modes.parse(words)`` and ``modes.ALL_WORDS``, ``scenario.load(name_or_path)`` and ``scenario.names()``.
``recorded.RecordedPbx(recording)`` is served just so, and plays what was recorded.
A PBX that is served for days wants ``Pbx(remember=10_000)``, or its log outgrows the memory.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.http11 import Request, Response

from bridge.simulator.modes import Frames
from bridge.simulator.pbx import CUT, Pbx
from bridge.simulator.playing import connect
from bridge.simulator.scenario import Player, Scenario
from bridge.simulator.session import Close, Connection, Reply

PATH: Final = "/PBX0/APPS/websocket"
FRAGMENT_CHARACTERS: Final = 100
MAX_QUESTION_BYTES: Final = 1 << 16
REDIAL_SECONDS: Final = 2.0

Socket = ServerConnection | ClientConnection


class Served:
    """A PBX that is being served."""

    def __init__(self, pbx: Pbx, *, round_trip_seconds: float) -> None:
        self.pbx = pbx
        self.host, self.port = "", 0
        self.scheme = "ws"
        self.is_answering = True
        self.scenario: asyncio.Task[None] | None = None
        self.round_trip_seconds = round_trip_seconds

    def __repr__(self) -> str:
        return f"<Served {self.pbx!r} at {self.url}, {len(self.pbx.connections)} connections>"

    @property
    def url(self) -> str:
        """Where to dial."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{PATH}"

    def drop_connections(self, code: int = CUT) -> None:
        """Close every connection with this WebSocket code; ``CUT`` (the default) says no goodbye."""
        self.pbx.drop_connections(code)

    def stop_answering(self) -> None:
        """Leave everything unanswered that comes from now on; connections stay open."""
        self.is_answering = False

    def start_answering(self) -> None:
        """End that."""
        self.is_answering = True

    async def scenario_over(self) -> None:
        """Wait until the scenario has been played; at once where there is none."""
        if self.scenario is not None:
            await asyncio.shield(self.scenario)

    async def talk(self, socket: Socket, connection: Connection) -> None:
        """Carry text between *socket* and *connection* until either is over."""
        now = asyncio.get_running_loop().time
        mouth = _Mouth(self, socket, connection)
        connection.on_wake = mouth.wake
        speaking = asyncio.create_task(mouth.speak())
        try:
            await mouth.say(connection.begin(now()))
            async for data in socket:
                if self.is_answering:
                    await mouth.say(connection.receive(data, now()))
        except ConnectionClosed:
            pass  # the other end went without a goodbye, which is its right
        finally:
            connection.closed(now())
            await _end(speaking)


class _Mouth:
    """Sends what a connection says, each reply after its own delay."""

    def __init__(self, served: Served, socket: Socket, connection: Connection) -> None:
        self._served = served
        self._socket = socket
        self._connection = connection
        self._due: asyncio.Queue[Reply | Close | None] = asyncio.Queue()
        """What is to be sent now; ``None`` asks the connection whether it has anything to say."""
        self._is_woken = False

    def wake(self) -> None:
        """Have the connection asked what it has to say."""
        if not self._is_woken:
            self._is_woken = True
            self._due.put_nowait(None)

    async def say(self, replies: Sequence[Reply | Close]) -> None:
        """Send *replies*, now or when they are due."""
        loop = asyncio.get_running_loop()
        for reply in replies:
            delay = reply.delay_seconds + self._served.round_trip_seconds
            if delay:
                loop.call_later(delay, self._due.put_nowait, reply)
            else:
                await self._send(reply)

    async def speak(self) -> None:
        """Send what becomes due, until cancelled or the connection is over."""
        now = asyncio.get_running_loop().time
        try:
            while True:
                try:
                    async with asyncio.timeout_at(self._connection.wake_at):
                        reply = await self._due.get()
                except TimeoutError:
                    reply = None
                if reply is not None:
                    await self._send(reply)
                else:
                    self._is_woken = False
                    await self.say(self._connection.tick(now()))
        except ConnectionClosed:
            return

    async def _send(self, reply: Reply | Close) -> None:
        if isinstance(reply, Close):
            await self._close(reply.code)
        elif self._served.is_answering:
            if self._connection.modes.frames is Frames.FRAGMENTED:
                await self._socket.send(_fragments(reply.text))
            else:
                await self._socket.send(reply.text)

    async def _close(self, code: int) -> None:
        if code == CUT:
            self._socket.transport.abort()
        else:
            await self._socket.close(code)


def _fragments(text: str) -> Iterator[str]:
    return (text[start : start + FRAGMENT_CHARACTERS] for start in range(0, len(text), FRAGMENT_CHARACTERS))


@asynccontextmanager
async def serve(  # noqa: PLR0913 - what may be said about serving
    pbx: Pbx,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    round_trip_seconds: float = 0.0,
    changes_per_second: float = 0.0,
    ssl_context: ssl.SSLContext | None = None,
    scenario: Scenario | None = None,
) -> AsyncIterator[Served]:
    """Serve *pbx* while the context lasts.

    Raises:
        OSError: the port cannot be listened on.

    """
    served = Served(pbx, round_trip_seconds=round_trip_seconds)

    async def answer(socket: ServerConnection) -> None:
        await served.talk(socket, connect(pbx, round_trip_seconds=round_trip_seconds))

    server = await serve_websockets(
        answer,
        host,
        port,
        ssl=ssl_context,
        process_request=_refuse_other_paths,
        compression=None,
        ping_interval=None,
        max_size=MAX_QUESTION_BYTES,
        close_timeout=1,
        server_header=None,
    )
    served.host, served.port = server.sockets[0].getsockname()[:2]
    served.scheme = "wss" if ssl_context is not None else "ws"
    async with _living(served, changes_per_second, scenario):
        try:
            yield served
        finally:
            pbx.drop_connections()
            server.close()
            await server.wait_closed()


@asynccontextmanager
async def call(
    pbx: Pbx,
    url: str,
    *,
    round_trip_seconds: float = 0.0,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout_seconds: float = 10.0,
) -> AsyncIterator[Served]:
    """Let *pbx* dial a bridge at *url* and talk to it while the context lasts; it does not dial again.

    Raises:
        OSError: nobody listens there.
        TimeoutError: nobody answers there.

    """
    served = Served(pbx, round_trip_seconds=round_trip_seconds)
    async with dial(
        url, ssl=ssl_context, compression=None, ping_interval=None, proxy=None, open_timeout=connect_timeout_seconds
    ) as socket:
        connection = connect(pbx, calls=True, round_trip_seconds=round_trip_seconds)
        async with _background(served.talk(socket, connection)):
            yield served


async def keep_calling(  # noqa: PLR0913 - what may be said about calling
    pbx: Pbx,
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    round_trip_seconds: float = 0.0,
    changes_per_second: float = 0.0,
    scenario: Scenario | None = None,
    pause_seconds: float = REDIAL_SECONDS,
) -> None:
    """Let *pbx* dial a bridge at *url*, and dial again whenever the connection is over, until cancelled."""
    served = Served(pbx, round_trip_seconds=round_trip_seconds)
    async with _living(served, changes_per_second, scenario):
        while True:
            with suppress(OSError, TimeoutError, InvalidHandshake, InvalidMessage):
                async with dial(url, ssl=ssl_context, compression=None, ping_interval=None, proxy=None) as socket:
                    await served.talk(socket, connect(pbx, calls=True, round_trip_seconds=round_trip_seconds))
            await asyncio.sleep(pause_seconds)


@asynccontextmanager
async def _living(served: Served, changes_per_second: float, scenario: Scenario | None) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if changes_per_second > 0:
            await stack.enter_async_context(_background(_keep_changing(served.pbx, changes_per_second)))
        if scenario is not None:
            served.scenario = await stack.enter_async_context(_background(_play(served.pbx, scenario)))
        yield


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        await _end(task)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel *task*; what it failed of before is raised."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _keep_changing(pbx: Pbx, changes_per_second: float) -> None:
    loop = asyncio.get_running_loop()
    began, done = loop.time(), 0
    while True:
        due = int((loop.time() - began) * changes_per_second)
        while done < due:
            pbx.random_mutation()
            done += 1
        await asyncio.sleep(max(0.001, (done + 1) / changes_per_second - (loop.time() - began)))


async def _play(pbx: Pbx, scenario: Scenario) -> None:
    loop = asyncio.get_running_loop()
    player = Player(scenario, pbx, loop.time())
    woken = asyncio.Event()
    pbx.on_rows.append(woken.set)
    try:
        while not player.is_over:
            woken.clear()
            player.advance(loop.time())
            try:
                async with asyncio.timeout_at(player.wake_at):
                    await woken.wait()
            except TimeoutError:
                continue
    finally:
        pbx.on_rows.remove(woken.set)


def _refuse_other_paths(socket: ServerConnection, request: Request) -> Response | None:
    path = request.path.partition("?")[0]
    if path == PATH or path.startswith(PATH + "/"):
        return None
    return socket.respond(HTTPStatus.NOT_FOUND, f"Only {PATH} is served here.\n")
