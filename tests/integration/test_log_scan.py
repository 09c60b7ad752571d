"""The log of a real broker, read to its end."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import aio_pika
import orjson
import pytest
from aio_pika.abc import AbstractConnection
from aiormq.channel import Channel
from aiormq.exceptions import AMQPConnectionError
from pamqp import encode

from bridge.broker.connection import CLOSE_SECONDS, DEADLINE_SECONDS, connect
from bridge.broker.declare import declare
from bridge.broker.deliveries import DeliveryFrames
from bridge.broker.topology import Topology
from bridge.errors import BrokerUnreachable, LogUnreadable
from bridge.model import SourceName
from bridge.runtime import log_scan
from bridge.runtime.log_scan import MARK, PAGE, scan_log
from bridge.store.lineage import find_lead
from bridge.store.records import LogContents
from tests.support.rabbit import PrivateBroker

HQ = SourceName("hq")
OLD, NEW = "20261123T190002418Z-9f3c", "20261124T190002418Z-0000"


@pytest.fixture
def topology() -> Topology:
    return Topology(f"scan.{uuid4().hex[:8]}")


@pytest.fixture
async def connection(broker: PrivateBroker, topology: Topology) -> AsyncIterator[AbstractConnection]:
    async with connect([broker.url], client_name="test") as connected:
        await declare(connected, topology)
        yield connected


def event(sequence: int, *, lineage: str = OLD, source: str = "hq", walk: int | None = None) -> bytes:
    data = {} if walk is None else {"walk": walk}
    told = {"id": f"{lineage}-{source}-{sequence}", "source": f"/pbx/{source}", "lineage": lineage}
    return orjson.dumps({**told, "sequence": f"{sequence:020}", "data": data})


async def write(connection: AbstractConnection, topology: Topology, *bodies: bytes) -> None:
    async with await connection.channel() as channel:
        exchange = await channel.get_exchange(topology.exchange)
        for body in bodies:
            await exchange.publish(aio_pika.Message(body, delivery_mode=2), "hq.account.created")


async def scan(connection: AbstractConnection, topology: Topology, before: LogContents | None = None) -> LogContents:
    return await scan_log(connection, topology, places=before.places if before is not None else {})


async def test_an_empty_log_has_an_end_as_well(connection: AbstractConnection, topology: Topology) -> None:
    found = await scan(connection, topology)
    assert (found.newest, list(found.places)) == ({}, [topology.log])


async def test_the_highest_numbers_of_every_source_are_found_wherever_they_stand(
    connection: AbstractConnection, topology: Topology
) -> None:
    """In the last chunk there is only the certificate of the other PBX: what that does not have matters as well."""
    await write(connection, topology, *[event(number) for number in range(1, 3000)])
    await write(
        connection, topology, event(1, source="branch"), b"no event", b"[]", event(1, lineage=NEW, source="late")
    )
    await asyncio.sleep(0.3)
    await write(connection, topology, event(1, source="branch", walk=7))
    found = await scan(connection, topology)
    assert found.newest == {HQ: (OLD, 2999, 0), "branch": (OLD, 1, 7), "late": (NEW, 1, 0)}


@pytest.mark.parametrize("lineage", ["99999999T999999999Z-ffff", "99991231T235959999Z-ffff", "a4e56e97"])
async def test_a_lineage_that_nothing_can_come_behind_hides_no_numbers(
    connection: AbstractConnection, topology: Topology, lineage: str
) -> None:
    """Whoever compares passes over it, so a store that is older than what is hidden would pass for the newest."""
    await write(connection, topology, event(9), event(1, lineage=lineage), event(8))
    found = await scan(connection, topology)
    assert found.newest == {HQ: (OLD, 9, 0)}
    assert find_lead(found, {HQ: (OLD, 5, 0)}, 0)


async def test_the_next_reading_goes_on_behind_the_mark_of_the_last_one(
    connection: AbstractConnection, topology: Topology
) -> None:
    await write(connection, topology, event(5))
    first = await scan(connection, topology)
    assert (await scan(connection, topology, first)).newest == {}, "what was read is not read again"
    await write(connection, topology, event(6))
    assert (await scan(connection, topology, first)).newest == {HQ: (OLD, 6, 0)}


async def test_a_log_made_anew_is_read_from_its_beginning(connection: AbstractConnection, topology: Topology) -> None:
    await write(connection, topology, *[event(number) for number in range(1, 6)])
    first = await scan(connection, topology)
    async with await connection.channel() as channel:
        await channel.queue_delete(topology.log)
    await declare(connection, topology)
    await write(connection, topology, event(9))
    assert (await scan(connection, topology, first)).newest == {HQ: (OLD, 9, 0)}


async def test_what_somebody_else_wrote_at_the_place_is_no_mark_whatever_its_header_tells(
    connection: AbstractConnection, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time in microseconds is beyond all years; the broker takes it, and the library cannot read it."""
    monkeypatch.setitem(encode.METHODS, "timestamp", lambda _value: struct.pack(">Q", 1_795_000_000_000_000))
    async with await connection.channel() as channel:
        exchange = await channel.get_exchange(topology.exchange)
        await exchange.publish(aio_pika.Message(b"odd", timestamp=1), "hq.account.created")
    monkeypatch.undo()
    await write(connection, topology, event(7))
    found = await scan_log(connection, topology, places={topology.log: (0, "of a log that is gone")})
    assert found.newest == {HQ: (OLD, 7, 0)}


