"""The files that one end of the bridge is made of, secrets and certificates, and whose trouble they are."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NoReturn, TypeVar

from bridge.logs import get_logger
from bridge.model import Cursor
from bridge.observability.component_status import ComponentStatus
from bridge.pbx.reader import Deliver, TryDeliver
from bridge.pbx.source import Source
from bridge.security.secret import scrub

LOOK_SECONDS: Final = 30.0
"""Between two looks at files of which the former content is in use."""

Used = TypeVar("Used")

log = get_logger(__name__)


class Files:
    """Tells *part*, and the log, what is wrong with the files of the end called *name* while it works all the same.

    *troubles* are asked for that: each returns a sentence, or nothing where all is well.
    """

    def __init__(self, name: str, part: ComponentStatus, troubles: Sequence[Callable[[], str]]) -> None:
        self._name = name
        self._part = part
        self._troubles = troubles
        self._next_look: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Files of {self._name}, {self._part.file_trouble or 'all well'}>"

    def look(self) -> None:
        """Look at them now, and again as long as something is wrong."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        words = scrub("; ".join(filter(None, (trouble() for trouble in self._troubles))))
        if words:
            words = f"{words}. The former content is used meanwhile"
            self._next_look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self.look)
        if words != self._part.file_trouble:
            if words:
                log.warning("file.unusable", of=self._name, problem=words)
            else:
                log.info("file.usable_again", of=self._name)
        self._part.file_trouble = words

    def end(self) -> None:
        """Look no more until somebody has to look again, and tell nothing meanwhile."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        self._part.file_trouble = ""


class FileReadingSource:
    """A *source* whose certificates are looked at before each connection, and its *files* only while it is read."""

    def __init__(self, source: Source, refresh: Callable[[], None], files: Files) -> None:
        self._source = source
        self._refresh = refresh
        self._files = files

    def __repr__(self) -> str:
        return repr(self._source)

    def request_walk(self) -> None:
        """Have the list read from its start once more."""
        self._source.request_walk()

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:
        """Read on from *since* until that is of no more use.

        Raises:
            FileUnusable: a certificate cannot be used, and none ever could.
            BridgeError: from the source.

        """
        try:
            self._refresh()
            await self._source.read(since, deliver, try_deliver)
        except asyncio.CancelledError:  # paused, removed, or changed: then others look at other files
            self._files.end()
            raise


def looking(files: Files, use: Callable[[], Used]) -> Callable[[], Used]:
    """Return what does *use*, which reads them, and then looks at *files*."""

    def used() -> Used:
        value = use()  # where that fails, nothing former is in use, and who asked hears why
        files.look()
        return value

    return used
