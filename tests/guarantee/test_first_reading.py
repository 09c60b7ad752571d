"""Who was there before anybody looked is told as such, whatever happens to the connection meanwhile."""

import random

import pytest

from bridge.model import ChangeKind
from bridge.simulator.pbx import Pbx
from bridge.store.tables.store import TableStore
from tests.support.world import World

ACCOUNTS = 50


def test_a_connection_that_breaks_without_a_word_does_not_make_newcomers_of_the_rest(
    store: TableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two minutes are long enough for the list to seem read to its end, and the connection to be given up."""
    world = World(store, "hq", Pbx(accounts=ACCOUNTS, seed=3), random.Random(1))  # noqa: S311 - a case, no secret
    world.run(0.3)
    assert 0 < len(world.pbx.oracle.deliveries) < ACCOUNTS
    with monkeypatch.context() as broken:
        broken.setattr(world, "_send", lambda _text: None)
        world._mail.clear()  # noqa: SLF001 - what was on its way
        world.run(120)
    world.run(900)
    assert world.failures
    assert [event.kind for event in world.events()] == [ChangeKind.INITIAL] * ACCOUNTS
    assert world.certificates[-1].completes_lineage
