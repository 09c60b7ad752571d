"""How the bridge compares: ``python -m tests.benchmark [NAME...] [--json] [--quick] [--plots DIR]``.

Every comparison has both sides in one run, each in a process of its own, in turns, for several rounds; the figure is
the median. Progress goes to stderr, the result to stdout.
"""

import os
import resource
from collections.abc import Sequence
from pathlib import Path

import click

from tests.benchmark import certificate, fleet, growth, idle, latency, log, many_bridges, outbox, postgres, stages, walk
from tests.benchmark.plots import svg
from tests.benchmark.report import write_json, write_table
from tests.benchmark.running import Benchmark, a_run

BENCHMARKS = [
    benchmark
    for module in (walk, outbox, log, latency, growth, certificate, postgres, idle, fleet, many_bridges, stages)
    for benchmark in module.BENCHMARKS
]


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="One object on stdout instead of a table.")
@click.option(
    "--quick",
    "is_quick",
    is_flag=True,
    help="Smaller sizes, fewer rounds, only some figures: under a minute in all, and rough.",
)
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Write SVG plots into this folder.")
def main(names: tuple[str, ...], *, as_json: bool, is_quick: bool, plots: Path | None) -> None:
    """Measure what NAMEs stand for, benchmarks or single figures; everything without."""
    known = {name for benchmark in BENCHMARKS for name in (benchmark.name, *benchmark.figures)}
    if unknown := set(names) - known:
        raise click.UsageError(f"unknown: {', '.join(sorted(unknown))}. There are: {', '.join(sorted(known))}")
    # A thousand PBXs are a thousand sockets, here and in what is started from here.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    figures = []
    with a_run(is_quick=is_quick) as run:
        for benchmark in BENCHMARKS:
            if _is_wanted(benchmark, names, is_quick=is_quick):
                run.say(f"{benchmark.name} … (load of the machine: {os.getloadavg()[0]:.1f})")
                figures += benchmark.measure(run)
        if plots is not None:
            plots.mkdir(parents=True, exist_ok=True)
            for plot in run.plots:
                (plots / plot.file).write_text(svg(plot), "utf-8")
    (write_json if as_json else write_table)(figures)


def _is_wanted(benchmark: Benchmark, names: Sequence[str], *, is_quick: bool) -> bool:
    if names:
        return not {benchmark.name, *benchmark.figures}.isdisjoint(names)
    return not benchmark.is_long and not (is_quick and benchmark.is_extra)


if __name__ == "__main__":
    main()
