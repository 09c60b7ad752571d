"""One contract, three inboxes, one suite: real SQLite, real PostgreSQL by a blocking and by an async connection."""

import asyncio
import os
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from bridge.consumer.inbox.postgres import AsyncPostgresInbox, PostgresInbox
from bridge.consumer.inbox.sqlite import SqliteInbox
from bridge.errors import StoreUnusable
from bridge.events.cloudevents import AccountChanged, SourceVerified
from bridge.events.normalize import account_key
from bridge.model import AccountGuid, ChangeKind
from tests.support.events import LATER_LINEAGE, LINEAGE, event, verified

POSTGRES_URL = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
LATEST_LINEAGE = "20270101T000000000Z-0000"


class Kept(Protocol):
    """An inbox on its database, used as a subscriber would."""

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[bool]: ...
    async def gone(self, certificate: SourceVerified, *, rolled_back: bool = False) -> list[str]: ...
    async def difference(self, certificate: SourceVerified) -> str: ...


class InSqlite:
    """In a file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.inbox = SqliteInbox(connection)
        self.inbox.create_tables()
        connection.commit()

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[bool]:
        taken = [self.inbox.accept(each) for each in events]
        self._end(rolled_back=rolled_back)
        return taken

    async def gone(self, certificate: SourceVerified, *, rolled_back: bool = False) -> list[str]:
        found: list[str] = list(self.inbox.gone(certificate))
        self._end(rolled_back=rolled_back)
        return found

    async def difference(self, certificate: SourceVerified) -> str:
        return self.inbox.difference(certificate)

    def _end(self, *, rolled_back: bool) -> None:
        if rolled_back:
            self.connection.rollback()
        else:
            self.connection.commit()


class InPostgres:
    """By a blocking connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.inbox = PostgresInbox(connection)
        self.inbox.create_tables()

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[bool]:
        with self.connection.transaction(force_rollback=rolled_back):
            return [self.inbox.accept(each) for each in events]

    async def gone(self, certificate: SourceVerified, *, rolled_back: bool = False) -> list[str]:
        with self.connection.transaction(force_rollback=rolled_back):
            return list(self.inbox.gone(certificate))

    async def difference(self, certificate: SourceVerified) -> str:
        with self.connection.transaction():
            return self.inbox.difference(certificate)


