"""Stops at random moments in the midst of trouble; ``python -m tests.starts`` plays two hundred of them."""

from pathlib import Path

from tests.starts import play
from tests.support.rabbit import PrivateBroker


async def test_every_start_ends_in_its_time_whatever_is_wrong_and_what_it_left_is_published_later(
    tmp_path: Path,
) -> None:
    with PrivateBroker(streams=True) as broker:
        figures = await play(tmp_path, broker, runs=8, seed=8, at_once=2, starts_of_a_store=4)
    assert not figures.wrong
    assert (figures.starts, figures.stores) == (8, 2)
    assert figures.published >= 2 * 300
