"""A PBX that is set back under the same guid while its connection is lost: it is noticed, and walked soon."""

import random
from functools import partial
from unittest.mock import Mock

import pytest

from bridge.events.normalize import account_key
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.store.tables.store import TableStore
from tests.support.world import World

SOON = 900
MODES = [
    *("idle-guid", "idle-bare", "idle-empty", "idle-null", "idle-cursor", "idle-silent", "idle-hold", "idle-error"),
    *("ord-indep", "ord-const", "ord-absent", "ord-walk", "cursor-number", "cursor-zeros", "cursor-huge"),
    *("src-dropped", "rowguid-present", "optional-empty", "json-shuffled", "info-missing", "log", "push-row"),
    *("walk-table", "walk-snapshot", "hist-full", "hist-gap", "dup-noop", "dup-late", "slow"),
]


def world_of(store: TableStore, *modes: str) -> World:
    """Return a PBX that was read, and of which the last three changes came one by one."""
    pbx = Pbx(accounts=6, seed=3, modes=Modes.parse(modes))
    return World(store, "-".join(modes) or "plain", pbx, random.Random(3))  # noqa: S311 - a case, no secret


def somebody(world: World, number: int) -> str:
    return sorted(guid for guid, record in world.pbx.truth().items() if record.kind == "user")[number]


def change(world: World, number: int) -> None:
    world.do(lambda: world.pbx.change_display_name(somebody(world, number)))
    world.run(200)


def walks(world: World) -> int:
    return world.store.place(world.name).walk


def assert_is_truth(world: World) -> None:
    truth = {account_key(guid): world.published_of(told) for guid, told in world.pbx.truth().items()}  # type: ignore[arg-type]
    assert {key: known.account for key, known in world.mirror().items() if not known.is_deleted} == truth


@pytest.mark.parametrize("mode", MODES)
def test_a_pbx_that_lost_changes_is_walked_soon(store: TableStore, mode: str) -> None:
    """Its numbers lie behind ours: without being asked it would tell nothing until they have caught up."""
    world = world_of(store, mode)
    world.run(900)
    snapshot = world.pbx.take_snapshot()
    for number in range(3):
        change(world, number)
    before = walks(world)
    world.do(lambda: world.pbx.vm_rollback(snapshot))
    world.run(SOON)
    assert walks(world) == before + 1
    if mode != "info-missing":
        assert_is_truth(world)


@pytest.mark.parametrize("mode", ["idle-guid", "idle-repeat", "idle-hold", "src-dropped", "log", "walk-table"])
@pytest.mark.parametrize("more", [3, 4], ids=["caught up", "passed ours"])
def test_a_pbx_whose_numbers_have_come_to_ours_meanwhile_is_walked_soon(
    store: TableStore, mode: str, more: int
) -> None:
    world = world_of(store, mode)
    world.run(900)
    snapshot = world.pbx.take_snapshot()
    for number in range(3):
        change(world, number)
    before = walks(world)
    world.do(lambda: world.pbx.vm_rollback(snapshot))
    for number in range(more):
        world.do(partial(world.pbx.change_display_name, somebody(world, 5 - number)))
    world.run(SOON)
    assert walks(world) == before + 1
    assert_is_truth(world)


@pytest.mark.parametrize("mode", [*MODES, "idle-repeat"])
@pytest.mark.parametrize("changes", [0, 2], ids=["as it was", "changed meanwhile"])
def test_a_pbx_that_is_as_it_was_or_has_news_is_not_doubted(
    store: TableStore, mode: str, changes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question more for each connection is the price, not a full walk."""
    world = world_of(store, mode)
    world.run(900)
    for number in range(3):
        change(world, number)
    doubted = Mock()
    monkeypatch.setattr(world.schedule, "doubt", doubted)
    for _ in range(3):
        world.cut()
        for number in range(changes):
            change(world, 4 - number)
        world.run(SOON)
    doubted.assert_not_called()


def test_a_pbx_that_is_set_back_again_and_again_is_walked_once_an_hour(store: TableStore) -> None:
    world = world_of(store)
    world.run(900)
    before = walks(world)
    hours = 4
    for _ in range(hours * 6):
        snapshot = world.pbx.take_snapshot()
        change(world, 2)
        world.do(partial(world.pbx.vm_rollback, snapshot))
        world.run(400)
    assert hours - 1 <= walks(world) - before <= hours + 1


def test_what_cannot_be_asked_after_a_start_of_the_bridge_is_walked_once(store: TableStore) -> None:
    """In doubt, and not at once: the last proof is not an hour old."""
    world = world_of(store)
    world.run(900)
    change(world, 2)
    before = walks(world)
    world.crash()
    world.run(1800)
    assert walks(world) == before
    world.run(4 * 3600)
    assert walks(world) == before + 1
