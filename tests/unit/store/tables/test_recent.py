from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from bridge.delivery.ingest import ingest
from bridge.errors import StoreUnusable
from bridge.events.normalize import Rules
from bridge.store.tables import recent
from bridge.store.tables.recent import RecentEvents
from bridge.store.tables.store import TableStore
from tests.support.engines import Engine
from tests.support.outbox import unsent
from tests.support.rows import batch, row

NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture
def told(engine: Engine) -> Iterator[TableStore]:
    with engine.store() as opened:
        ingest(opened, batch(row("a", 1), row("b", 2), row("c", 3)), rules=Rules(key=b"k"), now=NOW)
        yield opened


@pytest.fixture
def reader(engine: Engine) -> Iterator[RecentEvents]:
    made = RecentEvents(engine.reader)
    yield made
    made.close()


@pytest.mark.usefixtures("told")
async def test_the_newest_come_first_and_no_more_than_asked_for(reader: RecentEvents) -> None:
    assert [event.position for event in await reader.recent(2)] == [3, 2]


async def test_each_says_what_became_of_it(told: TableStore, reader: RecentEvents) -> None:
    first, second, third = unsent(told.exchange)
    told.exchange.mark_published([first], NOW)
    told.exchange.mark_in_doubt([second])
    told.exchange.park(third, "too large", NOW)
    assert [event.state for event in await reader.recent(9)] == ["parked", "in doubt", "sent"]
    told.discard(third.position, "nobody needs it", NOW)
    assert (await reader.recent(1))[0].state == "discarded"


async def test_it_reads_while_the_store_is_being_written(told: TableStore, reader: RecentEvents) -> None:
    with told.transaction():
        assert len(await reader.recent(9)) == 3


@pytest.mark.usefixtures("told")
async def test_a_very_large_event_comes_without_its_body(reader: RecentEvents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_BODY_BYTES", 10)
    assert [event.body for event in await reader.recent(9)] == [None, None, None]


async def test_a_store_that_is_not_there_is_named(reader: RecentEvents) -> None:
    with pytest.raises(StoreUnusable, match="there is no store"):
        await reader.recent(1)


def test_what_waits_is_counted_by_source(told: TableStore) -> None:
    first, second, third = unsent(told.exchange)
    told.exchange.mark_published([first], NOW)
    told.exchange.mark_in_doubt([second])
    told.exchange.park(third, "too large", NOW)
    assert told.exchange.waiting(first.source) == 2
    assert list(told.exchange.doubtful().values()) == [1]
    assert told.certificate(first.source) is None
