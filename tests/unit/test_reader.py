"""The two ways of a message, on a connection that a test holds in its hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bridge.errors import PbxBrokeProtocol
from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.reader import Heard, Reader
from bridge.walk.decisions import CaughtUp, Deliver, Pace, WalkBegan
from bridge.wire import messages as m
from bridge.wire.protocol import Conversation, Party, State

GUID = Token('"g"')


class HandHeldSocket:
    """What a reader needs of a connection; ``arrive`` is the library's ``data_received``."""

    def __init__(self) -> None:
        self.on_text: Any = None
        self.is_clear = True
        self.said: list[str] = []
        self.declined = 0
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()

    def arrive(self, message: m.Message) -> None:
        data = message.to_json().encode()
        if self.on_text is None or not self.on_text(data):
            self.declined += 1
            self._messages.put_nowait(data)

    async def recv(self, *, decode: bool) -> bytes:
        assert not decode
        return await self._messages.get()

    async def send(self, text: str) -> None:
        self.said.append(text)

    def send_at_once(self, text: str) -> None:
        self.said.append(text)


class Reading:
    """A reader that has been told the guid and asked for the first account."""

    def __init__(self) -> None:
        self.socket = HandHeldSocket()
        self.reader = Reader("hq", Pace(poll_jitter=0))
        self.heard: list[Heard] = []
        self.room = 1000

    def take(self, heard: Heard) -> bool:
        if self.room:
            self.room -= 1
            self.heard.append(heard)
            return True
        return False

    async def hand_on(self, heard: Heard) -> None:
        await asyncio.sleep(0)
        self.heard.append(heard)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator["asyncio.Task[Any]"]:
        conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
        conversation.state = State.READY
        socket: Any = self.socket
        work = self.reader.read(socket, conversation, (), Cursor(), self.hand_on, self.take)
        task: asyncio.Task[Any] = asyncio.create_task(work)
        for question in (1, 2):
            await self.questions(question)
            await resting()
            self.socket.arrive(m.NoAccount(Cursor(GUID), self.src))
        await self.questions(3)
        await resting()
        self.socket.declined = 0
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    @property
    def src(self) -> str:
        return f"acct-{len(self.socket.said)}"

    async def questions(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.socket.said) < count:
                await asyncio.sleep(0)

    @property
    def accounts(self) -> list[str]:
        return [heard.row.account_guid for heard in self.heard if isinstance(heard, Deliver)]


async def resting() -> None:
    """Let the reader come to where it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def account(number: int, src: str) -> m.AccountRow:
    token = Token(f'"{number}"')
    return m.AccountRow(Row(Cursor(GUID, token, token), AccountGuid(f"a{number}"), "u", {"cn": "x"}), src)


async def test_an_answer_is_followed_by_the_next_question_before_anybody_else_has_a_turn() -> None:
    reading = Reading()
    async with reading.going_on():
        for number in (1, 2):
            asked = len(reading.socket.said)
            reading.socket.arrive(account(number, reading.src))
            assert len(reading.socket.said) == asked + 1
            assert reading.accounts == [f"a{each}" for each in range(1, number + 1)]
        assert reading.socket.declined == 0


async def test_where_there_is_no_room_the_question_leaves_and_what_comes_behind_it_waits_its_turn() -> None:
    reading = Reading()
    async with reading.going_on():
        reading.room = 0
        reading.socket.arrive(account(1, reading.src))
        reading.room = 1000
        reading.socket.arrive(account(2, reading.src))
        assert (reading.accounts, reading.socket.declined) == ([], 1)
        await resting()
        assert reading.accounts == ["a1", "a2"]
        reading.socket.arrive(account(3, reading.src))
        assert (reading.accounts, reading.socket.declined) == (["a1", "a2", "a3"], 1), "and the lane is open again"


async def test_nothing_is_sent_at_once_while_the_other_end_does_not_read() -> None:
    reading = Reading()
    async with reading.going_on():
        reading.socket.is_clear = False
        reading.socket.arrive(account(1, reading.src))
        assert (reading.accounts, reading.socket.declined) == ([], 1)


async def test_a_message_in_the_very_turn_in_which_the_wait_ends_takes_the_other_way() -> None:
    reading = Reading()
    async with reading.going_on():
        reading.reader.request_walk()
        asyncio.get_running_loop().call_soon(reading.socket.arrive, account(1, reading.src))
        await resting()
        assert (reading.accounts, reading.socket.declined) == (["a1"], 1)


async def test_what_is_wrong_on_the_fast_lane_ends_the_reading() -> None:
    reading = Reading()
    async with reading.going_on() as task:
        reading.socket.arrive(m.LoginAccepted())
        await asyncio.wait([task], timeout=10)
        with pytest.raises(PbxBrokeProtocol):
            task.result()
        assert reading.socket.on_text is None


async def test_a_wish_for_a_walk_is_heeded_while_messages_take_the_fast_lane() -> None:
    reading = Reading()
    async with reading.going_on():
        reading.socket.arrive(account(1, reading.src))
        reading.socket.arrive(m.NoAccount(Cursor(GUID), reading.src))
        assert CaughtUp(is_proven=True) in reading.heard
        reading.reader.request_walk()
        await resting()
        assert WalkBegan() in reading.heard
