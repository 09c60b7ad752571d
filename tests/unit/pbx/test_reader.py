"""Reading over a connection whose transport a test holds in its hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import Side

from bridge.errors import PbxBrokeProtocol, PbxUnreachable, StoreUnusable
from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.pbx.reader import READING, WAITING_FOR_TURN, Reader, WalkEvent, contained
from bridge.pbx.rest import Rest
from bridge.pbx.turnstile import IDLE_SECONDS, Turnstile
from bridge.pbx.walk.actions import CaughtUp, Pace, RowRead, WalkBegan
from bridge.pbx.websocket import WebSocket
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Conversation, ConversationState, Party
from tests.support.wires import Pair, logging_on, until

GUID = Token('"g"')


class Reading:
    """A reader that has been told the guid and asked for the first account."""

    def __init__(self, pace: Pace | None = None, turnstile: Turnstile | None = None) -> None:
        self.pair = Pair(Side.CLIENT)
        self.said: list[str] = []
        self.states: list[str] = []
        self.reader = Reader("hq", pace or Pace(poll_jitter=0), turnstile=turnstile, on_state=self.states.append)
        self.begins_at_once = turnstile is None
        self.heard: list[WalkEvent] = []
        self.room = 1000
        self.enough: Exception | None = None

    def take(self, heard: WalkEvent) -> bool:
        if self.enough is not None:
            raise self.enough
        if self.room:
            self.room -= 1
            self.heard.append(heard)
            return True
        return False

    async def deliver(self, heard: WalkEvent) -> None:
        await asyncio.sleep(0)
        self.heard.append(heard)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator["asyncio.Task[Any]"]:
        conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
        conversation.state = ConversationState.READY
        work = self.reader.read(self.pair.socket, conversation, (), Cursor(), self.deliver, self.take)
        task: asyncio.Task[Any] = asyncio.create_task(work)
        await until(lambda: self.questions == 1)
        for _ in range(2):
            self.arrive(m.NoAccount(Cursor(GUID), self.src))
        if self.begins_at_once:
            assert self.questions == 3
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            self.pair.socket.abort()
            await self.pair.socket.gone

    def arrive(self, *messages: m.Message) -> None:
        self.pair.frames(*(Frame(Opcode.TEXT, message.to_json().encode()) for message in messages))

    @property
    def src(self) -> str:
        """Of the last question."""
        return f"acct-{self.questions}"

    @property
    def questions(self) -> int:
        self.said += [bytes(frame.data).decode() for frame in self.pair.heard()]
        return sum('"AccountInfo"' in text for text in self.said)

    @property
    def accounts(self) -> list[str]:
        return [heard.row.account_guid for heard in self.heard if isinstance(heard, RowRead)]


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
            asked = reading.questions
            reading.arrive(account(number, reading.src))
            assert reading.questions == asked + 1
            assert reading.accounts == [f"a{each}" for each in range(1, number + 1)]


async def test_where_there_is_no_room_the_question_leaves_and_what_comes_behind_it_waits_its_turn() -> None:
    reading = Reading()
    async with reading.going_on():
        reading.room = 0
        asked = reading.questions
        reading.arrive(account(1, reading.src))
        assert reading.questions == asked + 1
        reading.room = 1000
        reading.arrive(account(2, reading.src))
        assert reading.accounts == []
        assert not reading.pair.wire.reads()
        await until(lambda: reading.accounts == ["a1", "a2"])
        assert reading.pair.wire.reads()
        reading.arrive(account(3, reading.src))
        assert reading.accounts == ["a1", "a2", "a3"], "and now it is dealt with at once again"


async def test_behind_what_was_not_asked_for_a_connection_rests_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    due = "bridge.pbx.reader.Rest.due"
    monkeypatch.setattr(due, lambda _rest, _spent, _now, *, is_answer, **_more: 0.0 if is_answer else 0.05)
    reading = Reading()
    async with reading.going_on() as task:
        reading.arrive(m.KeepAlive())
        reading.arrive(account(1, reading.src))
        await resting()
        assert reading.accounts == []
        reading.reader.request_walk()  # whatever wakes it meanwhile
        await resting()
        assert reading.accounts == []
        await until(lambda: reading.accounts == ["a1"])
        reading.arrive(account(2, reading.src))
        assert reading.accounts == ["a1", "a2"], "and now it is dealt with at once again"
        assert not task.done()


async def test_frames_are_paid_for_with_their_message_and_those_of_none_on_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one PBX it is all the same, on whatever connection it was."""
    paid: list[tuple[Rest, float, bool]] = []

    def due(rest: Rest, spent: float, _now: float, *, is_answer: bool, **_more: bool) -> float:
        paid.append((rest, spent, is_answer))
        return 0.0

    monkeypatch.setattr("bridge.pbx.reader.Rest.due", due)
    monkeypatch.setattr(WebSocket, "take_spent", lambda _socket: 5.0)
    reading = Reading()
    async with reading.going_on():
        reading.arrive(account(1, reading.src))
    *_, (rest, of_answer, is_answer), (again, at_the_end, was_answer) = paid
    assert (is_answer, was_answer) == (True, False)
    assert rest is again
    assert at_the_end == 5.0 < of_answer
    reading.pair = Pair(Side.CLIENT)
    reading.said.clear()
    async with reading.going_on():
        assert paid[-1][0] is rest


