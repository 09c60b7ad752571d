"""The file beside a store: who has it open, and which state of it was the last to live here.

The system's lock keeps a second bridge out. The *life* (an incarnation: a word that changes with every start and clean
stop and stands in the store as well) gives away a store that was replaced by an older copy of itself. Beside it stands
the newest lineage that was given, so that the next one is newer even where the store is lost, and the highest position
that is durable in the store, which gives away a copy of the same life.
"""

import fcntl
import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bridge.errors import StoreInUse, StoreUnusable
from bridge.store.sqlite.errors import cannot_open
from bridge.store.sqlite.files import open_own

_MAX_BYTES: Final = 200
_POSITION: Final = "position:"


class StoreLock:
    """The lock of the store *store*."""

    def __init__(self, store: Path) -> None:
        self._store = store.resolve()  # by whatever link it is reached, there is one lock
        self._file: int | None = None
        self._words: AbstractSet[str] = frozenset()
        self.position = 0
        """What the file says: so far positions are durable in the store, at least."""

    def __repr__(self) -> str:
        return f"<StoreLock of {self._store}, {'free' if self._file is None else 'held'}>"

    def take(self) -> frozenset[str]:
        """Take the lock, and return the words that were written into it last: none where no store was ever open here.

        Raises:
            StoreInUse: another bridge has it.
            StoreUnusable: its file cannot be made, or is a link.

        """
        try:
            file = open_own(self._store.with_name(f"{self._store.name}.lock"), os.O_RDWR)
        except OSError as problem:
            raise StoreUnusable(cannot_open(self._store, problem)) from problem
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            holder = next(iter(_words(file)), "unknown")
            os.close(file)
            raise StoreInUse(
                f"another bridge (process {holder}) has the store {self._store} open. "
                "Stop it first, or give this one a store of its own"
            ) from problem
        self._file = file
        words = _words(file)[1:]  # read under the lock: who had it before may have been stopping just now
        given = [word for word in words if word.startswith(_POSITION)]
        self.position = max((int(word.removeprefix(_POSITION)) for word in given), default=0)
        return frozenset(words) - frozenset(given)

    def expect(self, words: AbstractSet[str], position: int) -> None:
        """Write down, durably, which lives the store may have from now on, its newest lineage, and its position.

        Raises:
            StoreUnusable: it cannot be written.

        """
        self._words = words
        self.note(position)
        if self._file is not None:
            with self._translated():
                os.fsync(self._file)

    def note(self, position: int) -> None:
        """Write down that *position* is durable in the store: what a kill leaves of that is enough, so nothing waits.

        Raises:
            StoreUnusable: it cannot be written.

        """
        if self._file is None:
            return
        self.position = position
        text = " ".join([str(os.getpid()), *sorted(self._words), f"{_POSITION}{position}"]).encode()
        with self._translated():
            os.pwrite(self._file, text.ljust(_MAX_BYTES), 0)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise StoreUnusable(f"{self._store}.lock cannot be written: {problem.strerror}") from problem

    def release(self) -> None:
        """Let go of it; does nothing where it is not held."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def _words(file: int) -> list[str]:
    return os.pread(file, _MAX_BYTES, 0).decode(errors="replace").split()
