"""What the numbers of the log do where stores and streams are lost, copied and put back: nothing is dropped unseen.

Each case is played for real: a store file, the numbers the broker keeps, and what is in the log afterwards.
"""

import asyncio
import re
import shutil
from pathlib import Path

import aio_pika
import pytest

from bridge.errors import BadConfig, BrokerUnreachable, StoreOutdated
from bridge.store.sqlite.backup import back_up
from bridge.store.sqlite.store import SqliteStore
from tests.support.logs import Reading, read_log
from tests.support.logwriter import NOW, LogWriter, changes, everything_written, take
from tests.support.outbox import unsent
from tests.support.outcomes import all_confirmed
from tests.support.rabbit import PrivateBroker
from tests.support.rows import row


@pytest.fixture
def writer(broker: PrivateBroker, tmp_path: Path) -> LogWriter:
    return LogWriter(broker, tmp_path / "bridge.db")


async def content(writer: LogWriter, until: int) -> Reading:
    (reading,) = await read_log(writer.broker, writer.streams, until=until)
    return reading


def accounts(reading: Reading) -> list[str]:
    return [str(event["subject"]) for event in reading.events]


async def test_what_was_written_and_not_recorded_is_not_written_again(writer: LogWriter) -> None:
    """A crash between the broker's confirm and the store's note of it; the store is put back to before the note."""
    with writer.store() as store:
        take(store, *changes(1, 50))
        rows = unsent(store.log)
        async with writer.publisher(store).session() as session:
            await session.send(rows[:30])
            await all_confirmed(session, 30)
    with writer.store() as store:
        assert store.log.backlog.rows == 50
        await writer.write(store)
    assert writer.settled == [30]
    reading = await content(writer, 50)
    assert (reading.twice, reading.sequences) == (0, list(range(1, 51)))


async def test_a_lost_store_begins_a_lineage_whose_events_are_all_written(writer: LogWriter, tmp_path: Path) -> None:
    with writer.store() as store:
        take(store, *changes(1, 20))
        await writer.write(store)
    writer.path = tmp_path / "another.db"
    with writer.store() as store:
        take(store, *changes(1, 20))
        await writer.write(store)
    reading = await content(writer, 40)
    assert reading.sequences == [*range(1, 21), *range(1, 21)], "under the same producer the second 20 would be dropped"
    assert len({event["lineage"] for event in reading.events}) == 2


async def test_an_older_copy_of_the_store_is_found_out_and_goes_on_as_a_lineage_of_its_own(
    writer: LogWriter, tmp_path: Path
) -> None:
    backup = tmp_path / "backup.db"
    with writer.store() as store:
        take(store, *changes(1, 20))
        await writer.write(store)
        take(store, *changes(21, 10))
    shutil.copy(writer.path, backup)
    with writer.store() as store:
        take(store, *changes(31, 20))
        await writer.write(store)
        former = store.generation
    writer.path = backup
    with writer.store() as store:
        assert await writer.prove(store), "before it gives the numbers that the broker has already"
        assert store.generation > former
        assert "hq 50 of" in store.restored
        take(store, *changes(100, 40))
        await writer.write(store)
        take(store, row("late", 200))
        await writer.write(store)
    reading = await content(writer, 91)
    assert reading.twice == 0, "what waited when the copy was made was written by the other one"
    assert accounts(reading)[50:] == [*(f"account {number}" for number in range(100, 140)), "late"]
    assert reading.sequences[50:] == list(range(1, 42))
    assert {event["lineage"] for event in reading.events[50:]} == {store.generation}
    assert writer.warnings == [""] * 4, "that the former name is gone is no loss"


async def test_what_waited_in_a_copy_and_was_written_by_nobody_is_written(writer: LogWriter, tmp_path: Path) -> None:
    """A backup says about itself that it is one; what it did not send is looked for in the log."""
    copy = tmp_path / "copy.db"
    with writer.store() as store:
        await writer.write(store)
        take(store, *changes(1, 20))
        async with writer.publisher(store).session() as session:
            await session.send(unsent(store.log, 15))
            await all_confirmed(session, 15)
    back_up(writer.path, copy, NOW)
    writer.path = copy
    with writer.store() as store:
        assert await writer.prove(store)
        assert store.log.backlog.rows == 5
        take(store, *changes(21, 5))
        await writer.write(store)
    reading = await content(writer, 25)
    assert (reading.twice, accounts(reading)) == (0, [f"account {number}" for number in range(1, 26)])
    assert len({event["lineage"] for event in reading.events}) == 2


