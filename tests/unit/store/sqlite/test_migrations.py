"""A store that an earlier version made goes on: what waited, was parked, held, discarded or in the log stays that."""

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from bridge.delivery.ingest import ingest
from bridge.events import cloudevents
from bridge.events.normalize import Rules
from bridge.model import Batch, Cursor, OutboxRow, SourceName
from bridge.store.lineage import read_birth
from bridge.store.records import LogContents
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.sql import migrations
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, row

NOW = datetime(2026, 11, 23, 1, tzinfo=UTC)
LONG_AFTER = datetime(2027, 1, 1, tzinfo=UTC)
BRANCH = SourceName("branch")
MADE = Path(__file__).parents[3] / "data" / "stores" / "989455e.db"
"""See the file beside it: how it was made, and what is in it."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "bridge.db"
    shutil.copyfile(MADE, made)
    return made


def places(rows: Sequence[OutboxRow], source: SourceName = HQ) -> list[tuple[str, int]]:
    return [(row.event_type.split(".")[1], row.sequence) for row in rows if row.source == source]


def test_what_the_exchange_did_not_have_is_sent_in_the_order_of_each_account(path: Path) -> None:
    with SqliteStore(path) as store:
        waiting = unsent(store.exchange)
        assert places(waiting) == [("account", 6), ("account", 10)], "the first was let go, and later ones were sent"
        assert places(waiting, BRANCH) == [("account", 2), ("account", 3)]
        assert all(found.is_in_doubt for found in waiting), "nobody knows what the former version had on its way"
        assert store.backlog.rows == 4


def test_what_the_log_did_not_have_is_written_in_the_order_of_each_account(path: Path) -> None:
    with SqliteStore(path) as store:
        store.begin_log(1)
        assert places(unsent(store.log)) == [("account", 6), ("account", 10)]
        assert places(unsent(store.log), BRANCH) == []
        assert all(found.position > 14 for found in unsent(store.log)), "behind all that it may have"


def test_what_was_parked_or_held_waits_for_an_operator_and_is_released_by_one(path: Path) -> None:
    with SqliteStore(path) as store:
        store.begin_log(1)
        found = {(parked.refused_by, parked.source, parked.sequence): parked for parked in store.parked()}
        assert {key: parked.waiting for key, parked in found.items()} == {("exchange", HQ, 3): 1, ("log", BRANCH, 1): 1}
        assert (store.exchange.backlog.held_rows, store.log.backlog.held_rows) == (3, 2)
        assert found["exchange", HQ, 3].reason == "too large"
        assert store.unpark(found["exchange", HQ, 3].position)
        released = places(unsent(store.exchange))[2:]
        assert released == [("account", 3), ("source", 4), ("account", 5)], "as they were made"
        assert store.discard(found["log", BRANCH, 1].position, "why", NOW)
        assert places(unsent(store.log), BRANCH) == [("account", 3)]


def test_what_was_confirmed_discarded_or_forgotten_is_told_as_that(path: Path) -> None:
    with SqliteStore(path):
        pass
    with StoreReader(path) as reader:
        events = {(event.source, event.sequence, event.event_type): event for page in reader.events() for event in page}
        hq = {number: events[HQ, number, cloudevents.ACCOUNT_CHANGED] for number in range(1, 10)}
        minutes = {number: event.published_at and event.published_at.minute for number, event in hq.items()}
        assert minutes == {1: 1, 2: 1, 3: None, 4: 4, 5: None, 6: None, 7: 5, 8: 5, 9: 5}
        assert [number for number, event in hq.items() if event.forgotten_at] == [8, 9]
        assert hq[3].parked_reason == "too large"
        assert hq[5].is_held
        discarded = events[BRANCH, 1, cloudevents.ACCOUNT_CHANGED]
        assert (discarded.discarded_reason, discarded.published_at) == ("nobody needs it", None)
        assert list(reader.paused()) == [BRANCH]


def test_everything_is_told_anew_under_a_lineage_behind_the_former_one(path: Path) -> None:
    with SqliteStore(path) as store:
        former = {orjson.loads(found.body)["lineage"] for found in unsent(store.exchange)}
        assert all(read_birth(lineage) is not None for lineage in former)
        assert "it is the store of a version whose events had other ids" in store.restored
        for source in (HQ, BRANCH):
            place = store.place(source)
            assert place.lineage > max(former)
            assert (place.cursor, place.sequence, place.is_initial, place.is_complete) == (Cursor(), 0, True, False)
            assert store.count_accounts(source) == 0
        assert store.compare(LogContents({}))
        told = row("b", 20)
        (change,) = ingest(store, Batch(HQ, Cursor(), told.cursor, [told]), rules=Rules(key=store.key), now=NOW).changes
        assert (change.kind, change.revision) == ("initial", 1)
        lineage = store.place(HQ).lineage
    with SqliteStore(path) as store:
        assert store.place(HQ).lineage == lineage, "that happens once"


def test_what_waits_is_sent_with_the_id_it_had_and_can_be_read_by_anybody(path: Path) -> None:
    with closing(sqlite3.connect(path)) as before:
        ids = {identity for (identity,) in before.execute("SELECT event_id FROM outbox")}
    with SqliteStore(path) as store:
        for found in unsent(store.exchange):
            event = cloudevents.decode(found.body)
            assert found.event_id == event.event_id
            assert found.event_id in ids


def test_positions_go_on_behind_those_that_were_given(path: Path) -> None:
    with closing(sqlite3.connect(path)) as before, before:
        (given,) = before.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        before.execute("DELETE FROM log_queue")
        before.execute("DELETE FROM outbox")
    with SqliteStore(path) as store:
        assert store.exchange.last_given() == given


def test_in_the_end_everything_can_be_pruned(path: Path) -> None:
    with SqliteStore(path) as store:
        store.begin_log(1)
        for parked in store.parked():
            assert store.unpark(parked.position)
        for outbox in (store.exchange, store.log):
            send_all(outbox, NOW)
        told = row("b", 20)
        for source in (HQ, BRANCH):  # behind copies that one of the sinks got
            ingest(store, Batch(source, Cursor(), told.cursor, [told]), rules=Rules(key=store.key), now=NOW)
        for outbox in (store.exchange, store.log):
            send_all(outbox, NOW)
        store.prune(LONG_AFTER, 1000)
        counts = [store._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("outbox", "aside")]  # noqa: S608, SLF001
        assert counts == [0, 0]


def test_a_migrated_store_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    with SqliteStore(path), SqliteStore(tmp_path / "new.db"):
        pass
    told = "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(tmp_path / "new.db")) as new:
        assert old.execute(told).fetchall() == new.execute(told).fetchall()
        assert old.execute("PRAGMA user_version").fetchone() == (migrations()[-1].number,)
        assert not old.execute("PRAGMA foreign_key_check").fetchall()


@pytest.mark.parametrize("number", range(3, migrations()[-1].number + 1))
def test_a_migration_that_fails_leaves_the_store_as_it_was_before_it(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [
        replace(step, statements=f"{step.statements};\nSELECT * FROM nowhere;") if step.number == number else step
        for step in migrations()
    ]
    monkeypatch.setattr("bridge.store.sqlite.opening.migrations", lambda: broken)
    with pytest.raises(Exception, match="nowhere"):
        SqliteStore(path).open()
    monkeypatch.undo()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (number - 1,)
        if number == 3:
            assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (14,)
    with SqliteStore(path) as store:
        assert store.backlog.rows == 4
