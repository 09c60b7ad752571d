"""The store's files are for its own user alone, and none of them is a link to somewhere else."""

import os
import stat
from pathlib import Path
from typing import Final

from bridge.errors import StoreUnusable

OTHERS: Final = 0o077
COMPANIONS: Final = ("", "-wal", "-shm", ".lock")
"""Behind the name of the store: what belongs to it."""


def open_own(path: Path, flags: int) -> int:
    """Open *path* for its own user alone, made where it is missing, and return its file descriptor.

    Raises:
        OSError: it cannot be opened.
        StoreUnusable: it is a link, or no file.

    """
    if path.is_symlink():  # whoever puts one there between this line and the next is stopped by O_NOFOLLOW
        raise StoreUnusable(f"{path} is a symbolic link, which somebody else may have put there. Remove it")
    file = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise StoreUnusable(f"{path} is no file. Remove it")
    return file


def inode_of(path: Path) -> tuple[int, int] | None:
    """Return which file is at *path*, ``None`` where none is.

    Raises:
        OSError: that cannot be told at the moment.

    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def close_to_others(store: Path) -> list[str]:
    """Take from other users what they may do with the files of *store*, and return what was done, in sentences.

    Its folder, where it is ours: nobody else may put or replace files there, and where nothing but the store is in it,
    nobody else may look into it.
    """
    done = []
    for suffix in COMPANIONS:
        path = store.with_name(f"{store.name}{suffix}")
        if not path.is_symlink() and path.is_file():
            done += _closed(path, OTHERS)
    folder = store.absolute().parent
    if folder.is_dir() and folder.stat().st_uid == os.geteuid():
        is_shared = folder.stat().st_mode & stat.S_ISVTX
        is_for_the_store = all(found.name.startswith(store.name) for found in folder.iterdir())
        done += _closed(folder, OTHERS if is_for_the_store else 0 if is_shared else 0o022)
    return done


def _closed(path: Path, bits: int) -> list[str]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & bits:
        return []
    try:
        path.chmod(mode & ~bits)
    except OSError as problem:
        return [
            f"{path} is open to other users of this machine (mode {mode:o}), and cannot be closed: {problem.strerror}"
        ]
    return [f"{path} was open to other users of this machine (mode {mode:o}) and is closed now ({mode & ~bits:o})"]
