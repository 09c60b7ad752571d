"""A PBX over a WebSocket: connect, prove who we are, and have a ``Reader`` ask and listen.

``PbxSource`` dials; ``inbound`` has the PBXs that dial us.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NoReturn

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from bridge.errors import PbxBrokeProtocol, PbxNotTrusted, PbxRefusedLogin, PbxUnreachable
from bridge.model import Cursor
from bridge.pbx.reader import Deliver, Reader, TryDeliver, contained, find_reason
from bridge.pbx.turnstile import Turnstile
from bridge.pbx.walk.actions import Pace
from bridge.pbx.websocket import GOING_AWAY, LOGIN_BYTES, NORMAL, OUR_FAULT, Tap, WebSocket, dial
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import login_digest
from bridge.pbx.wire.protocol import Conversation, Event, Party
from bridge.security.tls import name_distrust

MAX_EARLY: Final = 64
"""Messages beside the login, before it is good."""


class PbxSource:
    """One PBX that we dial.

    *url* is the whole WebSocket URL, *app* the Name of the App object, *password* returns its password (asked at every
    login, so that it can be changed in its file). *max_message_bytes* guards our memory. Its list is read from its
    start when *turnstile* says so. *tap* returns what hears along on a new connection.
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
        turnstile: Turnstile | None = None,
        tap: Callable[[], Tap] | None = None,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._url = url
        self._app = app
        self._password = password
        self._pace = pace or Pace()
        self._connect_timeout_seconds = connect_timeout_seconds
        self._max_message_bytes = max_message_bytes
        self._ssl_context = ssl_context
        self._on_state = on_state
        self._tap = tap
        self._reader = Reader(
            url, self._pace, on_noise=on_noise, on_event=on_event, turnstile=turnstile, on_state=on_state
        )

    def __repr__(self) -> str:
        return f"<PbxSource {self._url}>"

    def request_walk(self) -> None:
        """Have the list read from its start once more, beside the live cursor, as soon as that is at rest."""
        self._reader.request_walk()

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:
        """Read on from *since* on one connection until it is of no more use; see ``Reader.read``.

        Raises:
            PbxUnreachable: no connection, it broke, or nobody answers.
            PbxNotTrusted: the certificate does not verify.
            PbxRefusedLogin: wrong app name or password.
            PbxBrokeProtocol: what came makes no sense.
            PbxRefusedRequest: the PBX answers questions with errors.

        """
        async with self.connection() as (socket, conversation, early):
            self._on_state("reading")
            await self._reader.read(socket, conversation, early, since, deliver, try_deliver)
        raise AssertionError("a reading ends by what ends it")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[WebSocket, Conversation, list[Event]]]:
        """Be logged in while inside; yields what came early, too.

        Raises:
            BridgeError: as ``read`` does.

        """
        socket = await self._connected()
        code = OUR_FAULT
        try:
            with contained(self._url):
                conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
                early = await self._log_in(socket, conversation)
            yield socket, conversation, early
            code = NORMAL
        except ConnectionClosed as closed:
            raise PbxUnreachable(f"the connection to {self._url} broke: {find_reason(closed)}") from closed
        except asyncio.CancelledError:
            code = GOING_AWAY  # nothing is wrong: we stop, or somebody wants this PBX not to be read
            raise
        finally:
            await socket.close(code)

    async def _log_in(self, socket: WebSocket, conversation: Conversation) -> list[Event]:
        """Log in, and return what came early."""
        self._on_state("logging in")
        early: list[Event] = []
        left = LOGIN_BYTES
        password = self._password()
        try:
            async with asyncio.timeout(self._pace.answer_timeout):
                socket.send(conversation.say(m.AppChallenge()))
                while True:
                    data = await socket.receive()
                    left -= len(data)
                    if left < 0:
                        raise PbxBrokeProtocol(f"{self._url} says too much before it says whether the login is good")
                    event = self._understood(conversation, data, early)
                    match event:
                        case m.AppChallengeResult(challenge=challenge):
                            digest = login_digest(app=self._app, challenge=challenge, password=password)
                            socket.send(conversation.say(m.AppLogin(self._app, digest)))
                        case m.LoginAccepted():
                            return early
                        case m.LoginRefused():
                            raise PbxRefusedLogin(self._refusal())
                        case _:
                            early.append(event)
                            if len(early) > MAX_EARLY:
                                raise PbxBrokeProtocol(f"{self._url} says everything but whether the login is good")
        except TimeoutError:
            raise PbxUnreachable(
                f"{self._url} let {self._pace.answer_timeout:g} s of the login pass without an answer"
            ) from None
        except ConnectionClosed as closed:
            # Some close the door instead of saying no, which after our proof amounts to the same. Where we close it,
            # because of what else came, nobody has said no.
            if conversation.state == "judging" and (closed.sent is None or closed.rcvd_then_sent):
                raise PbxRefusedLogin(self._refusal()) from closed
            raise PbxUnreachable(
                f"{self._url} closed the connection before the login: {find_reason(closed)}"
            ) from closed

    def _understood(self, conversation: Conversation, data: bytes | str, early: Sequence[Event]) -> Event:
        try:
            return conversation.receive(data)
        except PbxBrokeProtocol as problem:
            unreadable = [event.reason for event in early if isinstance(event, m.Unreadable)]
            count = "1 message" if len(unreadable) == 1 else f"{len(unreadable)} messages"
            before = f", after {count} that could not be read (the first: {unreadable[0]})" if unreadable else ""
            raise PbxBrokeProtocol(
                f"{self._url} does not log us in as a PBX does: {problem}{before}. Is this the address of a PBX (its "
                "path is usually /PBX0/APPS/websocket), and is there nothing in between that changes what it says?"
            ) from problem

    def _refusal(self) -> str:
        return (
            f"{self._url} refused the login of app {self._app!r}: the Name or Password of the App object in the PBX "
            "differs from the configured one"
        )

    async def _connected(self) -> WebSocket:
        self._on_state("connecting")
        try:
            socket = await dial(
                self._url,
                ssl_context=self._ssl_context,
                open_seconds=self._connect_timeout_seconds,
                max_message_bytes=self._max_message_bytes,
                write_seconds=self._pace.answer_timeout,
            )
        except ssl.SSLCertVerificationError as problem:
            words = f"the certificate of {self._url} does not verify: {name_distrust(problem)}"
            raise PbxNotTrusted(words) from problem
        except InvalidStatus as problem:
            raise PbxUnreachable(
                f"{self._url} answered with HTTP status {problem.response.status_code} instead of a WebSocket. Is the "
                "path right (usually /PBX0/APPS/websocket)?"
            ) from problem
        except TimeoutError as problem:
            raise PbxUnreachable(
                f"no connection to {self._url} within {self._connect_timeout_seconds:g} s"
            ) from problem
        except InvalidHandshake as problem:
            raise PbxUnreachable(f"{self._url} does not speak WebSocket: {problem}") from problem
        except (InvalidURI, ValueError) as problem:
            raise PbxUnreachable(f"{self._url} is no address of a WebSocket: {problem}") from problem
        except OSError as problem:
            reason = problem.strerror or str(problem) or "it hung up"
            raise PbxUnreachable(
                f"no connection to {self._url}: {reason}. Is the address right, and the PBX up?"
            ) from problem
        if self._tap is not None:
            socket.tap = self._tap()
        return socket
