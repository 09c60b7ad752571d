"""The short form of the chaos run; the long one is ``python -m tests.chaos --bridge-kills 1000 --broker-kills 100``."""

import json
import sys
from pathlib import Path

import pytest

from tests.chaos.faults import OF_A_DATABASE, OF_SEVERAL, Kind
from tests.support.postgres import is_installed
from tests.support.process import Command

ROOT = Path(__file__).parents[2]
QUEUES = {f"{kind}.{use}" for kind in ("quorum", "classic") for use in ("plain", "inbox", "also")}


def test_whatever_is_killed_or_cut_nothing_is_lost_reordered_or_applied_twice(tmp_path: Path) -> None:
    """Every kind of fault, both types of queues, and beside our own consumers one that anybody may have written."""
    python = (sys.executable, "-m", "tests.chaos")
    also = f"{sys.executable} -m tests.chaos.also"
    options = ("--bridge-kills", "6", "--broker-kills", "1", "--seed", "1", "--json", "--also", also)
    with Command(*options, "--keep", str(tmp_path / "kept"), program=python, cwd=ROOT) as run:
        assert run.wait(seconds=480) == 0, run.printed
    (told,) = map(json.loads, run.out)
    assert (told["bridge_kills"], told["broker_kills"]) == (6, 1)
    assert told["changes"] >= 7 * 200
    assert (told["lost"], told["out_of_order"], told["applied_twice"], told["unannounced"]) == (0, 0, 0, 0)
    assert told["by_fault"]["bridge_sigterm"]["delivered_twice"] == 0
    assert told["delivered_twice"] <= told["delivered_twice_bound"]
    assert all(told["by_fault"][kind]["injected"] for kind in set(Kind) - OF_A_DATABASE - OF_SEVERAL), (
        "every kind of fault was tried"
    )
    assert told["by_queue"].keys() == QUEUES


@pytest.mark.skipif(not is_installed(), reason="PostgreSQL is not installed here (Debian: postgresql)")
def test_the_same_holds_where_the_store_is_a_database_that_breaks_as_well(tmp_path: Path) -> None:
    python = (sys.executable, "-m", "tests.chaos")
    options = ("--store", "postgresql", "--bridge-kills", "3", "--broker-kills", "1", "--seed", "1", "--json")
    with Command(*options, "--keep", str(tmp_path / "kept"), program=python, cwd=ROOT) as run:
        assert run.wait(seconds=480) == 0, run.printed
    (told,) = map(json.loads, run.out)
    assert (told["lost"], told["out_of_order"], told["applied_twice"], told["unannounced"]) == (0, 0, 0, 0)
    assert told["delivered_twice"] <= told["delivered_twice_bound"]
    assert all(told["by_fault"][kind]["injected"] for kind in set(Kind) - OF_SEVERAL), "every kind of fault was tried"


def test_a_run_that_would_kill_nothing_is_refused() -> None:
    python = (sys.executable, "-m", "tests.chaos")
    with Command("--bridge-kills", "0", "--broker-kills", "0", program=python, cwd=ROOT) as run:
        assert run.wait() == 2
    assert "nothing would be shown" in run.printed
