"""A recording as it is made: every frame is under pseudonyms before anybody sees it, and written down at once.

Nothing is written before something was asked: what ends earlier tells nobody anything, and leaves nothing behind.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from bridge.pbx.recording.frames import Frame, Header, What, disguised, frame_line, header_line
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.pbx.recording.tap import ConnectionTap


class Notebook:
    """Takes down what passes on all connections of one observation.

    *write* gets each line, the header first, once something was asked about accounts. *clock* returns seconds of any
    steady clock.
    """

    def __init__(
        self, pseudonyms: Pseudonyms, clock: Callable[[], float], write: Callable[[str], object] = lambda _line: None
    ) -> None:
        self.header = Header("observe", pseudonyms.key_id)
        self.frames: list[Frame] = []
        self._pseudonyms = pseudonyms
        self._clock = clock
        self._began = clock()
        self._write = write
        self._connections = 0
        self.has_asked = False
        """Whether anything was asked about accounts."""

    def __repr__(self) -> str:
        return f"<Notebook with {len(self.frames)} frames>"

    def connection(self, *, at: float | None = None) -> ConnectionTap:
        """Return what hears along on a new connection, or on one that was opened *at* a time of the clock."""
        self._connections += 1
        return ConnectionTap(self, self._connections, at=at)

    def lines(self, modes: Iterable[str]) -> Iterator[str]:
        """Yield the whole recording, with the words that were found for how this PBX behaves."""
        yield header_line(replace(self.header, modes=tuple(modes)))
        for frame in self.frames:
            yield frame_line(frame)

    def act(self, name: str) -> None:
        """Note that an operator is about to do something in the PBX."""
        self.keep(0, "act", text=name)

    def keep(  # noqa: PLR0913, PLR0917 - what a frame is made of
        self, connection: int, what: What, by: str = "", text: str = "", code: int = 0, at: float | None = None
    ) -> None:
        """Note what happened."""
        now = (self._clock() if at is None else at) - self._began
        frame = disguised(Frame(now, connection, what, by, text, code), self._pseudonyms)
        self.frames.append(frame)
        if self.has_asked:
            self._write(frame_line(frame))
        elif frame.by == "bridge" and "PbxAccountApi" in frame.text:
            self.has_asked = True
            for line in self.lines(()):
                self._write(line)
