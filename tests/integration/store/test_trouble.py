"""What a store in PostgreSQL does when its database is in trouble: it waits, and nothing is lost or done twice."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from threading import Thread

import psycopg
import pytest

from bridge.delivery.ingest import Ingested, ingest
from bridge.errors import BadConfig, StoreInUse, StoreRefusedLogin, StoreUnreachable, StoreUnusable
from bridge.events.normalize import Rules
from bridge.security.database_url import read_database_url
from bridge.store.postgres import connecting
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.session import Session
from bridge.store.postgres.shared import SharedStore
from bridge.store.postgres.store import PostgresStore, StoreOptions
from tests.support.engines import QUICK, PostgresEngine, kill
from tests.support.outbox import unsent
from tests.support.postgres import PrivatePostgres
from tests.support.proxy import Proxy
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
SECONDS = 30


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
    assert store.locked == ""
    tell(store, 3)
    assert told(store) == [1, 2, 3]
    assert store.place(HQ).cursor == cursor(3)


def test_a_commit_that_was_given_up_and_happened_is_not_taken_for_one_that_is_missing(
    private: PrivatePostgres, own: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = Session._leave_pipeline  # noqa: SLF001 - where the commit is sent and answered

    def unanswered(session: Session) -> None:
        leave(session)
        if session._is_in_doubt:  # noqa: SLF001 - the same
            session.wait_no_more()
            private.stop("immediate")
            raise psycopg.OperationalError("the connection is gone")

    store = own.store()
    store.open()
    tell(store, 1)
    lineage = store.place(HQ).lineage
    with monkeypatch.context() as patched:
        patched.setattr(Session, "_leave_pipeline", unanswered)
        with pytest.raises(StoreUnreachable):
            tell(store, 2)
    private.start()
    with pytest.raises(StoreUnreachable, match="did at last"):
        tell(store, 2)
    store.close()
    with own.store() as again:
        assert again.place(HQ).lineage == lineage
        tell(again, 2)
        assert told(again) == [1, 2]


@pytest.mark.parametrize("where", ["a transaction that fails", "the stop", "a look", "a check"])
def test_a_server_that_freezes_is_waited_for_nowhere_without_an_end(
    private: PrivatePostgres, own: PostgresEngine, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(connecting, "CONNECT_SECONDS", 2)
    tell(store, 1)

    def freeze() -> None:
        match where:
            case "a transaction that fails":
                with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
                    transaction.place(HQ)
                    private.pause()
                    raise ZeroDivisionError
            case "the stop":
                private.pause()
                store.close()
            case "a look":
                with pytest.raises(StoreUnreachable, match="gave no answer"), own.reader() as reader:
                    private.pause()
                    reader.last_position()
            case "a check":
                connection = own.database.connect(to_write=False)
                private.pause()
                with pytest.raises(psycopg.OperationalError, match="gave no answer"):
                    own.database.ask(connection, b"SELECT 1")
                connection.close()

    thread = Thread(target=freeze, daemon=True)
    thread.start()
    thread.join(SECONDS)
    is_waiting = thread.is_alive()
    private.go_on()
    assert not is_waiting


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


def test_what_takes_long_has_longer_the_next_time(
    own: PostgresEngine, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source with millions of events is removed in one statement, and so is a mirror."""
    monkeypatch.setattr(connecting, "STATEMENT_SECONDS", 0.3)
    own.server.cut_all(own.name)
    tell(store, 1)
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$"
        )
        other.execute("CREATE TRIGGER slow BEFORE DELETE ON account FOR EACH STATEMENT EXECUTE FUNCTION slow()")
    with store.together():
        assert store.change("empty_mirror") == 1
    assert store.session.troubles["57014"] == 2
    tell(store, 2)
    assert store.query("in_force")[0]["statement_timeout"] == "300ms", "and that is forgotten"


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


@pytest.mark.parametrize("why", ["there is no such database", "pg_hba.conf", "no connection left"])
def test_what_a_server_says_at_the_login_is_told_with_its_remedy(
    private: PrivatePostgres, own: PostgresEngine, why: str
) -> None:
    """There is no SQLSTATE in such an error. What somebody has to change is not waited for at the start."""
    url, rules = private.url(own.name), private.data / "pg_hba.conf"
    before = rules.read_text()
    match why:
        case "there is no such database":
            url = private.url("none_of_ours")
        case "pg_hba.conf":
            rules.write_text(before.replace("host all all 127.0.0.1/32 scram-sha-256\n", ""))
            reload(private, lets_in=False)
        case _:
            private.run("ALTER ROLE bridge CONNECTION LIMIT 0")
    database = Database(lambda: read_database_url(url).parameters(), "postgresql://here")
    store = PostgresStore(database, StoreOptions(opening_seconds=0.0))
    try:
        with pytest.raises(StoreUnreachable if "left" in why else StoreRefusedLogin, match=why):
            store.open()
    finally:
        rules.write_text(before)
        private.run("ALTER ROLE bridge CONNECTION LIMIT -1")
        reload(private, lets_in=True)