async def test_a_copy_made_before_anything_more_was_written_goes_on_by_itself(
    writer: LogWriter, tmp_path: Path
) -> None:
    """What it has to write, the other copy wrote under the same numbers; nothing is lost, so nothing is refused."""
    backup = tmp_path / "backup.db"
    with writer.store() as store:
        await writer.write(store)
        take(store, *changes(1, 30))
    shutil.copy(writer.path, backup)
    with writer.store() as store:
        await writer.write(store)
    writer.path = backup
    with writer.store() as store:
        take(store, *changes(31, 5))
        await writer.write(store)
    assert writer.settled == [0, 0, 30]
    reading = await content(writer, 35)
    assert (reading.twice, reading.sequences) == (0, list(range(1, 36)))


async def test_a_stream_that_was_deleted_is_made_anew_and_told_of(writer: LogWriter) -> None:
    with writer.store() as store:
        take(store, *changes(1, 20))
        await writer.write(store)
        await _delete(writer)
        take(store, *changes(21, 10))
        await writer.write(store)
    assert writer.warnings[0] == ""
    assert "the log has lost events that it had confirmed (20 of the newest 20" in writer.warnings[1]
    reading = await content(writer, 10)
    assert reading.sequences == list(range(21, 31))


async def test_a_stream_deleted_while_it_is_written_loses_nothing_that_comes_after(writer: LogWriter) -> None:
    with writer.store() as store:
        take(store, *changes(1, 20))
        relay = writer.relay(store)
        running = asyncio.create_task(relay.run())
        await everything_written(store)
        await _delete(writer)
        with pytest.raises(BrokerUnreachable, match="not there at the moment"):
            await asyncio.wait_for(running, 20)
        take(store, *changes(21, 10))
        await writer.write(store)
    assert (await content(writer, 10)).sequences == list(range(21, 31))


async def test_the_broker_remembers_its_last_number_although_the_events_are_gone(
    broker: PrivateBroker, tmp_path: Path
) -> None:
    """Retention removes whole segments, and what the broker knows of producers moves on into the next one."""
    writer = LogWriter(broker, tmp_path / "bridge.db", log_max_bytes=500_000)
    with writer.store() as store:
        for first in range(1, 4001, 200):
            take(store, *changes(first, 200))
            await writer.write(store)
        async with writer.publisher(store).session() as session:
            assert session.lasts == [4000]
        take(store, *changes(4001, 10))
        await writer.write(store)
    reading = await content(writer, 10)
    assert reading.sequences[0] > 1000, "the first ones are gone"
    assert reading.sequences == list(range(reading.sequences[0], 4011))
    assert set(writer.warnings) == {""}


