import errno
import os
import re
import shutil
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.ingest import ingest
from bridge.errors import StoreInUse, StoreUnusable
from bridge.events.normalize import Rules
from bridge.store.sqlite.sql import migrations, queries
from bridge.store.sqlite.store import SqliteStore
from tests.support.rows import HQ, batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def test_a_second_bridge_is_refused_with_a_sentence(path: Path) -> None:
    with SqliteStore(path), pytest.raises(StoreInUse, match=rf"process {os.getpid()}.*Stop it first"):
        SqliteStore(path).open()
    SqliteStore(path).open()


def test_nobody_else_may_read_the_file(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes


def test_the_file_holds_no_secret_of_an_account(path: Path) -> None:
    secret = "f00dfacef00dfacef00dface"
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1, pwd=secret)), rules=RULES, now=NOW)
    assert secret.encode() not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_a_folder_that_is_not_there_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"No such file.*store\.url"):
        SqliteStore(tmp_path / "nowhere" / "bridge.db").open()


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database, but somebody may love it " * 100)
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="damaged or no store"):
        SqliteStore(path).open()
    assert path.read_bytes() == before


def test_tables_of_a_younger_version_are_refused(path: Path) -> None:
    with SqliteStore(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreUnusable, match="younger version"):
        SqliteStore(path).open()


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))


def test_every_query_can_be_prepared(path: Path) -> None:
    with SqliteStore(path):
        pass
    connection = sqlite3.connect(path)
    for query in queries().values():
        named = dict.fromkeys(re.findall(r":(\w+)", query))
        connection.execute(f"EXPLAIN {query}", named or [None] * query.count("?"))
    connection.close()


def test_a_lock_of_somebody_else_is_waited_for_with_a_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.store.sqlite.opening.BUSY_SECONDS", 0.02)
    with SqliteStore(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(ingest, store, batch(row("a", 1)), rules=RULES, now=NOW)
            until = time.monotonic() + 20
            while not store.locked and time.monotonic() < until:
                time.sleep(0.01)
            assert "no PBX is read until it is free" in store.locked
            assert not waiting.done()
            other.execute("ROLLBACK")
            assert len(waiting.result(20).changes) == 1
        assert store.locked == ""


def test_a_lock_that_stays_makes_the_store_unusable_in_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.store.sqlite.opening.BUSY_SECONDS", 0.02)
    with SqliteStore(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        monkeypatch.setattr("bridge.store.sqlite.store.LOCKED_SECONDS", 0.1)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnusable, match="database is locked"):
            store.place(HQ)
        other.execute("ROLLBACK")
        assert store.place(HQ).sequence == 0


@pytest.mark.parametrize("by", ["deleted", "replaced", "folder deleted"])
def test_a_file_that_is_taken_away_while_it_is_open_is_noticed(tmp_path: Path, by: str) -> None:
    """What is written then goes into a file that nobody can open again."""
    path = tmp_path / "folder" / "bridge.db"
    path.parent.mkdir()
    with SqliteStore(path) as store:
        assert store.figures().free_bytes
        path.rename(tmp_path / "elsewhere")
        if by == "replaced":
            path.write_bytes(b"a copy of last week")
        if by == "folder deleted":
            shutil.rmtree(path.parent)
        with pytest.raises(StoreUnusable, match="moved, deleted or replaced while it was open"):
            store.figures()
        path.parent.mkdir(exist_ok=True)
        (tmp_path / "elsewhere").rename(path)
        assert store.figures().free_bytes


def test_a_disk_that_cannot_be_looked_at_for_a_moment_is_no_reason_to_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with SqliteStore(path) as store, monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", stale)
        assert store.figures().free_bytes is None
