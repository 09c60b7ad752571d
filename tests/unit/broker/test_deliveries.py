"""What is taken off the line, whatever is around it and wherever it is cut."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from bridge.broker.deliveries import HEARTBEAT_SECONDS, Delivered, DeliveryFrames, Diverter

OURS, ANOTHER = 3, 4


def message(channel: int, tag: int, bodies: Sequence[bytes], identity: str | None = None, **headers: Any) -> bytes:
    properties = commands.Basic.Properties(message_id=identity, headers=headers or None)
    told: list[Any] = [
        commands.Basic.Deliver("ctag3.1f", tag, exchange="pbx.accounts", routing_key="hq.account.created"),
        ContentHeader(body_size=sum(map(len, bodies)), properties=properties),
        *[ContentBody(body) for body in bodies],
    ]
    return b"".join(frame.marshal(part, channel) for part in told)


def taken_from(pieces: Sequence[bytes], lost: list[str] | None = None) -> tuple[list[Delivered], bytes]:
    taken: list[Delivered] = []
    problems: list[str] = [] if lost is None else lost
    frames = DeliveryFrames(OURS, taken.append, problems.append)
    passed = b"".join(frames.feed(piece) for piece in pieces) + frames.flush()
    assert lost is not None or not problems
    return taken, passed


OTHERS = st.sampled_from(
    [
        frame.marshal(Heartbeat(), 0),
        frame.marshal(commands.Basic.Ack(7, multiple=True), ANOTHER),
        frame.marshal(commands.Basic.ConsumeOk("ctag3.1f"), OURS),
        frame.marshal(commands.Channel.Close(404, "NOT_FOUND", 60, 20), OURS),
        message(ANOTHER, 9, [b"of another channel"]),
    ]
)
# A frame has at least one byte of body: a message without any has no such frame.
MESSAGES = st.lists(st.binary(min_size=1, max_size=30), max_size=3)


@given(st.lists(OTHERS | MESSAGES, max_size=8), st.data())
def test_messages_of_the_channel_are_taken_and_all_else_goes_on_wherever_the_line_is_cut(
    told: list[bytes | list[bytes]], data: st.DataObject
) -> None:
    line, bodies, others = b"", [], b""
    for part in told:
        if isinstance(part, bytes):
            line, others = line + part, others + part
        else:
            bodies.append(b"".join(part))
            line += message(OURS, len(bodies), part)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(line)), max_size=6)))
    pieces = [line[a:b] for a, b in zip([0, *cuts], [*cuts, len(line)], strict=True)]
    taken, passed = taken_from(pieces)
    assert [one.body for one in taken] == bodies
    assert [one.tag for one in taken] == list(range(1, len(bodies) + 1))
    assert passed == others


def test_a_message_tells_its_id_and_its_headers() -> None:
    named = message(OURS, 1, [b"{}"], "an id", **{"x-stream-offset": 17})
    ((with_both, with_none), _) = taken_from([named, message(OURS, 2, [b"{}"])])
    assert (with_both.message_id, with_both.headers) == ("an id", {"x-stream-offset": 17})
    assert (with_none.message_id, with_none.headers) == (None, {})


def nested(levels: int) -> bytes:
    table = b"\0\0\0\0"
    for _ in range(levels):
        table = (len(table) + 3).to_bytes(4, "big") + b"\x01aF" + table
    return table


@pytest.mark.parametrize(
    "properties",
    [
        b"\x00\x80" + b"\x01\xff",  # an id that is no UTF-8
        b"\x00\x40" + b"\x7f" * 8,  # a time beyond all years
        b"\x00\x40" + b"\x7f",  # half a time
        b"\x20\x00" + b"\x00\x00\x00\x03" + b"\x01a?",  # a kind of value that nobody knows
        b"\x20\x00" + nested(500),
        b"",
    ],
)
def test_a_header_that_cannot_be_read_is_said_to_be_so(properties: bytes) -> None:
    odd = Delivered(1, bytes([0, 60, *bytes(10)]) + properties, b"")
    with pytest.raises(ValueError, match=r"."):
        _ = odd.message_id


def test_what_is_no_frame_goes_to_the_client_library_which_says_so() -> None:
    broken = message(OURS, 1, [b"{}"])[:-1] + b"?" + b"behind it"
    lost: list[str] = []
    taken, passed = taken_from([message(OURS, 1, [b"{}"]) + broken, b"more", message(OURS, 2, [b"{}"])], lost)
    assert len(lost) == 1
    passed = passed.removesuffix(message(OURS, 2, [b"{}"]))
    assert [one.body for one in taken] == [b"{}"]
    assert passed.endswith(b"?behind itmore")


@pytest.mark.parametrize("had", range(1, 8))
def test_a_line_taken_in_the_middle_of_a_frame_is_lost_at_once_and_no_delivery_is_passed_over_unseen(had: int) -> None:
    """The library has the first part of a heartbeat; behind the rest of it deliveries come, and later ones in order."""
    first = frame.marshal(Heartbeat(), 0)[had:] + message(OURS, 1, [b"{}" * 200])
    lost: list[str] = []
    taken, passed = taken_from([first, message(OURS, 2, [b"{}"])], lost)
    assert (taken, len(lost), passed) == ([], 1, first + message(OURS, 2, [b"{}"]))


def test_half_a_frame_goes_to_the_client_library_once_the_line_is_given_back() -> None:
    other = frame.marshal(commands.Basic.Ack(7, multiple=True), ANOTHER)
    assert taken_from([other + other[:5]]) == ([], other + other[:5])


class _Behind(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def data_received(self, data: bytes) -> None:
        self.heard.append(data)

    def eof_received(self) -> bool:
        self.heard.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(exc)

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


async def test_the_library_hears_that_a_connection_is_alive_on_which_only_messages_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behind, now = _Behind(), 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    tap = Diverter(behind, DeliveryFrames(OURS, lambda _message: None, lambda _problem: None))
    alive = frame.marshal(Heartbeat(), 0)
    for _ in range(3):
        tap.data_received(message(OURS, 1, [b"{}"]))
    assert behind.heard == [alive]
    now += HEARTBEAT_SECONDS
    tap.data_received(message(OURS, 1, [b"{}"]))
    assert behind.heard == [alive, alive]


def test_what_becomes_of_the_connection_is_the_library_s_business() -> None:
    behind, problem = _Behind(), OSError("reset")
    tap = Diverter(behind, DeliveryFrames(OURS, lambda _message: None, lambda _problem: None))
    tap.pause_writing()
    tap.resume_writing()
    assert tap.eof_received() is True, "or the transport would close"
    tap.connection_lost(problem)
    assert behind.heard == ["pause", "resume", "eof", problem]
