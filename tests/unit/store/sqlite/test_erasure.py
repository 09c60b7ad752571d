import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.events.normalize import Rules
from bridge.store.sqlite.opening import BUSY_SECONDS
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import send_all
from tests.unit.store.tables.test_erasure import planted

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
WORDS = (b"Planted Person", b"4711-0815", b"planted@example.com")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def bytes_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_nothing_of_the_person_is_left_in_any_file(path: Path) -> None:
    with SqliteStore(path) as store:
        planted(store, is_gone=True)
        send_all(store.exchange, NOW)
        assert all(word in bytes_of(path) for word in WORDS)
        done = store.forget("gone", NOW, discard_unsent=False)
        assert (done.accounts, done.events, done.present_at, done.unsent) == (1, 3, [], 0)
        assert store.empty_write_ahead()
        assert not [word for word in WORDS if word in bytes_of(path)], "while it is open, too"
    assert not [word for word in WORDS if word in bytes_of(path)]


@pytest.mark.parametrize("comes_back", [False, True])
def test_nothing_is_left_of_a_person_whom_a_new_lineage_does_not_know(path: Path, *, comes_back: bool) -> None:
    """Neither in the events of the former lineage, nor where its mirror was in the file."""
    with SqliteStore(path) as store:
        planted(store, is_gone=not comes_back)
        send_all(store.exchange, NOW)
    path.with_suffix(".db.lock").unlink()
    with SqliteStore(path) as store:
        assert store.compare(None, "the lock file is away")
        if comes_back:
            planted(store, is_gone=True)
            send_all(store.exchange, NOW)
        with StoreReader(path) as reader:
            assert reader.knows("gone")
        done = store.forget("gone", NOW, discard_unsent=False)
        assert (done.accounts, done.events, done.unsent) == ((1, 5, 0) if comes_back else (0, 3, 0))
        assert store.empty_write_ahead()
        assert not [word for word in WORDS if word in bytes_of(path)]


def test_the_write_ahead_log_is_emptied_once_nobody_reads_an_older_state_and_nobody_waits_for_that(path: Path) -> None:
    """The thread of the store is everybody's: who reads for long holds up the one who forgets, and no other."""
    with SqliteStore(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        planted(store, is_gone=True)
        send_all(store.exchange, NOW)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM outbox").fetchone()
        store.forget("gone", NOW, discard_unsent=False)
        began = time.monotonic()
        assert not store.empty_write_ahead()
        assert time.monotonic() - began < BUSY_SECONDS
        reader.execute("COMMIT")
        assert store.empty_write_ahead()
        assert not [word for word in WORDS if word in bytes_of(path)]