async def test_the_last_account_again_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many PBXs may say so at each poll, and nobody else is to rest because of that."""
    news: list[bool] = []

    def due(_rest: Rest, _spent: float, _now: float, *, is_news: bool = False, **_more: bool) -> float:
        news.append(is_news)
        return 0.0

    monkeypatch.setattr("bridge.pbx.reader.Rest.due", due)
    reading = Reading()
    async with reading.going_on():
        reading.arrive(account(1, reading.src))
        reading.arrive(account(1, reading.src))
        assert any(isinstance(heard, CaughtUp) for heard in reading.heard)
        assert news == [False, False, True, False]


async def test_while_the_other_end_does_not_read_it_is_asked_nothing_more() -> None:
    reading = Reading()
    async with reading.going_on():
        src = reading.src
        reading.pair.socket.pause_writing()
        reading.pair.socket.data_received(Frame(Opcode.TEXT, account(1, src).to_json().encode()).serialize(mask=False))
        await resting()
        assert (reading.accounts, reading.src) == ([], src)
        reading.pair.socket.resume_writing()
        assert reading.accounts == ["a1"]


async def test_whoever_never_reads_is_given_up_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading()
    monkeypatch.setattr(reading.pair.socket, "_write_seconds", 0.01)
    async with reading.going_on() as task:
        reading.pair.socket.pause_writing()
        await asyncio.wait([task], timeout=10)
        with pytest.raises(PbxUnreachable, match="hq does not take what we send"):
            task.result()


async def test_what_makes_no_sense_ends_the_reading_and_nothing_behind_it_is_taken() -> None:
    reading = Reading()
    async with reading.going_on() as task:
        reading.arrive(m.LoginAccepted(), account(1, reading.src))
        await asyncio.wait([task], timeout=10)
        with pytest.raises(PbxBrokeProtocol):
            task.result()
        assert reading.accounts == []


async def test_what_came_before_the_end_of_a_connection_is_handed_on_before_it_is_told() -> None:
    reading = Reading()
    async with reading.going_on() as task:
        reading.room = 0
        reading.arrive(account(1, reading.src))
        reading.arrive(account(2, reading.src))
        reading.pair.wire.abort()
        await asyncio.wait([task], timeout=10)
        with pytest.raises(ConnectionClosed):
            task.result()
        assert reading.accounts == ["a1", "a2"]


async def test_a_wish_for_a_walk_is_heeded_at_once() -> None:
    reading = Reading()
    async with reading.going_on():
        reading.arrive(account(1, reading.src))
        reading.arrive(m.NoAccount(Cursor(GUID), reading.src))
        assert CaughtUp(is_proven=True) in reading.heard
        reading.reader.request_walk()
        await until(lambda: WalkBegan() in reading.heard)


async def test_the_time_passes_without_a_message_too() -> None:
    reading = Reading(Pace(poll_jitter=0, keepalive=0.05))
    async with reading.going_on():
        await until(lambda: reading.questions and any("KeepAlive" in text for text in reading.said))


async def test_after_a_question_without_an_answer_the_time_is_up_although_others_were_answered_in_between() -> None:
    """The clock is set once and looked at when it rings, instead of being set anew by every message."""
    reading = Reading(Pace(poll_jitter=0, answer_timeout=0.2, poll_interval=60))
    async with reading.going_on():
        asyncio.get_running_loop().call_later(0.1, lambda: reading.arrive(account(1, reading.src)))
        await until(lambda: reading.accounts == ["a1"])
        began, asked = asyncio.get_running_loop().time(), reading.questions
        await until(lambda: reading.questions > asked or CaughtUp(is_proven=False) in reading.heard)
        assert asyncio.get_running_loop().time() - began >= 0.19


async def test_of_two_one_is_read_and_the_other_waits_until_it_was() -> None:
    turnstile = Turnstile(1)
    first, second = Reading(turnstile=turnstile), Reading(turnstile=turnstile)
    async with first.going_on(), second.going_on():
        await until(lambda: first.questions == 3)
        await resting()
        assert (second.questions, second.states) == (2, [READING, WAITING_FOR_TURN])
        first.arrive(account(1, first.src))
        await resting()
        assert second.questions == 2
        first.arrive(m.NoAccount(Cursor(GUID), first.src))
        await until(lambda: second.questions == 3)
        assert second.states == [READING, WAITING_FOR_TURN, READING]
        assert turnstile.waiting == 0


@pytest.mark.parametrize("ends", ["cancelled", "cut"])
async def test_a_connection_that_ends_gives_its_turn_or_its_place_back(ends: str) -> None:
    turnstile = Turnstile(1)
    readings = [Reading(turnstile=turnstile) for _ in range(3)]
    async with readings[0].going_on() as first, readings[1].going_on() as second, readings[2].going_on():
        await until(lambda: readings[0].questions == 3)
        for reading, task in ((readings[1], second), (readings[0], first)):
            if ends == "cancelled":
                task.cancel()
            else:
                reading.pair.wire.abort()
            await asyncio.wait([task], timeout=10)
        await until(lambda: readings[2].questions == 3)
        assert readings[1].questions == 2


async def test_whenever_a_reading_is_cancelled_it_keeps_no_turn_and_no_place() -> None:
    turnstile = Turnstile(1)
    for steps in range(40):
        readings = [Reading(turnstile=turnstile) for _ in range(2)]
        async with readings[0].going_on() as first, readings[1].going_on() as second:
            for step in range(steps):
                if step % 5 == 4:
                    readings[0].arrive(account(step, readings[0].src))
                await asyncio.sleep(0)
            for task in (second, first) if steps % 2 else (first, second):
                task.cancel()
                await asyncio.wait([task], timeout=10)
        assert (turnstile.inside, turnstile.waiting) == (0, 0), steps


async def test_who_hangs_in_its_first_reading_is_passed_over() -> None:
    turnstile = Turnstile(1)
    hangs, other = Reading(turnstile=turnstile), Reading(turnstile=turnstile)
    async with hangs.going_on(), other.going_on():
        await until(lambda: other.questions == 3)
        hangs.arrive(account(1, hangs.src))
        assert hangs.accounts == ["a1"], "and goes on where it does not any more"


async def test_who_waits_for_room_of_ours_keeps_its_turn() -> None:
    turnstile = Turnstile(1)
    held, other = Reading(turnstile=turnstile), Reading(turnstile=turnstile)
    room = asyncio.Event()

    async def deliver(heard: WalkEvent) -> None:  # noqa: ARG001 - by name, as the method has it
        await room.wait()

    held.deliver = deliver  # type: ignore[method-assign]
    held.room = 1
    async with held.going_on(), other.going_on():
        await until(lambda: held.questions == 3)
        held.arrive(account(1, held.src))
        await asyncio.sleep(2 * IDLE_SECONDS)
        assert other.questions == 2
        room.set()


@pytest.mark.parametrize("kind", [RecursionError, MemoryError, KeyError])
def test_an_exception_that_nobody_planned_is_the_trouble_of_one_connection(kind: type[Exception]) -> None:
    with (
        logging_on() as logged,
        pytest.raises(PbxBrokeProtocol, match=f"hq said could not be dealt with .{kind.__name__}") as problem,
        contained("hq"),
    ):
        raise kind("s3cret")
    assert [(line["event"], type(line["exc_info"])) for line in logged] == [("source.message_failed", kind)]
    assert "s3cret" not in str(problem.value)


async def test_an_exception_of_whoever_takes_things_comes_back_to_him_as_it_is() -> None:
    reading = Reading()
    async with reading.going_on() as task:
        reading.enough = ZeroDivisionError()
        reading.arrive(account(1, reading.src), account(2, reading.src))
        await asyncio.wait([task], timeout=10)
        with pytest.raises(ZeroDivisionError):
            task.result()


def test_exceptions_that_somebody_planned_are_let_through() -> None:
    for planned in (PbxUnreachable("gone"), StoreUnusable("full"), asyncio.CancelledError()):
        with pytest.raises(type(planned)), contained("hq"):
            raise planned
