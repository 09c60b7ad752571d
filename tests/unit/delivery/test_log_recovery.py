"""Counting as done what a log had before, against one that a test makes up."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.broker.stream.partitions import choose_partition
from bridge.delivery import log_recovery
from bridge.delivery.log_recovery import recover
from bridge.errors import StoreOutdated
from bridge.model import OutboxRow
from bridge.store.records import LogContents
from bridge.store.sqlite.store import SqliteStore
from tests.support.logwriter import NOW, at_once, changes, take
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, row


class Remembering:
    """A session whose broker remembers these last numbers, one for each stream."""

    def __init__(self, *lasts: int) -> None:
        self.lasts: Sequence[int] = lasts

    def choose_stream(self, row: OutboxRow) -> int:
        return choose_partition(row, len(self.lasts))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        opened.begin_log(1)
        yield opened


def waiting(store: SqliteStore) -> list[int]:
    return [found.position for found in unsent(store.log)]


async def recovered(store: SqliteStore, *lasts: int) -> tuple[int, str]:
    return await recover(Remembering(*lasts), store.log, offload=at_once, now=NOW)


async def test_what_the_log_has_is_done_and_nothing_else(store: SqliteStore) -> None:
    take(store, *changes(1, 1200))
    assert await recovered(store, 0) == (0, "")
    assert len(waiting(store)) == 1200
    assert await recovered(store, 1100) == (1100, "")
    assert waiting(store) == list(range(1101, 1201))
    assert store.log.backlog.rows == 100
    assert len(unsent(store.exchange)) == 1200, "what the log has says nothing about the exchange"


async def test_each_stream_tells_of_its_own_rows_only(store: SqliteStore) -> None:
    take(store, *changes(1, 50))
    of_first = [found.position for found in unsent(store.log) if choose_partition(found, 2) == 0]
    settled, _ = await recovered(store, 30, 0)
    assert settled == len([at for at in of_first if at <= 30])
    assert waiting(store) == [at for at in range(1, 51) if at not in of_first or at > 30]


async def test_a_log_that_has_more_than_was_ever_given_is_an_older_state_of_the_store(store: SqliteStore) -> None:
    take(store, *changes(1, 5))
    with pytest.raises(StoreOutdated, match=r"up to number 6, and it has given none above 5.*under a new lineage"):
        await recovered(store, 6)
    assert len(waiting(store)) == 5


async def test_a_number_is_known_to_have_been_given_after_its_event_was_pruned(store: SqliteStore) -> None:
    take(store, *changes(1, 5))
    for outbox in (store.exchange, store.log):
        send_all(outbox, NOW)
    assert store.prune(NOW.replace(year=2030), 100) == 5
    assert await recovered(store, 5) == (0, "")


async def test_events_that_the_log_confirmed_and_has_no_more_are_told_of(store: SqliteStore) -> None:
    take(store, *changes(1, 10))
    send_all(store.log, NOW)
    settled, warning = await recovered(store, 3)
    assert settled == 0
    assert "7 of the newest 10, in the partition 0" in warning
    assert not waiting(store), "what it lost is not written again"


async def test_a_partition_that_lost_everything_is_told_of_although_the_others_are_whole(store: SqliteStore) -> None:
    take(store, *changes(1, 40))
    last = max(found.position for found in unsent(store.log) if choose_partition(found, 2) == 1)
    send_all(store.log, NOW)
    _, warning = await recovered(store, 0, last)
    assert "the log has lost events" in warning
    assert "in the partition 0)" in warning


async def test_what_an_earlier_generation_wrote_is_not_looked_for_under_the_present_name(tmp_path: Path) -> None:
    """The producer of a new generation begins with nothing, although the log has what the former one wrote."""
    with SqliteStore(tmp_path / "bridge.db") as store:
        store.begin_log(1)
        take(store, *changes(1, 10))
        send_all(store.log, NOW)
    with SqliteStore(tmp_path / "bridge.db") as store:
        store.begin_log(1)
        assert store.compare(LogContents({HQ: (store.place(HQ).lineage, 99, 0)}))
        assert await recovered(store, 0) == (0, "")
        take(store, row("late", 100))
        send_all(store.log, NOW)
        assert "1 of the newest 1" in (await recovered(store, 0))[1]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4))
async def test_nothing_counts_as_written_that_was_not_and_nothing_is_written_twice(
    tmp_path_factory: pytest.TempPathFactory, lasts: list[int]
) -> None:
    with SqliteStore(tmp_path_factory.mktemp("store") / "bridge.db") as store:
        store.begin_log(len(lasts))
        take(store, *changes(1, 60))
        rows = unsent(store.log)
        written = [found.position for found in rows if found.position <= lasts[choose_partition(found, len(lasts))]]
        settled, _ = await recovered(store, *lasts)
        assert settled == len(written)
        assert waiting(store) == [at for at in range(1, 61) if at not in written]


async def test_what_waits_is_looked_at_in_pages(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory nor one step on the thread of the store grows with what waits."""
    monkeypatch.setattr(log_recovery, "PAGE_ROWS", 10)
    take(store, *changes(1, 95))
    largest: list[int] = []

    async def weighed(call: Callable[..., Any], /, *args: Any) -> Any:
        told = call(*args)
        largest.extend(len(each) for each in (told, *args) if isinstance(each, Sequence))
        return told

    count, _ = await recover(Remembering(90), store.log, offload=weighed, now=NOW)
    assert (count, max(largest)) == (90, 10)
    assert waiting(store) == list(range(91, 96))


async def test_only_the_newest_confirmed_rows_are_looked_at(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_recovery, "REMEMBERED_ROWS", 5)
    take(store, *changes(1, 10))
    send_all(store.log, NOW)
    assert "5 of the newest 5" in (await recovered(store, 0))[1]
