"""Readers of the log that keep nothing but their place, in the transaction of their effect."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import aclosing, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import psycopg
import pytest

from bridge.consumer import log as log_module
from bridge.consumer.log import LogEntry, LogReader
from bridge.consumer.position import Place
from bridge.consumer.position_postgres import AsyncPostgresPosition, PostgresPosition
from bridge.consumer.position_sqlite import SqlitePosition
from bridge.errors import LogReplaced, StoreUnusable, TopologyMismatch
from tests.support.followers import (
    DEADLINE_SECONDS,
    POSTGRES,
    SqliteCrm,
    ended,
    letters,
    postgres_crm,
    reached,
    started,
)
from tests.support.logwriter import LogWriter, changes, take
from tests.support.rabbit import PrivateBroker
from tests.support.rows import row

ENTRIES = 600


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    with PrivateBroker(streams=True) as started:
        yield started


@pytest.fixture
def writer(broker: PrivateBroker, tmp_path: Path) -> LogWriter:
    return LogWriter(broker, tmp_path / "bridge.db")


@pytest.fixture(params=["amqp", "native"])
def url(broker: PrivateBroker, request: pytest.FixtureRequest) -> str:
    return broker.url if request.param == "amqp" else broker.stream_url


async def read(reader: LogReader, until: int) -> list[LogEntry]:
    """Read until the event with this sequence came."""
    entries: list[LogEntry] = []
    async with asyncio.timeout(DEADLINE_SECONDS), aclosing(reader.__aiter__()) as log:
        async for entry in log:
            entries.append(entry)
            if entry.event.sequence == until:
                reader.stop()
    return entries


async def write(writer: LogWriter, first: int, count: int) -> None:
    with writer.store() as store:
        take(store, *changes(first, count))
        await writer.write(store)


async def test_both_protocols_read_the_same_bytes(writer: LogWriter, broker: PrivateBroker) -> None:
    await write(writer, 1, 700)
    stream = writer.streams[0]
    amqp = await read(LogReader(broker.url, stream=stream), until=700)
    native = await read(LogReader(broker.stream_url, stream=stream), until=700)
    assert amqp == native
    assert [entry.offset for entry in native] == list(range(700))


async def test_the_log_is_read_from_first_last_an_offset_a_time_and_a_place(writer: LogWriter, url: str) -> None:
    await write(writer, 1, 20)
    stream = writer.streams[0]
    entries = await read(LogReader(url, stream=stream), until=20)
    assert await read(LogReader(url, stream=stream, start=5), until=20) == entries[5:]
    assert (await read(LogReader(url, stream=stream, start="last"), until=20))[-1] == entries[-1]
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert await read(LogReader(url, stream=stream, start=hour_ago), until=20) == entries
    place = Place(entries[7].offset, entries[7].event.event_id)
    assert await read(LogReader(url, stream=stream, start=place), until=20) == entries[8:]
    reader = LogReader(url, stream=stream, start=lambda: place)
    assert await read(reader, until=20) == entries[8:]


async def test_reading_goes_on_into_what_is_written_now(writer: LogWriter, url: str) -> None:
    await write(writer, 1, 5)
    reading = asyncio.create_task(read(LogReader(url, stream=writer.streams[0]), until=905))
    await write(writer, 6, 900)
    assert [entry.event.sequence for entry in await reading] == list(range(1, 906))


async def test_a_log_that_was_made_anew_is_not_read_from_an_old_place(
    writer: LogWriter, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offsets of the new one begin at 0: an old place in it would leave out whatever comes before."""
    monkeypatch.setattr(log_module, "PLACE_SECONDS", 0.5)
    await write(writer, 1, 30)
    stream = writer.streams[0]
    last = (await read(LogReader(url, stream=stream), until=30))[-1]
    async with await aio_pika.connect(writer.broker.url) as connection:
        await (await connection.channel()).queue_delete(stream)
    await write(writer, 31, 5)
    with pytest.raises(LogReplaced, match=r"not at offset 29 any more.*Begin with its first entry"):
        await read(LogReader(url, stream=stream, start=Place(last.offset, last.event.event_id)), until=35)
    await write(writer, 36, 30)  # the old offset is there again, with another event
    with pytest.raises(LogReplaced):
        await read(LogReader(url, stream=stream, start=Place(last.offset, last.event.event_id)), until=65)


