import asyncio

from bridge.runtime.row_budget import HEAVY_BYTES, RowBudget, weight
from tests.support.rows import row


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
    assert weight(usual) == weight(usual._replace(size=HEAVY_BYTES - 1)) == 1
    assert weight(usual._replace(size=1 << 20)) == 1 + (1 << 20) // HEAVY_BYTES
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
