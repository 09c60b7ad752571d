"""What strangers at the door cost; ``python -m tests.hostile`` is the same with ten thousand of them."""

from pathlib import Path

from tests.hostile import WAYS, play
from tests.support.rabbit import PrivateBroker


async def test_strangers_of_every_kind_cost_nothing_that_stays_and_the_pbx_is_served_meanwhile(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    figures = await play(tmp_path, broker, count=20 * len(WAYS), at_once=40)
    assert figures.before is not None
    assert figures.after is not None
    assert figures.strangers == 20 * len(WAYS)
    assert figures.delivered == figures.changes > 0
    assert figures.after.descriptors <= figures.before.descriptors
    assert figures.after.memory_mb <= figures.before.memory_mb + 10
    assert figures.log_lines < 100
