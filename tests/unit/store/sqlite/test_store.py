import os
import re
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from bridge.delivery.ingest import ingest
from bridge.errors import StoreInUse, StoreUnusable
from bridge.events.normalize import Rules
from bridge.model import Cursor, NewEvent, Token
from bridge.store.sqlite.sql import migrations, queries
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def test_what_was_committed_is_there_after_opening_again(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
        lineage, key = store.place(HQ).lineage, store.key
    with SqliteStore(path) as store:
        assert store.place(HQ).cursor == cursor(1)
        assert (store.place(HQ).lineage, store.key) == (lineage, key)
        assert [found.sequence for found in unsent(store.exchange)] == [1]


def test_a_cursor_comes_back_exactly_as_the_pbx_wrote_it(path: Path) -> None:
    odd = Cursor(Token('"007"'), Token("123456789012345678901234567890"), None)
    with SqliteStore(path) as store, store.transaction() as transaction:
        place = transaction.place(HQ)
        assert transaction.move(HQ, Cursor(), type(place)(odd, 0, 0))
    with SqliteStore(path) as store:
        assert store.place(HQ).cursor == odd


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


def test_published_rows_stay_until_they_are_pruned(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1), row("b", 2), row("c", 3)), rules=RULES, now=NOW)
        store.exchange.mark_published(unsent(store.exchange)[:2], NOW)
        assert (store.backlog.rows, store.exchange.oldest_unpublished_at()) == (1, NOW)
        assert store.prune(NOW + timedelta(days=1), 1) == 1
        assert store.prune(NOW + timedelta(days=1), 10) == 1
        assert store.prune(NOW + timedelta(days=1), 10) == 0
        assert [found.sequence for found in unsent(store.exchange)] == [3]


def test_after_an_unclean_stop_the_oldest_unsent_rows_are_in_doubt(path: Path) -> None:
    store = SqliteStore(path)
    store.open()
    ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
    killed = path.with_name("killed.db")
    for suffix in ("", "-wal"):
        killed.with_name(killed.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    store.close()
    with SqliteStore(killed) as again:
        assert [found.is_in_doubt for found in unsent(again.exchange)] == [True]
    with SqliteStore(path) as stopped_cleanly:
        assert [found.is_in_doubt for found in unsent(stopped_cleanly.exchange)] == [False]


def test_what_is_parked_holds_later_events_of_its_account_and_certificates_behind_it(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1), row("b", 2), row("a", 3, dn="new")), rules=RULES, now=NOW)
        store.exchange.park(unsent(store.exchange)[0], "too large", NOW)
        ingest(store, batch(row("a", 4, dn="newer"), row("c", 5), since=cursor(3)), rules=RULES, now=NOW)
        certify(store)
        assert [found.sequence for found in unsent(store.exchange)] == [2, 5]
        assert (store.backlog.rows, store.backlog.held_rows, store.backlog.parked) == (2, 4, 1)
        (parked,) = store.parked()
        assert (parked.sequence, parked.reason, parked.waiting) == (1, "too large", 2)
    with SqliteStore(path) as again:
        assert (again.backlog.rows, again.backlog.held_rows, again.backlog.parked) == (2, 4, 1)


@pytest.mark.parametrize("is_discarded", [False, True])
def test_a_decision_about_a_parked_event_lets_go_what_waited_behind_it(path: Path, is_discarded: bool) -> None:  # noqa: FBT001 - a case
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1), row("b", 2), row("a", 3, dn="new")), rules=RULES, now=NOW)
        certify(store)
        store.exchange.park(unsent(store.exchange)[0], "too large", NOW)
        assert not store.unpark(2), "only what is parked"
        assert not store.discard(2, "wrong number", NOW), "only what is parked"
        assert store.discard(1, "not wanted", NOW) if is_discarded else store.unpark(1)
        expected = [2, 3, 3] if is_discarded else [2, 1, 3, 3]  # copies, at the end
        assert [found.sequence for found in unsent(store.exchange)] == expected
        assert (store.backlog.rows, store.backlog.held_rows, store.backlog.parked) == (len(expected), 0, 0)
        assert store.parked() == []


def certify(store: SqliteStore) -> None:
    with store.transaction() as transaction:
        body = orjson.dumps({"lineage": transaction.place(HQ).lineage})
        transaction.add_events(
            HQ, [NewEvent(3, "certificate", "pbx.source.verified", None, "hq.source.verified", body, NOW)]
        )


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