class InPostgresAsync:
    """By an async connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection
        self.inbox = AsyncPostgresInbox(connection)

    async def take(self, *events: AccountChanged, rolled_back: bool = False) -> list[bool]:
        async with self.connection.transaction(force_rollback=rolled_back):
            return [await self.inbox.accept(each) for each in events]

    async def gone(self, certificate: SourceVerified, *, rolled_back: bool = False) -> list[str]:
        async with self.connection.transaction(force_rollback=rolled_back):
            return list(await self.inbox.gone(certificate))

    async def difference(self, certificate: SourceVerified) -> str:
        async with self.connection.transaction():
            return await self.inbox.difference(certificate)


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


@asynccontextmanager
async def opened(where: str, *, path: Path, options: str) -> AsyncIterator[Kept]:
    if where == "sqlite":
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = lambda *_: "a caller may make anything of a row"
            yield InSqlite(connection)
    elif where == "postgres":
        with psycopg.connect(POSTGRES_URL, options=options, row_factory=dict_row) as blocking:
            yield InPostgres(blocking)
    else:
        connecting = psycopg.AsyncConnection.connect(POSTGRES_URL, options=options, row_factory=dict_row)
        async with await connecting as waiting:
            made = InPostgresAsync(waiting)
            await made.inbox.create_tables()
            yield made


@pytest.fixture(params=["sqlite", "postgres", "postgres-async"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def options(where: str, request: pytest.FixtureRequest) -> str:
    return "" if where == "sqlite" else str(request.getfixturevalue("schema"))


@pytest.fixture
async def kept(where: str, options: str, tmp_path: Path) -> AsyncIterator[Kept]:
    async with opened(where, path=tmp_path / "inbox.db", options=options) as inbox:
        yield inbox


async def test_a_change_is_new_once(kept: Kept) -> None:
    assert await kept.take(event()) == [True]
    assert await kept.take(event()) == [False]


async def test_a_repetition_within_one_transaction_is_not_new(kept: Kept) -> None:
    assert await kept.take(event(), event()) == [True, False]


async def test_what_was_rolled_back_is_new_again(kept: Kept) -> None:
    """The row lives and dies with the effect."""
    assert await kept.take(event(), event("anna", 2), rolled_back=True) == [True, True]
    assert await kept.take(event(), event("anna", 2)) == [True, True]


async def test_an_older_change_of_the_account_is_skipped(kept: Kept) -> None:
    assert await kept.take(event("anna", 3), event("anna", 2), event("bert", 1)) == [True, False, True]
    assert await kept.take(event("anna", 2), event("anna", 4)) == [False, True]


async def test_two_digits_are_more_than_one(kept: Kept) -> None:
    assert await kept.take(event("anna", 9), event("anna", 10), event("anna", 9)) == [True, True, False]


async def test_the_same_account_of_two_sources_is_two(kept: Kept) -> None:
    assert await kept.take(event(revision=3), event(revision=2, source="branch")) == [True, True]


async def test_another_spelling_of_a_guid_is_the_same_account(kept: Kept) -> None:
    """PBXs differ in dashes and case, and may change their mind."""
    spelled = [event("2A4D-009C", 2), event("2a4d009c", 2), event("2a4d-009c", 1), event("2a4d-009C", 3)]
    assert await kept.take(*spelled) == [True, False, False, True]


async def test_a_later_lineage_counts_more_than_any_revision(kept: Kept) -> None:
    await kept.take(event("anna", 7))
    again = [event("anna", revision, lineage=LATER_LINEAGE, kind=ChangeKind.INITIAL) for revision in (1, 2)]
    assert await kept.take(*again) == [True, True]
    assert await kept.take(event("anna", 8)) == [False], "put back from a dead-letter queue"


async def test_a_subscriber_that_begins_late_takes_the_later_lineage_for_later(kept: Kept) -> None:
    """It knows the present lineage first, and a replay brings the one before."""
    assert await kept.take(event("anna", 1, lineage=LATER_LINEAGE)) == [True]
    assert await kept.take(event("anna", 1), event("anna", 6)) == [False, False]


async def test_a_deleted_account_keeps_its_row(kept: Kept) -> None:
    """So that nothing old brings it back."""
    await kept.take(event("anna", 1), event("anna", 2, kind=ChangeKind.DELETED))
    assert await kept.take(event("anna", 1), event("anna", 2, kind=ChangeKind.DELETED)) == [False, False]
    assert await kept.take(event("anna", 3, kind=ChangeKind.CREATED)) == [True]


async def test_a_certificate_names_what_has_an_older_lineage_once(kept: Kept) -> None:
    await kept.take(event("B-1"), event("anna"), event("dora"), event("anna", source="branch"))
    await kept.take(event("dora", lineage=LATER_LINEAGE))
    assert await kept.gone(verified(lineage=LATER_LINEAGE)) == ["B-1", "anna"], "as they were spelled"
    assert await kept.gone(verified(lineage=LATER_LINEAGE)) == []
    assert await kept.gone(verified(lineage=LATEST_LINEAGE)) == ["dora"]
    assert await kept.gone(verified(lineage=LATEST_LINEAGE, source="branch")) == ["anna"]


async def test_a_certificate_that_completes_no_lineage_names_nobody(kept: Kept) -> None:
    await kept.take(event("anna"))
    assert await kept.gone(verified(lineage=LATER_LINEAGE, completes=False)) == []
    assert await kept.take(event("anna", 2)) == [True]
    assert await kept.gone(verified(lineage=LINEAGE)) == []


async def test_who_was_deleted_is_not_named_again(kept: Kept) -> None:
    await kept.take(event("anna", 1), event("anna", 2, kind=ChangeKind.DELETED))
    assert await kept.gone(verified(lineage=LATER_LINEAGE)) == []


async def test_an_old_change_brings_nobody_back_and_a_new_one_does(kept: Kept) -> None:
    await kept.take(event("anna", 1))
    assert await kept.gone(verified(lineage=LATER_LINEAGE)) == ["anna"]
    assert await kept.take(event("anna", 2)) == [False]
    assert await kept.take(event("bert", 1)) == [False], "of whom this subscriber never heard"
    assert await kept.take(event("anna", 1, lineage=LATER_LINEAGE)) == [True]


async def test_a_certificate_of_an_older_lineage_comes_too_late(kept: Kept) -> None:
    await kept.take(event("anna", lineage=LINEAGE))
    assert await kept.gone(verified(lineage=LATEST_LINEAGE)) == ["anna"]
    await kept.take(event("anna", lineage=LATEST_LINEAGE))
    assert await kept.gone(verified(lineage=LATER_LINEAGE)) == []


async def test_what_was_named_and_rolled_back_is_named_again(kept: Kept) -> None:
    await kept.take(event("anna"))
    assert await kept.gone(verified(lineage=LATER_LINEAGE), rolled_back=True) == ["anna"]
    assert await kept.gone(verified(lineage=LATER_LINEAGE)) == ["anna"]


async def test_an_inbox_that_applied_everything_is_as_the_certificate_says(kept: Kept) -> None:
    """Deleted accounts are not counted, nor those of other sources, and another spelling is the same account."""
    await kept.take(event("A-1", 3), event("bert"), event("bert", 2, kind=ChangeKind.DELETED), event(source="branch"))
    assert await kept.difference(verified(present={"a1": 3})) == ""
    assert await kept.difference(verified(source="branch", present={"anna": 1})) == ""
    assert await kept.difference(verified(source="north", present={})) == ""


@pytest.mark.parametrize(
    ("present", "words"),
    [
        ({"anna": 3}, "accounts 2 instead of 1"),
        ({"anna": 3, "bert": 1, "carl": 1}, "accounts 2 instead of 3"),
        ({"anna": 4, "bert": 1}, "as many accounts, not all of them the same or at the same revision"),
        ({"anna": 3, "carl": 1}, "as many accounts"),
    ],
    ids=["deletion lost", "account lost", "update lost", "another account"],
)
async def test_what_an_inbox_missed_is_a_difference(kept: Kept, present: dict[str, int], words: str) -> None:
    await kept.take(event("anna", 3), event("bert", 1))
    found = await kept.difference(verified(present=present))
    assert found.startswith("the inbox differs from the certificate of hq, walk 1: ")
    assert words in found


async def test_what_is_left_of_an_older_lineage_is_a_difference_though_its_revision_is_the_same(kept: Kept) -> None:
    await kept.take(event("anna", 1))
    certificate = verified(lineage=LATER_LINEAGE, present={"anna": 1})
    assert "as many accounts" in await kept.difference(certificate)
    assert await kept.gone(certificate) == ["anna"]
    assert "accounts 0 instead of 1" in await kept.difference(certificate)
    await kept.take(event("anna", 1, lineage=LATER_LINEAGE))
    assert await kept.difference(certificate) == ""


async def test_a_certificate_of_an_earlier_version_says_how_many_there_are(kept: Kept) -> None:
    await kept.take(event("anna", 3))
    assert await kept.difference(replace(verified(present={"anna": 2}), checksum=None)) == ""
    assert "instead of 0" in await kept.difference(replace(verified(present={}), checksum=None))


def asking(inbox: SqliteInbox | PostgresInbox) -> list[Callable[[], object]]:
    return [
        lambda: inbox.accept(event()),
        lambda: inbox.gone(verified()),
        lambda: inbox.difference(verified()),
    ]


def test_a_connection_that_commits_each_statement_is_refused(schema: str) -> None:
    """The row would be durable before the effect: a crash between them loses the change."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as alone:
        inbox = SqliteInbox(alone)
        inbox.create_tables()
        for ask in asking(inbox):
            with pytest.raises(StoreUnusable, match="commits each statement"):
                ask()
        alone.execute("BEGIN")
        assert inbox.accept(event())
    with psycopg.connect(POSTGRES_URL, options=schema, autocommit=True) as connection:
        remembered = PostgresInbox(connection)
        remembered.create_tables()
        for ask in asking(remembered):
            with pytest.raises(StoreUnusable, match="commits each statement"):
                ask()
        with connection.transaction():
            assert remembered.accept(event())


