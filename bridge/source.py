"""A PBX over a WebSocket: connect, prove who we are, and let ``Walker`` decide what to ask.

``PbxSource`` dials; ``listen`` has the PBXs that dial us. Above the login both are read by the same ``Reader``.

The next question leaves as soon as a row is read, before that row is durable: a walk is bound by the round trip to the
PBX and nothing else. What was read and not committed is read again after a crash, and the mirror swallows it.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from bridge.errors import PbxNotTrusted, PbxRefusedLogin, PbxUnreachable
from bridge.model import Cursor
from bridge.walk.decisions import Action, Ask, CaughtUp, Deliver, EpochBegan, Pace, Say, Sighted, WalkBegan, WalkEnded
from bridge.walk.walker import Walker
from bridge.wire import messages as m
from bridge.wire.login import login_digest
from bridge.wire.protocol import Conversation, Event, Party

Heard = Deliver | Sighted | EpochBegan | CaughtUp | WalkBegan | WalkEnded
"""What a source hands on."""


class Reader:
    """Reads a PBX's accounts over connections on which somebody has logged in, one connection after the other.

    *peer* is what sentences call the other end, *on_event* hears everything that comes, before it is acted upon.
    """

    def __init__(
        self,
        peer: str,
        pace: Pace,
        *,
        on_noise: Callable[[str], None] = lambda _reason: None,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._peer = peer
        self._pace = pace
        self._on_noise = on_noise
        self._on_event = on_event
        self._is_walk_wanted = False
        self._waiting: asyncio.Timeout | None = None

    def __repr__(self) -> str:
        return f"<Reader of {self._peer}>"

    def request_walk(self) -> None:
        """Have the list read from its start once more, beside the live cursor, as soon as that is at rest."""
        self._is_walk_wanted = True
        if self._waiting is not None and not self._waiting.expired():
            with suppress(RuntimeError):  # it has just ended by itself
                self._waiting.reschedule(asyncio.get_running_loop().time())

    async def read(
        self,
        socket: Connection,
        conversation: Conversation,
        early: Sequence[Event],
        since: Cursor,
        hand_on: Callable[[Heard], Awaitable[None]],
    ) -> NoReturn:
        """Read on from *since* until the connection is of no more use; *early* came before, and *hand_on* may wait.

        Raises:
            PbxUnreachable: nobody answers.
            PbxBrokeProtocol: what came makes no sense.
            PbxRefusedRequest: the PBX answers questions with errors.
            ConnectionClosed: it broke.

        """
        now = asyncio.get_running_loop().time
        walker = Walker(since, self._pace, chance=random.random)
        await self._carry_out(walker.begin(now()), socket, conversation, hand_on)
        for event in early:
            await self._carry_out(walker.heard(event, now()), socket, conversation, hand_on)
        while True:
            actions: Sequence[Action]
            try:
                async with asyncio.timeout_at(walker.wake_at) as self._waiting:
                    data = await socket.recv(decode=False)
            except TimeoutError:
                actions = walker.pass_time(now())
                if self._is_walk_wanted:
                    self._is_walk_wanted = False
                    actions = [*actions, *walker.want_walk(now())]
            else:
                event = conversation.receive(data)
                if isinstance(event, m.Unreadable):
                    self._on_noise(event.reason)
                self._on_event(event)
                actions = walker.heard(event, now())
            await self._carry_out(actions, socket, conversation, hand_on)

    async def _carry_out(
        self,
        actions: Sequence[Action],
        socket: Connection,
        conversation: Conversation,
        hand_on: Callable[[Heard], Awaitable[None]],
    ) -> None:
        for action in actions:
            if isinstance(action, Ask):
                await self._send(socket, conversation.ask(action.cursor))
            elif isinstance(action, Say):
                await self._send(socket, conversation.say(action.message))
        for action in actions:
            if isinstance(action, Heard):
                await hand_on(action)

    async def _send(self, socket: Connection, text: str) -> None:
        if not socket.transport.get_write_buffer_size():
            # Nothing waits to be sent, so this will not wait either, and needs no deadline, which costs 5 µs.
            await socket.send(text)
            return
        try:
            async with asyncio.timeout(self._pace.answer_timeout):
                await socket.send(text)
        except TimeoutError:
            raise PbxUnreachable(f"{self._peer} does not take what we send") from None


class PbxSource:
    """One PBX that we dial.

    *url* is the whole WebSocket URL, *app* the Name of the App object, *password* returns its password (asked at every
    login, so that it can be changed in its file). *max_message_bytes* guards our memory.
    """

    def __init__(  # noqa: PLR0913 - what an operator may say about a PBX
        self,
        url: str,
        *,
        app: str,
        password: Callable[[], str],
        pace: Pace | None = None,
        connect_timeout_seconds: float = 20.0,
        max_message_bytes: int = 1 << 20,
        ssl_context: ssl.SSLContext | None = None,
        on_state: Callable[[str], None] = lambda _state: None,
        on_noise: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._url = url
        self._app = app
        self._password = password
        self._pace = pace or Pace()
        self._connect_timeout_seconds = connect_timeout_seconds
        self._max_message_bytes = max_message_bytes
        self._ssl_context = ssl_context
        self._on_state = on_state
        self._reader = Reader(url, self._pace, on_noise=on_noise)

    def __repr__(self) -> str:
        return f"<PbxSource {self._url}>"

    def request_walk(self) -> None:
        """Have the list read from its start once more, beside the live cursor, as soon as that is at rest."""
        self._reader.request_walk()

    async def read(self, since: Cursor, hand_on: Callable[[Heard], Awaitable[None]]) -> NoReturn:
        """Read on from *since* on one connection until it is of no more use; *hand_on* may take its time.

        Raises:
            PbxUnreachable: no connection, it broke, or nobody answers.
            PbxNotTrusted: the certificate does not verify.
            PbxRefusedLogin: wrong app name or password.
            PbxBrokeProtocol: what came makes no sense.
            PbxRefusedRequest: the PBX answers questions with errors.

        """
        async with self._connected() as socket:
            conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
            early = await self._log_in(socket, conversation)
            self._on_state("reading")
            await self._reader.read(socket, conversation, early, since, hand_on)

    async def _log_in(self, socket: ClientConnection, conversation: Conversation) -> list[Event]:
        """Log in, and return what came early."""
        self._on_state("logging in")
        early: list[Event] = []
        password = self._password()
        try:
            async with asyncio.timeout(self._pace.answer_timeout):
                await socket.send(conversation.say(m.AppChallenge()))
                while True:
                    event = conversation.receive(await socket.recv(decode=False))
                    match event:
                        case m.AppChallengeResult(challenge=challenge):
                            digest = login_digest(app=self._app, challenge=challenge, password=password)
                            await socket.send(conversation.say(m.AppLogin(self._app, digest)))
                        case m.LoginAccepted():
                            return early
                        case m.LoginRefused():
                            raise PbxRefusedLogin(self._refusal())
                        case _:
                            early.append(event)
        except TimeoutError:
            raise PbxUnreachable(
                f"{self._url} let {self._pace.answer_timeout:g} s of the login pass without an answer"
            ) from None
        except ConnectionClosed as closed:
            # Some close the door instead of saying no, which after our proof amounts to the same.
            if conversation.state == "judging":
                raise PbxRefusedLogin(self._refusal()) from closed
            raise PbxUnreachable(f"{self._url} closed the connection before the login: {reason_of(closed)}") from closed

    def _refusal(self) -> str:
        return (
            f"{self._url} refused the login of app {self._app!r}: the Name or Password of the App object in the PBX "
            "differs from the configured one"
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientConnection]:
        self._on_state("connecting")
        with self._translated():
            async with connect(
                self._url,
                ssl=self._ssl_context if self._url.startswith("wss:") else None,
                open_timeout=self._connect_timeout_seconds,
                close_timeout=5,
                max_size=self._max_message_bytes,
                compression=None,
                proxy=None,
                # Whether a PBX answers pings is not documented; answered questions tell that it lives.
                ping_interval=None,
            ) as socket:
                yield socket

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ssl.SSLCertVerificationError as problem:
            raise PbxNotTrusted(
                f"the certificate of {self._url} does not verify: {problem.verify_message}. Set ca_file to the CA that "
                "signed it, server_name to the name it carries, or fingerprint (account-bridge check shows it)"
            ) from problem
        except InvalidStatus as problem:
            raise PbxUnreachable(
                f"{self._url} answered with HTTP status {problem.response.status_code} instead of a WebSocket. Is the "
                "path right (usually /PBX0/APPS/websocket)?"
            ) from problem
        except TimeoutError as problem:
            raise PbxUnreachable(
                f"no connection to {self._url} within {self._connect_timeout_seconds:g} s"
            ) from problem
        except (InvalidHandshake, InvalidMessage) as problem:
            raise PbxUnreachable(f"{self._url} does not speak WebSocket: {problem}") from problem
        except ConnectionClosed as problem:
            raise PbxUnreachable(f"the connection to {self._url} broke: {reason_of(problem)}") from problem
        except OSError as problem:
            raise PbxUnreachable(
                f"no connection to {self._url}: {problem.strerror or problem}. Is the address right, and the PBX up?"
            ) from problem


def reason_of(closed: ConnectionClosed) -> str:
    """Return how a connection ended, in words."""
    frame = closed.rcvd or closed.sent
    if frame is None:
        return "cut without a goodbye"
    if frame.code == 1009:  # noqa: PLR2004 - RFC 6455: message too big
        return "a message was larger than max_message_bytes"
    return f"closed with code {frame.code}"
