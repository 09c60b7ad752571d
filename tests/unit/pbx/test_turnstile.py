"""Turns of many PBXs, with the time of the event loop in the hand of the test where it matters."""

import asyncio
from collections.abc import Callable

from bridge.pbx.turnstile import IDLE_SECONDS, Turn, Turnstile


class Line:
    """PBXs at a turnstile, by their number, and in which order their turns began."""

    def __init__(self, most: int) -> None:
        self.turnstile = Turnstile(most)
        self.began: list[int] = []
        self.turns: list[Turn] = []

    def join(self, count: int) -> None:
        for _ in range(count):
            self.turns.append(self.turnstile.join(self._note(len(self.turns))))

    def _note(self, number: int) -> Callable[[], None]:
        return lambda: self.began.append(number)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_have_a_turn_and_the_others_follow_in_the_order_in_which_they_came() -> None:
    line = Line(2)
    line.join(5)
    assert line.began == [], "never from within the asking"
    await settled()
    assert (line.began, line.turnstile.waiting) == ([0, 1], 3)
    line.turns[1].leave()
    line.turns[0].leave()
    assert line.began == [0, 1, 2, 3]


async def test_who_leaves_before_its_turn_came_costs_nobody_one() -> None:
    line = Line(1)
    line.join(3)
    await settled()
    line.turns[1].leave()
    line.turns[0].leave()
    assert line.began == [0, 2]


async def test_a_turn_is_given_back_once_however_often_it_is_left() -> None:
    line = Line(1)
    line.join(4)
    await settled()
    for _ in range(3):
        line.turns[0].leave()
    assert line.began == [0, 1]


async def test_who_reads_nothing_while_others_wait_is_passed_over_and_goes_on_beside_them() -> None:
    line = Line(1)
    line.join(2)
    async with asyncio.timeout(10):
        while line.began != [0, 1]:
            await asyncio.sleep(0.01)
    assert line.turns[0].is_admitted
    line.turns[0].leave()
    line.join(1)
    await settled()
    assert line.began == [0, 1], "what was given on is not given once more"


async def test_who_reads_or_is_held_up_by_us_is_passed_over_by_nobody() -> None:
    line = Line(2)
    line.join(3)
    await settled()
    line.turns[1].is_held_up = True
    until = asyncio.get_running_loop().time() + 2 * IDLE_SECONDS
    while (now := asyncio.get_running_loop().time()) < until:
        line.turns[0].progress(now)
        await asyncio.sleep(0.05)
    assert line.began == [0, 1]


async def test_who_waits_alone_is_not_passed_over() -> None:
    line = Line(1)
    line.join(1)
    await asyncio.sleep(1.2 * IDLE_SECONDS)
    line.join(1)
    await settled()
    assert line.began == [0], "only who has been looked at since somebody waits"
