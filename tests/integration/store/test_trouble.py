"""What a store in PostgreSQL does when its database is in trouble: it waits, and nothing is lost or done twice."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from bridge.delivery.ingest import Ingested, ingest
from bridge.errors import StoreInUse, StoreOutdated, StoreRefusedLogin, StoreUnreachable, StoreUnusable
from bridge.events.normalize import Rules
from bridge.security.database_url import read_database_url
from bridge.store.postgres import session as session_module
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.session import Session
from bridge.store.postgres.store import PostgresStore, StoreOptions
from tests.support.engines import QUICK, PostgresEngine, kill
from tests.support.outbox import unsent
from tests.support.postgres import PrivatePostgres, is_installed
from tests.support.proxy import Proxy
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
SECONDS = 30


@pytest.fixture(scope="module")
def private() -> Iterator[PrivatePostgres]:
    """Return a server that is broken, and mended again."""
    if not is_installed():
        pytest.skip("PostgreSQL is not installed here (Debian: postgresql)")
    with PrivatePostgres() as started:
        yield started


@pytest.fixture
def own(private: PrivatePostgres) -> PostgresEngine:
    return PostgresEngine(private)


@pytest.fixture
def store(own: PostgresEngine) -> Iterator[PostgresStore]:
    with own.store() as opened:
        yield opened


def tell(store: PostgresStore, number: int) -> Ingested:
    since = store.place(HQ).cursor
    return ingest(store, batch(row(f"account {number}", number), since=since), rules=RULES, now=NOW)


def told(store: PostgresStore) -> list[int]:
    """Return the sequences of all events, which have to be without a gap and without a repetition."""
    sequences = [found.sequence for found in unsent(store.exchange)]
    assert sequences == list(range(1, len(sequences) + 1))
    assert store.backlog.rows == len(sequences)
    return sequences


@contextmanager
def meanwhile(store: PostgresStore, call: Callable[[], object], words: str) -> Iterator[None]:
    """Have *call* wait for the database, which the board tells in *words*, until what is inside has mended it."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(call)
        until = datetime.now(UTC).timestamp() + SECONDS
        while words not in store.locked and datetime.now(UTC).timestamp() < until and not waiting.done():
            pass
        assert words in store.locked, waiting
        assert not waiting.done()
        yield
        waiting.result(SECONDS)
    assert store.locked == ""


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_transaction_survives_a_restart_in_its_midst(
    private: PrivatePostgres, store: PostgresStore, how: str
) -> None:
    tell(store, 1)
    with store.transaction() as transaction:
        place = transaction.place(HQ)
        private.restart("fast" if how == "fast" else "immediate")
        assert transaction.place(HQ) == place
        assert transaction.move(HQ, place.cursor, place)
    tell(store, 2)
    assert told(store) == [1, 2]


def test_a_connection_that_is_cut_is_replaced(
    private: PrivatePostgres, own: PostgresEngine, store: PostgresStore
) -> None:
    for number in range(1, 6):
        tell(store, number)
        private.cut_all(own.name)
        assert len(told(store)) == number


@pytest.mark.parametrize("has_happened", [True, False])
def test_a_commit_whose_answer_never_came_is_neither_lost_nor_done_twice(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, *, has_happened: bool
) -> None:
    leave, faults = Session._leave_pipeline, [1]  # noqa: SLF001 - where the commit is sent and answered

    def unanswered(session: Session) -> None:
        if session._is_in_doubt and faults:  # noqa: SLF001 - the same
            faults.pop()
            if has_happened:
                leave(session)
            raise psycopg.OperationalError("the connection is gone")
        leave(session)

    tell(store, 1)
    monkeypatch.setattr(Session, "_leave_pipeline", unanswered)
    tell(store, 2)
    assert not faults
    tell(store, 3)
    assert told(store) == [1, 2, 3]
    assert store.place(HQ).cursor == cursor(3)


TROUBLE = {
    "53100": "its disk is full",
    "57014": "a statement takes too long",
    "55P03": "somebody holds a lock",
    "57P01": "cannot be used",
    "53300": "no connection left",
}