def test_a_missing_table_ends_the_run_with_the_remedy(schema: str) -> None:
    """An error like any other would send every change to the dead letters."""
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(StoreUnusable, match="create_tables"):
        SqliteInbox(connection).accept(event())
    with (
        psycopg.connect(POSTGRES_URL, options=schema) as remote,
        pytest.raises(StoreUnusable, match="create_tables"),
    ):
        PostgresInbox(remote).accept(event())


def test_two_subscribers_in_one_database_have_an_inbox_each() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        inboxes = [SqliteInbox(connection, table=name) for name in ("crm", "billing")]
        for inbox in inboxes:
            inbox.create_tables()
        assert [inbox.accept(event()) for inbox in inboxes] == [True, True]
        assert [inbox.accept(event()) for inbox in inboxes] == [False, False]


def test_the_tables_of_a_former_inbox_are_not_in_the_way() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE pbx_inbox_event (event_id TEXT PRIMARY KEY, received_at BIGINT NOT NULL)")
        connection.execute("CREATE TABLE pbx_inbox_account (source TEXT, account_guid TEXT, lineage TEXT)")
        connection.execute("INSERT INTO pbx_inbox_account VALUES ('hq', 'anna', 'ffffffff')")
        inbox = SqliteInbox(connection)
        inbox.create_tables()
        assert inbox.accept(event("anna"))


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
        assert await first.accept(event("anna", 2))
        waiting = asyncio.create_task(second.accept(event("anna", 1)))
        while not await _is_waiting_for_a_lock(other.info.backend_pid):
            assert not waiting.done()
        await one.commit()
        assert not await asyncio.wait_for(waiting, 30)
        await other.commit()


