"""The log written by the stream protocol: each event once, whoever dies."""

import asyncio
import itertools
import json
import random
from pathlib import Path

import pytest

from tests.support.logs import log_of, read_log, streamed_site
from tests.support.process import Command
from tests.support.rabbit import PrivateBroker, free_port
from tests.support.site import asked, rows_are_handed_out, stopped

ACCOUNTS = 2000


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often something dies in a test: ten times as often with ``--thorough``."""
    return 50 if request.config.getoption("--thorough") else 5


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_bridge_that_is_killed_again_and_again_writes_each_event_once(
    tmp_path: Path, broker: PrivateBroker, kills: int, partitions: int
) -> None:
    chance = random.Random(7)  # noqa: S311 - the same kills every time
    accounts = ACCOUNTS // 10 * kills
    async with streamed_site(tmp_path, broker, accounts=accounts, round_trip_seconds=0.001) as place:
        place.environment["BRIDGE_RABBITMQ_LOG_PARTITIONS"] = str(partitions)
        for _ in range(kills):
            with place.bridge() as bridge:
                await rows_are_handed_out(place, place.rows_handed_out + accounts // (kills + 1))
                await asyncio.sleep(chance.random() * 0.05)
                bridge.kill()
        with place.bridge() as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "log.settled")
            readings = await read_log(broker, log_of(place, partitions), until=accounts)
            assert await stopped(bridge) == 0
    assert [reading.twice for reading in readings] == [0] * partitions
    sequences = [reading.sequences for reading in readings]
    assert sequences == [sorted(some) for some in sequences], "each partition in order"
    assert sorted(itertools.chain.from_iterable(sequences)) == list(range(1, accounts + 1))
    assert all(sequences), "no partition is empty"


async def test_a_broker_that_is_killed_in_the_middle_has_each_event_once(
    tmp_path: Path, broken: PrivateBroker, kills: int
) -> None:
    accounts = ACCOUNTS // 10 * kills * 2
    async with streamed_site(tmp_path, broken, accounts=accounts, round_trip_seconds=0.001) as place:
        with place.bridge() as bridge:
            await rows_are_handed_out(place, 10)
            await asyncio.to_thread(bridge.wait_for_log, "log.settled")
            await asyncio.to_thread(broken.stop)  # a stream that is seconds old does not survive a kill -9 in 3.10
            await asyncio.to_thread(broken.start)
            await asyncio.to_thread(bridge.wait_for_log, "log.settled", 2)
            for kill in range(1, 1 + kills // 5):
                await rows_are_handed_out(place, accounts * kill // (1 + kills // 5))
                await asyncio.to_thread(broken.kill)
                await asyncio.to_thread(broken.start)
                await asyncio.to_thread(bridge.wait_for_log, "log.settled", 2 + kill)
            (reading,) = await read_log(broken, log_of(place), until=accounts)
            assert await stopped(bridge) == 0
    assert reading.twice == 0
    assert reading.sequences == list(range(1, accounts + 1))


async def test_a_log_that_is_away_holds_nothing_up_and_gets_everything_once_it_is_back(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with streamed_site(tmp_path, broker, accounts=300) as place:
        right = place.environment["BRIDGE_RABBITMQ_STREAM_URL"]
        place.environment["BRIDGE_RABBITMQ_STREAM_URL"] = f"rabbitmq-stream://guest:guest@127.0.0.1:{free_port()}/"
        with place.bridge() as bridge:
            witness = await place.witness(until=300)
            failed = await asyncio.to_thread(bridge.wait_for_log, "log.failed")
            assert "rabbitmq-plugins enable rabbitmq_stream" in failed["problem"]
            code, told = await asked(place, "status")
            assert code == 1
            assert "events wait to be written to the log" in told
            assert await stopped(bridge) == 0
        assert len(witness.ids) == len(set(witness.ids)) == 300
        place.environment["BRIDGE_RABBITMQ_STREAM_URL"] = right
        with place.bridge() as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "log.settled")
            (reading,) = await read_log(broker, log_of(place), until=300)
            assert await stopped(bridge) == 0
    assert (reading.twice, reading.sequences) == (0, list(range(1, 301)))
    assert set(witness.ids) <= set(reading.ids), "the same events"


async def test_a_store_set_back_while_the_log_was_away_begins_a_new_lineage(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    """Nothing of what the exchange got meanwhile is in the log; the marks tell that it was given."""
    async with streamed_site(tmp_path, broker, accounts=20) as place:
        with place.bridge() as bridge:
            await place.witness(until=20)
            assert await stopped(bridge) == 0
        files = {file: file.read_bytes() for file in tmp_path.iterdir() if file.name.startswith("bridge.db")}
        place.environment["BRIDGE_RABBITMQ_STREAM_URL"] = f"rabbitmq-stream://guest:guest@127.0.0.1:{free_port()}/"
        with place.bridge() as bridge:
            place.pbx.rename(place.pbx.pick())
            await place.witness(until=1)
            await asyncio.to_thread(bridge.wait_for_log, "log.last_position_not_asked", 2)
            await asyncio.to_thread(bridge.kill)
        for file, content in files.items():
            file.write_bytes(content)
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"bridge.db{suffix}").unlink(missing_ok=True)
        with place.bridge() as bridge:
            told = await asyncio.to_thread(bridge.wait_for_log, "store.renewed")
            assert "the log at the broker has later numbers" in told["problem"]
            assert await stopped(bridge) == 0


async def test_check_tries_the_stream_port(tmp_path: Path, broker: PrivateBroker) -> None:
    async with streamed_site(tmp_path, broker, accounts=1) as place:
        code, told = await asked(place, "check")
        assert "logged in at the stream port; writable: pbx.accounts" in told, told
        place.environment["BRIDGE_RABBITMQ_STREAM_URL"] = broker.stream_url.replace("guest:guest", "guest:wrong")
        code, told = await asked(place, "check")
        assert code == 1
        assert "Set the right ones in rabbitmq.stream_url" in told


async def test_tail_shows_the_log_in_all_its_partitions(tmp_path: Path, broker: PrivateBroker) -> None:
    async with streamed_site(tmp_path, broker, accounts=40) as place:
        place.environment["BRIDGE_RABBITMQ_LOG_PARTITIONS"] = "3"
        with place.bridge() as bridge:
            await asyncio.to_thread(bridge.wait_for_log, "log.settled")
            await read_log(broker, log_of(place, 3), until=40)
            with Command("tail", "--from", "first", "--json", environment=place.environment) as tail:
                async with asyncio.timeout(30):
                    while len(tail.out) < 40:
                        await asyncio.sleep(0.05)
                assert sorted(int(json.loads(line)["sequence"]) for line in tail.out) == list(range(1, 41))
            assert await stopped(bridge) == 0