@pytest.mark.parametrize("state", TROUBLE)
def test_what_passes_is_waited_for_with_a_sentence(own: PostgresEngine, store: PostgresStore, state: str) -> None:
    tell(store, 1)
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '"
            f"{state}'; END $$".encode()
        )
        other.execute("CREATE TRIGGER fails BEFORE INSERT ON outbox EXECUTE FUNCTION fail()")
        with meanwhile(store, lambda: tell(store, 2), TROUBLE[state]):
            other.execute("DROP TRIGGER fails ON outbox")
    assert told(store) == [1, 2]


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_what_was_in_the_way_once_is_tried_again_at_once(own: PostgresEngine, store: PostgresStore, state: str) -> None:
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("CREATE SEQUENCE tries")
        other.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') < 3 THEN "
            f"RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END IF; RETURN NULL; END $$".encode()
        )
        other.execute("CREATE TRIGGER fails BEFORE INSERT ON outbox EXECUTE FUNCTION fail()")
        tell(store, 1)
    assert told(store) == [1]
    assert store.session.troubles[state] == 2


def test_a_lock_of_somebody_else_is_waited_for(own: PostgresEngine, store: PostgresStore) -> None:
    with psycopg.connect(own.server.url(own.name)) as other:
        other.execute("LOCK TABLE outbox")
        with meanwhile(store, lambda: tell(store, 1), "somebody holds a lock"):
            other.rollback()
    assert told(store) == [1]


def test_a_user_without_connections_left_is_waited_for(
    private: PrivatePostgres, own: PostgresEngine, store: PostgresStore
) -> None:
    private.run("ALTER ROLE bridge CONNECTION LIMIT 0")
    private.cut_all(own.name)
    with meanwhile(store, lambda: tell(store, 1), "connection"):
        private.run("ALTER ROLE bridge CONNECTION LIMIT -1")
    assert told(store) == [1]


def test_a_database_that_takes_no_writes_is_left_for_one_that_does(
    private: PrivatePostgres, own: PostgresEngine, store: PostgresStore
) -> None:
    private.run(f"ALTER DATABASE {own.name} SET default_transaction_read_only = on")
    private.cut_all(own.name)
    with meanwhile(store, lambda: tell(store, 1), "cannot be used"):
        private.run(f"ALTER DATABASE {own.name} RESET default_transaction_read_only")
    assert told(store) == [1]


def test_a_password_that_was_changed_is_waited_for_and_a_wrong_one_refused_at_the_start(
    private: PrivatePostgres, own: PostgresEngine, store: PostgresStore
) -> None:
    private.run("ALTER ROLE bridge PASSWORD 'another one'")
    try:
        private.cut_all(own.name)
        with meanwhile(store, lambda: tell(store, 1), "does not accept"):
            with pytest.raises(StoreRefusedLogin, match="does not accept"), own.reader():
                pass
            with pytest.raises(StoreRefusedLogin, match="does not accept"):
                own.store().open()
            private.run("ALTER ROLE bridge PASSWORD 'a-password-of-the-database'")
    finally:
        private.run("ALTER ROLE bridge PASSWORD 'a-password-of-the-database'")
    assert told(store) == [1]


def test_other_tables_are_refused(own: PostgresEngine, store: PostgresStore) -> None:
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("ALTER TABLE outbox RENAME TO something_else")
    with pytest.raises(StoreUnusable, match="not those of a bridge"):
        tell(store, 1)


def test_a_database_that_stays_away_is_not_waited_for_longer_than_wanted(own: PostgresEngine) -> None:
    database = Database(
        lambda: read_database_url("postgresql://bridge:x@127.0.0.1:1/bridge").parameters(), "postgresql://nowhere"
    )
    with pytest.raises(StoreUnreachable, match="postgresql://nowhere cannot be used"):
        PostgresStore(database, StoreOptions(opening_seconds=0.3)).open()
    store = PostgresEngine(own.server, StoreOptions(lease_seconds=1, patience_seconds=0.3)).store()
    with store:
        own.server.stop("fast")
        with pytest.raises(StoreUnreachable):
            store.place(HQ)
        own.server.start()
        assert store.place(HQ).sequence == 0, "and goes on where it was"


