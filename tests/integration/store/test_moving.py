"""A store moved from a file into a database and back is the same store."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, begin_walk, caught_up, delete_missing
from bridge.errors import BadConfig, BridgeError, StoreInUse, StoreUnusable
from bridge.events.normalize import Rules
from bridge.model import Batch, SourceName
from bridge.ops import migrate_store as moving
from bridge.ops.migrate_store import migrate_store
from bridge.store.places import PostgresPlace, SqlitePlace, StorePlace
from bridge.store.postgres.shared import SharedStore
from bridge.store.postgres.store import PostgresStore
from bridge.store.records import InboundPbx, Newcomers, Pause
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.support.engines import QUICK, PostgresEngine, kill
from tests.support.outbox import send_all, unsent
from tests.support.postgres import PrivatePostgres
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
BRANCH = SourceName("branch")


@pytest.fixture
def file(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "bridge.db")


@pytest.fixture
def database(server: PrivatePostgres, tmp_path: Path) -> PostgresPlace:
    return PostgresPlace(PostgresEngine(server).database, lease_seconds=1, folder=tmp_path)


def fill(store: TableStore) -> None:
    """Have a bit of everything in *store*."""
    store.begin_log(1)
    rows = [row(f"account {number}", number, cn='Ünï <cödé> "x"', emails=[{"email": "a@b"}]) for number in range(2500)]
    ingest(store, batch(*rows), rules=RULES, now=NOW)
    gone = row("account 7", 2501, is_deleted=True)
    ingest(store, Batch(HQ, cursor(2499), gone.cursor, [gone]), rules=RULES, now=NOW)
    begin_walk(store, HQ)
    caught_up(store, HQ, None, ends_initial=True, rules=RULES, now=NOW)
    delete_missing(store, HQ, WalkRecord(NOW), rules=RULES, now=NOW, deletion_limit=DeletionLimit())
    other = row("x", 1)
    ingest(store, Batch(BRANCH, store.place(BRANCH).cursor, other.cursor, [other]), rules=RULES, now=NOW)
    first = unsent(store.exchange)
    store.exchange.mark_published(first[:100], NOW)
    store.exchange.park(first[100], "too large", NOW)
    store.exchange.mark_in_doubt(first[101:110])
    store.log.mark_published(unsent(store.log)[:50], NOW)
    store.prune(NOW + timedelta(days=30), 20)
    store.forget("account 7", NOW, discard_unsent=True)
    store.pause(BRANCH, Pause(NOW, "firmware"))
    store.book.register_inbound(InboundPbx(SourceName("dials"), "example.com", "pbx"), NOW, Newcomers())
    store.past.note_published(HQ, "everything")


def everything(place: StorePlace) -> dict[str, Sequence[Any]]:
    """Return all that a store tells anybody."""
    with place.reader() as reader:
        seen: dict[str, Sequence[Any]] = {
            "accounts": sorted(reader.accounts(), key=lambda known: (known.source, known.key)),
            "events": [event for page in reader.events() for event in page],
            "sources": sorted(reader.sources(), key=lambda source: source.name),
        }
    with place.store() as store:
        store.begin_log(1)
        seen["parked"] = store.parked()
        seen["to send"] = [*unsent(store.exchange), *unsent(store.log)]
        seen["numbers"] = [store.given(), store.generation, store.key, store.exchange.last_given(), store.paused()]
        seen["known"] = [store.book.known(NOW), store.certificate(HQ), store.backlog, store.log.backlog]
    return seen


def test_from_a_file_into_a_database_and_back_nothing_changes(
    file: SqlitePlace, database: PostgresPlace, tmp_path: Path
) -> None:
    with file.store() as store:
        fill(store)
    before = everything(file)
    done = migrate_store(file, database)
    assert done.rows["account"] == 2501
    assert everything(database) == before
    back = SqlitePlace(tmp_path / "back.db")
    migrate_store(database, back)
    assert everything(back) == before


def test_the_old_store_is_refused_and_the_new_one_goes_on(file: SqlitePlace, database: PostgresPlace) -> None:
    with file.store() as store:
        fill(store)
        lineage = store.place(HQ).lineage
    migrate_store(file, database)
    with pytest.raises(StoreUnusable, match="was moved to postgresql://"):
        file.store().open()
    with pytest.raises(BridgeError, match=r"was moved to postgresql://.* already"):
        migrate_store(file, database)
    with database.store() as store:
        store.begin_log(1)
        given = store.exchange.last_given()
        assert store.place(HQ).lineage == lineage
        told = row("a new one", 3000)
        ingest(store, Batch(HQ, store.place(HQ).cursor, told.cursor, [told]), rules=RULES, now=NOW)
        ingest(
            store,
            Batch(SourceName("new"), store.place(SourceName("new")).cursor, told.cursor, [told]),
            rules=RULES,
            now=NOW,
        )
        assert store.exchange.last_given() == given + 2


@pytest.mark.parametrize("has_run", [False, True])
def test_what_was_interrupted_goes_on_unless_the_bridge_ran_meanwhile(
    file: SqlitePlace, database: PostgresPlace, monkeypatch: pytest.MonkeyPatch, *, has_run: bool
) -> None:
    with file.store() as store:
        fill(store)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(moving, "_copy_notes", interrupted)
        migrate_store(file, database)
    with pytest.raises(StoreUnusable, match="only half here"):
        database.store().open()
    if has_run:
        with file.store() as store:
            told = row("meanwhile", 3000)
            ingest(store, Batch(HQ, store.place(HQ).cursor, told.cursor, [told]), rules=RULES, now=NOW)
    before = everything(file) if has_run else None
    done = migrate_store(file, database)
    assert done.went_on is not has_run
    assert done.rows["account"] == 2501 + has_run
    assert before is None or everything(database) == before


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("is_back", [False, True])
@pytest.mark.parametrize("after", ["source", "account", "outbox", "aside", "notes", "moved"])
def test_a_kill_in_the_midst_is_gone_on_from_whatever_was_copied(
    file: SqlitePlace, database: PostgresPlace, monkeypatch: pytest.MonkeyPatch, after: str, *, is_back: bool
) -> None:
    old, new = (database, file) if is_back else (file, database)
    with old.store() as store:
        told = [row(f"account {number}", number) for number in range(3)]
        ingest(store, batch(*told), rules=RULES, now=NOW)
        store.exchange.park(unsent(store.exchange)[1], "too large", NOW)
    opened: list[TableStore] = []

    def kept_open(place: StorePlace, _: object) -> TableStore:
        opened.append(place.store())
        opened[-1].is_moving = True
        opened[-1].open()
        return opened[-1]

    copy, copy_notes, set_note = moving._copy, moving._copy_notes, TableStore.set_note  # noqa: SLF001 - where to die

    def copied(table: str, *stores: TableStore) -> int:
        rows = copy(table, *stores)
        if table == after:
            raise Killed
        return rows

    def notes_copied(*stores: TableStore) -> None:
        copy_notes(*stores)
        if after == "notes":
            raise Killed

    def noted(store: TableStore, name: str, value: str) -> None:
        set_note(store, name, value)
        if name == after:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(moving, "_opened", kept_open)
        patched.setattr(moving, "_copy", copied)
        patched.setattr(moving, "_copy_notes", notes_copied)
        patched.setattr(TableStore, "set_note", noted)
        migrate_store(old, new)
    for store in opened:
        if isinstance(store, PostgresStore):
            kill(store)
        else:
            assert isinstance(store, SqliteStore)
            store._is_whole = False  # noqa: SLF001 - so that its end is not recorded as clean
            store.close()
    done = until_free(lambda: migrate_store(old, new))
    assert done.went_on
    with new.store() as store:
        assert [found.is_in_doubt for found in unsent(store.exchange)] == [False, False], "the bridge had stopped well"
        assert [parked.reason for parked in store.parked()] == ["too large"]


def until_free(call: Callable[[], moving.Moved]) -> moving.Moved:
    """Do it once the lease of who was killed has ended."""
    until = time.monotonic() + 30
    while True:
        try:
            return call()
        except StoreInUse:
            assert time.monotonic() < until


@pytest.mark.parametrize("is_back", [False, True])
def test_what_a_killed_bridge_left_in_doubt_is_in_doubt_in_the_new_store(
    file: SqlitePlace, database: PostgresPlace, *, is_back: bool
) -> None:
    old, new = (database, file) if is_back else (file, database)
    store = old.store()
    store.open()
    ingest(store, batch(row("account 1", 1)), rules=RULES, now=NOW)
    if isinstance(store, PostgresStore):
        kill(store)
    else:
        assert isinstance(store, SqliteStore)
        store._is_whole = False  # noqa: SLF001 - so that its end is not recorded as clean
        store.close()
    until_free(lambda: migrate_store(old, new))
    with new.store() as store:
        assert [found.is_in_doubt for found in unsent(store.exchange)] == [True]


def test_a_log_that_several_bridges_wrote_is_not_written_once_more_by_the_one_that_comes_after_them(
    file: SqlitePlace, database: PostgresPlace
) -> None:
    """They write each source by itself, and one writes all together: its own progress there is none of theirs."""
    with SharedStore(database.database, QUICK) as shared:
        shared.compare(None)
        shared.begin_log(1)
        shared.add_sources([HQ])
        shared.claim([HQ])
        ingest(shared, batch(*(row(f"account {number}", number) for number in range(3))), rules=RULES, now=NOW)
        send_all(shared.exchange, NOW)
        assert len(unsent(shared.log)) == 3
    with pytest.raises(BadConfig, match="3 events wait, and the log is to be written in another way"):
        migrate_store(database, file)
    with SharedStore(database.database, QUICK) as shared:
        shared.compare(None)
        shared.begin_log(1)
        shared.claim([HQ])
        send_all(shared.log, NOW)
    migrate_store(database, file)
    with file.store() as store:
        store.compare(None)
        store.begin_log(1)
        assert not unsent(store.log)
        assert not store.log.newest_confirmed(10), "nor is what the others wrote missed under its own name"


def test_a_store_in_use_is_not_moved_and_nothing_into_one_that_has_something(
    file: SqlitePlace, database: PostgresPlace
) -> None:
    with pytest.raises(BridgeError, match="there is no store"):
        migrate_store(file, database)
    with file.store() as store:
        store.place(HQ)
        with pytest.raises(BridgeError, match="another bridge"):
            migrate_store(file, database)
    with database.store() as store:
        store.place(HQ)
    with pytest.raises(BridgeError, match="has PBXs already"):
        migrate_store(file, database)
