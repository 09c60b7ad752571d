import pytest

from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from tests.support.pbx_reader import Follower, inside


def test_a_day_goes_the_same_way_however_many_connect() -> None:
    alone, busy = Pbx(accounts=20, seed=9), Pbx(accounts=20, seed=9)
    for _ in range(50):
        inside(busy).ask()
        assert alone.random_mutation() == busy.random_mutation()
    assert alone.truth() == busy.truth()


def test_a_restored_configuration_is_a_new_epoch_with_old_content() -> None:
    pbx = Pbx(accounts=5)
    snapshot, then, guid = pbx.take_snapshot(), pbx.truth(), pbx.epoch_guid
    for _ in range(20):
        pbx.random_mutation()
    pbx.config_restore(snapshot)
    assert pbx.truth() == then
    assert pbx.epoch_guid != guid


def test_a_rollback_uses_numbers_again_for_other_content() -> None:
    pbx = Pbx(accounts=5)
    account, guid = pbx.pick(), pbx.epoch_guid
    snapshot = pbx.take_snapshot()
    pbx.change_extension(account, "1")
    before = pbx.accounts.current[account]
    pbx.vm_rollback(snapshot)
    pbx.change_extension(account, "2")
    after = pbx.accounts.current[account]
    assert (before.usn, before.ausn) == (after.usn, after.ausn)
    assert before.record != after.record
    assert pbx.epoch_guid == guid


def test_a_standby_has_the_same_accounts_under_other_numbers() -> None:
    pbx = Pbx(accounts=5)
    numbers = {guid: entry.usn for guid, entry in pbx.accounts.current.items()}
    truth, guid = pbx.truth(), pbx.epoch_guid
    pbx.failover_to_standby()
    assert pbx.truth() == truth
    assert pbx.epoch_guid == guid
    assert all(pbx.accounts.current[account].usn != usn for account, usn in numbers.items())


def test_the_first_node_catches_up_before_it_takes_over_again() -> None:
    pbx = Pbx(accounts=5)
    numbers = {guid: entry.usn for guid, entry in pbx.accounts.current.items()}
    pbx.failover_to_standby()
    changed, gone = pbx.change_extension(pbx.pick(), "77"), pbx.create()
    pbx.delete(gone)
    truth = pbx.truth()
    pbx.fail_back()
    assert pbx.truth() == truth
    kept = {guid for guid, usn in numbers.items() if pbx.accounts.current[guid].usn == usn}
    assert numbers.keys() - kept == {changed}


def test_there_is_no_way_back_without_a_way_there() -> None:
    with pytest.raises(RuntimeError, match="failover_to_standby comes first"):
        Pbx().fail_back()


def test_a_resync_gives_everybody_a_new_usn_and_nothing_else() -> None:
    pbx = Pbx(accounts=5)
    numbers = {guid: entry.usn for guid, entry in pbx.accounts.current.items()}
    truth = pbx.truth()
    pbx.slave_resync()
    assert pbx.truth() == truth
    assert all(pbx.accounts.current[guid].usn > usn for guid, usn in numbers.items())


@pytest.mark.parametrize("event", ["reboot", "failover_to_standby"])
def test_a_box_that_goes_down_cuts_its_connections(event: str) -> None:
    pbx = Pbx(accounts=1)
    caller = inside(pbx)
    getattr(pbx, event)()
    caller.wait()
    assert caller.closed_with == 1006
    assert not pbx.connections


@pytest.mark.parametrize("event", ["vm_rollback", "failover_to_standby"])
def test_numbers_keep_to_the_present_order_whatever_comes_back(event: str) -> None:
    pbx = Pbx(accounts=5)
    snapshot = pbx.take_snapshot()
    pbx.failover_to_standby()
    pbx.modes = Modes.parse(["ord-indep"])
    getattr(pbx, event)(*([snapshot] if event == "vm_rollback" else []))
    follower = Follower(pbx)
    follower.catch_up(full=True)
    pbx.template_edit()
    follower.catch_up()
    assert follower.mirror.keys() == pbx.truth().keys()
    assert len(follower.rows) == 10
