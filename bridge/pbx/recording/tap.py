"""Hears along on one connection, for whoever keeps frames."""

from typing import Protocol

from bridge.pbx.recording.frames import What


class Keeper(Protocol):
    """Keeps frames."""

    def keep(  # noqa: PLR0913, PLR0917 - what a frame is made of
        self, connection: int, what: What, by: str = "", text: str = "", code: int = 0, at: float | None = None
    ) -> None:
        """Keep a frame, as it came, now or *at* another time of the keeper's clock."""


class ConnectionTap:
    """One connection of *keeper*, which has this *number* there, opened now or *at* another time of its clock."""

    def __init__(self, keeper: Keeper, number: int, *, at: float | None = None) -> None:
        self._keeper = keeper
        self._number = number
        keeper.keep(number, "opened", at=at)

    def sent(self, text: str, *, at: float | None = None) -> None:
        """Keep a message of the bridge."""
        self._keeper.keep(self._number, "message", "bridge", text, at=at)

    def received(self, data: bytes, *, at: float | None = None) -> None:
        """Keep one of the PBX."""
        self._keeper.keep(self._number, "message", "pbx", data.decode(errors="replace"), at=at)

    def ended(self, code: int, *, is_ours: bool, at: float | None = None) -> None:
        """Keep that the connection is over."""
        self._keeper.keep(self._number, "closed", "bridge" if is_ours else "pbx", code=code, at=at)
