import pytest

from tests.benchmark.figures import Figure, at_least, at_most, percentile, spread


def test_a_figure_is_the_median_of_its_rounds() -> None:
    figure = Figure("publish", "publishing")
    for value in (0.9, 1.2, 1.0):
        figure.add(value * 100, 100, value)
    told = figure.as_json()
    assert (told["value"], told["goal"], told["met"], told["ours"], told["rounds"]) == (1.0, 1.0, True, 100, 3)


def test_what_is_missing_is_said_and_is_no_success() -> None:
    figure = Figure("publish", "publishing", missing="node is not installed")
    assert figure.as_json() | {"value": None, "met": None, "missing": "node is not installed"} == figure.as_json()


def test_a_figure_without_a_goal_is_neither_met_nor_missed() -> None:
    figure = Figure("cpu_us_wire", "CPU")
    figure.add(20, 0, 20)
    assert (figure.goal, figure.is_met) == (None, None)


@pytest.mark.parametrize(
    ("goal", "value", "is_met"),
    [(at_least(0.8), 0.8, True), (at_least(0.8), 0.79, False), (at_most(60), 60, True), (at_most(60), 61, False)],
)
def test_a_goal_includes_its_limit(goal: object, value: float, is_met: bool) -> None:  # noqa: FBT001 - of the table
    assert goal.is_met_by(value) is is_met  # type: ignore[attr-defined]


@pytest.mark.parametrize(("share", "value"), [(0.99, 99), (0.5, 50), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_the_spread_is_a_share_of_the_median() -> None:
    assert spread([1.0, 1.1, 0.9]) == pytest.approx(0.2)
    assert spread([5.0]) == 0
    assert spread([]) is None
