"""What the count of instructions makes of what valgrind says, without running it."""

from pathlib import Path

import orjson
import pytest

from tests.benchmark.instructions import BASELINE, table, worse
from tests.benchmark.stages import STAGES, by_stage, measured

BEFORE = dict.fromkeys(STAGES, 100.0)


def test_two_percent_more_are_let_pass_and_no_more() -> None:
    assert worse(BEFORE, BEFORE | {"wire": 101.9}) == []
    assert worse(BEFORE, BEFORE | {"wire": 102.1}) == ["wire takes 102.1 k instructions an account instead of 100.0 k"]


def test_a_stage_that_got_better_does_not_hide_one_that_got_worse() -> None:
    assert worse(BEFORE, BEFORE | {"wire": 50.0, "store": 110.0}) == [
        "store takes 110.0 k instructions an account instead of 100.0 k"
    ]


@pytest.mark.parametrize(("before", "told"), [(BEFORE, "100.0"), (None, "-")])
def test_the_table_has_what_was_before_beside_it(before: dict[str, float] | None, told: str) -> None:
    *_, encode, _, whole = table(before, BEFORE).splitlines()
    assert encode.split()[-2:] == [told, "100.0"]
    assert whole.split()[-2:] == ["500.0" if before else "-", "500.0"]


def test_keeping_is_counted_less_what_it_begins_with() -> None:
    took = {"wire": 1.0, "normalize": 2.0, "encode": 3.0, "keep": 10.0, "publish": 4.0}
    assert by_stage(took) == {"wire": 1.0, "normalize": 2.0, "store": 5.0, "encode": 3.0, "publish": 4.0}


def test_every_stage_runs_and_the_baseline_knows_them_all() -> None:
    assert measured(accounts=10).keys() == STAGES.keys()
    for counted in orjson.loads(Path(BASELINE).read_bytes()).values():
        assert counted.keys() == STAGES.keys()
