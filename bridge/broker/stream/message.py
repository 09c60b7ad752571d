"""One outbox row as an AMQP 1.0 message, which is what a stream holds: properties, application properties, the body.

The body is the same bytes as on the exchange. Written by hand for the reason ``frames`` gives; the tests read it back
with the parser of ``rstream``, and through the broker's AMQP 0-9-1 side.
"""

import struct
from functools import lru_cache
from typing import Final

from bridge.events.cloudevents import APP_ID, CONTENT_TYPE
from bridge.model import OutboxRow

_ANNOTATIONS, _PROPERTIES, _APPLICATION_PROPERTIES, _DATA = 0x72, 0x73, 0x74, 0x75
_NULL: Final = b"\x40"
_PERSISTENT: Final = b"\x50\x02"
_SMALL: Final = 256


def _section(kind: int) -> bytes:
    return bytes([0x00, 0x53, kind])


def _text(text: str, *, short: int = 0xA1, long: int = 0xB1) -> bytes:
    encoded = text.encode()
    if len(encoded) < _SMALL:
        return bytes([short, len(encoded)]) + encoded
    return bytes([long]) + struct.pack(">I", len(encoded)) + encoded


def _symbol(text: str) -> bytes:
    return _text(text, short=0xA3, long=0xB3)


def _compound(kind: int, items: list[bytes]) -> bytes:
    content = b"".join(items)
    return bytes([kind]) + struct.pack(">II", len(content) + 4, len(items)) + content


@lru_cache(maxsize=4096)  # of a few kinds of change per source
def _same_for_all(exchange: str, routing_key: str, event_type: str, source: str) -> tuple[bytes, bytes]:
    """Return the sections that are the same for every event of a kind: those in front of the properties, and behind."""
    # What AMQP 0-9-1 has beside the properties, where the broker looks for it when it translates: RabbitMQ 4 for the
    # type among the annotations, RabbitMQ 3 among the application properties.
    annotations = [
        *(_symbol("x-basic-type"), _text(event_type)),
        *(_symbol("x-basic-delivery-mode"), _PERSISTENT),
        *(_symbol("x-exchange"), _text(exchange)),
        *(_symbol("x-routing-key"), _text(routing_key)),
    ]
    told = [
        *(_text("x-basic-type"), _text(event_type)),
        *(_text("x-basic-app-id"), _text(APP_ID)),
        *(_text("source"), _text(source)),
        *(_text("type"), _text(event_type)),
        *(_text("routing_key"), _text(routing_key)),
        *(_text("change"), _text(routing_key.rpartition(".")[2])),
    ]
    return (
        _section(_ANNOTATIONS) + _compound(0xD1, annotations),
        _section(_APPLICATION_PROPERTIES) + _compound(0xD1, told),
    )


def stream_message(row: OutboxRow, *, exchange: str) -> bytes:
    """Return *row* as a stream holds it.

    Application properties for filtering: ``source``, ``type``, ``routing_key`` and ``change``; property ``subject`` is
    the routing key, ``message-id`` the event's id.
    """
    # As the event says, which may have been made under a former name of its source.
    source = row.routing_key.partition(".")[0]
    front, behind = _same_for_all(exchange, row.routing_key, row.event_type, source)
    created = b"\x83" + struct.pack(">q", int(row.created_at.timestamp() * 1000))
    # message-id, user-id, to, subject, reply-to, correlation-id, content-type, content-encoding, expiry, creation-time
    properties = [_text(row.event_id), _NULL, _NULL, _text(row.routing_key), _NULL, _NULL]
    properties += [_symbol(CONTENT_TYPE), _symbol("utf-8"), _NULL, created]
    body = row.body
    return b"".join(
        (
            front,
            _section(_PROPERTIES),
            _compound(0xD0, properties),
            behind,
            _section(_DATA),
            b"\xb0" + struct.pack(">I", len(body)),
            body,
        )
    )
