"""The fast lane of a WebSocket: a small text message is taken, and answered, while its bytes arrive.

The library brings a message to whoever waits in ``recv`` by way of a parser, a queue and a change of task, and a
message out by a lock and a wait for the buffer. This is right for everything but a walk, in which one small answer
follows the other for hours: an account that is read here and dropped costs 91 µs of CPU, 172 µs by way of ``recv``,
and 140 µs with a bare client that does not even look at it (``python -m tests.benchmark reading``).

So only the usual case goes here, whole text frames of less than 64 KiB while everything is in order, and only while
somebody says that it is wanted (``on_text``). The library gets every other byte, in whole frames as far as they came:
the handshake, control frames, fragments, large messages, and messages that nobody takes at once.
"""

import os
import struct
from collections.abc import Callable
from typing import Final

from websockets.asyncio.connection import Connection
from websockets.protocol import Side, State

try:
    from websockets.speedups import apply_mask
except ImportError:  # it was built without a compiler
    from websockets.utils import apply_mask

_HANDSHAKE_ENDS: Final = b"\r\n\r\n"
_TEXT, _WHOLE, _OPCODE = 0x81, 0x80, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
_LENGTH_IN_2_BYTES, _LENGTH_IN_8_BYTES = 126, 127
_CONTROL: Final = 8
"""The first opcode of control frames, which may come between the fragments of a message."""
_MASK_BYTES: Final = 4
_MASKS_AT_ONCE: Final = 256


class FastLane(Connection):
    """A connection with the fast lane; to be inherited from beside the library's own client or server connection."""

    on_text: Callable[[bytes], bool] | None = None
    """Called with a message, and returns whether it took it; if not, ``recv`` returns it. So that messages stay in
    their order, it takes none while ``recv`` has one that nobody fetched. It must not raise."""

    _is_framed = False
    """True behind the handshake."""
    _end_of_handshake = b""
    _owed = 0
    """Bytes of the frame that the library has begun."""
    _head = b""
    """Less than the head of a frame."""
    _is_fragment_open = False
    _masks = b""

    def data_received(self, data: bytes) -> None:
        """Take what can be taken, and hand the rest to the library."""
        if not self._is_framed:
            data = self._handshake(data)
        if self._head:
            data, self._head = self._head + data, b""
        while data:
            if not self._owed:
                head, length = _measured(data)
                if not head:
                    self._head = data
                    return
                if len(data) >= head + length and self._is_taken(data, head, head + length):
                    data = data[head + length :]
                    continue
                if data[0] & _OPCODE < _CONTROL:
                    self._is_fragment_open = not data[0] & _WHOLE
                self._owed = head + length
            piece, data = data[: self._owed], data[self._owed :]
            self._owed -= len(piece)
            super().data_received(piece)

    def eof_received(self) -> None:
        """Let the library know what it has not got."""
        if self._head:
            super().data_received(self._head)
            self._head = b""
        super().eof_received()

    @property
    def is_clear(self) -> bool:
        """Whether a message that is sent now goes out at once."""
        return self.protocol.state is State.OPEN and not self.transport.get_write_buffer_size()

    def send_at_once(self, text: str) -> None:
        """Send a message; only while ``is_clear``, since nothing waits here for the other end to read it."""
        self.transport.write(self._framed(text.encode()))

    def _handshake(self, data: bytes) -> bytes:
        """Hand the handshake to the library, and return what follows it."""
        known = self._end_of_handshake
        end = (known + data).find(_HANDSHAKE_ENDS)
        if end < 0:
            self._end_of_handshake = (known + data)[1 - len(_HANDSHAKE_ENDS) :]
            super().data_received(data)
            return b""
        self._is_framed = True
        end += len(_HANDSHAKE_ENDS) - len(known)
        super().data_received(data[:end])
        return data[end:]

    def _is_taken(self, data: bytes, start: int, end: int) -> bool:
        on_text, protocol = self.on_text, self.protocol
        is_from_client = protocol.side is Side.SERVER
        if (
            on_text is None
            or data[0] != _TEXT
            or self._is_fragment_open
            or data[1] & _LENGTH == _LENGTH_IN_8_BYTES
            or bool(data[1] & _MASKED) != is_from_client
            or protocol.state is not State.OPEN
            or (protocol.max_message_size is not None and end - start > protocol.max_message_size)
        ):
            return False
        payload = data[start:end]
        return on_text(apply_mask(payload, data[start - _MASK_BYTES : start]) if is_from_client else payload)

    def _framed(self, payload: bytes) -> bytes:
        length = len(payload)
        is_client = self.protocol.side is Side.CLIENT
        masked = _MASKED if is_client else 0
        if length < _LENGTH_IN_2_BYTES:
            head = bytes((_TEXT, masked | length))
        elif length < 1 << 16:
            head = struct.pack(">BBH", _TEXT, masked | _LENGTH_IN_2_BYTES, length)
        else:
            head = struct.pack(">BBQ", _TEXT, masked | _LENGTH_IN_8_BYTES, length)
        if not is_client:
            return head + payload
        if not self._masks:
            self._masks = os.urandom(_MASK_BYTES * _MASKS_AT_ONCE)
        mask, self._masks = self._masks[:_MASK_BYTES], self._masks[_MASK_BYTES:]
        return head + mask + apply_mask(payload, mask)


def _measured(data: bytes) -> tuple[int, int]:
    """Return the length of a frame's head and of its payload; 0 and 0 while the head is not whole."""
    have = len(data)
    if have < 2:  # noqa: PLR2004 - RFC 6455, section 5.2
        return 0, 0
    second = data[1]
    length, head = second & _LENGTH, 6 if second & _MASKED else 2
    if length == _LENGTH_IN_2_BYTES:
        head += 2
        length = int.from_bytes(data[2:4])
    elif length == _LENGTH_IN_8_BYTES:
        head += 8
        length = int.from_bytes(data[2:10])
    return (head, length) if have >= head else (0, 0)
