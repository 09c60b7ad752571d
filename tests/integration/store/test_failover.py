"""Behind a pooler, and where another server takes over: nothing rests on a session, and no number is given twice."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from bridge.delivery.ingest import Ingested, ingest
from bridge.errors import StoreOutdated
from bridge.events.normalize import Rules
from bridge.security.database_url import read_database_url
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.reader import PostgresReader
from bridge.store.postgres.store import PostgresStore
from tests.support import pgbouncer
from tests.support.engines import QUICK, PostgresEngine
from tests.support.outbox import send_all, unsent
from tests.support.postgres import USER, PrivatePostgres, is_installed
from tests.support.rows import HQ, batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
SECONDS = 30.0

pytestmark = pytest.mark.skipif(not is_installed(), reason="PostgreSQL is not installed here (Debian: postgresql)")


def tell(store: PostgresStore, number: int) -> Ingested:
    since = store.place(HQ).cursor
    return ingest(store, batch(row(f"account {number}", number), since=since), rules=RULES, now=NOW)


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(not pgbouncer.is_installed(), reason="pgbouncer is not installed here (Debian: pgbouncer)")
def test_behind_a_pooler_every_transaction_may_have_another_session(server: PrivatePostgres) -> None:
    engine = PostgresEngine(server)
    with pgbouncer.PgBouncer(server) as pooler:
        url = server.url(engine.name, port=pooler.port)
        database = Database(lambda: read_database_url(url).parameters(), "postgresql://pooler", is_pooled=True)
        with PostgresStore(database, QUICK) as store:
            for number in range(1, 30):
                tell(store, number)
                if number % 10 == 0:
                    server.cut_all(engine.name)
            assert [found.sequence for found in unsent(store.exchange)] == list(range(1, 30))
            send_all(store.exchange, NOW)
            with store.together():
                (setting,) = store.query("in_force")
            assert (setting["synchronous_commit"], setting["lock_timeout"]) == ("on", "3s"), "also without a session"
        with PostgresStore(database, QUICK) as again:
            assert not unsent(again.exchange)


@pytest.mark.skipif(not pgbouncer.is_installed(), reason="pgbouncer is not installed here (Debian: pgbouncer)")
def test_behind_a_pooler_no_session_is_left_otherwise_nor_believed_to_be_as_it_was(server: PrivatePostgres) -> None:
    engine = PostgresEngine(server)
    with pgbouncer.PgBouncer(server, sessions=1) as pooler:
        url = server.url(engine.name, port=pooler.port)
        database = Database(lambda: read_database_url(url).parameters(), "postgresql://pooler", is_pooled=True)
        with PostgresStore(database, QUICK) as store:
            tell(store, 1)
            with PostgresReader(database) as reader:
                assert reader.last_position() == 1
            number = 2
            tell(store, number)
            for left in ("search_path TO ''", "default_transaction_read_only TO on"):
                with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
                    other.execute(f"SET {left}".encode())  # as pg_dump leaves it, or a person
                number += 1
                tell(store, number)
                assert len(unsent(store.exchange)) == number
                with PostgresReader(database) as reader:
                    assert reader.last_position() == number
            assert not store.session.troubles


@contextmanager
def pair(*, is_synchronous: bool) -> Iterator[tuple[PrivatePostgres, PrivatePostgres]]:
    """Yield a primary and its standby."""
    standby = PrivatePostgres()
    with PrivatePostgres() as primary:
        try:
            standby.copy_from(primary)
            standby.start()
            if is_synchronous:
                primary.configure(synchronous_standby_names="*")
                until(lambda: primary.run("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
            yield primary, standby
        finally:
            primary.kill()
            standby.__exit__()


def store_of(primary: PrivatePostgres, standby: PrivatePostgres) -> PostgresStore:
    url = primary.url().replace(f":{primary.port}/", f":{standby.port},127.0.0.1:{primary.port}/")
    return PostgresStore(Database(lambda: read_database_url(url).parameters(), f"postgresql://{USER}@both"), QUICK)


def test_a_synchronous_failover_loses_nothing_and_is_no_reason_for_a_new_lineage() -> None:
    with pair(is_synchronous=True) as (primary, standby):
        store = store_of(primary, standby)
        with store:
            store.compare(None, "")
            for number in range(1, 6):
                tell(store, number)
            lineage = store.place(HQ).lineage
            primary.kill()
            standby.promote()
            until(lambda: standby.run("SELECT pg_is_in_recovery()") == [(False,)])
            standby.configure(synchronous_standby_names="")
            tell(store, 6)
            assert [found.sequence for found in unsent(store.exchange)] == [1, 2, 3, 4, 5, 6]
        with store:
            assert not store.compare(None, ""), "it was seen that nothing is missing"
            assert store.place(HQ).lineage == lineage


def test_after_a_switchover_a_stop_sees_that_nothing_is_missing() -> None:
    with pair(is_synchronous=True) as (primary, standby):
        store = store_of(primary, standby)
        with store:
            tell(store, 1)
            store.compare(None, "")
            primary.stop("fast")
            standby.promote()
            until(lambda: standby.run("SELECT pg_is_in_recovery()") == [(False,)])
            standby.configure(synchronous_standby_names="")
        with store:
            assert not store.compare(None, "")


def test_a_failover_that_lost_commits_begins_a_new_lineage_and_gives_no_id_twice() -> None:
    with pair(is_synchronous=False) as (primary, standby):
        store = store_of(primary, standby)
        store.open()
        tell(store, 1)
        until(lambda: primary.run("SELECT replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication") == [(True,)])
        standby.run("SELECT pg_wal_replay_pause()")
        standby.stop("immediate")
        tell(store, 2)
        given = {found.event_id: found.body for found in unsent(store.exchange)}
        assert len(given) == 2
        primary.kill()
        standby.start()
        standby.promote()
        with pytest.raises(StoreOutdated, match="gone back in time"):
            tell(store, 3)
        store.close()
        with store:
            assert store.is_proven
            tell(store, 3)
            for found in unsent(store.exchange):
                assert given.setdefault(found.event_id, found.body) == found.body


def test_a_failover_between_two_runs_proves_nothing() -> None:
    with pair(is_synchronous=False) as (primary, standby):
        store = store_of(primary, standby)
        with store:
            tell(store, 1)
            lineage = store.place(HQ).lineage
        until(lambda: primary.run("SELECT replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication") == [(True,)])
        primary.kill()
        standby.promote()
        with store:
            assert not store.is_proven
            assert store.compare(None, ""), "without a log that could tell"
            assert store.place(HQ).lineage > lineage
