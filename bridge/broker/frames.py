"""One outbox row as the bytes that publish it in AMQP 0-9-1: method, header and body frames in one piece.

Why by hand: the client library builds objects for every frame and asks the event loop for every message, 230 µs of CPU
each; these bytes cost a few µs, and a whole batch of them is written at once. The unit tests of this module read them
back with the library's own parser. Joined once, and with one call for what is the same each time: 9500 instructions
less than frame by frame.
"""

import struct
from datetime import datetime
from functools import lru_cache
from typing import Final

from bridge.events.cloudevents import ACCOUNT_CHANGED, APP_ID, CONTENT_TYPE, DOUBT_HEADER, ID_HEADER, TRACE_HEADER
from bridge.events.trace_context import derive_trace
from bridge.model import OutboxRow

LABEL_HEADER: Final = "x-label"
"""``replay`` or ``snapshot`` where an operator had an event sent to one queue."""

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_BASIC, _PUBLISH = 60, 40
_MANDATORY: Final = 1
"""Of the flags of basic.publish: come back if no queue takes you."""
_FRAME_OVERHEAD_BYTES: Final = 8
_PERSISTENT: Final = 2

# content type, content encoding, headers, delivery mode, message id, timestamp, type, app id
_FLAGS: Final = (1 << 15) | (1 << 14) | (1 << 13) | (1 << 12) | (1 << 7) | (1 << 6) | (1 << 5) | (1 << 3)

_FRAME: Final = struct.Struct(">BHI")
_LENGTH: Final = struct.Struct(">I")
_HEADER_FRAME: Final = struct.Struct(">BHIHHQH")
_PERSISTENT_AND_LENGTH: Final = struct.Struct(">BB")
_TIMESTAMP: Final = struct.Struct(">Q")
_FIXED_BYTES: Final = (
    sum(part.size for part in (_HEADER_FRAME, _LENGTH, _PERSISTENT_AND_LENGTH, _TIMESTAMP)) - _FRAME.size
)
"""Of a header frame's payload, beside what is as long as it is."""


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded


def _long(text: str) -> bytes:
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


_ID_HEADER: Final = _short(ID_HEADER) + b"S"


@lru_cache(maxsize=4096)  # of a few kinds of change per source
def _fixed(channel: int, exchange: str, routing_key: str, event_type: str, flags: int) -> tuple[bytes, bytes, bytes]:
    """Return what is alike for such events: the method frame, and the properties before and behind the id."""
    arguments = struct.pack(">HHH", _BASIC, _PUBLISH, 0) + _short(exchange) + _short(routing_key) + bytes([flags])
    method = _FRAME.pack(_METHOD, channel, len(arguments)) + arguments + _END
    return method, _short(CONTENT_TYPE) + _short("utf-8"), _short(event_type) + _short(APP_ID)


@lru_cache(maxsize=64)  # what became durable together has one time
def _timestamp(moment: datetime) -> bytes:
    return _TIMESTAMP.pack(int(moment.timestamp()))


def publish_frames(  # noqa: PLR0913 - what differs between publishers, by name
    row: OutboxRow,
    *,
    channel: int,
    exchange: str,
    frame_max: int,
    label: str = "",
    mandatory: bool = True,
    is_traced: bool = False,
) -> bytes:
    """Return the bytes that publish *row*: persistent, with its id as message id; a change is *mandatory*.

    *frame_max* is what the broker agreed to, 0 for no limit; a larger body goes out in several frames. *is_traced* adds
    the trace context of the event.
    """
    identity, body = row.event_id.encode(), row.body
    table = b"".join((_ID_HEADER, _LENGTH.pack(len(identity)), identity))
    if row.is_in_doubt:
        table += _short(DOUBT_HEADER) + b"t\x01"
    if is_traced:
        table += _short(TRACE_HEADER) + b"S" + _long(derive_trace(row.event_id).traceparent)
    if label:
        table += _short(LABEL_HEADER) + b"S" + _long(label)
    # A certificate nobody wants is no loss.
    flags = _MANDATORY if mandatory and row.event_type == ACCOUNT_CHANGED else 0
    method, first, last = _fixed(channel, exchange, row.routing_key, row.event_type, flags)
    size = _FIXED_BYTES + len(first) + len(table) + len(identity) + len(last)
    parts = [
        method,
        _HEADER_FRAME.pack(_HEADER, channel, size, _BASIC, 0, len(body), _FLAGS),
        first,
        _LENGTH.pack(len(table)),
        table,
        _PERSISTENT_AND_LENGTH.pack(_PERSISTENT, len(identity)),
        identity,
        _timestamp(row.created_at),
        last,
        _END,
    ]
    room = (frame_max or len(body) + _FRAME_OVERHEAD_BYTES + 1) - _FRAME_OVERHEAD_BYTES
    for start in range(0, len(body), room):
        part = body[start : start + room]
        parts += (_FRAME.pack(_BODY, channel, len(part)), part, _END)
    return b"".join(parts)
