"""What is made by hand is read back by the parser of the library."""

from datetime import UTC, datetime

import pytest
from rstream.amqp import amqp_decoder

from bridge.broker.stream.message import stream_message
from bridge.model import OutboxRow
from tests.support.rows import HQ

AT = datetime(2026, 11, 23, 20, 31, 7, 250_000, tzinfo=UTC)


def outbox_row(body: bytes, event_id: str = "id-ü") -> OutboxRow:
    return OutboxRow(1, HQ, 1, event_id, "pbx.account.changed", "hq.account.created", body, AT)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
def test_the_body_is_the_events_bytes(size: int) -> None:
    message = amqp_decoder(stream_message(outbox_row(b"x" * size), exchange="pbx.accounts"))
    assert message.body == b"x" * size


def test_it_says_what_it_is() -> None:
    message = amqp_decoder(stream_message(outbox_row(b"{}"), exchange="pbx.accounts"))
    properties = message.properties
    assert properties.message_id == "id-ü".encode()
    assert properties.content_type == b"application/cloudevents+json"
    assert properties.subject == b"hq.account.created"
    assert properties.creation_time == int(AT.timestamp() * 1000)
    told = message.application_properties
    assert told[b"source"] == b"hq"
    assert told[b"change"] == b"created"
    assert told[b"type"] == told[b"x-basic-type"] == b"pbx.account.changed"
    assert message.message_annotations[b"x-routing-key"] == b"hq.account.created"


def test_a_long_id_fits() -> None:
    message = amqp_decoder(stream_message(outbox_row(b"{}", "i" * 300), exchange="pbx.accounts"))
    assert message.properties.message_id == b"i" * 300