async def test_entries_that_are_gone_before_they_were_read_are_missed_aloud(
    broker: PrivateBroker, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker keeps the log by age and size, and answers a question for a lost offset with the next it has."""
    writer = LogWriter(broker, tmp_path / "small.db", log_max_bytes=500_000)
    for first in range(1, 2001, 200):
        await write(writer, first, 200)
    entries = await read(LogReader(url, stream=writer.streams[0], start=Place(3, "gone")), until=2000)
    assert entries[0].offset > 4
    assert [record.message for record in caplog.records].count("log.truncated") == 1


async def test_a_stream_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(TopologyMismatch, match=r"no\.such\.log"):
        await read(LogReader(url, stream="no.such.log"), until=1)


async def test_a_reader_that_is_killed_again_and_again_applies_each_entry_once(
    writer: LogWriter, url: str, tmp_path: Path
) -> None:
    await write(writer, 1, ENTRIES)
    crm = SqliteCrm(tmp_path / "crm.db")
    for share in range(1, 5):
        process = started(url, writer.streams[0], crm, ENTRIES)
        await reached(crm, ENTRIES * share // 6)
        process.kill()
        await asyncio.to_thread(process.join, DEADLINE_SECONDS)
    last = started(url, writer.streams[0], crm, ENTRIES + 1)
    await write(writer, ENTRIES + 1, 1)  # those before it may all be applied already
    await ended(last)
    assert [sequence for sequence, _ in letters(crm)] == list(range(1, ENTRIES + 2))


async def test_two_that_read_at_the_same_time_apply_each_entry_once(
    writer: LogWriter, url: str, tmp_path: Path
) -> None:
    """A replica that was frozen and comes back does not know that another one has gone on."""
    await write(writer, 1, 500)
    crm = SqliteCrm(tmp_path / "crm.db")
    both = [started(url, writer.streams[0], crm, 501) for _ in range(2)]
    await reached(crm, 500)
    await write(writer, 501, 1)  # which both are waiting for, however far the other one was first
    for process in both:
        await ended(process)
    assert [sequence for sequence, _ in letters(crm)] == list(range(1, 502))


@pytest.fixture
def schema() -> Iterator[str]:
    with postgres_crm() as crm:
        yield crm.schema


async def test_a_place_in_postgresql_moves_with_the_effect_or_not_at_all(
    writer: LogWriter, url: str, schema: str
) -> None:
    await write(writer, 1, 40)
    entries = await read(LogReader(url, stream=writer.streams[0]), until=40)
    with psycopg.connect(POSTGRES, options=f"-c search_path={schema}") as connection:
        position = PostgresPosition(connection, stream=writer.streams[0])
        position.create_tables()
        assert position.start() == "first"
        connection.commit()
        with pytest.raises(ZeroDivisionError), connection.transaction():
            assert position.accept(entries[0])
            raise ZeroDivisionError
        assert position.start() == "first"
        connection.commit()
        for entry in entries[:10]:
            with connection.transaction():
                assert position.accept(entry)
        with connection.transaction():
            assert not position.accept(entries[3])
        place = position.start()
    assert place == Place(entries[9].offset, entries[9].event.event_id)
    assert await read(LogReader(url, stream=writer.streams[0], start=place), until=40) == entries[10:]
    async with await psycopg.AsyncConnection.connect(POSTGRES, options=f"-c search_path={schema}") as another:
        own = AsyncPostgresPosition(another, stream=writer.streams[0], reader="another")
        await own.create_tables()
        reader = LogReader(url, stream=writer.streams[0], start=own.start)
        applied: list[int] = []

        async def apply(entry: LogEntry) -> None:
            async with another.transaction():
                if await own.accept(entry):
                    applied.append(entry.event.sequence)
            if entry.event.sequence == 40:
                reader.stop()

        await asyncio.wait_for(reader.run(apply), DEADLINE_SECONDS)
        assert applied == list(range(1, 41))
        assert await own.start() == Place(entries[-1].offset, entries[-1].event.event_id)


async def test_a_place_outside_a_transaction_is_refused(writer: LogWriter, url: str, schema: str) -> None:
    with writer.store() as store:
        take(store, row("a", 1))
        await writer.write(store)
    (entry,) = await read(LogReader(url, stream=writer.streams[0]), until=1)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as sqlite:
        position = SqlitePosition(sqlite)
        position.create_tables()
        with pytest.raises(StoreUnusable, match="commits each statement at once"):
            position.accept(entry)
    with (
        psycopg.connect(POSTGRES, autocommit=True, options=f"-c search_path={schema}") as connection,
        pytest.raises(StoreUnusable, match="commits each statement at once"),
    ):
        PostgresPosition(connection).accept(entry)
