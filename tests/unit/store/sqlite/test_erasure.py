import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.model import Batch
from bridge.ops.replay import is_replayable
from bridge.store.sqlite.opening import BUSY_SECONDS
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
WORDS = (b"Planted Person", b"4711-0815", b"planted@example.com")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def planted(store: SqliteStore, *, is_gone: bool) -> None:
    """Have a person come, change and perhaps go, among others."""
    person = {"cn": WORDS[0].decode(), "e164": WORDS[1].decode(), "emails": [{"email": WORDS[2].decode()}]}
    rows = [row(f"a{number}", number) for number in range(200)]
    rows.insert(50, row("gone", 1000, info=person, dn="x" * 900))
    rows.append(row("gone", 1001, info=person, dn="y" * 900))
    if is_gone:
        rows.append(row("gone", 1002, info=person, is_deleted=True))
    ingest(store, batch(*rows), rules=RULES, now=NOW)


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


def test_what_is_not_sent_yet_is_kept_unless_it_shall_not_be_sent(path: Path) -> None:
    with SqliteStore(path) as store:
        planted(store, is_gone=True)
        done = store.forget("gone", NOW, discard_unsent=False)
        assert (done.events, done.unsent) == (0, 3)
        assert store.backlog.rows == 203
        done = store.forget("gone", NOW, discard_unsent=True)
        assert (done.events, done.unsent) == (3, 3)
        assert store.backlog.rows == 200
        assert not [found for found in unsent(store.exchange) if WORDS[0] in found.body]


def test_what_waited_behind_a_discarded_event_goes_out(path: Path) -> None:
    with SqliteStore(path) as store:
        planted(store, is_gone=True)
        store.exchange.park(unsent(store.exchange)[50], "too large", NOW)
        store.forget("gone", NOW, discard_unsent=True)
        assert (store.backlog.parked, store.backlog.held_rows, store.backlog.rows) == (0, 0, 200)


def test_an_account_that_is_there_keeps_its_entry_and_its_next_change_is_told(path: Path) -> None:
    with SqliteStore(path) as store:
        planted(store, is_gone=False)
        send_all(store.exchange, NOW)
        done = store.forget("gone", NOW, discard_unsent=False)
        assert (done.accounts, done.events, done.present_at) == (0, 2, [HQ])
        changed = row("gone", 2000, cn="Other")
        told = ingest(store, Batch(HQ, cursor(1001), changed.cursor, [changed]), rules=RULES, now=NOW)
        assert "common_name" in told.changes[0].changed


def test_nothing_becomes_news_and_a_return_goes_on_counting(path: Path) -> None:
    with SqliteStore(path) as store:
        planted(store, is_gone=True)
        send_all(store.exchange, NOW)
        store.forget("gone", NOW, discard_unsent=False)
        again = row("gone", 1002, is_deleted=True)
        assert not ingest(store, Batch(HQ, cursor(1002), again.cursor, [again]), rules=RULES, now=NOW).changes
        back = row("gone", 3000)
        (told,) = ingest(store, Batch(HQ, cursor(1002), back.cursor, [back]), rules=RULES, now=NOW).changes
        assert (told.reason, told.revision) == ("restored", 4)


def test_a_forgotten_event_is_never_replayed(path: Path) -> None:
    with SqliteStore(path) as store:
        planted(store, is_gone=True)
        send_all(store.exchange, NOW)
        store.forget("gone", NOW, discard_unsent=False)
    with StoreReader(path) as reader:
        events = reader.list_events(HQ, "gone")
        assert len(events) == 3
        assert not [event for event in events if is_replayable(event)]
        assert all(event.forgotten_at == NOW for event in events)


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
