from collections import Counter
from collections.abc import Sequence

import pytest

from tests.chaos.faults import OF_A_DATABASE, OF_SEVERAL, Fault, Kind, Link, plan


def test_a_plan_kills_as_often_as_it_is_told_and_does_everything_else_too() -> None:
    for bridge_kills, broker_kills in ((1, 0), (6, 1), (1, 3), (200, 20)):
        faults = plan(bridge_kills=bridge_kills, broker_kills=broker_kills, seed=1)
        kinds = Counter(fault.kind for fault in faults)
        together = sum(fault.with_bridge for fault in faults)
        assert kinds[Kind.BRIDGE_SIGKILL] + together == bridge_kills
        assert kinds[Kind.BROKER_KILL] == broker_kills
        assert set(Kind) - {Kind.BRIDGE_SIGKILL, Kind.BROKER_KILL} - OF_A_DATABASE - OF_SEVERAL <= kinds.keys()
        assert not OF_A_DATABASE & kinds.keys(), "where there is none"
    every = plan(bridge_kills=1, broker_kills=0, seed=1, links=list(Link), is_shared=True)
    assert {fault.kind for fault in every} >= OF_A_DATABASE | OF_SEVERAL


@pytest.mark.parametrize("links", [(Link.BROKER, Link.PBX, Link.DIALLED), tuple(Link)])
def test_every_connection_is_disturbed_in_every_way(links: Sequence[Link]) -> None:
    faults = plan(bridge_kills=1, broker_kills=0, seed=1, links=links)
    for kind in (Kind.CUT_MID_FRAME, Kind.BLACK_HOLE, Kind.HALF_OPEN, Kind.DELAY):
        assert {fault.link for fault in faults if fault.kind is kind} == set(links)


def test_of_a_kind_there_may_be_more_and_nothing_else_but_kills() -> None:
    faults = plan(
        bridge_kills=2, broker_kills=1, seed=1, at_least={Kind.PBX_REDIALS: 3, Kind.CLOCK_OFF: 2}, is_alone=True
    )
    kills = {Kind.BRIDGE_SIGKILL: 2, Kind.BROKER_KILL: 1}
    assert Counter(fault.kind for fault in faults) == {**kills, Kind.PBX_REDIALS: 3, Kind.CLOCK_OFF: 2}
    assert len(plan(bridge_kills=2, broker_kills=1, seed=1, at_least={Kind.RELOAD: 9})) > 2 + 1 + 9


def test_the_same_seed_makes_the_same_plan() -> None:
    one, same, other = (plan(bridge_kills=20, broker_kills=2, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_only_what_ends_a_publishers_session_without_a_goodbye_may_repeat() -> None:
    every = [*(Fault(kind, link) for kind in Kind for link in (Link.BROKER, Link.PBX))]
    assert {str(fault.kind) for fault in every if fault.may_repeat and fault.link is Link.PBX} == {
        "bridge_sigkill",
        "broker_kill",
        "store_set_back",
        "store_lost",
    }
    assert {str(fault.kind) for fault in every if fault.may_repeat} == {
        "bridge_sigkill",
        "broker_kill",
        "store_set_back",
        "store_lost",
        "cut_mid_frame",
        "black_hole",
        "half_open",
    }