def reload(private: PrivatePostgres, *, lets_in: bool) -> None:
    """Have the server read its rules, and wait until it goes by them."""
    private.run("SELECT pg_reload_conf()")
    until = time.monotonic() + SECONDS
    is_in = not lets_in
    while is_in is not lets_in:
        assert time.monotonic() < until
        try:
            psycopg.connect(private.url()).close()
            is_in = True
        except psycopg.OperationalError:
            is_in = False


def test_a_file_that_names_something_else_meanwhile_is_waited_for(own: PostgresEngine) -> None:
    urls = [own.server.url(own.name)]
    database = Database(lambda: read_database_url(urls[-1]).parameters(), "postgresql://by-a-file")
    with PostgresStore(database, QUICK) as store:
        urls.append("sqlite:///bridge.db")
        own.server.cut_all(own.name)
        with meanwhile(store, lambda: tell(store, 1), "is no URL"):
            urls.pop()
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


def test_a_bridge_that_lives_keeps_the_store_for_longer_than_a_lease(own: PostgresEngine) -> None:
    with PostgresStore(own.database, replace(own.options, lease_seconds=4.0)) as store:
        with pytest.raises(StoreInUse):
            PostgresStore(own.database, StoreOptions(lease_seconds=4.0, opening_seconds=9.0)).open()
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


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_lease_that_ends_in_the_far_future_is_not_believed(own: PostgresEngine, *, is_shared: bool) -> None:
    """The clock of the database was set back since, or another server has another one."""
    killed = own.store()
    killed.open()
    tell(killed, 1)
    kill(killed)
    with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
        other.execute("UPDATE lease SET until = clock_timestamp() + interval '1 hour'")
    if not is_shared:
        with own.store():
            return
    with SharedStore(own.database, QUICK) as other_bridge:
        other_bridge.compare(None)
        with psycopg.connect(own.server.url(own.name), autocommit=True) as other:
            other.execute("UPDATE lease SET until = clock_timestamp() + interval '1 hour'")
            other.execute("UPDATE bridge SET is_over = false, shares = true")
        until = time.monotonic() + SECONDS
        while len(other_bridge.look().peers) > 1:
            assert time.monotonic() < until


def test_a_start_that_failed_before_it_looked_does_not_forget_what_was_left_in_doubt(
    own: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = own.store()
    killed.open()
    tell(killed, 1)
    kill(killed)

    def refused(_: PostgresStore) -> None:
        raise BadConfig("events wait that the log may have")

    with monkeypatch.context() as patched, pytest.raises(BadConfig):
        patched.setattr(PostgresStore, "_load", refused)
        own.store().open()
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
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 1.0)
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


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_session_that_the_network_forgot_in_a_transaction_keeps_nobody_out(
    own: PostgresEngine, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, *, is_killed: bool
) -> None:
    """The server waits for the rest of a pipeline for ever: it counts neither as idle nor as slow."""
    monkeypatch.setattr(connecting, "ANSWER_SECONDS", 5.0)
    store = through(own, proxy)
    await asyncio.to_thread(store.open)
    await asyncio.to_thread(tell, store, 1)
    loop = asyncio.get_running_loop()

    async def strand() -> None:
        proxy.half_open("far")

    def told_in_two_steps() -> None:
        with store.transaction() as transaction:
            place = transaction.place(HQ)
            asyncio.run_coroutine_threadsafe(strand(), loop).result()
            if is_killed:
                raise ZeroDivisionError
            assert transaction.move(HQ, transaction.place(HQ).cursor, place)

    if is_killed:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(told_in_two_steps)
        await asyncio.to_thread(kill, store)
        store = own.store()
        await asyncio.wait_for(asyncio.to_thread(store.open), 2 * SECONDS)
    else:
        await asyncio.wait_for(asyncio.to_thread(told_in_two_steps), 2 * SECONDS)
    await asyncio.to_thread(tell, store, 2)
    assert await asyncio.to_thread(told, store) == [1, 2]
    await asyncio.to_thread(store.close)
