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
    while budget.take(by=WALKER, is_walking=True):
        walked += 1
    assert walked == 12
    assert [budget.take(by=ANOTHER, is_walking=False) for _ in range(5)] == [True] * 4 + [False]
    assert budget.rows == 16


def test_a_row_is_as_heavy_as_its_message() -> None:
    usual = row("a1", 1)
    assert weight(usual) == weight(replace(usual, size=HEAVY_BYTES - 1)) == 1
    assert weight(replace(usual, size=1 << 20)) == 1 + (1 << 20) // HEAVY_BYTES
    budget = RowBudget(16)
    assert budget.take(100, by=WALKER, is_walking=True), "there is room, and nothing could ever come in otherwise"
    assert not budget.take(by=ANOTHER, is_walking=False)


async def test_who_found_no_room_waits_until_rows_are_given_back() -> None:
    budget = RowBudget(16)
    while budget.take(by=ANOTHER, is_walking=False):
        pass
    waiting = asyncio.create_task(budget.wait_for_room())
    await asyncio.sleep(0)
    budget.give_back(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.give_back(5)
    async with asyncio.timeout(10):
        await waiting
    assert budget.take(by=WALKER, is_walking=True)


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


async def a_group(budget: RowBudget, seconds: float = 0.001) -> None:
    """Make a group of a walk durable, which takes so long."""
    async with budget.walk_turn(WALKER):
        time.sleep(seconds)  # noqa: ASYNC251 - the store does that, and nobody else has a turn


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have walks stand aside until somebody lets them go on."""
    monkeypatch.setattr(row_budget, "MAX_REST_SECONDS", 3600.0)
    monkeypatch.setattr(row_budget, "REST_SHARE", 1e9)


@pytest.mark.usefixtures("forever")
async def test_walks_stand_aside_from_when_a_change_is_read_until_it_is_told() -> None:
    budget = RowBudget()
    await a_group(budget)
    assert budget.take(by=WALKER, is_walking=True)
    assert budget.take(by=ANOTHER, is_walking=False)
    assert not budget.take(by=WALKER, is_walking=True), "nothing more is read for a walk"
    waiting = [asyncio.create_task(budget.wait_for_room()), asyncio.create_task(a_group(budget))]
    await asyncio.sleep(0.01)
    budget.give_back(1)
    budget.told([WALKER])
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    budget.told([ANOTHER])
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    assert budget.take(by=WALKER, is_walking=True)


@pytest.mark.usefixtures("forever")
async def test_walks_stand_aside_until_the_changes_of_all_are_told() -> None:
    budget, third = RowBudget(), SourceName("third")
    await a_group(budget)
    for changing in (ANOTHER, third, ANOTHER):
        assert budget.take(by=changing, is_walking=False)
    budget.told([ANOTHER])
    assert not budget.take(by=WALKER, is_walking=True)
    budget.told([third, ANOTHER])
    assert budget.take(by=WALKER, is_walking=True)


async def test_walks_get_on_while_changes_are_told_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a group they stand aside for a part of the time at most, and never for long."""
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
            budget.told([ANOTHER])
            assert budget.take(by=ANOTHER, is_walking=False)
    assert rests == [pytest.approx(0.01 * REST_SHARE), pytest.approx(MAX_REST_SECONDS)]


async def test_a_change_that_is_not_told_is_waited_for_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker may be away."""
    monkeypatch.setattr(row_budget, "REST_SHARE", 1e9)
    budget = RowBudget()
    assert budget.take(by=ANOTHER, is_walking=False)
    for _ in range(3):
        async with asyncio.timeout(10):
            await a_group(budget)
            while not budget.take(by=WALKER, is_walking=True):
                await budget.wait_for_room()
    began_at = time.monotonic()
    await a_group(budget)
    assert time.monotonic() - began_at < MAX_REST_SECONDS / 2


@pytest.mark.usefixtures("forever")
async def test_nobody_stands_aside_for_changes_of_its_own() -> None:
    budget = RowBudget()
    async with asyncio.timeout(10):
        await a_group(budget)
        assert budget.take(by=WALKER, is_walking=False)
        await a_group(budget)
    assert budget.take(by=WALKER, is_walking=True)
    assert not budget.is_shared(WALKER)
    assert budget.is_shared(ANOTHER)
    assert budget.take(by=ANOTHER, is_walking=False)
    assert budget.take(by=WALKER, is_walking=False)
    assert budget.is_shared(WALKER), "another one changes, too"


async def test_who_has_a_group_durable_tells_of_it_at_once_and_whoever_comes_next_stands_aside() -> None:
    budget = RowBudget()
    began_at = time.monotonic()
    await a_group(budget, 0.05)
    assert budget.take(by=ANOTHER, is_walking=False)
    assert time.monotonic() - began_at < 0.05 + MAX_REST_SECONDS / 2
    async with asyncio.timeout(10), budget.walk_turn(WALKER):
        assert time.monotonic() - began_at >= 0.05 + MAX_REST_SECONDS


@pytest.mark.usefixtures("forever")
async def test_nobody_stands_aside_while_somebody_waits_until_all_is_durable() -> None:
    budget = RowBudget()
    await a_group(budget)
    assert budget.take(by=ANOTHER, is_walking=False)
    resting = [asyncio.create_task(a_group(budget)) for _ in range(3)]
    await asyncio.sleep(0.01)
    was_shared = budget.is_shared(WALKER)
    with budget.hurry():
        assert (was_shared, budget.is_shared(WALKER)) == (True, False)
        assert budget.take(by=WALKER, is_walking=True)
        async with asyncio.timeout(10):
            await asyncio.gather(*resting)
    assert budget.is_shared(WALKER)
    assert not budget.take(by=WALKER, is_walking=True)


@pytest.mark.usefixtures("forever")
async def test_a_group_that_fails_lets_the_next_one_come_at_once() -> None:
    budget = RowBudget()
    assert budget.take(by=ANOTHER, is_walking=False)
    with pytest.raises(ValueError, match="no disk"):
        async with budget.walk_turn(WALKER):
            raise ValueError("no disk")
    async with asyncio.timeout(10):
        await a_group(budget)
