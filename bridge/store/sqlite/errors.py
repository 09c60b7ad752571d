"""What goes wrong with a store, in sentences that say what to do."""

import sqlite3
from pathlib import Path


def cannot_open(path: Path, problem: OSError) -> str:
    """Return why the store cannot be opened, and what to do."""
    return (
        f"the store {path} cannot be opened: {problem.strerror}. "
        f"Let the bridge's user write to {path.parent}, or set store.url to another place"
    )


def missing(path: Path) -> str:
    """Return that a store was here and is not any more, and what to do."""
    return (
        f"the store {path} is missing, although one was open here before ({path.name}.lock beside it tells). If a "
        f"restore was interrupted, run account-bridge restore once more; the former store is beside it as "
        f"{path.name}.before-…. To begin anew without it, delete {path.name}.lock: everything is told once more then"
    )


def taken_away(path: Path) -> str:
    """Return that the file of an open store is not at its place any more, and what follows."""
    return (
        f"the store {path} was moved, deleted or replaced while it was open, so what is kept from now on would be "
        "lost with this process. Put a backup back with account-bridge restore, or start on what is there; everything "
        "is told once more then"
    )


def is_busy(problem: sqlite3.Error) -> bool:
    """Tell whether somebody else has locked the file."""
    return getattr(problem, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def locked(path: Path) -> str:
    """Return that somebody else has locked the store, and what follows."""
    return (
        f"somebody else has locked the store {path} (a backup tool, or a program that has it open in a transaction). "
        "The bridge waits for the lock, and no PBX is read until it is free; nothing is lost"
    )


def of_sqlite(path: Path, problem: sqlite3.Error) -> str:
    """Return what SQLite's error means for the store, and what to do."""
    name = getattr(problem, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return f"the disk that holds the store {path} is full. Make room and start the bridge again; nothing is lost"
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
        return f"the store {path} cannot be written ({problem}). Let the bridge's user write to {path.parent}"
    if name.startswith("SQLITE_IOERR"):
        return (
            f"the store {path} cannot be read or written any more: {problem}. Look at the disk, and whether its file "
            "system has become read-only (the system's log says why); then start the bridge again, nothing is lost"
        )
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return damaged(path, problem)
    return f"the store {path} cannot be used: {problem}"


def damaged(path: Path, problem: object) -> str:
    """Return that the file is not what it should be, and what to do."""
    what = " ".join(str(problem).split())
    return (
        f"the store {path} is damaged or no store of a bridge ({what}). Put a backup in its place, or move it and "
        f"{path.name}.lock away: everything is told anew then"
    )