async def test_two_copies_of_a_store_that_take_turns_are_found_out(writer: LogWriter, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with writer.store() as store:
        take(store, *changes(1, 5))
        await writer.write(store)
    shutil.copy(writer.path, copy)
    first, writer.path = writer.path, copy
    with writer.store() as store:
        take(store, *changes(6, 5))
        await writer.write(store)
    writer.path = first
    with writer.store() as store:
        with pytest.raises(StoreOutdated, match=r"up to number 10, and it has given none above 5"):
            await asyncio.wait_for(writer.relay(store).run(), 20)
        assert await writer.prove(store)


async def test_an_event_too_large_for_a_frame_waits_with_its_account_and_gets_a_new_number(
    writer: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writer.store() as store:
        take(store, row("a", 1), row("b", 2, cn="x" * 5000), row("c", 3), row("b", 4), row("d", 5))
        with monkeypatch.context() as smaller:
            smaller.setattr("bridge.broker.stream.publisher._FRAME_OVERHEAD_BYTES", (1 << 20) - 1600)
            smaller.setattr("bridge.broker.stream.publisher._MUCH_OVERHEAD_BYTES", 1 << 20)
            await writer.write(store)
            assert [parked.sequence for parked in writer.refused] == [2]
            take(store, row("b", 6, cn="later"), row("e", 7))
            await writer.write(store)
        (parked,) = store.parked()
        assert (parked.refused_by, parked.sequence, parked.waiting) == ("log", 2, 2)
        assert re.search(r"does not take an event as large.*stream\.frame_max", parked.reason)
        assert (await content(writer, 4)).sequences == [1, 3, 5, 7]
        assert store.unpark(parked.position)
        await writer.write(store)
    assert (await content(writer, 7)).sequences == [1, 3, 5, 7, 2, 4, 6], "each account in order, and none is dropped"


async def test_what_waits_behind_a_discarded_event_is_written(writer: LogWriter) -> None:
    with writer.store() as store:
        take(store, row("a", 1), row("b", 2), row("b", 3))
        store.log.park(unsent(store.log)[1], "as if it were too large", NOW)
        await writer.write(store)
        assert store.discard(store.parked()[0].position, "not needed", NOW)
        await writer.write(store)
    assert (await content(writer, 2)).sequences == [1, 3]


async def test_a_parked_event_that_is_tried_again_is_written_behind_what_came_later(writer: LogWriter) -> None:
    with writer.store() as store:
        take(store, *changes(1, 3))
        store.log.park(unsent(store.log)[1], "as if it were too large", NOW)
        await writer.write(store)
        assert store.unpark(store.parked()[0].position)
        await writer.write(store)
    assert (await content(writer, 3)).sequences == [1, 3, 2]


async def _delete(writer: LogWriter) -> None:
    async with await aio_pika.connect(writer.broker.url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(writer.streams[0])


async def test_events_that_wait_keep_the_log_from_being_written_by_us_until_they_are_sent(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "bridge.db") as store:
        take(store, *changes(1, 3))
        rows = unsent(store.exchange)
        with pytest.raises(BadConfig, match=r"3 events are still to be published.*without rabbitmq.stream_url"):
            store.begin_log(1)
        store.exchange.mark_published(rows, rows[0].created_at)
        store.begin_log(1)
        assert store.log.backlog.rows == 0
        take(store, *changes(4, 2))
        assert store.log.backlog.rows == 2, "what comes from now on goes both ways"


async def test_the_exchange_may_feed_the_log_again_only_when_everything_is_done(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "bridge.db") as store:
        store.begin_log(1)
        take(store, *changes(1, 3))
        rows = unsent(store.exchange)
        store.exchange.mark_published(rows, rows[0].created_at)
    with SqliteStore(tmp_path / "bridge.db") as store:
        with pytest.raises(BadConfig, match=r"3 events are not yet both published and in the log"):
            store.end_log()
        store.begin_log(1)
        store.log.mark_published(unsent(store.log), rows[0].created_at)
    with SqliteStore(tmp_path / "bridge.db") as store:
        store.end_log()
        take(store, row("x", 9))
        assert store.log.backlog.rows == 0


async def test_pruning_waits_for_both(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "bridge.db") as store:
        store.begin_log(1)
        take(store, *changes(1, 3))
        rows = unsent(store.exchange)
        store.exchange.mark_published(rows, rows[0].created_at)
        later = rows[0].created_at.replace(year=2030)
        store.log.mark_published(unsent(store.log)[:2], NOW)
        assert store.prune(later, 10) == 2
        store.log.mark_published(unsent(store.log), NOW)
        assert store.prune(later, 10) == 1


async def test_a_partition_that_was_lost_is_told_of_by_number(broker: PrivateBroker, tmp_path: Path) -> None:
    writer = LogWriter(broker, tmp_path / "bridge.db", log_partitions=2)
    with writer.store() as store:
        take(store, *changes(1, 40))
        await writer.write(store)
        async with await aio_pika.connect(broker.url) as connection:
            channel = await connection.channel()
            await channel.queue_delete(writer.streams[1])
        take(store, *changes(41, 10))
        await writer.write(store)
    assert writer.warnings[0] == ""
    assert "in the partition 1)" in writer.warnings[1]
