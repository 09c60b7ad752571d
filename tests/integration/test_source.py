"""The source on a real WebSocket, against a PBX that says what the test wants."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bridge.errors import PbxBrokeProtocol, PbxRefusedLogin, PbxUnreachable
from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.pbx.outbound import PbxSource
from bridge.pbx.reader import WalkEvent
from bridge.pbx.walk.actions import CaughtUp, EpochBegan, Pace, RowRead, Sighted, WalkBegan, WalkEnded
from bridge.pbx.walk.walker import Walker
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Conversation, Event, Party

GUID = Token('"g"')
Say = Callable[[ServerConnection, str], Awaitable[None]]
"""Sends whatever a test wants as the answer to the question with this ``src``."""


def row(number: int, **info: Any) -> Row:
    token = Token(f'"{number}"')
    return Row(Cursor(GUID, token, token), AccountGuid(f"account-{number}"), f"user{number}", {"cn": "x", **info})


def text(message: m.Message) -> Say:
    async def say(socket: ServerConnection, src: str) -> None:
        await socket.send(message.to_json().replace('"api"', f'"src":"{src}","api"'))

    return say


def account(number: int, **info: Any) -> Say:
    return text(m.AccountRow(row(number, **info)))


NOTHING = text(m.NoAccount(Cursor(GUID)))


class OddPbx:
    """Logs everybody in, tells its guid twice, and then answers question after question as it was told."""

    def __init__(self, answers: Sequence[Say]) -> None:
        self.answers = [NOTHING, NOTHING, *answers]
        self.questions: list[m.AccountInfo] = []
        self.accepts = True
        self.port = 0
        self.codes: list[int | None] = []
        """Of the goodbyes that it heard."""

    async def talk(self, socket: ServerConnection) -> None:
        conversation = Conversation(Party.PBX, caller=Party.BRIDGE)
        try:
            await self._converse(socket, conversation)
        finally:
            self.codes.append(socket.close_code)

    async def _converse(self, socket: ServerConnection, conversation: Conversation) -> None:
        async for data in socket:
            match conversation.receive(data):
                case m.AppChallenge():
                    await socket.send(conversation.say(m.AppChallengeResult("0123456789abcdef")))
                case m.AppLogin():
                    await socket.send(conversation.say(m.LoginAccepted() if self.accepts else m.LoginRefused("no")))
                case m.AccountInfo() as question:
                    self.questions.append(question)
                    if len(self.questions) <= len(self.answers):
                        await self.answers[len(self.questions) - 1](socket, question.src)

    @asynccontextmanager
    async def served(self) -> AsyncIterator["OddPbx"]:
        async with serve(self.talk, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self


@pytest.fixture(autouse=True, params=["room", "not always room"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rule holds whether or not there is always room for what is handed on."""
    monkeypatch.setattr(Reading, "there_is", request.param)


class Reading:
    """A source that reads, and what it handed on."""

    there_is = "room"

    def __init__(self, pbx: OddPbx, **options: Any) -> None:
        pace = Pace(poll_interval=60, answer_timeout=options.pop("answer_timeout", 5))
        url = f"ws://127.0.0.1:{pbx.port}/PBX0/APPS/websocket"
        self.unreadable_messages: list[str] = []
        self.source = PbxSource(
            url, app="app", password=lambda: "s3cret", pace=pace, on_noise=self.unreadable_messages.append, **options
        )
        self.heard: list[WalkEvent] = []
        self._offers = 0
        self._news = asyncio.Event()

    async def deliver(self, heard: WalkEvent) -> None:
        self.heard.append(_without_size(heard))
        self._news.set()

    def _take(self, heard: WalkEvent) -> bool:
        self._offers += 1
        if self.there_is == "not always room" and self._offers % 3 == 0:
            return False
        self.heard.append(_without_size(heard))
        self._news.set()
        return True

    async def until(self, wanted: WalkEvent) -> None:
        async with asyncio.timeout(60):
            while wanted not in self.heard:
                self._news.clear()
                await self._news.wait()

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator["Reading"]:
        task = asyncio.create_task(self.source.read(Cursor(), self.deliver, self._take))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def to_its_end(self) -> None:
        async with asyncio.timeout(20):
            await self.source.read(Cursor(), self.deliver, self._take)

    @property
    def accounts(self) -> list[str]:
        return [heard.row.account_guid for heard in self.heard if isinstance(heard, RowRead)]


