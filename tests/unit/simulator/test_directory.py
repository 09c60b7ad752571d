import pytest

from bridge.simulator.directory import NoSuchAccount
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.people import MARK
from tests.support.pbx_reader import Follower


def test_the_same_seed_makes_the_same_pbx_and_the_same_day() -> None:
    one, other = Pbx(accounts=20, seed=9), Pbx(accounts=20, seed=9)
    assert [one.random_mutation() for _ in range(50)] == [other.random_mutation() for _ in range(50)]
    assert one.truth() == other.truth()


def test_the_list_has_as_many_accounts_as_asked_for() -> None:
    assert len(Pbx(accounts=20).truth()) == 20


def test_other_objects_may_be_listed_too() -> None:
    assert len(Pbx(accounts=20, modes=Modes.parse(["scope-all"])).truth()) > 20
    assert len(Pbx(accounts=20, modes=Modes.parse(["scope-own"])).truth()) == 1


def test_what_happens_is_written_down() -> None:
    pbx = Pbx(accounts=2)
    guid = pbx.create()
    pbx.rename(guid, "new.name")
    pbx.delete(guid)
    assert [(mutation.what, mutation.account_guid) for mutation in pbx.oracle.mutations] == [
        ("create", guid),
        ("rename", guid),
        ("delete", guid),
    ]
    assert pbx.oracle.mutations[1].record.h323 == "new.name"  # type: ignore[union-attr]  # a rename has a record


@pytest.mark.parametrize("deed", ["rename", "change_display_name", "change_extension", "toggle_group", "change_secret"])
def test_a_change_changes_one_thing(deed: str) -> None:
    pbx = Pbx(accounts=5)
    guid = pbx.pick()
    before = pbx.record(guid)
    getattr(pbx, deed)(guid)
    after = pbx.record(guid)
    assert len({name for name in after.__slots__ if getattr(before, name) != getattr(after, name)}) == 1


def test_secrets_stay_recognisable() -> None:
    pbx = Pbx(accounts=1)
    assert pbx.record(pbx.change_secret(pbx.pick())).secret.startswith(MARK)


def test_what_was_deleted_cannot_be_changed() -> None:
    pbx = Pbx(accounts=1)
    guid = pbx.delete(pbx.pick())
    with pytest.raises(NoSuchAccount):
        pbx.rename(guid)
    with pytest.raises(NoSuchAccount):
        pbx.pick()


def test_a_template_edit_issues_all_who_use_it_again() -> None:
    pbx = Pbx(accounts=20)
    follower = Follower(pbx)
    follower.catch_up()
    before = len(follower.rows)
    assert pbx.template_edit() == 20
    follower.catch_up()
    assert len(follower.rows) - before == 20
    assert {row["usn"] for row in follower.rows[:20]} == {row["usn"] for row in follower.rows[20:]}
    assert not {row["ausn"] for row in follower.rows[:20]} & {row["ausn"] for row in follower.rows[20:]}


def test_an_account_that_moves_is_at_home_elsewhere() -> None:
    here, there = Pbx(accounts=3, seed=1), Pbx(accounts=3, seed=2, name="branch")
    guid = here.pick()
    here.move(guid, there)
    assert guid not in here.truth()
    assert there.truth()[guid].loc == "branch"


def test_an_account_that_moves_leaves_a_list_of_those_at_home() -> None:
    pbx = Pbx(accounts=3, modes=Modes.parse(["scope-loc"]))
    follower = Follower(pbx)
    follower.catch_up()
    guid = pbx.move(pbx.pick(), "branch")
    follower.catch_up()
    assert guid not in follower.mirror
    assert len(follower.mirror) == 2


def test_a_new_order_is_a_new_epoch() -> None:
    pbx = Pbx(accounts=5)
    guid = pbx.epoch_guid
    pbx.modes = Modes.parse(["ord-indep"])
    assert pbx.epoch_guid != guid
    assert len(pbx.truth()) == 5


def test_who_wants_to_know_is_called_after_every_change() -> None:
    pbx = Pbx(accounts=5)
    calls: list[int] = []
    pbx.on_change.append(lambda: calls.append(1))
    for _ in range(3):
        pbx.touch(pbx.pick())
    assert len(calls) == 3


def test_what_is_remembered_can_be_bounded() -> None:
    pbx = Pbx(accounts=5, remember=50)
    follower = Follower(pbx)
    for _ in range(200):
        pbx.random_mutation()
        follower.catch_up()
    assert len(pbx.oracle.mutations) == len(pbx.oracle.deliveries) == 50
    follower.catch_up(full=True)
    assert follower.mirror.keys() == pbx.truth().keys()