async def _is_waiting_for_a_lock(backend: int) -> bool:
    async with await psycopg.AsyncConnection.connect(POSTGRES_URL) as connection:
        found = await connection.execute("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", (backend,))
        row = await found.fetchone()
        return row is not None and row[0] == "Lock"


async def test_a_certificate_waits_for_whoever_is_applying_something(schema: str) -> None:
    """An old change of an account that was never seen, applied at the same moment, would stay for ever."""
    async with (
        await psycopg.AsyncConnection.connect(POSTGRES_URL, options=schema) as one,
        await psycopg.AsyncConnection.connect(POSTGRES_URL, options=schema) as other,
    ):
        first, second = AsyncPostgresInbox(one), AsyncPostgresInbox(other)
        await first.create_tables()
        assert await first.accept(event("anna"))
        waiting = asyncio.create_task(second.gone(verified(lineage=LATER_LINEAGE)))
        while not await _is_waiting_for_a_lock(other.info.backend_pid):
            assert not waiting.done()
        await one.commit()
        assert await asyncio.wait_for(waiting, 30) == ["anna"]
        late = asyncio.create_task(first.accept(event("bert")))
        while not await _is_waiting_for_a_lock(one.info.backend_pid):
            assert not late.done()
        await other.commit()
        assert not await asyncio.wait_for(late, 30)
        await one.rollback()


# Any history of a PBX and its bridge, delivered in any way that brokers and operators have of delivering it.

ACCOUNTS = ("a-a", "bb", "Cc", "d")


@dataclass
class History:
    """What a PBX had, and the messages by which the bridge told it, in order."""

    messages: list[AccountChanged | SourceVerified] = field(default_factory=list)
    truth: dict[str, int] = field(default_factory=dict)
    """Accounts that are there now, and the version of each; a version comes never twice."""
    _lineage: int = 0
    _revisions: dict[str, int] = field(default_factory=dict)
    _version: int = 0

    @property
    def lineage(self) -> str:
        return f"202611{self._lineage + 1:02}T000000000Z-00{self._lineage:02}"

    def edit(self, account: str) -> None:
        kind = ChangeKind.UPDATED if account in self.truth else ChangeKind.CREATED
        self._version += 1
        self.truth[account] = self._version
        self._tell(account, kind)

    def delete(self, account: str) -> None:
        if self.truth.pop(account, None) is not None:
            self._tell(account, ChangeKind.DELETED)

    def vanish(self, account: str) -> None:
        """Delete it while no bridge knows of it: only a new lineage shows that."""
        if self.truth.pop(account, None) is not None:
            self.begin()

    def begin(self, *, completes: bool = True) -> None:
        """Lose the store: a new lineage tells everything once more, and perhaps does not come to its end."""
        self._lineage += 1
        self._revisions = {}
        for account in self.truth:
            self._tell(account, ChangeKind.INITIAL)
        if completes:
            self.certify()

    def certify(self) -> None:
        present = {account: self._revisions[account] for account in self.truth}
        self.messages.append(verified(lineage=self.lineage, present=present))

    def _tell(self, account: str, kind: ChangeKind) -> None:
        self._revisions[account] = self._revisions.get(account, 0) + 1
        spelled = account.upper() if self._version % 2 else account
        usn = self.truth.get(account, self._version)
        self.messages.append(event(spelled, self._revisions[account], usn=usn or 1, lineage=self.lineage, kind=kind))


