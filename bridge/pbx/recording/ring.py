"""The last frames of a PBX, kept in memory by a running bridge that was told to, for whoever helps."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from bridge.pbx.recording.frames import Frame, Header, What, write
from bridge.pbx.recording.pseudonyms import Pseudonyms

MAX_CHARACTERS: Final = 4 << 20
"""Of all frames of a ring; a PBX that sends large ones has fewer of them kept."""


class FrameRing:
    """Keeps the last *size* frames as they came, and gives them out under pseudonyms of *key* only.

    *clock* returns seconds of any steady clock.
    """

    def __init__(self, size: int, key: bytes, clock: Callable[[], float]) -> None:
        self._frames: deque[Frame] = deque()
        self._size = size
        self._pseudonyms = Pseudonyms(key)
        self._clock = clock
        self._began = clock()
        self._characters = 0
        self._connections = 0

    def __repr__(self) -> str:
        return f"<FrameRing {len(self._frames)} of {self._size} frames>"

    def connection(self) -> "RingTap":
        """Return what hears along on a new connection."""
        self._connections += 1
        self.keep(self._connections, "opened")
        return RingTap(self, self._connections)

    def keep(self, connection: int, what: What, by: str = "", text: str = "", code: int = 0) -> None:
        """Keep a frame, and let the oldest go."""
        now = self._clock() - self._began
        self._frames.append(Frame(now, connection, what, by, text, code))
        self._characters += len(text)
        while len(self._frames) > self._size or self._characters > MAX_CHARACTERS:
            self._characters -= len(self._frames.popleft().text)

    def lines(self) -> Iterator[str]:
        """Yield the recording."""
        header = Header(made_by="run", key=self._pseudonyms.key_id)
        yield from write(header, tuple(self._frames), self._pseudonyms)


class RingTap:
    """One connection of a ring."""

    def __init__(self, ring: FrameRing, connection: int) -> None:
        self._ring = ring
        self._connection = connection

    def sent(self, text: str) -> None:
        """Keep a message of the bridge."""
        self._ring.keep(self._connection, "message", "bridge", text)

    def received(self, data: bytes) -> None:
        """Keep one of the PBX."""
        self._ring.keep(self._connection, "message", "pbx", data.decode(errors="replace"))

    def ended(self, code: int, *, is_ours: bool) -> None:
        """Keep that the connection is over."""
        self._ring.keep(self._connection, "closed", "bridge" if is_ours else "pbx", code=code)
