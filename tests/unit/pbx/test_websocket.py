"""Our connection on every cut of a stream, from both ends, whatever whoever listens does meanwhile."""

import asyncio
import errno
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.protocol import Side

from bridge.pbx import websocket
from bridge.pbx.websocket import Allowance
from tests.support.wires import MOST, Pair, logging_on, until

TEXT = Frame(Opcode.TEXT, b"{}")
PING = Frame(Opcode.PING, b"")

both = pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER], ids=["we dialled", "they dialled"])


class Said(NamedTuple):
    """A message, in how many frames it is sent at least, and the pings between them."""

    text: bytes
    pieces: int = 1
    pings: int = 0


def frames_of(said: Said, number: Iterator[int]) -> list[Frame]:
    step = max(1, len(said.text) // said.pieces)
    parts = [said.text[at : at + step] for at in range(0, len(said.text), step)] or [b""]
    last = len(parts) - 1
    frames = [Frame(Opcode.CONT if at else Opcode.TEXT, part, fin=at == last) for at, part in enumerate(parts)]
    between = [[Frame(Opcode.PING, str(next(number)).encode()) for _ in range(said.pings)] for _ in frames]
    return [each for frame, pings in zip(frames, between, strict=True) for each in (*pings, frame)]


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


sizes = st.sampled_from([1, 124, 125, 126, 127, 255, 256, 1000, 1023, 1024, 1025, 65_535, 65_536])
messages = st.builds(
    Said,
    st.text(min_size=1, max_size=200).map(str.encode) | sizes.map(b"x".__mul__),
    st.sampled_from([1, 1, 1, 2, 5]),
    st.sampled_from([0, 0, 1, 2]),
)
WAYS = ("take", "take", "take", "hold", "receive", "clog", "nothing")
"""What whoever listens does with a message, and what happens meanwhile."""


class Listener:
    """Takes messages by all ways there are, as *moods* has it."""

    def __init__(self, pair: Pair, moods: Sequence[str]) -> None:
        self.pair = pair
        self.taken: list[bytes] = []
        self.is_told_of_end = False
        self.is_clogged = False
        self.turns: list[int] = [0]
        self._moods = itertools.cycle(moods)

    def listen(self) -> None:
        self.pair.socket.listen(self.take, self.over)

    def over(self) -> None:
        self.is_told_of_end = True

    def take(self, message: bytes) -> None:
        self.taken.append(message)
        self.turns[-1] += 1
        mood = next(self._moods)
        if mood == "hold":
            self.pair.socket.hold()
        elif mood == "clog" and not self.is_clogged and not self.pair.socket.gone.done():
            self.is_clogged = True
            self.pair.socket.pause_writing()

    def go_on(self) -> None:
        if self.is_clogged and not self.pair.socket.gone.done():
            self.pair.socket.resume_writing()
        self.is_clogged = False
        self.pair.socket.go_on()


@settings(max_examples=150, deadline=None)
@given(
    side=st.sampled_from(Side),
    talk=st.lists(messages, max_size=12),
    places=st.lists(st.integers(0, 1 << 20), max_size=25),
    moods=st.lists(st.sampled_from(WAYS), min_size=1, max_size=12),
    pushes=st.lists(st.booleans(), min_size=1, max_size=5),
    received=st.integers(0, 3),
    is_cut_off=st.booleans(),
)
def test_every_message_comes_once_and_in_order_however_the_stream_is_cut(  # noqa: PLR0913 - a case
    *,
    side: Side,
    talk: Sequence[Said],
    places: Sequence[int],
    moods: Sequence[str],
    pushes: Sequence[bool],
    received: int,
    is_cut_off: bool,
) -> None:
    """The first ones by ``receive``, as during a login; the others by whoever listens, who is out of room at times.

    Now and then the event loop had read more already when it was told not to.
    """

    async def check() -> None:
        pair, number = Pair(side), itertools.count()
        frames = [frame for said in talk for frame in frames_of(said, number)]
        pieces = cut(b"".join(frame.serialize(mask=pair.masks) for frame in frames), places)
        listener, more = Listener(pair, moods), itertools.cycle([*pushes, False])
        told = [said.text for said in talk]
        first = min(received, len(told))
        waiting = asyncio.create_task(receive(pair, listener.taken, first))
        while pieces:
            await asyncio.sleep(0)
            if pair.wire.reads() or next(more):
                pair.socket.data_received(pieces.pop(0))
            elif waiting.done():
                listener.listen()
                listener.go_on()
        if is_cut_off:
            pair.wire.abort()  # the last things came, and then the line was cut
        await waiting
        listener.listen()
        async with asyncio.timeout(5):
            while len(listener.taken) < len(told):
                listener.go_on()
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert listener.taken == told
        if is_cut_off:
            await until(lambda: listener.is_told_of_end)
        else:
            listener.go_on()
            await until(pair.wire.reads)
            pongs = [bytes(frame.data) for frame in pair.heard() if frame.opcode is Opcode.PONG]
            assert pongs == [str(each).encode() for each in range(next(number))]
        pair.socket.abort()
        await pair.socket.gone

    asyncio.run(check())


async def receive(pair: Pair, taken: list[bytes], count: int) -> None:
    for _ in range(count):
        taken.append(await pair.socket.receive())  # noqa: PERF401 - what came so far stays, whatever comes then


@settings(deadline=None)
@given(side=st.sampled_from(Side), texts=st.lists(st.text(max_size=300) | st.just("x" * 66_000), max_size=5))
def test_what_is_sent_arrives(side: Side, texts: Sequence[str]) -> None:
    async def check() -> None:
        pair = Pair(side)
        for text in texts:
            pair.socket.send(text)
        assert [bytes(frame.data).decode() for frame in pair.heard()] == texts
        pair.socket.abort()
        await pair.socket.gone

    asyncio.run(check())


@both
async def test_an_answer_is_written_in_the_turn_in_which_the_question_came(side: Side) -> None:
    pair = Pair(side)
    pair.socket.listen(lambda message: pair.socket.send(message.decode()), lambda: None)
    pair.frames(TEXT, Frame(Opcode.PING, b"?"), Frame(Opcode.TEXT, b"2"))
    assert sorted(bytes(frame.data) for frame in pair.heard()) == [b"2", b"?", b"{}"]


@both
async def test_while_nobody_takes_messages_nothing_is_read(side: Side) -> None:
    pair = Pair(side)
    listener = Listener(pair, ["hold"])
    listener.listen()
    pair.frames(*[TEXT] * 500)
    assert len(listener.taken) == 1
    assert not pair.wire.reads()
    assert len(pair.socket._inbox) < websocket.SLICE_BYTES  # noqa: SLF001 - the rest is bytes as yet
    for count in range(2, 501):
        listener.go_on()
        assert len(listener.taken) == count
    listener.go_on()
    assert pair.wire.reads()


@both
async def test_while_the_other_end_does_not_read_nothing_is_read_from_it(side: Side) -> None:
    """Whoever sends pings and never reads the pongs does not fill our memory."""
    pair = Pair(side)
    pair.socket.pause_writing()
    assert not pair.wire.reads()
    before = len(pair.wire.written)
    pair.socket.data_received(PING.serialize(mask=pair.masks) * 50)  # had been read already
    assert len(pair.wire.written) == before
    pair.socket.resume_writing()
    assert pair.wire.reads()
    assert len(pair.heard()) == 50


@both
async def test_a_ping_is_answered_while_whoever_listens_has_no_room(side: Side) -> None:
    pair = Pair(side)
    Listener(pair, ["hold"]).listen()
    pair.frames(TEXT, PING)
    pair.frames(PING)
    assert len(pair.heard()) == 2


@both
async def test_a_turn_is_over_after_so_many_messages_and_the_others_have_the_next(side: Side) -> None:
    pair = Pair(side)
    listener = Listener(pair, ["take"])
    listener.listen()
    pair.frames(*[TEXT] * 1000)
    assert len(listener.taken) <= websocket.FRAMES_A_TURN
    assert not pair.wire.reads()
    while len(listener.taken) < 1000:
        before = len(listener.taken)
        await asyncio.sleep(0)
        assert 0 < len(listener.taken) - before <= websocket.FRAMES_A_TURN
    await asyncio.sleep(0)
    assert pair.wire.reads()


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (Frame(Opcode.TEXT, b"{}").serialize(mask=True), 1002),
        (b"\xc1\x02{}", 1002),
        (b"\x83\x00", 1002),
        (b"\x89\x7e\x00\x80" + bytes(128), 1002),
        (Frame(Opcode.TEXT, b"x" * (MOST + 1)).serialize(mask=False), 1009),
        (Frame(Opcode.TEXT, b"{", fin=False).serialize(mask=False) + TEXT.serialize(mask=False), 1002),
        (Frame(Opcode.CONT, b"{").serialize(mask=False), 1002),
        (Frame(Opcode.CLOSE, b"\x03\xe8\xff").serialize(mask=False), 1007),
        (Frame(Opcode.CLOSE, b"\x00\x01").serialize(mask=False), 1002),
    ],
    ids=[
        "masked by a server", "reserved bit", "unknown opcode", "long ping", "too large", "in the middle of another",
        "goes on with nothing", "goodbye that is no text", "goodbye with no code",
    ],
)  # fmt: skip
async def test_what_breaks_the_rules_ends_the_connection(wrong: bytes, code: int) -> None:
    pair = Pair(Side.CLIENT)
    listener = Listener(pair, ["take"])
    listener.listen()
    pair.arrive(wrong + TEXT.serialize(mask=False))
    assert pair.said_last() == code
    assert not listener.taken


