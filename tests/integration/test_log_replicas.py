"""Replicas of a reader of the log: one reads, and another one goes on where it ended.

By the stream protocol that takes a broker with single active consumer (RabbitMQ 3.11). Where the one that is installed
is older, ``tests/acceptance/replicas`` runs these tests against a newer one.
"""

import asyncio
import logging
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bridge.consumer.log import stream as native
from bridge.consumer.log.reader import LogEntry, LogReader
from bridge.errors import TopologyMismatch
from tests.support.followers import (
    DEADLINE_SECONDS,
    Crm,
    SqliteCrm,
    ended,
    frozen,
    letters,
    postgres_crm,
    reached,
    started,
)
from tests.support.logwriter import LogWriter, changes, take
from tests.support.rabbit import GivenBroker, PrivateBroker, installed_version

GIVEN = os.environ.get("TEST_RABBITMQ_URL"), os.environ.get("TEST_RABBITMQ_STREAM_URL")
"""A broker that is there already, and has single active consumer."""

HAS_SINGLE_ACTIVE_CONSUMER = all(GIVEN) or installed_version() >= native.SINGLE_ACTIVE_SINCE

Broker = PrivateBroker | GivenBroker


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    url, stream_url = GIVEN
    if url and stream_url:
        yield GivenBroker(url, stream_url)
        return
    with PrivateBroker(streams=True) as started_here:
        yield started_here


@pytest.fixture
def writer(broker: Broker, tmp_path: Path) -> LogWriter:
    return LogWriter(broker, tmp_path / "bridge.db")


@pytest.fixture(params=["amqp", *(["native"] if HAS_SINGLE_ACTIVE_CONSUMER else [])])
def url(broker: Broker, request: pytest.FixtureRequest) -> str:
    return broker.url if request.param == "amqp" else broker.stream_url


@pytest.fixture(params=["sqlite", "postgres"])
def crm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crm]:
    if request.param == "sqlite":
        yield SqliteCrm(tmp_path / "crm.db")
        return
    with postgres_crm() as made:
        yield made


async def write(writer: LogWriter, first: int, count: int) -> None:
    with writer.store() as store:
        take(store, *changes(first, count))
        await writer.write(store)


async def test_a_replica_that_is_killed_is_followed_by_another_and_nothing_is_lost_or_applied_twice(
    writer: LogWriter, url: str, crm: Crm
) -> None:
    """Each is killed while it works: the entries are there before it is its turn."""
    await write(writer, 1, 400)
    replicas = {
        process.pid: process for process in (started(url, writer.streams[0], crm, 801, replica_of="crm") for _ in "abc")
    }
    for count in (100, 450):
        *_, (_, active) = await reached(crm, count)
        killed = replicas.pop(active)
        killed.kill()
        await asyncio.to_thread(killed.join, DEADLINE_SECONDS)
        if count == 100:
            await write(writer, 401, 400)
    await write(writer, 801, 1)
    for process in replicas.values():
        await ended(process)
    written = letters(crm)
    assert [sequence for sequence, _ in written] == list(range(1, 802))
    assert len({by for _, by in written}) == 3


async def test_only_one_replica_reads_at_a_time(writer: LogWriter, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What reads is one of them even where no position would notice."""
    caplog.set_level(logging.INFO, "bridge.consumer")
    await write(writer, 1, 50)
    seen: list[tuple[int, int]] = []
    readers = [LogReader(url, stream=writer.streams[0], replica_of="crm") for _ in "ab"]

    async def see(number: int, entry: LogEntry) -> None:
        seen.append((number, entry.event.sequence))
        if entry.event.sequence == 100:
            readers[number].stop()

    async with asyncio.timeout(DEADLINE_SECONDS):
        first = asyncio.create_task(readers[0].run(partial(see, 0)))
        while len(seen) < 50:
            await asyncio.sleep(0.02)
        second = asyncio.create_task(readers[1].run(partial(see, 1)))
        while "reader.stands_by" not in caplog.messages:
            await asyncio.sleep(0.02)
        await write(writer, 51, 50)
        await first
        await second
    assert seen == [(number, sequence) for number in (0, 1) for sequence in range(1, 101)]


async def test_a_replica_that_was_frozen_applies_nothing_that_another_one_has(
    writer: LogWriter, url: str, crm: Crm
) -> None:
    """It still has entries that it received before, and does not know that it is no more the one that reads."""
    await write(writer, 1, 200)
    stream = writer.streams[0]
    first = started(url, stream, crm, 401, replica_of="crm", freeze_at=120)
    await frozen(first)
    second = started(url, stream, crm, 401, replica_of="crm")
    await reached(crm, 200)
    os.kill(first.pid, signal.SIGCONT)
    await write(writer, 201, 200)
    await reached(crm, 400)
    await write(writer, 401, 1)
    for process in (first, second):
        await ended(process)
    assert [sequence for sequence, _ in letters(crm)] == list(range(1, 402))


async def test_a_replica_that_stands_by_can_be_stopped(writer: LogWriter, url: str) -> None:
    await write(writer, 1, 1)
    stream = writer.streams[0]
    active, waiting = (LogReader(url, stream=stream, replica_of="crm") for _ in "ab")

    got: list[LogEntry] = []
    none: list[LogEntry] = []

    async def into(taken: list[LogEntry], entry: LogEntry) -> None:
        taken.append(entry)

    async with asyncio.timeout(DEADLINE_SECONDS):
        one = asyncio.create_task(active.run(partial(into, got)))
        while not got:
            await asyncio.sleep(0.02)
        other = asyncio.create_task(waiting.run(partial(into, none)))
        await asyncio.sleep(native.STAND_BY_SECONDS * 1.5)
        waiting.stop()
        await other
        active.stop()
        await one
    assert none == []


async def test_replicas_by_the_stream_protocol_are_refused_where_the_broker_would_let_all_of_them_read(
    writer: LogWriter, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ 3.10 accepts the wish for a single active consumer without a word, and does not heed it."""
    if HAS_SINGLE_ACTIVE_CONSUMER:
        monkeypatch.setattr(native, "SINGLE_ACTIVE_SINCE", (99, 0))
    await write(writer, 1, 1)
    reader = LogReader(broker.stream_url, stream=writer.streams[0], replica_of="crm")
    wanted = re.compile(r"RabbitMQ \d+\.\d+\.\d+ has no single active consumer.*3\.11.*begins with amqp")
    with pytest.raises(TopologyMismatch, match=wanted):
        await asyncio.wait_for(anext(aiter(reader)), DEADLINE_SECONDS)
