"""Readers of the log that keep nothing but their place, in the transaction of their effect."""

import asyncio
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import aclosing, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import psycopg
import pytest
from aio_pika.abc import AbstractIncomingMessage
from rstream.constants import Key
from rstream.schema import QueryOffset, QueryOffsetResponse

from bridge.broker.stream.connection import connect_stream
from bridge.consumer.connection import Inflow
from bridge.consumer.log import reader as log_module
from bridge.consumer.log.position import LogOffset
from bridge.consumer.log.position_postgres import AsyncPostgresPosition, PostgresPosition
from bridge.consumer.log.position_sqlite import SqlitePosition
from bridge.consumer.log.reader import LogCertificate, LogEntry, LogReader
from bridge.errors import LogReplaced, StoreUnusable, TopologyMismatch
from tests.support.events import certificate_body
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
    place = LogOffset(entries[7].offset, entries[7].event.event_id)
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
        await read(LogReader(url, stream=stream, start=LogOffset(last.offset, last.event.event_id)), until=35)
    await write(writer, 36, 30)  # the old offset is there again, with another event
    with pytest.raises(LogReplaced):
        await read(LogReader(url, stream=stream, start=LogOffset(last.offset, last.event.event_id)), until=65)


async def remade(writer: LogWriter) -> None:
    """Delete the log; whoever writes next makes it anew."""
    async with await aio_pika.connect(writer.broker.url) as connection:
        await (await connection.channel()).queue_delete(writer.streams[0])


async def note(writer: LogWriter) -> None:
    """Have the broker write a note of its own into the log, which takes an offset, and wait until it is there."""
    async with connect_stream([writer.broker.stream_url], client_name="test") as connection:
        names = [text.encode() for text in ("reader", writer.streams[0])]
        content = b"".join(struct.pack(">H", len(name)) + name for name in names) + struct.pack(">Q", 0)
        frame = struct.pack(">HH", Key.StoreOffset.value, 1) + content
        await connection.write(struct.pack(">I", len(frame)) + frame)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                asked = QueryOffset(0, "reader", writer.streams[0])
                with suppress(TopologyMismatch):
                    await connection.ask(asked, QueryOffsetResponse)
                    return
                await asyncio.sleep(0.05)


async def place_behind(writer: LogWriter, url: str, count: int) -> LogOffset:
    """Write so many entries, read them, and return where that ends."""
    await write(writer, 1, count)
    last = (await read(LogReader(url, stream=writer.streams[0]), until=count))[-1]
    assert last.offset == count - 1
    return LogOffset(last.offset, last.event.event_id)


async def test_a_log_that_was_made_anew_is_noticed_where_our_place_is_a_note_and_the_next_offset_an_entry(
    writer: LogWriter, url: str
) -> None:
    """There is nothing at our place that could differ, and the first entry that comes stands right behind it."""
    place = await place_behind(writer, url, 30)
    await remade(writer)
    await write(writer, 101, 29)
    await note(writer)
    await write(writer, 201, 5)
    whole = await read(LogReader(url, stream=writer.streams[0]), until=64)
    assert [entry.offset for entry in whole] == [*range(29), *range(30, 35)], "the note took our offset"
    with pytest.raises(LogReplaced, match="not at offset 29 any more"):
        await read(LogReader(url, stream=writer.streams[0], start=place), until=64)


async def test_a_log_that_was_made_anew_while_its_reader_waits_is_noticed_at_the_next_entry(
    writer: LogWriter, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "PLACE_SECONDS", 0.5)
    await write(writer, 1, 30)
    reader = LogReader(url, stream=writer.streams[0], longest_pause_seconds=0.1)
    reading = asyncio.create_task(read(reader, until=999))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while "LogOffset(offset=29" not in repr(reader):
            await asyncio.sleep(0.01)
    await remade(writer)
    await write(writer, 101, 29)
    await note(writer)
    await write(writer, 201, 5)
    with pytest.raises(LogReplaced):
        await reading