@both
@pytest.mark.parametrize("frames", [
    [Frame(Opcode.TEXT, b"x" * MOST, fin=False), Frame(Opcode.CONT, b"x")],
    [Frame(Opcode.TEXT, b"x", fin=False), *[Frame(Opcode.CONT, b"x", fin=False)] * websocket.MAX_FRAGMENTS],
], ids=["bytes", "frames"])  # fmt: skip
async def test_a_message_has_so_many_bytes_and_frames_at_most(side: Side, frames: Sequence[Frame]) -> None:
    pair = Pair(side)
    pair.frames(*frames)
    await until(pair.said_last)
    assert pair.said_last() == 1009


@both
@pytest.mark.parametrize(
    "frame", [PING, Frame(Opcode.PONG, b"x"), Frame(Opcode.TEXT, b"")], ids=["ping", "pong", "empty"]
)
async def test_frames_that_bring_nothing_are_counted(side: Side, frame: Frame) -> None:
    """A few are answered, a mebibyte of them is not even looked at."""
    pair = Pair(side)
    listener = Listener(pair, ["take"])
    listener.listen()
    few = websocket.EMPTY_FRAMES - 1
    pair.frames(*[frame] * few)
    await until(pair.wire.reads)
    assert pair.said_last() is None
    pair.arrive(frame.serialize(mask=pair.masks) * 200_000)
    await until(pair.said_last)
    assert pair.said_last() == 1008
    assert len(listener.taken) <= few + websocket.SLICE_BYTES
    assert len(pair.wire.written) < 10 * websocket.SLICE_BYTES


