"""W3C Trace Context of an event, worked out from its id: nobody has to keep it, and a later delivery has the same one.

Every event is a trace of its own. Its first span is the change itself, made when it became durable; the header of the
message names that span, so that whatever a subscriber does hangs below it.
"""

from hashlib import sha256
from typing import NamedTuple


class EventTrace(NamedTuple):
    """Numbers of a trace and of its first span."""

    trace_id: int
    """128 bits."""
    span_id: int
    """64 bits."""

    @property
    def traceparent(self) -> str:
        """As the message header has it, sampled."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-01"


def derive_trace(event_id: str) -> EventTrace:
    """Return the trace of an event."""
    digest = sha256(event_id.encode()).digest()
    return EventTrace(int.from_bytes(digest[:16]), int.from_bytes(digest[16:24]))
