"""The log written by the stream protocol: each event once, whoever dies."""

import asyncio
import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.logs import log_of, read_log, streamed_site
from tests.support.rabbit import PrivateBroker
from tests.support.site import rows_are_handed_out, stopped

ACCOUNTS = 2000


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    with PrivateBroker(streams=True) as started:
        yield started


@pytest.fixture
def broken() -> Iterator[PrivateBroker]:
    with PrivateBroker(streams=True) as started:
        yield started


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