def _without_size(heard: WalkEvent) -> WalkEvent:
    """Return the same, whatever the length of the message that told it."""
    return replace(heard, row=replace(heard.row, size=0)) if isinstance(heard, (RowRead, Sighted)) else heard


async def test_what_is_no_login_says_what_could_not_be_read_and_what_to_look_at() -> None:
    async def babble(socket: ServerConnection) -> None:
        async for _ in socket:
            await socket.send("}{ not JSON")
            await socket.send("[" * 5000)
            await socket.send(m.AppChallengeResult("0123456789abcdef").to_json())

    pbx = OddPbx([])
    async with serve(babble, "127.0.0.1", 0) as server:
        pbx.port = server.sockets[0].getsockname()[1]
        with pytest.raises(PbxBrokeProtocol) as ended:
            async with asyncio.timeout(10):
                await Reading(pbx).source.read(Cursor(), Reading(pbx).deliver)
    words = str(ended.value)
    assert "AppChallengeResult has no place in a conversation that is judging, after 4 messages" in words
    assert "(the first: not valid JSON). Is this the address of a PBX" in words


async def test_a_list_is_read_to_its_end_and_handed_on_in_order() -> None:
    async with OddPbx([account(1), account(2), NOTHING]).served() as pbx, Reading(pbx).going_on() as reading:
        await reading.until(WalkEnded(is_proven=True, until=row(2).cursor))
        assert reading.heard == [
            EpochBegan(Cursor(GUID)),
            RowRead(row(1), row(1).cursor),
            RowRead(row(2), row(2).cursor),
            CaughtUp(is_proven=True),
            WalkEnded(is_proven=True, until=row(2).cursor),
        ]
        assert [question.cursor.usn for question in pbx.questions] == [None, None, None, '"1"', '"2"']


async def test_a_full_walk_can_be_asked_for_while_the_connection_is_idle() -> None:
    answers = [account(1), NOTHING, account(1), NOTHING, NOTHING]
    async with OddPbx(answers).served() as pbx, Reading(pbx).going_on() as reading:
        await reading.until(WalkEnded(is_proven=True, until=row(1).cursor))
        reading.heard.clear()
        reading.source.request_walk()
        await reading.until(WalkEnded(is_proven=True, until=row(1).cursor))
        assert reading.heard[:2] == [WalkBegan(), Sighted(row(1))]


async def test_a_slow_receiver_slows_the_reading() -> None:
    """One row is in hand and one more is asked for; the rest stays in the PBX."""
    blocked = asyncio.Event()

    async def deliver(heard: WalkEvent) -> None:
        if isinstance(heard, RowRead):
            await blocked.wait()

    async with OddPbx([account(number) for number in range(1, 50)]).served() as pbx:
        reading = Reading(pbx)
        task = asyncio.create_task(reading.source.read(Cursor(), deliver))
        async with asyncio.timeout(10):
            while len(pbx.questions) < 4:
                await asyncio.sleep(0.01)
            for _ in range(20):
                await asyncio.sleep(0.01)
        assert len(pbx.questions) == 4
        task.cancel()
        await asyncio.wait([task])


async def test_ten_thousand_messages_of_noise_do_no_harm() -> None:
    async def noise(socket: ServerConnection, src: str) -> None:
        for number in range(10_000):
            await socket.send(("not json", "[1,2]", '{"mt":5}', '{"mt":"Unheard.of"}', "{" * 300)[number % 5])
        await account(1)(socket, src)

    async with OddPbx([noise, NOTHING]).served() as pbx, Reading(pbx).going_on() as reading:
        await reading.until(CaughtUp(is_proven=True))
        assert reading.accounts == ["account-1"]
        assert len(reading.unreadable_messages) == 8000


