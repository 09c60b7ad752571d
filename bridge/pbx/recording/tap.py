"""Hears along on one connection, for whoever keeps frames."""

from typing import Protocol

from bridge.pbx.recording.frames import What


class Keeper(Protocol):
    """Keeps frames."""

    def keep(self, connection: int, what: What, by: str = "", text: str = "", code: int = 0) -> None:
        """Keep a frame, as it came."""


class ConnectionTap:
    """One connection of *keeper*, which has this *number* there."""

    def __init__(self, keeper: Keeper, number: int) -> None:
        self._keeper = keeper
        self._number = number
        keeper.keep(number, "opened")

    def sent(self, text: str) -> None:
        """Keep a message of the bridge."""
        self._keeper.keep(self._number, "message", "bridge", text)

    def received(self, data: bytes) -> None:
        """Keep one of the PBX."""
        self._keeper.keep(self._number, "message", "pbx", data.decode(errors="replace"))

    def ended(self, code: int, *, is_ours: bool) -> None:
        """Keep that the connection is over."""
        self._keeper.keep(self._number, "closed", "bridge" if is_ours else "pbx", code=code)