async def test_pings_as_any_system_sends_them_are_answered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(Side.SERVER)
    now = [0.0]
    monkeypatch.setattr(pair.socket, "_loop", type("Clock", (), {"time": lambda _self: now[0]})())
    for _ in range(1000):
        now[0] += 1
        pair.frames(PING)
    assert len(pair.heard()) == 1000
    assert pair.said_last() is None


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([PING] * 33, 1008),
        ([Frame(Opcode.TEXT, b"x", fin=False), *[Frame(Opcode.CONT, b"", fin=False)] * 33], 1008),
        ([Frame(Opcode.TEXT, b"x" * 40_000, fin=False), Frame(Opcode.CONT, b"x" * 30_000)], 1009),
        ([Frame(Opcode.TEXT, b"x" * (MOST + 1))], 1009),
    ],
    ids=["pings", "fragments", "bytes", "a large message"],
)
async def test_a_stranger_may_send_so_much_and_no_more(frames: Sequence[Frame], code: int) -> None:
    pair = Pair(Side.SERVER, allowance=Allowance(1 << 14, 1 << 16, 32))
    pair.frames(*frames)
    await until(pair.said_last)
    assert pair.said_last() == code
    with pytest.raises(ConnectionClosed):
        await lost(pair)


async def test_whoever_is_trusted_is_no_stranger() -> None:
    pair = Pair(Side.SERVER, allowance=Allowance(1 << 14, 1 << 16, 32))
    pair.socket.trust()
    pair.frames(*[Frame(Opcode.TEXT, b"x" * 10_000)] * 40)
    for _ in range(40):
        assert len(await pair.socket.receive()) == 10_000


async def test_who_introduces_himself_may_send_large_messages_in_few_frames() -> None:
    pair = Pair(Side.SERVER, allowance=Allowance(1 << 14, 1 << 16, 32))
    pair.socket.trust(8)
    pair.frames(Frame(Opcode.TEXT, b"x" * 70_000))
    assert len(await pair.socket.receive()) == 70_000
    pair.frames(Frame(Opcode.TEXT, b"x", fin=False), *[Frame(Opcode.CONT, b"x", fin=False)] * 8)
    await until(pair.said_last)
    assert pair.said_last() == 1008
    with pytest.raises(ConnectionClosed):
        await lost(pair)


async def test_what_frames_take_of_our_time_is_told_once() -> None:
    pair = Pair(Side.CLIENT)
    pair.socket.take_spent()
    pair.frames(Frame(Opcode.TEXT, b"x", fin=False), *[Frame(Opcode.CONT, b"x", fin=False)] * 100)
    assert pair.socket.take_spent() > 0.0
    assert pair.socket.take_spent() == 0.0
    pair.socket.abort()
    await pair.socket.gone


async def lost(pair: Pair) -> None:
    """Have the other end cut the line, and wait for a message."""
    pair.wire.abort()
    async with asyncio.timeout(5):
        await pair.socket.receive()


