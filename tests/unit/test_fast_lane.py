"""The fast lane beside the library's own way, on every cut of a stream of frames."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from bridge.fast_lane import FastLane

MOST = 80_000
TEXT = Frame(Opcode.TEXT, b"{}")


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def abort(self) -> None:
        pass


class Dialled(FastLane, ClientConnection):
    """The client's end."""


class Accepted(FastLane, Connection):
    """The server's end; the library's own class wants a listening server, and adds the handshake only."""

    def process_event(self, event: Any) -> None:
        if not isinstance(event, Request):
            super().process_event(event)


class Said(NamedTuple):
    """A message, and in how many pieces it is sent at least."""

    text: bytes
    pieces: int = 1


def frames_of(said: Said | Opcode) -> list[Frame]:
    if isinstance(said, Opcode):
        return [Frame(said, b"beat")]
    step = max(1, len(said.text) // said.pieces)
    parts = [said.text[at : at + step] for at in range(0, len(said.text), step)] or [b""]
    last = len(parts) - 1
    return [Frame(Opcode.CONT if at else Opcode.TEXT, part, fin=at == last) for at, part in enumerate(parts)]


def connected(side: Side) -> tuple[FastLane, Wire, bytes]:
    """Return a connection of *side* that waits for the handshake of the other end, and that handshake."""
    client, server = ClientProtocol(parse_uri("ws://pbx/x"), max_size=MOST), ServerProtocol(max_size=MOST)
    client.send_request(client.connect())
    greeting = b"".join(client.data_to_send())
    server.receive_data(greeting)
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    response = b"".join(server.data_to_send())
    wire = Wire()
    if side is Side.CLIENT:
        connection: FastLane = Dialled(client)
    else:
        fresh = ServerProtocol(max_size=MOST)
        connection, response = Accepted(fresh), greeting
    connection.connection_made(wire)
    return connection, wire, response


def opened(connection: FastLane) -> None:
    connection.protocol.state = State.OPEN


def takes_all(connection: FastLane) -> list[bytes]:
    """Have every message taken, and return where they are put."""
    taken: list[bytes] = []

    def take(text: bytes) -> bool:
        taken.append(text)
        return True

    connection.on_text = take
    return taken


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


sizes = st.sampled_from([0, 1, 124, 125, 126, 127, 1000, 65_535, 65_536])
messages = st.builds(
    Said, st.text(max_size=200).map(str.encode) | sizes.map(b"x".__mul__), st.sampled_from([1, 1, 1, 2, 3])
)
talk = st.lists(messages | st.sampled_from([Opcode.PING, Opcode.PONG]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    side=st.sampled_from(Side),
    talk=talk,
    places=st.lists(st.integers(0, 1 << 20), max_size=25),
    wanted=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_every_message_comes_once_and_in_order_however_the_stream_is_cut(
    side: Side, talk: Sequence[Said | Opcode], places: Sequence[int], wanted: Sequence[bool]
) -> None:
    async def check() -> None:
        connection, _, handshake = connected(side)
        stream = b"".join(frame.serialize(mask=side is Side.SERVER) for said in talk for frame in frames_of(said))
        answers, taken = iter(wanted), []

        def take(text: bytes) -> bool:
            is_taken = next(answers)
            if is_taken:
                taken.append(text)
            return is_taken

        connection.on_text = take
        for piece in cut(handshake, places):
            connection.data_received(piece)
        opened(connection)
        for piece in cut(stream, places):
            connection.data_received(piece)
        told = [said.text for said in talk if isinstance(said, Said)]
        async with asyncio.timeout(5):
            left = [await connection.recv(decode=False) for _ in range(len(told) - len(taken))]
        rest = iter(told)
        assert all(text in rest for text in taken), "taken in order"
        rest = iter(told)
        assert all(text in rest for text in left), "received in order"
        assert sorted([*taken, *left]) == sorted(told)

    asyncio.run(check())


@settings(deadline=None)
@given(side=st.sampled_from(Side), text=st.text(max_size=300) | st.integers(65_000, 66_000).map("x".__mul__))
def test_what_is_sent_at_once_is_what_the_library_would_send(side: Side, text: str) -> None:
    async def check() -> None:
        connection, wire, handshake = connected(side)
        connection.data_received(handshake)
        opened(connection)
        assert connection.is_clear
        connection.send_at_once(text)
        other: Protocol = ServerProtocol(state=State.OPEN)
        if side is Side.SERVER:
            other = ClientProtocol(parse_uri("ws://x"), state=State.OPEN)
        other.receive_data(wire.written)
        (frame,) = other.events_received()
        assert isinstance(frame, Frame)
        assert (frame.opcode, bytes(frame.data)) == (Opcode.TEXT, text.encode())

    asyncio.run(check())


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (Frame(Opcode.TEXT, b"{}").serialize(mask=True), 1002),
        (b"\xc1\x02{}", 1002),
        (Frame(Opcode.TEXT, b"x" * (MOST + 1)).serialize(mask=False), 1009),
        (Frame(Opcode.TEXT, b"{", fin=False).serialize(mask=False) + TEXT.serialize(mask=False), 1002),
    ],
    ids=["masked by a server", "reserved bit", "too large", "in the middle of another"],
)
async def test_what_breaks_the_rules_ends_the_connection_as_ever(wrong: bytes, code: int) -> None:
    connection, _, handshake = connected(Side.CLIENT)
    taken = takes_all(connection)
    connection.data_received(handshake)
    opened(connection)
    connection.data_received(wrong)
    sent = connection.protocol.close_sent
    assert sent is not None
    assert sent.code == code
    assert not taken


async def test_a_limit_on_messages_holds_for_what_would_be_taken_too() -> None:
    connection, _, handshake = connected(Side.CLIENT)
    taken = takes_all(connection)
    connection.data_received(handshake)
    opened(connection)
    connection.protocol.max_message_size = 1000
    connection.data_received(Frame(Opcode.TEXT, b"x" * 1000).serialize(mask=False))
    assert len(taken) == 1
    connection.data_received(Frame(Opcode.TEXT, b"x" * 1001).serialize(mask=False))
    assert len(taken) == 1
    sent = connection.protocol.close_sent
    assert sent is not None
    assert sent.code == 1009


async def test_nothing_is_taken_behind_a_goodbye() -> None:
    connection, _, handshake = connected(Side.CLIENT)
    taken = takes_all(connection)
    connection.data_received(handshake)
    opened(connection)
    connection.data_received(TEXT.serialize(mask=False))
    assert len(taken) == 1
    close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False)
    connection.data_received(close + TEXT.serialize(mask=False))
    assert len(taken) == 1


async def test_less_than_the_head_of_a_frame_reaches_the_library_with_the_end() -> None:
    connection, _, handshake = connected(Side.CLIENT)
    connection.data_received(handshake)
    opened(connection)
    connection.data_received(b"\x81")
    connection.eof_received()
    problem = connection.protocol.parser_exc
    assert problem is not None
    assert "ends after 1 bytes" in str(problem)
