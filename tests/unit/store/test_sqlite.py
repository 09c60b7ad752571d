import os
import re
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bridge.delivery.ingest import ingest
from bridge.errors import StoreInUse, StoreUnusable
from bridge.model import Cursor, Token
from bridge.normalize import Rules
from bridge.store.sql import migrations, queries
from bridge.store.sqlite import SqliteStore
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def test_what_was_committed_is_there_after_opening_again(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
        lineage, key = store.lineage, store.key
    with SqliteStore(path) as store:
        assert store.place(HQ).cursor == cursor(1)
        assert (store.lineage, store.key) == (lineage, key)
        assert [found.sequence for found in store.unpublished(0, 10)] == [1]


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
        connection.execute(f"EXPLAIN {query}", dict.fromkeys(re.findall(r":(\w+)", query)))
    connection.close()


@pytest.mark.parametrize("name", ["unpublished_rows", "mark_published", "prune_published", "account", "body_of_event"])
def test_hot_queries_search_an_index_and_scan_no_table(path: Path, name: str) -> None:
    """Otherwise their cost grows with what the store has ever held."""
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
    connection = sqlite3.connect(path)
    parameters = dict.fromkeys(["after", "until", "limit", "published_at", "before", "source_id", "key", "event_id"], 1)
    plan = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {queries()[name]}", parameters)]
    connection.close()
    assert not [step for step in plan if step.startswith("SCAN")], plan


def test_published_rows_stay_until_they_are_pruned(path: Path) -> None:
    with SqliteStore(path) as store:
        ingest(store, batch(row("a", 1), row("b", 2), row("c", 3)), rules=RULES, now=NOW)
        store.mark_published(0, 2, NOW)
        assert store.count_unpublished() == (1, NOW)
        assert store.prune(NOW + timedelta(days=1), 1) == 1
        assert store.prune(NOW + timedelta(days=1), 10) == 1
        assert store.prune(NOW + timedelta(days=1), 10) == 0
        assert [found.sequence for found in store.unpublished(0, 10)] == [3]


def test_after_an_unclean_stop_the_oldest_unsent_rows_are_in_doubt(path: Path) -> None:
    store = SqliteStore(path)
    store.open()
    ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
    killed = path.with_name("killed.db")
    for suffix in ("", "-wal"):
        killed.with_name(killed.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    store.close()
    with SqliteStore(killed) as again:
        assert [found.is_in_doubt for found in again.unpublished(0, 10)] == [True]
    with SqliteStore(path) as stopped_cleanly:
        assert [found.is_in_doubt for found in stopped_cleanly.unpublished(0, 10)] == [False]
