import asyncio

from bridge.runtime.row_budget import RowBudget


def test_walks_leave_a_share_to_changes() -> None:
    budget = RowBudget(16)
    walked = 0
    while budget.take(is_walking=True):
        walked += 1
    assert walked == 12
    assert [budget.take(is_walking=False) for _ in range(5)] == [True] * 4 + [False]
    assert budget.rows == 16


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
