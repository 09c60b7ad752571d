"""Whose turn it is to read a whole list: of many PBXs only so many at a time, so that each gets to its end soon.

A turn is for who uses it. One that has read nothing for a moment is passed over as soon as somebody waits: its walk
goes on, beside those that have a turn, and costs as little as it tells. What is held up by us keeps its turn.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from bridge.pbx.rest import Crowd

MOST: Final = 16
"""Turns at a time. More of them make nothing faster, and smaller groups of rows that become durable together."""

IDLE_SECONDS: Final = 1.0
"""Without a row for so long, a turn is somebody else's."""


class Turn:
    """A turn, or the wait for one; ``leave`` ends both, as often as it is called."""

    def __init__(self, turnstile: "Turnstile", on_admitted: Callable[[], None]) -> None:
        self.is_admitted = False
        """True once the list may be read; it stays so, also for who was passed over."""
        self.is_held_up = False
        """True while it is our doing that nothing is read."""
        self._turnstile = turnstile
        self._on_admitted = on_admitted
        self._progress_at = 0.0

    def __repr__(self) -> str:
        return f"<Turn {'admitted' if self.is_admitted else 'waiting'}>"

    def progress(self, now: float) -> None:
        """Say that a row was read; *now* is the time of the event loop."""
        self._progress_at = now

    def leave(self) -> None:
        """Let the next one have it."""
        self._turnstile.leave(self)

    def admit(self, now: float) -> None:
        """Have it begin."""
        self.is_admitted, self._progress_at = True, now
        self._on_admitted()

    def is_idle(self, now: float) -> bool:
        """Tell whether it is not used."""
        return not self.is_held_up and now - self._progress_at >= IDLE_SECONDS


class Turnstile:
    """Lets *most* through at a time, in the order in which they came."""

    def __init__(self, most: int = MOST) -> None:
        self.crowd = Crowd()
        """What everybody who is read here has in common, with a turn or without."""
        self._most = most
        self._inside: dict[Turn, None] = {}
        self._waiting: dict[Turn, None] = {}
        self._looking: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Turnstile {len(self._inside)} of {self._most} inside, {len(self._waiting)} waiting>"

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @property
    def inside(self) -> int:
        """How many have a turn."""
        return len(self._inside)

    def join(self, on_admitted: Callable[[], None]) -> Turn:
        """Return a turn; *on_admitted* is called once it begins, from the event loop and never from within this."""
        turn = Turn(self, on_admitted)
        self._waiting[turn] = None
        asyncio.get_running_loop().call_soon(self._admit)
        return turn

    def leave(self, turn: Turn) -> None:
        """Have *turn* end, whether it began or not."""
        self._waiting.pop(turn, None)
        if turn in self._inside:
            del self._inside[turn]
            self._admit()

    def _admit(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._waiting and len(self._inside) < self._most:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            self._inside[turn] = None
            turn.admit(now)
        if self._waiting and self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._pass_over)

    def _pass_over(self) -> None:
        self._looking = None
        now = asyncio.get_running_loop().time()
        for turn in [turn for turn in self._inside if turn.is_idle(now)][: len(self._waiting)]:
            del self._inside[turn]
        self._admit()
