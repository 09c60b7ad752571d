"""A database that goes back in time: that is noticed, and no number is given twice."""

import shutil
import subprocess
from datetime import UTC, datetime

import psycopg
import pytest

from bridge.delivery.ingest import Ingested, ingest
from bridge.errors import LeaseLost, StoreInUse, StoreOutdated
from bridge.events.normalize import Rules
from bridge.store.postgres.shared import SharedStore
from bridge.store.postgres.store import PostgresStore, StoreOptions
from tests.support.engines import QUICK, PostgresEngine
from tests.support.outbox import unsent
from tests.support.postgres import PrivatePostgres
from tests.support.rows import HQ, batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


def tell(store: PostgresStore, number: int) -> Ingested:
    since = store.place(HQ).cursor
    return ingest(store, batch(row(f"account {number}", number), since=since), rules=RULES, now=NOW)


def test_commits_that_are_gone_end_the_bridge_and_the_next_start_begins_a_new_lineage(own: PostgresEngine) -> None:
    store = own.store()
    store.open()
    tell(store, 1)
    lineage = store.place(HQ).lineage
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("UPDATE bridge SET commits = commits - 1 WHERE NOT is_over")
    with pytest.raises(StoreOutdated, match="gone back in time"):
        tell(store, 2)
    with pytest.raises(StoreOutdated, match="gone back in time"):
        tell(store, 2)
    store.close()
    with own.store() as again:
        assert again.place(HQ).lineage > lineage
        assert "commits of this bridge are missing" in again.restored


def test_another_database_is_not_believed_to_be_the_newest_state_without_the_log(own: PostgresEngine) -> None:
    with own.store() as store:
        tell(store, 1)
        lineage = store.place(HQ).lineage
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("UPDATE meta SET value = 'another/00000001/1' WHERE name = 'checked'")
    with own.store() as store:
        assert not store.is_proven
        assert store.compare(None, "")
        later = store.place(HQ).lineage
        assert later > lineage
    with own.store() as store:
        store.compare(None, "")
        assert store.place(HQ).lineage == later, "once is enough"


def test_commits_that_are_gone_when_the_bridge_stops_are_noticed_by_the_stop(private: PrivatePostgres) -> None:
    """Disks that are set back look the same from within: only who remembers can tell."""
    own = PostgresEngine(private)
    store = own.store()
    store.open()
    tell(store, 1)
    lineage = store.place(HQ).lineage
    private.stop("fast")
    kept = private.data.with_name("kept")
    subprocess.run(["cp", "-a", private.data, kept], check=True)  # shutil gives files to whoever copies
    private.start()
    tell(store, 2)
    private.stop("immediate")
    shutil.rmtree(private.data)
    kept.rename(private.data)
    private.start()
    store.close()
    with own.store() as again:
        assert again.is_proven
        assert again.place(HQ).lineage > lineage


@pytest.mark.parametrize("is_shared", [False, True])
def test_disks_set_back_to_before_this_life_are_no_other_bridge(private: PrivatePostgres, *, is_shared: bool) -> None:
    """No row of this life is left that could count its commits, which says the same: they are missing."""
    own = PostgresEngine(private)
    with own.store() as before:
        before.compare(None, "")
        tell(before, 1)
    private.stop("fast")
    kept = private.data.with_name("kept")
    subprocess.run(["cp", "-a", private.data, kept], check=True)  # shutil gives files to whoever copies
    private.start()
    store = (SharedStore if is_shared else PostgresStore)(own.database, StoreOptions(lease_seconds=60))
    store.open()
    store.compare(None, "")
    if isinstance(store, SharedStore):
        store.claim([HQ])
    tell(store, 2)
    given = {found.event_id: found.body for found in unsent(store.exchange)}
    private.stop("immediate")
    shutil.rmtree(private.data)
    kept.rename(private.data)
    private.start()
    with pytest.raises(StoreOutdated, match="gone back in time"):
        tell(store, 3)
    store.close()
    with own.store() as again:
        again.compare(None, "")
        tell(again, 3)
        for found in unsent(again.exchange):
            assert given.setdefault(found.event_id, found.body) == found.body, "no number is given to two events"


@pytest.mark.parametrize("is_shared", [False, True])
def test_who_lived_long_and_slept_is_not_taken_for_a_database_that_was_set_back(
    own: PostgresEngine, *, is_shared: bool
) -> None:
    slept = (SharedStore if is_shared else PostgresStore)(own.database, QUICK)
    slept.open()
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("UPDATE bridge SET started_at = started_at - interval '40 days'")
    assert slept.lease is not None
    slept.lease.close()  # it renews nothing any more, and does not know
    with own.store():
        pass  # it takes over, and forgets whom nobody will ask about
    with pytest.raises(LeaseLost if is_shared else StoreInUse):
        slept.set_note("a note", "of one who slept")
    slept.close()


def test_a_copy_of_the_database_put_in_its_place_is_another_one(own: PostgresEngine) -> None:
    with own.store() as store:
        tell(store, 1)
        lineage = store.place(HQ).lineage
    own.server.run(f"CREATE DATABASE {own.name}_kept TEMPLATE {own.name}")
    with own.store() as store:
        store.compare(None, "")
        tell(store, 2)
    own.server.drop_database(own.name)
    own.server.run(f"ALTER DATABASE {own.name}_kept RENAME TO {own.name}")
    with own.store() as store:
        assert store.compare(None, ""), "without a log that could tell"
        assert store.place(HQ).lineage > lineage


def test_where_failovers_lose_nothing_another_timeline_is_no_reason(own: PostgresEngine) -> None:
    with own.store() as store:
        tell(store, 1)
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("UPDATE meta SET value = 'another/00000001/1' WHERE name = 'checked'")
    with PostgresStore(own.database, StoreOptions(lease_seconds=1, loses_nothing=True)) as store:
        assert not store.compare(None, "")
