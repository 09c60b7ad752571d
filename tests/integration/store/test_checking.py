"""What ``check`` says about how a database is set up."""

from collections.abc import Iterator

import psycopg
import pytest

from bridge.errors import StoreRefusedLogin
from bridge.security.database_url import read_database_url
from bridge.store.postgres import checking
from bridge.store.postgres.checking import Remark, check_database
from bridge.store.postgres.connecting import Database
from tests.support.postgres import PrivatePostgres, is_installed


@pytest.fixture(scope="module")
def own() -> Iterator[PrivatePostgres]:
    if not is_installed():
        pytest.skip("PostgreSQL is not installed here (Debian: postgresql)")
    with PrivatePostgres() as started:
        yield started


def remarks(server: PrivatePostgres, *, loses_nothing: bool = False) -> list[Remark]:
    database = Database(lambda: read_database_url(server.url()).parameters(), "postgresql://here")
    name, found = check_database(database, loses_nothing=loses_nothing)
    assert name.startswith("PostgreSQL ")
    return found


def test_a_server_as_it_is_installed_is_set_up_well(own: PrivatePostgres) -> None:
    assert remarks(own) == []


def test_what_grows_or_breaks_the_promise_is_told(own: PrivatePostgres, server: PrivatePostgres) -> None:
    assert [(one.is_fatal, one.words[:12]) for one in remarks(server)] == [(True, "fsync is off")]
    own.configure(autovacuum="off")
    try:
        assert ["autovacuum is off" in one.words for one in remarks(own)] == [True]
    finally:
        own.configure(autovacuum="on")
    (told,) = remarks(own, loses_nothing=True)
    assert told.is_fatal
    assert "no standby is synchronous" in told.words


def test_who_holds_an_old_snapshot_is_named(own: PrivatePostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "LONG_SECONDS", 0.0)
    with psycopg.connect(own.url()) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT 1")
        assert [f"session {other.info.backend_pid} has held a snapshot" in one.words for one in remarks(own)] == [True]


def test_the_snapshot_of_another_user_is_seen_by_what_happened_since(
    own: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "MANY_TRANSACTIONS", 2)
    with psycopg.connect(host="127.0.0.1", port=own.port, user="postgres", dbname="bridge") as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        other.execute("SELECT 1")
        for number in range(3):
            own.run(f"CREATE TABLE more_{number} ()", "bridge")
        told = [one.words for one in remarks(own)]
        assert [f"session {other.info.backend_pid} has held a snapshot for 3 transactions" in one for one in told] == [
            True
        ]


def test_what_standbys_are_is_told_to_a_user_without_rights(own: PrivatePostgres) -> None:
    standby = PrivatePostgres()
    try:
        standby.copy_from(own)
        standby.start()
        assert ["standbys are asynchronous" in one.words for one in remarks(own)] == [True]
        own.configure(synchronous_standby_names="*")
        assert remarks(own, loses_nothing=True) == []
        assert remarks(own) == []
    finally:
        own.configure(synchronous_standby_names="")
        standby.__exit__()


def test_who_may_make_no_tables_hears_it(own: PrivatePostgres) -> None:
    own.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", "bridge")
    own.run("ALTER DATABASE bridge OWNER TO postgres")
    try:
        assert [one.is_fatal for one in remarks(own) if "may make no tables" in one.words] == [True]
    finally:
        own.run("ALTER DATABASE bridge OWNER TO bridge")
    wrong = Database(lambda: read_database_url(own.url(password="x")).parameters(), "postgresql://here")
    with pytest.raises(StoreRefusedLogin):
        check_database(wrong, loses_nothing=False)
