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
        self._characters = 0
        self._connections = 0

    def __repr__(self) -> str:
        return f"<FrameRing {len(self._frames)} of {self._size} frames>"

    def connection(self, *, at: float | None = None) -> ConnectionTap:
        """Return what hears along on a new connection, or on one that was opened *at* a time of the clock."""
        self._connections += 1
        return ConnectionTap(self, self._connections, at=at)

    def keep(  # noqa: PLR0913, PLR0917 - what a frame is made of
        self, connection: int, what: What, by: str = "", text: str = "", code: int = 0, at: float | None = None
    ) -> None:
        """Keep a frame, and let the oldest go."""
        now = self._clock() if at is None else at
        self._frames.append(Frame(now, connection, what, by, text, code))
        self._characters += len(text)
        while len(self._frames) > self._size or self._characters > MAX_CHARACTERS:
            self._characters -= len(self._frames.popleft().text)

    def lines(self) -> Iterator[str]:
        """Return the lines of what is kept now; any thread may make them.

        The recording begins with the oldest frame: a PBX that dials may have said it before we were.
        """
        header = Header(made_by="run", key=self._pseudonyms.key_id)
        began_at = min((frame.at for frame in self._frames), default=0.0)
        frames = [frame._replace(at=frame.at - began_at) for frame in self._frames]
        return write(header, frames, self._pseudonyms)