async def test_binary_fragmented_and_broken_text_frames_are_read() -> None:
    async def binary(socket: ServerConnection, src: str) -> None:
        await socket.send(m.AccountRow(row(1), src).to_json().encode())

    async def fragmented(socket: ServerConnection, src: str) -> None:
        whole = m.AccountRow(row(2), src).to_json()
        await socket.send(whole[start : start + 7] for start in range(0, len(whole), 7))

    async def broken(socket: ServerConnection, src: str) -> None:
        whole = m.AccountRow(row(3, dn="Mülle"), src).to_json().encode()
        await socket.send(whole.replace("ü".encode(), b"\xc3"), text=True)

    answers = [binary, fragmented, broken, NOTHING]
    async with OddPbx(answers).served() as pbx, Reading(pbx).going_on() as reading:
        await reading.until(CaughtUp(is_proven=True))
        assert reading.accounts == ["account-1", "account-2", "account-3"]


async def test_an_account_of_almost_a_mebibyte_is_read_and_a_larger_one_is_named() -> None:
    answers = [account(1, odd="x" * 1_000_000), account(2, odd="x" * 1_100_000)]
    async with OddPbx(answers).served() as pbx:
        reading = Reading(pbx)
        with pytest.raises(PbxUnreachable, match="larger than max_message_bytes"):
            await reading.to_its_end()
        assert reading.accounts == ["account-1"]


async def test_an_answer_that_cannot_be_read_ends_the_connection_and_moves_nothing() -> None:
    async def broken(socket: ServerConnection, src: str) -> None:
        await socket.send(f'{{"mt":"AccountInfoResult","src":"{src}","account-guid":"x","usn":{{"pwd":"s3cret"}}}}')

    async with OddPbx([account(1), broken]).served() as pbx:
        reading = Reading(pbx, answer_timeout=1)
        with pytest.raises(PbxBrokeProtocol, match="usn is neither text nor number") as problem:
            await reading.to_its_end()
        assert reading.accounts == ["account-1"]
        assert "s3cret" not in str(problem.value)


async def test_a_refused_login_is_a_matter_of_configuration() -> None:
    pbx = OddPbx([])
    pbx.accepts = False
    async with pbx.served():
        with pytest.raises(PbxRefusedLogin, match="Name or Password") as refused:
            await Reading(pbx).to_its_end()
    assert "s3cret" not in str(refused.value)


