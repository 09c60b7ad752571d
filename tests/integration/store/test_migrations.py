"""The tables of a database change in numbered steps, and two versions of the bridge may stand beside each other."""

import psycopg
import pytest

from bridge.errors import StoreInUse, StoreUnusable
from bridge.store.postgres import opening, reader
from bridge.store.postgres.shared import SharedStore
from bridge.store.postgres.sql import migrations, works_for
from bridge.store.postgres.store import StoreOptions
from bridge.store.tables.statements import Migration
from tests.support.engines import PostgresEngine
from tests.support.rows import HQ

KNOWN = migrations()[-1].number


def tables(engine: PostgresEngine) -> tuple[int, int]:
    (found,) = engine.select("SELECT tables, works_for FROM schema_version")
    return int(found[0]), int(found[1])


def test_migrations_are_numbered_without_gaps_and_say_for_whom_they_are() -> None:
    assert [migration.number for migration in migrations()] == list(range(1, KNOWN + 1))
    assert all(1 <= works_for(migration) <= migration.number for migration in migrations())


def test_a_step_is_taken_once_and_what_it_breaks_is_not_there(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.store() as store:
        store.place(HQ)
    broken = Migration(KNOWN + 1, "broken", "ALTER TABLE source ADD COLUMN more text; SELECT 1 / 0;")
    monkeypatch.setattr(opening, "migrations", lambda: (*migrations(), broken))
    with pytest.raises(StoreUnusable):
        engine.store().open()
    assert tables(engine) == (KNOWN, works_for(migrations()[-1]))
    added = Migration(KNOWN + 1, "added", "-- works for: 1\nALTER TABLE source ADD COLUMN more text DEFAULT 'x';")
    monkeypatch.setattr(opening, "migrations", lambda: (*migrations(), added))
    for _ in range(2):
        with engine.store() as store:
            assert store.place(HQ).sequence == 0
    assert tables(engine) == (KNOWN + 1, 1)
    assert engine.select("SELECT more FROM source") == [("x",)]


def test_an_older_bridge_works_with_what_was_added_and_not_with_what_was_taken_away(engine: PostgresEngine) -> None:
    with engine.store():
        pass
    with psycopg.connect(engine.server.url(engine.name), autocommit=True) as other:
        other.execute("ALTER TABLE source ADD COLUMN more text DEFAULT 'x'")
        other.execute(b"UPDATE schema_version SET tables = %d, works_for = %d" % (KNOWN + 1, KNOWN))
        with engine.store() as store, engine.reader() as looking:
            store.place(HQ)
            assert [source.name for source in looking.sources()] == [HQ]
        other.execute(b"UPDATE schema_version SET tables = %d, works_for = %d" % (KNOWN + 2, KNOWN + 1))
    with pytest.raises(StoreUnusable, match="younger version"):
        engine.store().open()
    with pytest.raises(StoreUnusable, match="another version"), engine.reader():
        pass


def test_a_reader_that_is_younger_than_the_tables_says_so(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.store():
        pass
    younger = Migration(KNOWN + 1, "added", "-- works for: 1")
    monkeypatch.setattr(reader, "migrations", lambda: (*migrations(), younger))
    with pytest.raises(StoreUnusable, match="start this one first"), engine.reader():
        pass


def test_bridges_are_upgraded_one_by_one_as_long_as_only_something_is_added(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the older one could not work with is not done to it while it lives."""
    options = StoreOptions(lease_seconds=1.0, opening_seconds=0.0)
    with SharedStore(engine.database, options) as old:
        old.compare(None)
        old.add_sources([HQ])
        old.claim([HQ])
        added = Migration(KNOWN + 1, "added", f"-- works for: {KNOWN}\nALTER TABLE source ADD COLUMN more text;")
        monkeypatch.setattr(opening, "migrations", lambda: (*migrations(), added))
        with SharedStore(engine.database, options) as new:
            assert tables(engine) == (KNOWN + 1, KNOWN)
            old.give_back(HQ)
            assert new.claim([HQ]) == [HQ]
            assert new.place(HQ).sequence == 0
        taken_away = Migration(KNOWN + 2, "taken", f"-- works for: {KNOWN + 1}\nALTER TABLE source DROP COLUMN walk;")
        monkeypatch.setattr(opening, "migrations", lambda: (*migrations(), added, taken_away))
        with pytest.raises(StoreInUse, match="Stop all of those first"):
            SharedStore(engine.database, options).open()
        assert [free.name for free in old.look().free] == [HQ]
        assert old.claim([HQ]) == [HQ]
        assert old.place(HQ).walk == 0
