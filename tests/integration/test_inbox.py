"""One contract, three inboxes, one suite: real SQLite, real PostgreSQL by a blocking and by an async connection."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row

from bridge.cloudevents import AccountChanged
from bridge.consumer.inbox import Inbox, Verdict
from bridge.consumer.inbox_postgres import AsyncPostgresInbox, PostgresInbox
from bridge.consumer.inbox_sqlite import SqliteInbox
from bridge.errors import StoreUnusable
from bridge.model import ChangeKind
from tests.support.events import BEGIN, event

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
LATER = BEGIN + timedelta(days=1)
EARLIER = BEGIN - timedelta(days=1)


class Kept(Protocol):
    """An inbox on its database, used as a subscriber would."""

    gaps: list[tuple[int, int]]
    now: datetime

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[Verdict]: ...
    async def prune(self, older_than: timedelta, at_most: int = 100) -> int: ...


class _Kept:
    def __init__(self) -> None:
        self.gaps: list[tuple[int, int]] = []
        self.now = BEGIN

    def on_gap(self, event: AccountChanged, expected_revision: int) -> None:
        self.gaps.append((event.revision, expected_revision))


class InSqlite(_Kept):
    """In a file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self.connection = connection
        self.inbox: Inbox = (made := SqliteInbox(connection, on_gap=self.on_gap, clock=lambda: self.now))
        made.create_tables()

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[Verdict]:
        verdicts = [self.inbox.receive(each) for each in events]
        if rolled_back:
            self.connection.rollback()
        else:
            self.connection.commit()
        return verdicts

    async def prune(self, older_than: timedelta, at_most: int = 100) -> int:
        with self.connection:
            return self.inbox.prune(older_than, at_most)


class InPostgres(_Kept):
    """By a blocking connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.connection = connection
        self.inbox: Inbox = (made := PostgresInbox(connection, on_gap=self.on_gap, clock=lambda: self.now))
        made.create_tables()

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[Verdict]:
        with self.connection.transaction(force_rollback=rolled_back):
            return [self.inbox.receive(each) for each in events]

    async def prune(self, older_than: timedelta, at_most: int = 100) -> int:
        with self.connection.transaction():
            return self.inbox.prune(older_than, at_most)


class InPostgresAsync(_Kept):
    """By an async connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        super().__init__()
        self.connection = connection
        self.inbox = AsyncPostgresInbox(connection, on_gap=self.on_gap, clock=lambda: self.now)

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[Verdict]:
        async with self.connection.transaction(force_rollback=rolled_back):
            return [await self.inbox.receive(each) for each in events]

    async def prune(self, older_than: timedelta, at_most: int = 100) -> int:
        async with self.connection.transaction():
            return await self.inbox.prune(older_than, at_most)


@pytest.fixture(scope="module")
def postgres() -> str:
    try:
        psycopg.connect(POSTGRES_URL, connect_timeout=3).close()
    except psycopg.OperationalError as problem:
        # A server is the machine's to have: it is the subscriber's database, and nothing of the bridge.
        pytest.skip(f"no PostgreSQL (set TEST_POSTGRES_URL): {problem}")
    return POSTGRES_URL


@pytest.fixture
def schema(postgres: str) -> Iterator[str]:
    """A schema of our own, as connection options that lead into it."""
    name = f"inbox_{uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
        yield f"-c search_path={name}"
        connection.execute(f"DROP SCHEMA {name} CASCADE".encode())