@both
async def test_of_what_comes_behind_a_failure_so_much_is_thrown_away_and_then_the_line_is_cut(side: Side) -> None:
    pair = Pair(side)
    pair.frames(*[PING] * 1000)
    assert pair.said_last() == 1008
    assert not pair.wire.is_aborted
    pair.arrive(bytes(websocket.UNHEARD_BYTES // 2))
    assert not pair.wire.is_aborted
    pair.arrive(bytes(websocket.UNHEARD_BYTES))
    assert pair.wire.is_aborted


@both
async def test_nothing_is_taken_behind_a_goodbye_and_it_is_answered(side: Side) -> None:
    pair = Pair(side)
    listener = Listener(pair, ["take"])
    listener.listen()
    pair.frames(TEXT, Frame(Opcode.CLOSE, b"\x03\xe9"), TEXT)
    assert len(listener.taken) == 1
    assert not pair.socket.is_open
    assert pair.said_last() == 1001
    pair.socket.send("nobody hears this")
    assert [frame.opcode for frame in pair.heard()] == [Opcode.CLOSE]
    pair.wire.abort()
    await until(lambda: listener.is_told_of_end)
    assert pair.socket.end.rcvd is not None
    assert pair.socket.end.rcvd.code == 1001


@both
async def test_our_goodbye_waits_for_theirs_and_drops_what_still_comes(side: Side) -> None:
    pair = Pair(side)
    pair.frames(TEXT, TEXT)
    closing = asyncio.create_task(pair.socket.close(1001))
    await asyncio.sleep(0)
    assert pair.said_last() == 1001
    assert not closing.done()
    await until(pair.wire.reads)
    pair.frames(TEXT, Frame(Opcode.CLOSE, b"\x03\xe9"))
    pair.wire.abort()
    async with asyncio.timeout(5):
        await closing
    with pytest.raises(ConnectionClosed):
        await pair.socket.receive()


@both
async def test_a_goodbye_and_unread_output_have_a_deadline(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Pair(side, close_seconds=0.05)
    async with asyncio.timeout(5):
        await silent.socket.close()
    assert silent.wire.is_aborted
    stalled = Pair(side)
    monkeypatch.setattr(stalled.socket, "_write_seconds", 0.05)
    stalled.socket.pause_writing()
    async with asyncio.timeout(5):
        await stalled.socket.gone
    assert stalled.socket.is_stalled


@both
async def test_an_exception_of_whoever_listens_ends_this_connection_with_a_traceback(side: Side) -> None:
    def take(_message: bytes) -> None:
        raise RecursionError("deep")

    pair, ends = Pair(side), [0]
    pair.socket.listen(take, lambda: ends.append(1))
    with logging_on() as logged:
        pair.frames(TEXT, TEXT)
        await pair.socket.gone
    assert sum(ends) == 1
    assert [(line["event"], line["exc_info"]) for line in logged] == [("websocket.failed", True)]


@both
async def test_a_connection_that_is_gone_when_we_end_it_is_an_end_and_no_failure(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_eof() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    pair, ends = Pair(side), [0]
    pair.socket.listen(lambda _message: None, lambda: ends.append(1))
    monkeypatch.setattr(pair.wire, "write_eof", write_eof)
    with logging_on() as logged:
        pair.socket.eof_received()
        await pair.socket.gone
        await until(lambda: sum(ends) == 1)
    assert not logged
    assert isinstance(pair.socket.end, ConnectionClosed)


@both
async def test_less_than_a_frame_before_the_end_is_no_message(side: Side) -> None:
    pair = Pair(side)
    pair.arrive(TEXT.serialize(mask=pair.masks) + b"\x81")
    pair.socket.eof_received()
    assert await pair.socket.receive() == b"{}"
    with pytest.raises(ConnectionClosed) as closed:
        await lost(pair)
    assert "ends after 1 bytes" in str(closed.value.__cause__)


@both
async def test_the_end_is_told_even_where_the_core_itself_fails(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: bytes) -> None:
        raise MemoryError

    pair, ends = Pair(side), [0]
    pair.socket.listen(lambda _message: None, lambda: ends.append(1))
    monkeypatch.setattr(pair.core, "receive_data", fail)
    monkeypatch.setattr(pair.core, "receive_eof", fail)
    with logging_on() as logged:
        pair.frames(TEXT)
        await until(lambda: sum(ends) == 1)
    assert {line["event"] for line in logged} == {"websocket.failed"}
    assert isinstance(pair.socket.end, ConnectionClosed)


async def test_somebody_who_listens_to_what_is_over_is_told_so() -> None:
    pair: Any = Pair(Side.CLIENT)
    pair.wire.abort()
    await pair.socket.gone
    told: list[int] = []
    pair.socket.listen(lambda _message: None, lambda: told.append(1))
    assert told == [1]
