"""Databases and roles that are not set up as the page says."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest

from bridge.delivery.ingest import ingest
from bridge.errors import StoreUnusable
from bridge.events.normalize import Rules
from bridge.security.database_url import read_database_url
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.reader import PostgresReader
from bridge.store.postgres.store import PostgresStore
from tests.support.engines import QUICK, PostgresEngine
from tests.support.outbox import unsent
from tests.support.postgres import PrivatePostgres
from tests.support.rows import HQ, batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_name_is_refused(private: PrivatePostgres, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    private.run(
        f"CREATE DATABASE {name} OWNER bridge ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    database = Database(lambda: read_database_url(private.url(name)).parameters(), "postgresql://odd")
    with pytest.raises(StoreUnusable, match=f"encoding is {encoding}.*ENCODING 'UTF8'"):
        PostgresStore(database, QUICK).open()
    with pytest.raises(StoreUnusable, match=f"encoding is {encoding}"), PostgresReader(database):
        pass


def test_what_a_role_has_as_defaults_changes_nothing(private: PrivatePostgres, own: PostgresEngine) -> None:
    odd = {
        "client_encoding": "LATIN1",
        "timezone": "America/St_Johns",
        "datestyle": "German, DMY",
        "default_transaction_isolation": "serializable",
        "bytea_output": "escape",
        "standard_conforming_strings": "off",
        "synchronous_commit": "off",
        "statement_timeout": "1s",
    }
    for name, value in odd.items():
        private.run(f"ALTER ROLE bridge SET {name} = '{value}'")
    try:
        with own.store() as store:
            since = store.place(HQ).cursor
            ingest(store, batch(row("Łukasz", 1, cn="Łukasz"), since=since), rules=RULES, now=NOW)
            (found,) = unsent(store.exchange)
            assert (found.account, found.created_at) == ("łukasz", NOW)
            assert "Łukasz".encode() in found.body
        with own.reader() as reader:
            assert reader.newest_at() == NOW
    finally:
        private.run("ALTER ROLE bridge RESET ALL")


def test_who_may_end_no_session_does_without(private: PrivatePostgres, own: PostgresEngine) -> None:
    private.run("REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC", own.name)
    with (
        own.store() as store,
        psycopg.connect(private.url(own.name)) as other,
        ThreadPoolExecutor(1) as thread,
    ):
        told = batch(row("a", 1), since=store.place(HQ).cursor)
        other.execute("LOCK TABLE account")
        waiting = thread.submit(ingest, store, told, rules=RULES, now=NOW)
        until = time.monotonic() + 60
        while "somebody holds a lock" not in store.locked:
            assert time.monotonic() < until
            assert not waiting.done(), waiting.result()
        other.rollback()
        waiting.result(60)


def test_what_a_user_may_not_do_is_told(private: PrivatePostgres, own: PostgresEngine) -> None:
    private.run("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC", own.name)
    with pytest.raises(StoreUnusable, match=r"may not do that \(permission denied for function pg_control_system\)"):
        own.store().open()


def test_tables_of_somebody_else_and_those_of_a_dump_that_is_not_done_are_refused(private: PrivatePostgres) -> None:
    taken, half = PostgresEngine(private), PostgresEngine(private)
    private.run("CREATE TABLE public.outbox (id integer)", taken.name)
    with half.store():
        pass
    private.run("DELETE FROM schema_version", half.name)
    private.run("GRANT CREATE ON SCHEMA public TO bridge", taken.name)
    with pytest.raises(StoreUnusable, match="tables of somebody else"):
        taken.store().open()
    with pytest.raises(StoreUnusable, match="Is it being restored"):
        half.store().open()