async def test_who_looks_for_events_is_told_of_all_there_are_also_before_the_place(
    connection: AbstractConnection, topology: Topology
) -> None:
    await write(connection, topology, event(1), event(2))
    first = await scan(connection, topology)
    told: list[str] = []

    async def find(ids: Sequence[str]) -> None:
        told.extend(ids)

    await scan_log(connection, topology, places=first.places, find=find)
    assert told == [f"{OLD}-hq-1", f"{OLD}-hq-2"]


async def test_a_mark_reaches_nobody_but_the_log(
    broker: PrivateBroker, connection: AbstractConnection, topology: Topology
) -> None:
    async with await connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.exchange, "#")
        await scan(connection, topology)
        await write(connection, topology, event(1))
        async with queue.iterator(timeout=20) as messages:
            async for message in messages:
                assert message.type != MARK
                assert message.body == event(1)
                break
    assert f"{topology.exchange}.detour" not in broker.ctl("list_exchanges", "name"), "what led there is gone again"


async def test_a_mark_tells_what_was_given_though_the_log_has_it_not(
    connection: AbstractConnection, topology: Topology
) -> None:
    await write(connection, topology, event(5))
    given = {HQ: (OLD, 9, 2), SourceName("former"): ("a4e56e97", 3, 0)}
    own = await scan_log(connection, topology, places={}, given=given)
    assert own.newest == {HQ: (OLD, 5, 0)}, "what this reading tells itself is no news to it"
    assert (await scan(connection, topology)).newest == {HQ: (OLD, 9, 2)}


async def test_a_queue_that_is_no_stream_is_no_log(connection: AbstractConnection, topology: Topology) -> None:
    async with await connection.channel() as channel:
        await channel.queue_delete(topology.log)
        await channel.declare_queue(topology.log, durable=True)
    with pytest.raises(LogUnreadable, match="cannot be read to its end"):
        await scan(connection, topology)


async def test_a_user_who_may_not_read_the_log_cannot_tell(broker: PrivateBroker, topology: Topology) -> None:
    name = f"writer{uuid4().hex[:6]}"
    async with connect([broker.url], client_name="test") as connected:
        await declare(connected, topology)
    broker.ctl("add_user", name, "pl4nted-s3cret")
    broker.ctl("set_permissions", name, f"^{topology.exchange}", f"^{topology.exchange}", "^nothing$")
    async with connect([broker.url_of(name, "pl4nted-s3cret")], client_name="test") as connected:
        with pytest.raises(LogUnreadable, match="set_permissions"):
            await scan(connected, topology)