@pytest.fixture(params=["sqlite", "postgres", "postgres-async"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    if request.param == "sqlite":
        with closing(sqlite3.connect(tmp_path / "inbox.db")) as connection:
            connection.row_factory = lambda *_: "a caller may make anything of a row"
            yield InSqlite(connection)
        return
    options = request.getfixturevalue("schema")
    if request.param == "postgres":
        with psycopg.connect(POSTGRES_URL, options=options, row_factory=dict_row) as blocking:
            yield InPostgres(blocking)
        return
    async with await psycopg.AsyncConnection.connect(POSTGRES_URL, options=options, row_factory=dict_row) as waiting:
        made = InPostgresAsync(waiting)
        await made.inbox.create_tables()
        yield made


async def test_a_change_is_new_once(kept: Kept) -> None:
    assert await kept.take(event()) == [Verdict.NEW]
    assert await kept.take(event()) == [Verdict.SEEN]


async def test_a_repetition_within_one_transaction_is_seen(kept: Kept) -> None:
    assert await kept.take(event(), event()) == [Verdict.NEW, Verdict.SEEN]


async def test_what_was_rolled_back_is_new_again(kept: Kept) -> None:
    """The id lives and dies with the effect."""
    assert await kept.take(event(), event("anna", 2), rolled_back=True) == [Verdict.NEW, Verdict.NEW]
    assert await kept.take(event(), event("anna", 2)) == [Verdict.NEW, Verdict.NEW]


async def test_an_older_change_of_the_account_is_outdated(kept: Kept) -> None:
    assert await kept.take(event("anna", 3), event("anna", 2), event("bert", 1)) == [
        Verdict.NEW,
        Verdict.OUTDATED,
        Verdict.NEW,
    ]
    assert await kept.take(event("anna", 2), event("anna", 4)) == [Verdict.SEEN, Verdict.NEW]


async def test_changes_learnt_at_the_same_moment_are_told_apart_by_revision(kept: Kept) -> None:
    """All changes of a batch carry one time."""
    assert await kept.take(event("anna", 3, time=BEGIN), event("anna", 2, time=BEGIN)) == [
        Verdict.NEW,
        Verdict.OUTDATED,
    ]


async def test_a_clock_that_was_put_back_outdates_nothing(kept: Kept) -> None:
    assert await kept.take(event("anna", 1), event("anna", 2, time=EARLIER)) == [Verdict.NEW, Verdict.NEW]


async def test_after_the_bridge_lost_its_store_the_same_change_is_seen_and_a_new_one_is_new(kept: Kept) -> None:
    await kept.take(event("anna", 1), event("anna", 2, usn=5))
    told_again = event("anna", 1, usn=5, lineage="bbbbbbbb", time=LATER, kind=ChangeKind.UPDATED)
    assert await kept.take(told_again) == [Verdict.SEEN]
    assert await kept.take(event("anna", 2, usn=6, lineage="bbbbbbbb", time=LATER)) == [Verdict.NEW]


async def test_a_new_lineage_is_not_outdated_though_its_numbers_and_its_clock_are_behind(kept: Kept) -> None:
    """The store was lost with its machine, and the new one's clock is wrong: no reason to lose changes."""
    await kept.take(event("anna", 7, usn=7))
    assert await kept.take(event("anna", 1, usn=8, lineage="bbbbbbbb", time=EARLIER)) == [Verdict.NEW]
    assert await kept.take(event("anna", 2, usn=9, lineage="bbbbbbbb", time=EARLIER)) == [Verdict.NEW]


async def test_a_change_of_an_earlier_lineage_is_outdated(kept: Kept) -> None:
    """Somebody puts dead letters of the old lineage back into the queue."""
    await kept.take(event("anna", 1), event("anna", 1, usn=8, lineage="bbbbbbbb", time=LATER))
    assert await kept.take(event("anna", 6)) == [Verdict.OUTDATED]
    assert await kept.take(event("anna", 2, usn=9, lineage="bbbbbbbb", time=LATER)) == [Verdict.NEW]


async def test_an_earlier_lineage_is_known_by_other_accounts_too(kept: Kept) -> None:
    await kept.take(event("bert", 1), event("anna", 1, usn=8, lineage="bbbbbbbb", time=LATER))
    assert await kept.take(event("anna", 6)) == [Verdict.OUTDATED]


async def test_a_store_put_back_from_a_backup_loses_no_change(kept: Kept) -> None:
    """Its revisions are used again within one lineage: only the clock shows that they are younger."""
    await kept.take(event("anna", 5), event("anna", 6), event("anna", 7))
    again = [event("anna", revision, usn=100 + revision, time=LATER) for revision in (6, 7)]
    assert await kept.take(*again) == [Verdict.NEW, Verdict.NEW]
    assert await kept.take(*again, event("anna", 6)) == [Verdict.SEEN] * 3


async def test_a_missing_revision_is_told_with_the_change_that_shows_it(kept: Kept) -> None:
    await kept.take(event("anna", 1), event("anna", 2), event("anna", 5), event("anna", 6))
    assert kept.gaps == [(5, 3)]


async def test_a_subscriber_that_begins_late_has_missed_nothing(kept: Kept) -> None:
    await kept.take(event("anna", 9), event("anna", 10))
    assert kept.gaps == []


async def test_a_new_lineage_counts_from_one(kept: Kept) -> None:
    await kept.take(event("anna", 5), event("bert", 5))
    await kept.take(event("anna", 1, usn=50, lineage="bbbbbbbb"), event("bert", 2, usn=50, lineage="bbbbbbbb"))
    assert kept.gaps == [(2, 1)]


async def test_a_change_told_again_under_new_numbers_leaves_no_gap_behind_it(kept: Kept) -> None:
    await kept.take(event("anna", 1, usn=5))
    await kept.take(event("anna", 1, usn=5, lineage="bbbbbbbb"), event("anna", 2, usn=6, lineage="bbbbbbbb"))
    assert kept.gaps == []


async def test_pruning_forgets_old_ids_in_small_steps(kept: Kept) -> None:
    await kept.take(*(event("anna", revision) for revision in (1, 2, 3)))
    kept.now = BEGIN + timedelta(days=8)
    await kept.take(event("anna", 4))
    assert [await kept.prune(timedelta(days=7), 2) for _ in range(3)] == [2, 1, 0]
    assert await kept.take(event("anna", 4)) == [Verdict.SEEN]


async def test_what_was_pruned_is_still_not_applied_again(kept: Kept) -> None:
    await kept.take(*(event("anna", revision) for revision in (1, 2)))
    kept.now = BEGIN + timedelta(days=8)
    await kept.prune(timedelta(days=7))
    assert await kept.take(event("anna", 1), event("anna", 2)) == [Verdict.OUTDATED, Verdict.OUTDATED]


def test_a_connection_that_commits_each_statement_is_refused(schema: str) -> None:
    """The id would be durable before the effect: a crash between them loses the change."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as alone:
        inbox = SqliteInbox(alone)
        inbox.create_tables()
        with pytest.raises(StoreUnusable, match="commits each statement"):
            inbox.is_new(event())
        alone.execute("BEGIN")
        assert inbox.is_new(event())
    with psycopg.connect(POSTGRES_URL, options=schema, autocommit=True) as connection:
        remembered = PostgresInbox(connection)
        remembered.create_tables()
        with pytest.raises(StoreUnusable, match="commits each statement"):
            remembered.is_new(event())
        with connection.transaction():
            assert remembered.is_new(event())


def test_missing_tables_end_the_run_with_the_remedy(schema: str) -> None:
    """An error like any other would send every change to the dead letters."""
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(StoreUnusable, match="create_tables"):
        SqliteInbox(connection).is_new(event())
    with (
        psycopg.connect(POSTGRES_URL, options=schema) as remote,
        pytest.raises(StoreUnusable, match="create_tables"),
    ):
        PostgresInbox(remote).is_new(event())


def test_two_subscribers_in_one_database_have_an_inbox_each() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        inboxes = [SqliteInbox(connection, table=name) for name in ("crm", "billing")]
        for inbox in inboxes:
            inbox.create_tables()
        assert [inbox.is_new(event()) for inbox in inboxes] == [True, True]
        assert [inbox.is_new(event()) for inbox in inboxes] == [False, False]


@pytest.mark.parametrize("name", ["", "Inbox", "a b", "x;DROP TABLE y", "a" * 41, "1st"])
def test_a_table_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(ValueError, match="cannot begin"):
        SqliteInbox(connection, table=name)


def test_tables_may_be_created_by_many_at_the_same_moment(schema: str) -> None:
    failures: list[BaseException] = []

    def create() -> None:
        try:
            with psycopg.connect(POSTGRES_URL, options=schema) as connection:
                PostgresInbox(connection).create_tables()
        except psycopg.Error as problem:
            failures.append(problem)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []


async def test_changes_of_one_account_in_two_processes_wait_for_each_other(schema: str) -> None:
    """Otherwise the older one, decided on before the newer was committed, could be written over it."""
    async with (
        await psycopg.AsyncConnection.connect(POSTGRES_URL, options=schema) as one,
        await psycopg.AsyncConnection.connect(POSTGRES_URL, options=schema) as other,
    ):
        first, second = AsyncPostgresInbox(one), AsyncPostgresInbox(other)
        await first.create_tables()
        assert await first.receive(event("anna", 2)) is Verdict.NEW
        waiting = asyncio.create_task(second.receive(event("anna", 1)))
        while not await _is_waiting_for_a_lock(other.info.backend_pid):
            assert not waiting.done()
        await one.commit()
        assert await asyncio.wait_for(waiting, 30) is Verdict.OUTDATED
        await other.commit()


async def _is_waiting_for_a_lock(backend: int) -> bool:
    async with await psycopg.AsyncConnection.connect(POSTGRES_URL) as connection:
        found = await connection.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", (backend,))
        row = await found.fetchone()
        return row is not None and row[0] == "Lock"


DELIVERIES = st.lists(
    st.tuples(st.sampled_from(["anna", "bert"]), st.integers(1, 6), st.sampled_from(["done", "crash"])), max_size=40
)


@given(DELIVERIES)
def test_whatever_is_delivered_however_often_in_any_order_is_applied_once_and_the_newest_remains(
    deliveries: list[tuple[str, int, str]],
) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        inbox = SqliteInbox(connection)
        inbox.create_tables()
        connection.execute("CREATE TABLE applied (account TEXT, revision INTEGER, UNIQUE (account, revision))")
        connection.execute("CREATE TABLE state (account TEXT PRIMARY KEY, revision INTEGER)")
        for account, revision, end in deliveries:
            with suppress(InterruptedError), connection:
                if inbox.is_new(event(account, revision)):
                    connection.execute("INSERT INTO applied VALUES (?, ?)", (account, revision))
                    connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (account, revision))
                if end == "crash":
                    raise InterruptedError
        newest: dict[str, int] = {}
        for account, revision, end in deliveries:
            if end == "done":
                newest[account] = max(revision, newest.get(account, 0))
        assert dict(connection.execute("SELECT account, revision FROM state")) == newest
