"""What the run with one bad PBX of fifty would notice, without running it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from bridge.events.cloudevents import DOUBT_HEADER
from tests.neighbours import __main__ as program
from tests.neighbours.bad import ANSWERS, OTHERS, UNASKED
from tests.neighbours.site import Site


def message(name: str, identity: str, headers: Mapping[str, Any] | None = None) -> Any:
    return SimpleNamespace(
        body=f'{{"data":{{"account":{{"display_name":"{name}"}}}}}}'.encode(),
        message_id=identity,
        headers=headers or {},
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    place = Site(tmp_path, cast("Any", None), [], cast("Any", None), cast("Any", None))
    for number in range(3):
        place.made[f"p00 {number}"] = 1.0
        place.order["p00"].append(f"p00 {number}")
    return place


@pytest.mark.parametrize(
    ("came", "words"),
    [
        ([0, 1, 2], ""),
        ([0, 2], "1 lost"),
        ([0, 1, 1, 2], "1 more than once"),
        ([0, 2, 1], "not in order"),
    ],
)
def test_a_change_that_does_not_come_once_and_in_order_is_noticed(site: Site, came: list[int], words: str) -> None:
    for number in came:
        asyncio.run(site.consume(message(f"p00 {number}", str(number))))
    mistakes = site.mistakes()
    assert bool(mistakes) == bool(words)
    assert words in "".join(mistakes)


def test_what_was_in_doubt_may_come_again_where_it_says_so_and_is_the_same(site: Site) -> None:
    for number in range(3):
        asyncio.run(site.consume(message(f"p00 {number}", str(number))))
    asyncio.run(site.consume(message("p00 1", "1", {DOUBT_HEADER: True})))
    assert (site.again, site.mistakes()) == (1, [])
    asyncio.run(site.consume(message("p00 1", "another", {DOUBT_HEADER: True})))
    assert site.mistakes()


def test_every_way_in_which_the_bad_one_can_be_bad_is_played() -> None:
    assert {*ANSWERS, *UNASKED, *OTHERS} <= program.TROUBLES.keys()
    assert program.TOO_LARGE in ANSWERS
    assert {"unroutable", "another bridge holds its fence"} <= program.TROUBLES.keys()


def test_the_ratio_is_of_the_slowest_hundredth_of_what_was_measured() -> None:
    felt = program.Measured("x", during=[10.0] * 90 + [30.0] * 10, around=[10.0] * 100, times=1)
    assert felt.ratio == pytest.approx(3.0)
    assert "3.00" in felt.line()


def test_what_the_machine_has_to_bear_is_not_counted_against_the_bridge() -> None:
    felt = program.Measured("x", during=[30.0] * 10, around=[10.0] * 10, elsewhere=[25.0] * 10, times=1)
    assert felt.ratio == pytest.approx(3.0)
    assert felt.share == pytest.approx(1.2)
    felt.elsewhere = [9.0] * 10
    assert felt.share == pytest.approx(3.0), "it came first, or the machine was busier then"


def test_a_way_that_is_none_is_refused_with_those_there_are() -> None:
    done = CliRunner().invoke(program.main, ["--way", "kindly"])
    assert done.exit_code == 2
    assert "unroutable" in done.output