async def test_a_broker_that_goes_away_in_the_middle_proves_nothing_and_is_asked_again(topology: Topology) -> None:
    with PrivateBroker() as broken:
        async with connect([broken.url], client_name="test") as connected:
            await declare(connected, topology)
            await write(connected, topology, *[event(number) for number in range(1, 2000)])
            reading = asyncio.create_task(scan(connected, topology))
            await asyncio.to_thread(broken.kill)
            with pytest.raises(BrokerUnreachable):
                await asyncio.wait_for(reading, 40)


async def test_a_message_that_goes_past_the_reading_ends_it(
    topology: Topology, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be missed, and the mark behind it found."""
    await write(connection, topology, event(1))
    monkeypatch.setattr(DeliveryFrames, "feed", lambda _frames, data: data)
    with pytest.raises(BrokerUnreachable, match="taken off the line"):
        await scan(connection, topology)


async def test_who_is_stopped_while_the_broker_is_frozen_waits_for_a_farewell_only(
    topology: Topology, broken: PrivateBroker
) -> None:
    """And not for as long as for an answer: a bridge that is stopped has 25 s for all of it."""
    async with connect([broken.url], client_name="test") as connected:
        await declare(connected, topology)
        await write(connected, topology, *[event(number) for number in range(1, 5 * PAGE)])
        is_reading = asyncio.Event()

        async def find(_ids: Sequence[str]) -> None:
            is_reading.set()
            await asyncio.Event().wait()

        reading = asyncio.create_task(scan_log(connected, topology, places={}, find=find))
        await asyncio.wait_for(is_reading.wait(), 30)
        broken.pause()
        try:
            reading.cancel()
            done, _ = await asyncio.wait([reading], timeout=(CLOSE_SECONDS + DEADLINE_SECONDS) / 2)
        finally:
            broken.go_on()
        assert reading in done
        assert reading.cancelled()


async def test_a_broker_that_goes_away_while_it_is_told_what_was_read_ends_nothing_but_the_reading(
    topology: Topology, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the client library raises there is none of ours, and would end the bridge."""
    await write(connection, topology, *[event(number) for number in range(1, 1000)])

    async def cut(*_arguments: object, **_options: object) -> None:
        raise AMQPConnectionError("Server connection reset: Connection reset by peer")

    monkeypatch.setattr(Channel, "basic_ack", cut)
    with pytest.raises(BrokerUnreachable, match="reset by peer"):
        await scan(connection, topology)


async def test_who_is_patient_does_not_rest_for_as_long_as_a_broker_kept_silent(
    topology: Topology, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(connection, topology, *[event(number) for number in range(1, 5 * PAGE)])
    monkeypatch.setattr(log_scan, "PATIENCE", 1e9)
    monkeypatch.setattr(log_scan, "REST_SECONDS", 0.01)
    async with asyncio.timeout(30):
        found = await scan_log(connection, topology, places={}, is_patient=True)
    assert found.newest == {HQ: (OLD, 5 * PAGE - 1, 0)}


async def test_who_is_patient_rests_behind_each_page_but_not_for_ever(
    topology: Topology, connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(connection, topology, *[event(number) for number in range(1, 5 * PAGE)])
    rests: list[float] = []
    sleep = asyncio.sleep

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", rest)
    found = await scan_log(connection, topology, places={}, is_patient=True)
    assert (len(found.newest), len(rests) > 2, min(rests) > 0) == (1, True, True)
    rests.clear()
    monkeypatch.setattr(log_scan, "PATIENT_SECONDS", 0.0)
    for is_patient in (True, False):
        await scan_log(connection, topology, places={}, is_patient=is_patient)
    assert rests == []
