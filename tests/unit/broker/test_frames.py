"""What is made by hand is read back by the parser of the library."""

from datetime import UTC, datetime

import pamqp.frame
import pytest
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from bridge.broker.frames import publish_frames
from bridge.events.trace_context import derive_trace
from bridge.model import OutboxRow
from tests.support.rows import HQ

AT = datetime(2026, 11, 23, 20, 31, 7, tzinfo=UTC)


def read(data: bytes) -> tuple[commands.Basic.Publish, ContentHeader, list[bytes]]:
    frames = []
    while data:
        used, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == 3
        frames.append(frame)
        data = data[used:]
    publish, header, *bodies = frames
    assert isinstance(publish, commands.Basic.Publish)
    assert isinstance(header, ContentHeader)
    values = [body.value for body in bodies if isinstance(body, ContentBody)]
    return publish, header, [value or b"" for value in values]


def outbox_row(body: bytes = b"{}", *, is_in_doubt: bool = False, event_type: str = "pbx.account.changed") -> OutboxRow:
    return OutboxRow(1, HQ, 1, "id-ü", event_type, "hq.account.created", body, AT, is_in_doubt)


def frames_of(row: OutboxRow, frame_max: int = 131072) -> bytes:
    return publish_frames(row, channel=3, exchange="pbx.accounts", frame_max=frame_max)


def test_a_row_is_persistent_mandatory_and_says_what_it_is() -> None:
    publish, header, bodies = read(frames_of(outbox_row(b'{"a":1}')))
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("pbx.accounts", "hq.account.created", True)
    properties = header.properties
    assert (properties.content_type, properties.content_encoding) == ("application/cloudevents+json", "utf-8")
    assert (properties.delivery_mode, properties.message_id, properties.timestamp) == (2, "id-ü", AT)
    assert (properties.message_type, properties.app_id) == ("pbx.account.changed", "pbx-account-bridge")
    assert properties.headers == {"x-deduplication-header": "id-ü"}
    assert bodies == [b'{"a":1}']


def test_a_row_in_doubt_says_so() -> None:
    _, header, _ = read(frames_of(outbox_row(is_in_doubt=True)))
    assert header.properties.headers == {"x-deduplication-header": "id-ü", "x-redelivered-by-bridge": True}


def test_a_certificate_that_nobody_takes_is_no_loss() -> None:
    publish, _, _ = read(frames_of(outbox_row(event_type="pbx.source.verified")))
    assert not publish.mandatory


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 10_000])
def test_a_body_beyond_the_frame_size_goes_out_in_pieces(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    _, header, bodies = read(frames_of(outbox_row(body), frame_max=4096))
    assert b"".join(bodies) == body
    assert header.body_size == size
    assert all(len(piece) <= 4096 - 8 for piece in bodies)


def test_only_with_traces_a_message_has_their_context() -> None:
    row = outbox_row()
    traced = publish_frames(row, channel=3, exchange="pbx.accounts", frame_max=131072, is_traced=True)
    assert read(traced)[1].properties.headers == {
        "x-deduplication-header": "id-ü",
        "traceparent": derive_trace("id-ü").traceparent,
    }