async def test_a_log_that_ends_before_our_place_is_another_one_and_an_empty_one_proves_nothing(
    writer: LogWriter, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one may be a broker that is slow; it is waited for until there is an answer."""
    monkeypatch.setattr(log_module, "PLACE_SECONDS", 0.3)
    place = await place_behind(writer, url, 30)
    await remade(writer)
    with writer.store() as store:  # it declares the log, and has nothing to write
        await writer.write(store)
    reader = LogReader(url, stream=writer.streams[0], start=place, longest_pause_seconds=0.1)
    reading = asyncio.create_task(read(reader, until=999))
    done, _ = await asyncio.wait([reading], timeout=3)
    assert not done, "nothing came, ten times over"
    await write(writer, 101, 5)
    with pytest.raises(LogReplaced):
        await reading


async def test_a_log_that_is_slow_is_the_same_log(writer: LogWriter, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the deadline is looked at as if it had come in time, and nothing is left out or read twice."""
    place = await place_behind(writer, url, 30)
    await write(writer, 31, 5)
    monkeypatch.setattr(log_module, "PLACE_SECONDS", 0.0)
    prompt = Inflow.next

    async def late(inflow: Inflow) -> AbstractIncomingMessage | None:
        await asyncio.sleep(0.01)
        return await prompt(inflow)

    monkeypatch.setattr(Inflow, "next", late)
    reader = LogReader(url, stream=writer.streams[0], start=place, longest_pause_seconds=0.05)
    reading = asyncio.create_task(read(reader, until=35))
    done, _ = await asyncio.wait([reading], timeout=2)
    assert not done
    monkeypatch.setattr(log_module, "PLACE_SECONDS", 10.0)
    assert [entry.event.sequence for entry in await reading] == list(range(31, 36))


async def test_an_entry_without_an_id_at_our_place_is_not_the_one_that_was_read(
    writer: LogWriter, broker: PrivateBroker, url: str
) -> None:
    await write(writer, 1, 1)
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        foreign = aio_pika.Message(b"{}", type="something.else")
        await channel.default_exchange.publish(foreign, routing_key=writer.streams[0])
    await write(writer, 2, 1)
    with pytest.raises(LogReplaced):
        await read(LogReader(url, stream=writer.streams[0], start=LogOffset(1, "ours")), until=2)


async def test_certificates_come_in_order_with_the_changes_where_they_are_wanted(
    writer: LogWriter, broker: PrivateBroker, url: str
) -> None:
    await write(writer, 1, 1)
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        told = aio_pika.Message(certificate_body(), type="pbx.source.verified", message_id="certificate")
        await channel.default_exchange.publish(told, routing_key=writer.streams[0])
    await write(writer, 2, 1)
    stream = writer.streams[0]
    reader, came = LogReader(url, stream=stream), list[LogEntry | LogCertificate]()

    async def apply(entry: LogEntry) -> None:
        came.append(entry)
        if entry.event.sequence == 2:
            reader.stop()

    async def verified(entry: LogCertificate) -> None:
        came.append(entry)

    await asyncio.wait_for(reader.run(apply, verified), DEADLINE_SECONDS)
    assert [(entry.offset, type(entry)) for entry in came] == [(0, LogEntry), (1, LogCertificate), (2, LogEntry)]
    assert [entry.offset for entry in await read(LogReader(url, stream=stream), until=2)] == [0, 2]
    again = LogReader(url, stream=stream, start=LogOffset(1, "certificate"))
    assert [entry.offset for entry in await read(again, until=2)] == [2], "a certificate is a place as well"


async def test_entries_that_are_gone_before_they_were_read_are_missed_aloud(
    broker: PrivateBroker, tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker keeps the log by age and size, and answers a question for a lost offset with the next it has."""
    writer = LogWriter(broker, tmp_path / "small.db", log_max_bytes=500_000)
    for first in range(1, 2001, 200):
        await write(writer, first, 200)
    entries = await read(LogReader(url, stream=writer.streams[0], start=LogOffset(3, "gone")), until=2000)
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
    last = len(await reached(crm, 500))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while any(process.is_alive() for process in both):
            last += 1
            await write(writer, last, 1)  # one that begins late stands behind whatever the other one has applied
    for process in both:
        await ended(process)
    applied = [sequence for sequence, _ in letters(crm)]
    assert applied == list(range(1, len(applied) + 1))
    assert len(applied) > 500


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
    assert place == LogOffset(entries[9].offset, entries[9].event.event_id)
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
        assert await own.start() == LogOffset(entries[-1].offset, entries[-1].event.event_id)


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
