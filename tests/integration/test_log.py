"""The log written by the stream protocol: each event once, whoever dies."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.logs import log_of, read_log, streamed_site
from tests.support.rabbit import PrivateBroker
from tests.support.site import rows_are_handed_out, stopped

ACCOUNTS = 2000
KILLS = 5


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    with PrivateBroker(streams=True) as started:
        yield started


@pytest.fixture
def broken() -> Iterator[PrivateBroker]:
    with PrivateBroker(streams=True) as started:
        yield started


async def test_a_bridge_that_is_killed_again_and_again_writes_each_event_once(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    chance = random.Random(7)
    async with streamed_site(tmp_path, broker, accounts=ACCOUNTS, round_trip_seconds=0.001) as place:
        for kill in range(1, KILLS + 1):
            with place.bridge() as bridge:
                await rows_are_handed_out(place, place.rows_handed_out + ACCOUNTS // (KILLS + 1))
                await asyncio.sleep(chance.random() * 0.05)
                bridge.kill()
        with place.bridge() as bridge:
            (reading,) = await read_log(broker, log_of(place), until=ACCOUNTS)
            assert await stopped(bridge) == 0
    assert reading.twice == 0
    assert reading.sequences == list(range(1, ACCOUNTS + 1))


async def test_a_broker_that_is_killed_in_the_middle_has_each_event_once(tmp_path: Path, broken: PrivateBroker) -> None:
    async with streamed_site(tmp_path, broken, accounts=ACCOUNTS, round_trip_seconds=0.001) as place:
        with place.bridge() as bridge:
            await rows_are_handed_out(place, 10)
            await asyncio.to_thread(bridge.wait_for_log, "log.settled")
            await asyncio.to_thread(broken.stop)  # a stream that is seconds old does not survive a kill -9 in 3.10
            await asyncio.to_thread(broken.start)
            await asyncio.to_thread(bridge.wait_for_log, "log.settled", 2)
            await rows_are_handed_out(place, ACCOUNTS // 2)
            await asyncio.to_thread(broken.kill)
            await asyncio.to_thread(broken.start)
            await asyncio.to_thread(bridge.wait_for_log, "log.settled", 3)
            (reading,) = await read_log(broken, log_of(place), until=ACCOUNTS)
            assert await stopped(bridge) == 0
    assert reading.twice == 0
    assert reading.sequences == list(range(1, ACCOUNTS + 1))