async def test_a_door_shut_after_the_proof_is_a_refusal_and_before_it_is_not() -> None:
    async def shut(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(m.AppChallengeResult("1").to_json())
        await socket.recv()

    async def shut_at_once(socket: ServerConnection) -> None:
        await socket.recv()

    for handler, error in ((shut, PbxRefusedLogin), (shut_at_once, PbxUnreachable)):
        async with serve(handler, "127.0.0.1", 0) as server:
            pbx = OddPbx([])
            pbx.port = server.sockets[0].getsockname()[1]
            with pytest.raises(error):
                await Reading(pbx).to_its_end()


async def test_whoever_never_answers_is_given_up_within_the_deadline() -> None:
    async def mute(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with serve(mute, "127.0.0.1", 0) as server:
        pbx = OddPbx([])
        pbx.port = server.sockets[0].getsockname()[1]
        with pytest.raises(PbxUnreachable, match="login"):
            await Reading(pbx, answer_timeout=0.5).to_its_end()


async def test_something_that_is_no_websocket_is_named() -> None:
    async def web(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    async with server:
        pbx = OddPbx([])
        pbx.port = server.sockets[0].getsockname()[1]
        with pytest.raises(PbxUnreachable, match=r"does not speak WebSocket|no connection|broke"):
            await Reading(pbx).to_its_end()


async def test_a_pbx_hears_that_we_go_away_and_whose_fault_it_is_that_we_do() -> None:
    async with OddPbx([account(1)]).served() as pbx:
        async with Reading(pbx).going_on() as reading:
            await reading.until(RowRead(row(1), row(1).cursor))
        await until(lambda: pbx.codes)
        assert pbx.codes == [1001]
    async with OddPbx([text(m.LoginAccepted())]).served() as pbx:
        with pytest.raises(PbxBrokeProtocol):
            await Reading(pbx).to_its_end()
    assert pbx.codes == [1011]


async def test_what_nobody_planned_ends_this_connection_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([MemoryError, RecursionError])

    def take(_walker: Walker, *_: object) -> None:
        raise next(taken)("s3cret")

    monkeypatch.setattr(Walker, "heard", take)
    for kind in ("MemoryError", "RecursionError"):
        async with OddPbx([]).served() as pbx:
            with pytest.raises(PbxBrokeProtocol, match=rf"could not be dealt with \({kind}\)"):
                await Reading(pbx).to_its_end()
        assert pbx.codes == [1011]


@pytest.mark.parametrize("depth", [900, 1000, 100_000])
async def test_a_message_of_any_depth_is_read_or_costs_one_connection(depth: int) -> None:
    """The number is one that has to be read a second time, by a parser with another limit."""

    async def deep(socket: ServerConnection, src: str) -> None:
        nested = "[" * depth + "]" * depth
        await socket.send(
            f'{{"mt":"AccountInfoResult","guid":"g","src":"{src}","usn":123456789012345678901234567890,"ausn":"1",'
            f'"account-guid":"deep","info":{{"a":{nested}}}}}'
        )

    async with OddPbx([account(1), deep, NOTHING]).served() as pbx:
        reading = Reading(pbx, answer_timeout=0.5)
        task = asyncio.create_task(reading.to_its_end())
        await until(lambda: task.done() or CaughtUp(is_proven=True) in reading.heard)
        if not task.cancel():
            with pytest.raises((PbxBrokeProtocol, PbxUnreachable)):
                task.result()
        await asyncio.wait([task])
        assert reading.accounts[0] == "account-1"


async def test_whoever_talks_instead_of_judging_a_login_is_given_up() -> None:
    async def talk(socket: ServerConnection) -> None:
        await socket.recv()
        for _ in range(1000):
            await socket.send('{"mt":"KeepAlive"}')

    async with serve(talk, "127.0.0.1", 0) as server:
        pbx = OddPbx([])
        pbx.port = server.sockets[0].getsockname()[1]
        with pytest.raises(PbxBrokeProtocol, match="everything but"):
            await Reading(pbx).to_its_end()


async def test_whoever_sends_pings_without_end_is_hung_up_on_and_others_have_their_turn() -> None:
    """A mebibyte of them, which the event loop gets in a few pieces."""

    async def flood(socket: ServerConnection, _src: str) -> None:
        for _ in range(16):
            socket.transport.write(b"\x89\x00" * (1 << 15))

    async with OddPbx([flood]).served() as pbx:
        watching = asyncio.create_task(longest_turn())
        with pytest.raises(PbxUnreachable, match="too many frames that bring nothing"):
            await Reading(pbx).to_its_end()
        watching.cancel()
        assert await watching < 0.5


async def test_whoever_says_much_instead_of_judging_a_login_is_given_up_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message of a mebibyte may take a tenth of a second to read, and a login can be begun again and again."""
    heard: list[int] = []
    receive = Conversation.receive

    def counted(conversation: Conversation, data: bytes | str) -> Event:
        heard.append(len(data))
        return receive(conversation, data)

    monkeypatch.setattr(Conversation, "receive", counted)

    async def talk(socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):  # it is hung up on
            while True:
                await socket.send(m.CheckBuild("x" * 20_000).to_json())

    async with serve(talk, "127.0.0.1", 0) as server:
        pbx = OddPbx([])
        pbx.port = server.sockets[0].getsockname()[1]
        with pytest.raises(PbxBrokeProtocol, match="says too much before it says whether the login is good"):
            await Reading(pbx).to_its_end()
    assert len(heard) == 3


async def test_whom_we_hang_up_on_in_the_middle_of_a_login_has_not_refused_it() -> None:
    """It would be tried again after a minute only, and somebody would look for a wrong password."""

    async def talk(socket: ServerConnection) -> None:
        await socket.recv()
        await socket.send(m.AppChallengeResult("0123456789abcdef").to_json())
        await socket.recv()
        for _ in range(16):
            socket.transport.write(b"\x89\x00" * (1 << 15))
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0) as server:
        pbx = OddPbx([])
        pbx.port = server.sockets[0].getsockname()[1]
        with pytest.raises(PbxUnreachable, match="too many frames that bring nothing"):
            await Reading(pbx).to_its_end()


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


async def longest_turn() -> float:
    """Return how long others had to wait for their turn at most, once cancelled."""
    longest, before = 0.0, time.monotonic()
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0)
            now = time.monotonic()
            longest, before = max(longest, now - before), now
    return longest


@asynccontextmanager
async def answering(answer: Callable[[int], bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answer HTTP requests by hand: with what *answer* returns for the number of the request, and no more."""
    requests: list[bytes] = []

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer(len(requests)))
            await reader.read()
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


async def read_from(url: str, seconds: float = 5.0) -> None:
    source = PbxSource(url, app="app", password=lambda: "s3cret", connect_timeout_seconds=seconds)

    async def deliver(_heard: WalkEvent) -> None:
        pass

    async with asyncio.timeout(20):
        await source.read(Cursor(), deliver)


def moved(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


async def test_redirects_are_followed_up_to_a_limit() -> None:
    async with (
        OddPbx([text(m.LoginAccepted())]).served() as pbx,
        answering(lambda number: moved("/again" if number < 3 else f"ws://127.0.0.1:{pbx.port}/x")) as (port, requests),
    ):
        with pytest.raises(PbxBrokeProtocol):  # so it came there
            await read_from(f"ws://127.0.0.1:{port}/first")
        assert [request.split(b" ")[1] for request in requests] == [b"/first", b"/again", b"/again"]
        assert f"Host: 127.0.0.1:{port}".encode() in requests[0]
    async with answering(lambda _number: moved("/again")) as (port, requests):
        with pytest.raises(PbxUnreachable, match="more than 10 redirects"):
            await read_from(f"ws://127.0.0.1:{port}/first")
        assert len(requests) == 10
    for target in ("http://[", "ws://x:99999/"):
        async with answering(lambda _number, target=target: moved(target)) as (port, _):  # type: ignore[misc]
            with pytest.raises(PbxUnreachable, match="leads to no WebSocket"):
                await read_from(f"ws://127.0.0.1:{port}/first")


async def test_whoever_answers_with_a_page_or_with_half_an_answer_is_named_in_time() -> None:
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nnope\n"
    async with answering(lambda _number: page) as (port, _):
        with pytest.raises(PbxUnreachable, match="HTTP status 404"):
            await read_from(f"ws://127.0.0.1:{port}/x")
    for half in (b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgr", b"HTTP/1.1 200 OK\r\n\r\n"):
        async with answering(lambda _number, half=half: half) as (port, _):  # type: ignore[misc]
            with pytest.raises(PbxUnreachable, match=r"no connection to .* within 0\.3 s"):
                await read_from(f"ws://127.0.0.1:{port}/x", seconds=0.3)
    wrong = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    async with answering(lambda _number: wrong + b"Sec-WebSocket-Accept: x\r\n\r\n") as (port, _):
        with pytest.raises(PbxUnreachable, match="does not speak WebSocket"):
            await read_from(f"ws://127.0.0.1:{port}/x")


@pytest.mark.parametrize("url", ["ws://127.0.0.1:99999/x", f"ws://{'x' * 70}.example/x", "http://127.0.0.1/x"])
async def test_an_address_that_is_none_costs_nobody_else_anything(url: str) -> None:
    with pytest.raises(PbxUnreachable):
        await read_from(url)
