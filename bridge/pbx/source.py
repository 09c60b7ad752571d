"""What reads one PBX, whoever of the two dials."""

from typing import NoReturn, Protocol

from bridge.model import Cursor
from bridge.pbx.reader import Deliver, TryDeliver


class Source(Protocol):
    """Reads one PBX, whoever of the two dials."""

    def request_walk(self) -> None:
        """Read the list from its start once more, as soon as that is possible."""

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:
        """Read on from *since* until that is of no more use, and raise why; *try_deliver* is asked before *deliver*."""
