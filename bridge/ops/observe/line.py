"""What an observer needs of connections to a PBX, and a real one over a WebSocket."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import partial
from typing import Protocol

from bridge.clock import steady
from bridge.errors import BridgeError, PbxBrokeProtocol
from bridge.model import Cursor
from bridge.pbx.outbound import PbxSource
from bridge.pbx.websocket import WebSocket
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Answer, Conversation, Event


class Nothing(Enum):
    """What may come instead of an answer."""

    SILENCE = "silence"
    LOST = "lost"


Heard = m.AccountReply | Nothing
"""What becomes of a question."""


class Contact(Protocol):
    """A connection on which we are logged in."""

    @property
    def is_open(self) -> bool:
        """False once it is no more."""

    async def ask(self, cursor: Cursor, seconds: float) -> Heard:
        """Ask for the account behind *cursor*, and wait so long for the answer."""

    async def listen(self, seconds: float) -> None:
        """Say nothing for so long, or until the connection is no more."""

    def keep_alive(self) -> None:
        """Say that we are still here."""

    async def close(self) -> None:
        """Say goodbye."""


class Line(Protocol):
    """The way to one PBX."""

    async def open(self) -> Contact:
        """Log in on a new connection.

        Raises:
            BridgeError: that did not work.

        """

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SourceLine:
    """The way to the PBX that *source* dials; *prepare* is called before each connection."""

    def __init__(self, source: PbxSource, prepare: Callable[[], None] = lambda: None) -> None:
        self._source = source
        self._prepare = prepare

    async def open(self) -> "SourceContact":
        """Log in on a new connection.

        Raises:
            BridgeError: that did not work.

        """
        self._prepare()
        connecting = self._source.connection()
        socket, conversation, early = await connecting.__aenter__()
        return SourceContact(partial(connecting.__aexit__, None, None, None), socket, conversation, early)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class SourceContact:
    """One connection over a WebSocket, that *hang_up* closes."""

    def __init__(
        self,
        hang_up: Callable[[], Awaitable[object]],
        socket: WebSocket,
        conversation: Conversation,
        early: Sequence[Event],
    ) -> None:
        self._hang_up = hang_up
        self._socket = socket
        self._conversation = conversation
        self._answer: asyncio.Future[Heard] | None = None
        for event in early:
            self._deal_with(event)
        socket.listen(self._heard, self._over)

    @property
    def is_open(self) -> bool:
        """False once it is no more."""
        return self._socket.is_open

    async def ask(self, cursor: Cursor, seconds: float) -> Heard:
        """Ask for the account behind *cursor*, and wait so long for the answer."""
        if not self.is_open:
            return Nothing.LOST
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._socket.send(self._conversation.ask(cursor))
            async with asyncio.timeout(seconds):
                return await self._answer
        except TimeoutError:
            return Nothing.SILENCE
        finally:
            self._answer = None

    async def listen(self, seconds: float) -> None:
        """Say nothing for so long, or until the connection is no more."""
        await asyncio.wait([self._socket.gone], timeout=seconds)

    def keep_alive(self) -> None:
        """Say that we are still here."""
        self._socket.send(self._conversation.say(m.KeepAlive()))

    async def close(self) -> None:
        """Say goodbye."""
        await self._hang_up()

    def _heard(self, data: bytes) -> None:
        try:
            self._deal_with(self._conversation.receive(data))
        except PbxBrokeProtocol:
            self._socket.abort()  # what it was is in the recording

    def _deal_with(self, event: Event) -> None:
        match event:
            case Answer(reply=reply):
                self._settle(reply)
            case m.AppInfo(app=app, src=src):
                self._socket.send(self._conversation.say(m.AppInfoResult(app, src)))
            case m.CheckBuild():
                self._socket.send(self._conversation.say(m.CheckBuildResult()))

    def _over(self) -> None:
        self._settle(Nothing.LOST)

    def _settle(self, heard: Heard) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(heard)


async def reopened(line: Line, *, within_seconds: float) -> Contact:
    """Return a new connection, tried again for so long, an attempt that takes long included.

    Raises:
        BridgeError: the last attempt came to nothing, too.

    """
    pause, waited, began_at = 1.0, 0.0, steady()
    while True:
        try:
            return await line.open()
        except BridgeError:
            if max(waited, steady() - began_at) >= within_seconds:
                raise
        await line.sleep(pause)
        waited, pause = waited + pause, min(2 * pause, 15.0)
