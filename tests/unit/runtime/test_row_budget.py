import asyncio
import time
from dataclasses import replace
from typing import NoReturn

import pytest

from bridge.model import SourceName
from bridge.runtime import row_budget
from bridge.runtime.row_budget import HEAVY_BYTES, MAX_REST_SECONDS, REST_SHARE, RowBudget, weight
from tests.support.rows import row

WALKER, ANOTHER = SourceName("the one that is walked"), SourceName("another")


def test_walks_leave_a_share_to_changes() -> None:
    budget = RowBudget(16)
    walked = 0
    while budget.take(is_walking=True):
        walked += 1
    assert walked == 12
    assert [budget.take(is_walking=False) for _ in range(5)] == [True] * 4 + [False]
    assert budget.rows == 16


def test_a_row_is_as_heavy_as_its_message() -> None:
    usual = row("a1", 1)
    assert weight(usual) == weight(replace(usual, size=HEAVY_BYTES - 1)) == 1
    assert weight(replace(usual, size=1 << 20)) == 1 + (1 << 20) // HEAVY_BYTES
    budget = RowBudget(16)
    assert budget.take(100, is_walking=True), "there is room, and nothing could ever come in otherwise"
    assert not budget.take(is_walking=False)


async def test_who_found_no_room_waits_until_rows_are_given_back() -> None:
    budget = RowBudget(16)
    while budget.take(is_walking=False):
        pass
    waiting = asyncio.create_task(budget.wait_for_room())
    await asyncio.sleep(0)
    budget.give_back(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.give_back(5)
    async with asyncio.timeout(10):
        await waiting
    assert budget.take(is_walking=True)


async def test_walks_take_turns() -> None:
    budget, inside, most = RowBudget(), 0, 0

    async def walk() -> None:
        nonlocal inside, most
        async with budget.walk_turn(WALKER):
            assert budget.is_shared(WALKER)
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    assert not budget.is_shared(WALKER)
    async with asyncio.timeout(10):
        await asyncio.gather(*[walk() for _ in range(5)])
    assert (most, budget.is_shared(WALKER)) == (1, False)


async def test_walks_rest_only_while_there_are_changes_and_never_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rests = 1000.0, []

    def rested(seconds: float) -> NoReturn:
        nonlocal now
        rests.append(seconds)
        now += seconds
        raise TimeoutError

    budget = RowBudget()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(asyncio, "timeout", rested)
    for taken, is_changing in ((0.01, False), (0.01, True), (60.0, True), (0.01, False)):
        async with budget.walk_turn(WALKER):
            now += taken
            if is_changing:
                budget.note_changes(ANOTHER)
    assert rests == [pytest.approx(0.01 * REST_SHARE), pytest.approx(MAX_REST_SECONDS)]
    now += 11.0
    async with budget.walk_turn(WALKER):
        now += 0.01
    assert len(rests) == 2, "nobody has changed anything for a while"


async def test_nobody_rests_for_changes_of_its_own() -> None:
    budget = RowBudget()
    budget.note_changes(WALKER)
    assert not budget.is_shared(WALKER)
    assert budget.is_shared(ANOTHER)
    budget.note_changes(ANOTHER)
    budget.note_changes(WALKER)
    assert budget.is_shared(WALKER), "another one did, too"


async def test_who_has_a_group_durable_tells_of_it_at_once_and_whoever_comes_next_rests() -> None:
    budget = RowBudget()
    budget.note_changes(ANOTHER)
    began_at = time.monotonic()
    async with budget.walk_turn(WALKER):
        time.sleep(0.05)  # noqa: ASYNC251 - a group that takes so long
    assert time.monotonic() - began_at < 0.05 + MAX_REST_SECONDS / 2
    async with asyncio.timeout(10), budget.walk_turn(WALKER):
        assert time.monotonic() - began_at >= 0.05 + MAX_REST_SECONDS


async def test_nobody_rests_while_somebody_waits_until_all_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_budget, "MAX_REST_SECONDS", 3600.0)
    monkeypatch.setattr(row_budget, "REST_SHARE", 1e9)
    budget = RowBudget()

    async def walk() -> None:
        async with budget.walk_turn(WALKER):
            time.sleep(0.001)  # noqa: ASYNC251 - a group that takes so long

    budget.note_changes(ANOTHER)
    async with asyncio.timeout(10):
        await walk()
        resting = [asyncio.create_task(walk()) for _ in range(3)]
        await asyncio.sleep(0.01)
        was_shared = budget.is_shared(WALKER)
        with budget.hurry():
            assert (was_shared, budget.is_shared(WALKER)) == (True, False)
            await asyncio.gather(*resting)
        assert budget.is_shared(WALKER)


async def test_a_group_that_fails_lets_the_next_one_come_at_once() -> None:
    budget = RowBudget()
    budget.note_changes(ANOTHER)
    with pytest.raises(ValueError, match="no disk"):
        async with budget.walk_turn(WALKER):
            raise ValueError("no disk")
    async with asyncio.timeout(10), budget.walk_turn(WALKER):
        pass
