"""A subscriber compares what it has with the certificates of a running bridge: by inbox, and as the page says."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge.consumer import AccountChanged, SourceVerified, SqliteInbox, Subscriber
from bridge.consumer.inbox.postgres import PostgresInbox
from bridge.events.cloudevents import decode_certificate
from bridge.model import ChangeKind
from tests.support.events import LINEAGE, certificate_body, event
from tests.support.followers import POSTGRES, postgres_crm
from tests.support.pages import CONSUMER, blocks, title
from tests.support.rabbit import PrivateBroker
from tests.support.site import asked, site, stopped

ACCOUNTS = 300


def is_as_certified(rows: list[tuple[str, str, int]], certificate: Any) -> bool:
    """Run the lines on the page, as they are printed."""
    namespace: dict[str, Any] = {}
    exec(compile(blocks(CONSUMER, "python")[1], title(CONSUMER), "exec"), namespace)  # noqa: S102 - that is the point
    return bool(namespace["is_as_certified"](rows, certificate))


class Crm:
    """A subscriber with an inbox, and beside it a table of its own."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        database.execute("CREATE TABLE person (guid TEXT PRIMARY KEY, lineage TEXT, revision INTEGER)")
        self._inbox = SqliteInbox(database)
        self._inbox.create_tables()
        self.loses: set[ChangeKind] = set()
        """Changes that it acknowledges and does not apply."""
        self.came: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        """At each certificate the difference of the inbox, and whether the table is as certified."""

    async def apply(self, change: AccountChanged) -> None:
        with self._database:
            if change.kind in self.loses or not self._inbox.accept(change):
                return
            self._database.execute("DELETE FROM person WHERE guid = ?", (change.account_guid,))
            if change.kind is not ChangeKind.DELETED:
                row = (change.account_guid, change.lineage, change.revision)
                self._database.execute("INSERT INTO person VALUES (?, ?, ?)", row)

    async def verified(self, certificate: SourceVerified) -> None:
        with self._database:
            assert self._inbox.gone(certificate) == []
            found = self._inbox.difference(certificate)
            rows = self._database.execute("SELECT guid, lineage, revision FROM person").fetchall()
        self.came.put_nowait((found, is_as_certified(rows, {"data": asdict(certificate)})))


async def test_whoever_applied_everything_is_as_certified_and_whoever_lost_a_change_is_not_until_it_is_made_good(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with site(tmp_path, broker, accounts=ACCOUNTS) as place:
        queue = f"{place.exchange}.crm"
        subscriber = Subscriber(broker.url, queue=queue, exchange=place.exchange)
        with closing(sqlite3.connect(tmp_path / "crm.db")) as database, place.bridge() as bridge:
            crm = Crm(database)
            subscribing = asyncio.create_task(subscriber.run(crm.apply, crm.verified))

            async def at_the_next_certificate() -> tuple[str, bool]:
                code, printed = await asked(place, "resync", "hq")
                assert code == 0, printed
                async with asyncio.timeout(60):
                    return await crm.came.get()

            async with asyncio.timeout(60):
                assert await crm.came.get() == ("", True)
            changed, deleted = sorted(place.pbx.truth())[:2]
            place.pbx.change_display_name(changed)
            place.pbx.delete(deleted)
            assert await at_the_next_certificate() == ("", True)

            crm.loses = {ChangeKind.UPDATED}
            place.pbx.change_display_name(changed)
            found, is_equal = await at_the_next_certificate()
            assert "as many accounts" in found
            assert not is_equal

            crm.loses = set()
            place.pbx.change_display_name(changed)
            assert await at_the_next_certificate() == ("", True)
            subscriber.stop()
            await subscribing
            assert await stopped(bridge) == 0


@pytest.fixture
def postgres() -> Iterator[psycopg.Connection[Any]]:
    try:
        psycopg.connect(POSTGRES, connect_timeout=3).close()
    except psycopg.OperationalError as problem:
        # A server is the machine's to have: it is the subscriber's database, and nothing of the bridge.
        pytest.skip(f"no PostgreSQL (set TEST_POSTGRES_URL): {problem}")
    with postgres_crm() as crm, crm.connect() as connection:
        yield connection


@pytest.mark.parametrize("present", [{}, {"anna": 7}, {f"account {n}": n for n in range(1, 1000)}], ids=len)
def test_postgresql_computes_the_checksum_of_an_inbox_itself(
    postgres: psycopg.Connection[Any], present: dict[str, int]
) -> None:
    inbox = PostgresInbox(postgres)
    inbox.create_tables()
    for guid, revision in present.items():
        inbox.accept(event(guid, revision))
    inbox.accept(event("gone", kind=ChangeKind.DELETED))
    inbox.gone(decode_certificate(certificate_body()))
    told = json.loads(certificate_body(present=present))["data"]
    assert postgres.execute(blocks(CONSUMER, "sql")[0].encode()).fetchone() == (told["accounts"], told["checksum"])


def test_the_lines_on_the_page_find_a_row_too_few_too_many_or_too_old() -> None:
    present = {"2A4D-009C": 7, "9e107d9d-372b": 1}
    certificate = json.loads(certificate_body(present=present))
    rows = [(guid.swapcase(), LINEAGE, revision) for guid, revision in present.items()]
    assert is_as_certified(rows, certificate)
    assert is_as_certified([], json.loads(certificate_body()))
    too_old = [(guid, lineage, revision - 1) for guid, lineage, revision in rows]
    for other in (rows[:1], [*rows, ("b", LINEAGE, 1)], too_old):
        assert not is_as_certified(other, certificate)
