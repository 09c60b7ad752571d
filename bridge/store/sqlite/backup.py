"""Copies of a store: made while a bridge has it open, and put back in its place.

A copy says about itself that it is one, so that a bridge which opens it begins a new lineage: see ``lineage``. A
restore that is interrupted leaves no store, which the next start refuses with a sentence, and can be done once more.
"""

import os
import shutil
import sqlite3
import stat
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson

from bridge.errors import StoreUnusable
from bridge.store.sqlite.errors import damaged, of_sqlite
from bridge.store.sqlite.files import OTHERS, open_own
from bridge.store.sqlite.lock import StoreLock
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.sql import migrations, queries
from bridge.store.tables.notes import COPIED

BUSY_SECONDS: Final = 5.0
_COMPANIONS: Final = ("-wal", "-shm")
"""What SQLite keeps beside a file in use; beside another file they would be taken for its own."""


def back_up(store: Path, target: Path, now: datetime) -> int:
    """Write a consistent copy of *store* to the new file *target*, and return its size in bytes.

    A bridge goes on writing meanwhile; the copy is the state of one moment.

    Raises:
        StoreUnusable: there is no store, it cannot be read, or *target* is a link or cannot be written.
        FileExistsError: *target* is there already.

    """
    with StoreReader(store):
        pass  # which says what is wrong with it, if anything is
    try:
        os.close(open_own(target, os.O_RDWR | os.O_EXCL))
    except FileExistsError:
        raise
    except OSError as problem:
        raise StoreUnusable(f"the backup {target} cannot be written: {problem.strerror}") from problem
    try:
        with closing(_connected(store)) as source, closing(_connected(target)) as copy:
            source.backup(copy)  # in one step, thus in one read transaction: writers are not held up
            copy.execute("PRAGMA journal_mode=DELETE")
            with copy:
                for name, value in ((COPIED, _told(f"the copy of {now:%Y-%m-%dT%H:%M:%SZ}")), ("open", b"")):
                    copy.execute(queries()["set_meta_value"], {"name": name, "value": value})
        _look_at(target)
        _make_durable(target)
    except BaseException as problem:
        with suppress(OSError):
            target.unlink()
        if isinstance(problem, sqlite3.Error):
            raise StoreUnusable(of_sqlite(target, problem)) from problem
        raise
    return target.stat().st_size


def put_back(copy: Path, store: Path, now: datetime) -> Path | None:
    """Put *copy* in the place of *store*, and return where the former store is kept, if there was one.

    Raises:
        StoreInUse: a bridge runs on the store.
        StoreUnusable: *copy* is no store of this version, or a file cannot be written.

    """
    _look_at(copy)
    lock = StoreLock(store)
    lock.take()
    try:
        kept = _interrupted(store)
        if store.exists():
            kept = store.with_name(f"{store.name}.before-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}")
        arriving = store.with_name(f"{store.name}.arriving")
        arriving.unlink(missing_ok=True)
        os.close(open_own(arriving, os.O_RDWR | os.O_EXCL))
        shutil.copyfile(copy, arriving)
        _mark_as_copy(arriving, now)
        _make_durable(arriving)
        for suffix in ("", *_COMPANIONS):
            with suppress(FileNotFoundError):
                present = _beside(store, suffix)
                present.chmod(stat.S_IMODE(present.stat().st_mode) & ~OTHERS)  # nobody closes it later
                present.unlink() if kept is None else present.rename(_beside(kept, suffix))
        arriving.rename(store)
        _make_durable(store)
    except OSError as problem:
        raise StoreUnusable(f"{copy} cannot be put in the place of {store}: {problem.strerror}") from problem
    finally:
        lock.release()
    return kept


def _interrupted(store: Path) -> Path | None:
    """Return where a restore that was interrupted has put the former store: what SQLite kept beside it follows."""
    put_away = [file for file in store.parent.iterdir() if file.name.startswith(f"{store.name}.before-")]
    former = max((file for file in put_away if not file.name.endswith(_COMPANIONS)), default=None)
    left = [suffix for suffix in _COMPANIONS if _beside(store, suffix).exists()]
    is_torn = former is not None and left and not any(_beside(former, suffix) in put_away for suffix in left)
    return former if is_torn else None


def _look_at(copy: Path) -> None:
    try:
        with closing(
            sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        ) as connection:
            applied = connection.execute("PRAGMA user_version").fetchone()[0]
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as problem:
        raise StoreUnusable(of_sqlite(copy, problem)) from problem
    if found != "ok":
        raise StoreUnusable(damaged(copy, found))
    if not 0 < applied <= migrations()[-1].number:
        raise StoreUnusable(f"{copy} is no store that this version of the bridge can use (tables {applied})")


def _mark_as_copy(copy: Path, now: datetime) -> None:
    """Have a copy that was made by other means say that it is one."""
    with closing(_connected(copy)) as connection, connection:
        if connection.execute(queries()["meta_value"], {"name": COPIED}).fetchone() is None:
            value = _told(f"a copy of unknown time, put back {now:%Y-%m-%dT%H:%M:%SZ}")
            connection.execute(queries()["set_meta_value"], {"name": COPIED, "value": value})


def _told(what: str) -> bytes:
    return orjson.dumps({"why": what})


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def _make_durable(path: Path) -> None:
    for name in (path, path.parent):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
