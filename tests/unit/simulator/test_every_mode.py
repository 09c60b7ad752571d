"""Whatever word describes a PBX, a reader that keeps to the plain rules ends up with the truth."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.simulator.modes import ALL_WORDS, Info, Modes
from bridge.simulator.pbx import Pbx, SavedState
from bridge.simulator.people import build_info
from tests.support.pbx_reader import Follower


def assert_is_the_truth(follower: Follower) -> None:
    pbx = follower.pbx
    truth = pbx.truth()
    assert follower.mirror.keys() == truth.keys()
    for guid, row in follower.mirror.items():
        assert row["account-h323"] == truth[guid].h323
        if pbx.modes.info is Info.FULL:
            assert row["info"] == build_info(truth[guid], pbx.modes.shape, domain=pbx.domain, pbx=pbx.name)


def live_through(pbx: Pbx, follower: Follower) -> None:
    follower.catch_up(full=True)
    assert_is_the_truth(follower)
    for _ in range(30):
        pbx.random_mutation()
    pbx.recreate(pbx.pick())
    follower.catch_up()
    pbx.template_edit()
    pbx.move(pbx.pick(), "branch")
    follower.catch_up()
    follower.catch_up(full=True)


@pytest.mark.parametrize("word", ALL_WORDS)
def test_the_truth_comes_out_in_the_end(word: str) -> None:
    pbx = Pbx(accounts=40, seed=3, modes=Modes.parse([word]), with_odd_names=True)
    follower = Follower(pbx)
    live_through(pbx, follower)
    assert_is_the_truth(follower)
    assert not pbx.oracle.mistakes


@pytest.mark.parametrize("word", ALL_WORDS)
def test_everything_handed_out_is_on_record(word: str) -> None:
    pbx = Pbx(accounts=10, seed=3, modes=Modes.parse([word]))
    follower = Follower(pbx)
    live_through(pbx, follower)
    told = {(row["account-guid"], row["mt"]) for row in follower.rows}
    assert {guid for guid, _ in told} <= {delivery.account_guid for delivery in pbx.oracle.deliveries}
    assert pbx.oracle.load.rows <= len(pbx.oracle.deliveries)
    assert len(follower.rows) <= len(pbx.oracle.deliveries)


EVENTS: dict[str, Callable[[Pbx, SavedState], None]] = {
    "reboot": lambda pbx, _: pbx.reboot(),
    "restore": lambda pbx, snapshot: pbx.config_restore(snapshot),
    "rollback": lambda pbx, snapshot: pbx.vm_rollback(snapshot),
    "failover": lambda pbx, _: pbx.failover_to_standby(),
    "resync": lambda pbx, _: pbx.slave_resync(),
    "forget_history": lambda pbx, _: pbx.forget_history(),
    "drop": lambda pbx, _: pbx.drop_connections(),
    "new_epoch": lambda pbx, _: pbx.new_epoch(),
    "purge": lambda pbx, _: pbx.accounts.purge_deleted(),
}


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from(ALL_WORDS), min_size=2, max_size=4),
    events=st.lists(st.sampled_from(sorted(EVENTS)), max_size=4),
    seed=st.integers(0, 3),
)
def test_modes_and_events_can_be_combined(words: list[str], events: list[str], seed: int) -> None:
    """After whatever happened, one full walk brings out the truth."""
    modes = Modes.parse(words)
    # On connections of five questions nobody could ever read a list to its end whose guid is new every time, or whose
    # end is the end of the connection.
    if modes.error == "err-close" and (modes.guid in {"guid-request", "guid-session"} or modes.idle == "idle-error"):
        return
    pbx = Pbx(accounts=12, seed=seed, modes=modes)
    follower = Follower(pbx)
    live_through(pbx, follower)
    for event in events:
        snapshot = pbx.take_snapshot()
        for _ in range(5):
            pbx.random_mutation()
        EVENTS[event](pbx, snapshot)
        follower.catch_up()
    follower.catch_up(full=True)
    assert_is_the_truth(follower)
