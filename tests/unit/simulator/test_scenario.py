from pathlib import Path

import pytest

from bridge.simulator import scenario
from bridge.simulator.pbx import Pbx
from tests.support.pbx_reader import Follower


def test_the_promised_scenarios_are_there() -> None:
    assert {"rename", "mass-template-edit", "restore-backup", "failover", "slow"} <= set(scenario.names())


@pytest.mark.parametrize("name", scenario.names())
def test_every_scenario_plays_to_its_end_and_the_truth_comes_out(name: str) -> None:
    played = scenario.load(name)
    pbx = Pbx(accounts=20)
    now = 1000.0
    player = scenario.Player(played, pbx, now)
    follower = Follower(pbx)
    assert played.about
    for _ in range(200):
        player.advance(now)
        follower.catch_up()
        now += 1
    assert player.is_over
    follower.catch_up(full=True)
    assert follower.mirror.keys() == pbx.truth().keys()


def test_a_step_waits_for_its_time_after_the_one_before() -> None:
    pbx = Pbx(accounts=2)
    text = '[[step]]\nat = 2\ndo = "touch"\n[[step]]\nat = 3\ndo = "touch"\ntimes = 4'
    player = scenario.Player(scenario.parse("x", text), pbx, 10.0)
    assert player.wake_at == 12.0
    assert not player.advance(11.9)
    assert len(player.advance(12.0)) == 1
    assert player.wake_at == 15.0
    player.advance(15.0)
    assert player.is_over
    assert len(pbx.oracle.mutations) == 5


def test_a_step_may_wait_for_accounts_handed_out() -> None:
    pbx = Pbx(accounts=5)
    player = scenario.Player(scenario.parse("x", '[[step]]\nafter_rows = 5\ndo = "touch"'), pbx, 0.0)
    assert not player.advance(1000.0)
    assert player.wake_at is None
    Follower(pbx).catch_up()
    assert player.advance(1000.0)


def test_a_file_is_a_scenario_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('about = "x"\nmodes = ["slow"]\n[[step]]\ndo = "modes"\nwords = ["fast"]', encoding="utf-8")
    played = scenario.load(str(file))
    assert (played.name, played.modes, played.steps[0].words) == ("mine", ("slow",), ("fast",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[step", "scenario x"),
        ('modes = ["quick"]', "no mode 'quick'"),
        ('[[step]]\ndo = "explode"', "step 1: do must be one of"),
        ('[[step]]\ndo = "modes"\nwords = ["quick"]', "step 1: there is no mode"),
        ('[[step]]\ndo = "touch"\nafter = 3', "unknown after"),
        ('[[step]]\ndo = "touch"\nat = -3', "numbers from 0"),
        ('[[step]]\ndo = "touch"\ntimes = "3"', "numbers from 0"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(scenario.BadScenario, match=complaint):
        scenario.parse("x", text)


def test_an_unknown_scenario_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(scenario.BadScenario, match="failover"):
        scenario.load("fail-over")


def test_going_back_needs_a_snapshot() -> None:
    player = scenario.Player(scenario.parse("x", '[[step]]\ndo = "vm_rollback"'), Pbx(), 0.0)
    with pytest.raises(scenario.BadScenario, match="take_snapshot"):
        player.advance(0.0)
