"""The last frames of a PBX, kept in memory by a running bridge that was told to, for whoever helps."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from bridge.pbx.recording.frames import Frame, Header, What, write
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.pbx.recording.tap import ConnectionTap

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

    def connection(self) -> ConnectionTap:
        """Return what hears along on a new connection."""
        self._connections += 1
        return ConnectionTap(self, self._connections)

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
