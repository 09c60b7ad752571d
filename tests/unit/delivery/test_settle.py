"""Counting as done what a broker had before, against one that a test makes up."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.settle import settle
from bridge.errors import StoreOutdated
from bridge.model import OutboxRow
from bridge.store.sqlite import SqliteStore
from tests.support.logwriter import at_once, changes, take

NOW = datetime(2026, 11, 23, tzinfo=UTC)


class Remembering:
    """A session whose broker has everything up to a number, and of a former lineage up to another."""

    def __init__(self, last: int, former: int = 0) -> None:
        self.last = last
        self._former = former

    def has(self, row: OutboxRow) -> bool:
        return row.position <= self.last

    async def last_of(self, _lineage: str) -> Callable[[OutboxRow], bool]:
        return lambda row: row.position <= self._former


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        opened.log.begin(1)
        yield opened


def waiting(store: SqliteStore) -> list[int]:
    return [row.position for row in store.log.unpublished(0, 10_000)]


async def settled(store: SqliteStore, session: Remembering) -> tuple[int, str]:
    return await settle(session, store.log, offload=at_once, clock=lambda: NOW)


async def test_what_the_broker_has_is_done_and_nothing_else(store: SqliteStore) -> None:
    take(store, *changes(1, 1200))
    assert len(waiting(store)) == 1200
    assert await settled(store, Remembering(0)) == (0, "")
    assert await settled(store, Remembering(1100)) == (1100, "")
    assert waiting(store) == list(range(1101, 1201))


async def test_a_broker_that_has_more_than_was_ever_sent_begins_a_new_lineage(store: SqliteStore) -> None:
    take(store, *changes(1, 5))
    before = store.lineage
    with pytest.raises(StoreOutdated):
        await settled(store, Remembering(1))
    assert store.lineage != before


async def test_of_a_former_lineage_only_what_its_broker_has_is_done(store: SqliteStore) -> None:
    await settled(store, Remembering(0))
    take(store, *changes(1, 10))
    waiting(store)
    with store.transaction():
        store.log.lineage_began("before", 8)
    assert store.log.former() == ["before"]
    assert await settled(store, Remembering(0, former=6)) == (6, "")
    assert waiting(store) == [7, 8, 9, 10]
    assert store.log.former() == []


async def test_a_broker_that_forgot_is_told_of(store: SqliteStore) -> None:
    await settled(store, Remembering(0))
    take(store, *changes(1, 10))
    store.log.mark_published(store.log.unpublished(0, 10), NOW)
    settled_rows, warning = await settled(store, Remembering(3))
    assert settled_rows == 0
    assert "up to number 3 only, and had confirmed 10" in warning
