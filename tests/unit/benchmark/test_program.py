"""The program's names, without measuring anything."""

import json

import pytest
from click.testing import CliRunner

from tests.benchmark import __main__ as program
from tests.benchmark.figures import GOALS, Figure
from tests.benchmark.running import Benchmark, Run

PROMISED = {
    "walk_loopback",
    "walk_1ms",
    "publish",
    "latency_p99",
    "mirror_growth",
    "idle_memory_kb",
    "idle_cpu_share",
    "outbox_first_confirm_s",
    "outbox_memory_mb",
}


def test_every_promised_figure_has_a_goal_and_a_benchmark() -> None:
    assert set(GOALS) >= PROMISED
    measured = [name for benchmark in program.BENCHMARKS for name in benchmark.figures]
    assert set(measured) >= set(GOALS)
    assert len(measured) == len(set(measured))


def test_a_name_that_is_none_is_refused_with_those_there_are() -> None:
    done = CliRunner().invoke(program.main, ["walk"])
    assert done.exit_code == 2
    assert "walk_loopback" in done.output


def test_json_is_one_object_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_run: Run) -> list[Figure]:
        figure = Figure("publish", "publishing")
        figure.add(11, 10, 1.1)
        return [figure]

    monkeypatch.setattr(program, "BENCHMARKS", [Benchmark("publish", ("publish",), measure)])
    done = CliRunner().invoke(program.main, ["publish", "--json"])
    assert json.loads(done.stdout)["publish"]["met"] is True
    table = CliRunner().invoke(program.main, ["publish"])
    assert "met" in table.stdout