class Crm:
    """A subscriber: its state, written in the transaction of the inbox, and what may never happen to it."""

    def __init__(self, kept: Kept) -> None:
        self.people: dict[str, int] = {}
        self._newest: dict[str, tuple[str, int]] = {}
        self._kept = kept

    async def get(self, message: AccountChanged | SourceVerified, *, crashes: bool) -> None:
        if isinstance(message, SourceVerified):
            gone = await self._kept.gone(message, rolled_back=crashes)
            for guid in [] if crashes else gone:
                key = account_key(AccountGuid(guid))
                assert self._newest[key][0] < message.lineage
                del self.people[key]
            return
        (is_new,) = await self._kept.take(message, rolled_back=crashes)
        if not is_new or crashes:
            return
        key, place = account_key(message.account_guid), (message.lineage, message.revision)
        assert place > self._newest.get(key, ("", 0)), "it never goes back"
        self._newest[key] = place
        self.people.pop(key, None)
        if message.kind is not ChangeKind.DELETED:
            self.people[key] = int(str(message.account["display_name"]).rpartition(" ")[2])


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["edit", "delete", "vanish"]), st.sampled_from(ACCOUNTS)),
        st.sampled_from([("begin", ""), ("lose", "")]),
    ),
    max_size=30,
)


def played(actions: list[tuple[str, str]]) -> History:
    history = History()
    for what, account in actions:
        match what:
            case "begin":
                history.begin()
            case "lose":
                history.begin(completes=False)
            case _:
                getattr(history, what)(account)
    history.begin()
    return history


async def delivered(kept: Kept, history: History, chance: random.Random) -> None:
    """Deliver everything at least once: repeated, put aside and put back, replayed, with crashes in between."""
    crm, put_aside, past = Crm(kept), list[AccountChanged | SourceVerified](), []
    for message in history.messages:
        past.append(message)
        if chance.random() < 0.2:
            put_aside.append(message)
        else:
            while chance.random() < 0.2:
                await crm.get(message, crashes=True)
            await crm.get(message, crashes=False)
        if chance.random() < 0.2:
            await crm.get(chance.choice(past), crashes=False)
        if put_aside and chance.random() < 0.2:
            await crm.get(put_aside.pop(chance.randrange(len(put_aside))), crashes=False)
    chance.shuffle(put_aside)
    for message in [*put_aside, *past[chance.randrange(len(past)) :]]:
        await crm.get(message, crashes=False)
    assert crm.people == {account_key(AccountGuid(name)): version for name, version in history.truth.items()}
    last = history.messages[-1]
    assert isinstance(last, SourceVerified)
    assert await kept.difference(last) == ""


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, chance=st.randoms(use_true_random=False))
def test_whatever_happens_and_however_it_is_delivered_the_newest_state_is_reached_and_left_by_nothing_old(
    where: str, options: str, actions: list[tuple[str, str]], chance: random.Random
) -> None:
    async def play() -> None:
        async with opened(where, path=Path(":memory:"), options=options) as kept:
            if isinstance(kept, (InPostgres, InPostgresAsync)):
                await emptied(kept)
            await delivered(kept, played(actions), chance)

    asyncio.run(play())


async def emptied(kept: InPostgres | InPostgresAsync) -> None:
    if isinstance(kept, InPostgres):
        kept.connection.execute("TRUNCATE pbx_inbox")
        kept.connection.commit()
    else:
        await kept.connection.execute("TRUNCATE pbx_inbox")
        await kept.connection.commit()