# ---------------------------------------------------------------------- whose store it is


def test_a_second_bridge_is_refused_with_a_sentence(own: PostgresEngine, store: PostgresStore) -> None:
    other = PostgresStore(own.database, StoreOptions())
    with pytest.raises(StoreInUse, match=r"another bridge \(.*process \d+\) has the store .* Stop it first"):
        other.open()
    tell(store, 1)


def test_a_bridge_that_slept_writes_nothing_once_another_has_the_store(own: PostgresEngine) -> None:
    slept = own.store()
    slept.open()
    tell(slept, 1)
    assert slept.lease is not None
    slept.lease.close()  # it renews nothing any more, and does not know
    with own.store() as awake:
        tell(awake, 2)
        with pytest.raises(StoreInUse, match="has taken over"):
            tell(slept, 3)
        assert not unsent(slept.exchange), "nor does it send"
        slept.close()
        assert told(awake) == [1, 2]


def test_a_bridge_that_lives_keeps_the_store_for_longer_than_a_lease(own: PostgresEngine, store: PostgresStore) -> None:
    with pytest.raises(StoreInUse):
        PostgresStore(own.database, StoreOptions(lease_seconds=1, opening_seconds=3)).open()
    tell(store, 1)


def test_after_a_kill_the_store_is_free_when_the_lease_ends(own: PostgresEngine) -> None:
    killed = own.store()
    killed.open()
    tell(killed, 1)
    kill(killed)
    with pytest.raises(StoreInUse, match="free in 1 s"):
        PostgresStore(own.database, StoreOptions()).open()
    with own.store() as again:
        assert [found.is_in_doubt for found in unsent(again.exchange)] == [True]


# ---------------------------------------------------------------------- by a network that breaks


@pytest.fixture
async def proxy(private: PrivatePostgres) -> AsyncIterator[Proxy]:
    async with Proxy(private.port) as started:
        yield started


def through(own: PostgresEngine, proxy: Proxy) -> PostgresStore:
    url = own.server.url(own.name, port=proxy.port)
    return PostgresStore(Database(lambda: read_database_url(url).parameters(), "postgresql://proxy"), QUICK)


@pytest.mark.parametrize("kind", ["cut", "mid frame", "black hole", "near", "far"])
async def test_a_network_that_breaks_costs_time_and_nothing_else(
    own: PostgresEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(session_module, "ANSWER_SECONDS", 1.0)
    store = through(own, proxy)
    await asyncio.to_thread(store.open)
    await asyncio.to_thread(tell, store, 1)
    match kind:
        case "cut":
            proxy.reset()
        case "mid frame":
            proxy.cut_mid_frame()
        case "black hole":
            proxy.black_hole()
        case "near" | "far":
            proxy.half_open(kind)
    waiting = asyncio.create_task(asyncio.to_thread(tell, store, 2))
    if kind == "black hole":
        assert await proxy.until(lambda: store.locked != "", SECONDS), "what gets no answer is cut, and said"
    else:
        await asyncio.wait([waiting], timeout=10)
    proxy.reset()
    await asyncio.wait_for(waiting, SECONDS)
    assert await asyncio.to_thread(told, store) == [1, 2]
    await asyncio.to_thread(store.close)


# ---------------------------------------------------------------------- a database that goes back in time


def test_commits_that_are_gone_end_the_bridge_and_the_next_start_begins_a_new_lineage(own: PostgresEngine) -> None:
    store = own.store()
    store.open()
    tell(store, 1)
    lineage = store.place(HQ).lineage
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("UPDATE bridge SET commits = commits - 1 WHERE NOT is_over")
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


def test_where_failovers_lose_nothing_another_timeline_is_no_reason(own: PostgresEngine) -> None:
    with own.store() as store:
        tell(store, 1)
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("UPDATE meta SET value = 'another/00000001/1' WHERE name = 'checked'")
    with PostgresStore(own.database, StoreOptions(lease_seconds=1, loses_nothing=True)) as store:
        assert not store.compare(None, "")
