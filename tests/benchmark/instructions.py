"""Instructions per account and stage, which a busy machine does not change: ``python -m tests.benchmark.instructions``.

Valgrind counts them (``--tool=callgrind``), of user code, in one process without sockets. What was counted is compared
with ``instructions.json`` beside this file; more than 2 % worse in any stage ends with 1 and the name of the stage. The
file has an entry for every interpreter and set of libraries that was counted with, since each makes code of its own:
where there is none for those at hand, that is said, and nothing is compared. ``--update`` writes the entry.

``--whole`` counts what the stages are a part of: a walk by the whole bridge, everything durable and confirmed, and one
by a bare client; each with few accounts and with many, of which the difference counts. That has no entry, and scatters
by a tenth: how many rows become durable together depends on the time.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click
import orjson

from tests.benchmark.site import pretend_pbx
from tests.benchmark.stages import STAGES, by_stage, stages
from tests.support.rabbit import PrivateBroker

BASELINE: Final = Path(__file__).parent / "instructions.json"
ACCOUNTS: Final = 300
WORSE: Final = 1.02
PATIENCE_SECONDS: Final = 600.0

MARK: Final = "sched_yield"
"""A function of the C library that nothing else calls here: with each call valgrind writes down what it counted."""

WALKED: Final = (500, 2500)
"""Accounts of a short walk and of a long one."""

Counted = Mapping[str, float]
"""Thousands of instructions per account, by stage."""


def made_with() -> str:
    """Return what else than our code decides how many instructions there are."""
    libraries = [f"{name} {importlib.metadata.version(name)}" for name in ("orjson", "websockets")]
    python = f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    return ", ".join([platform.machine(), python, f"SQLite {sqlite3.sqlite_version}", *libraries])


def count(accounts: int = ACCOUNTS) -> Counted:
    """Return what each stage takes.

    Raises:
        RuntimeError: valgrind did not run.

    """
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        _run_counted(folder, "tests.benchmark.counted", str(accounts), options=[f"--dump-before={MARK}"])
        parts = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = [_total(part) for part in parts[1::2]]  # those in between are from a stage to the next
    names = [name for name, _ in stages(0)]
    if len(totals) != len(names):
        raise RuntimeError(f"{len(totals)} stages were counted instead of {len(names)}")
    return by_stage({name: total / accounts / 1000 for name, total in zip(names, totals, strict=True)})


def count_walk(module: str, function: str) -> float:
    """Return how many thousands of instructions each account of a walk takes by this side.

    Raises:
        RuntimeError: valgrind did not run.

    """
    counted = {accounts: _counted_walk(module, function, accounts) for accounts in WALKED}
    (few, least), (many, most) = counted.items()
    return (most - least) / (many - few) / 1000


def _counted_walk(module: str, function: str, accounts: int) -> int:
    with PrivateBroker() as broker, pretend_pbx(accounts=accounts) as url, tempfile.TemporaryDirectory() as folder:
        wanted = {"url": url, "accounts": accounts, **({"broker": broker.url} if module == "walk" else {})}
        _run_counted(folder, "tests.benchmark.sides", module, function, json.dumps(wanted))
        return _total(Path(folder) / "out")


def _run_counted(folder: str, module: str, *words: str, options: Sequence[str] = ()) -> None:
    """Run a module under valgrind, which writes what it counted into *folder*."""
    # Addresses and hashes are the same each time, or sets and dicts would be in another order.
    fixed = ("setarch", platform.machine(), "-R")
    counting = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", *options)
    told = subprocess.run(
        (*fixed, *counting, sys.executable, "-m", module, *words),
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    if told.returncode:
        raise RuntimeError(f"valgrind ended with {told.returncode}: {told.stderr[-300:]}")


def _total(part: Path) -> int:
    found = re.search(r"^totals: (\d+)", part.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{part.name} has no total")
    return int(found[1])


def worse(before: Counted, now: Counted) -> list[str]:
    """Return the stages that take more than they may, each as a sentence."""
    return [
        f"{stage} takes {now[stage]:.1f} k instructions an account instead of {before[stage]:.1f} k"
        for stage in STAGES
        if now[stage] > before[stage] * WORSE
    ]


def table(before: Counted | None, now: Counted) -> str:
    """Return what was counted, beside what it was before."""
    lines = [f"{'thousands of instructions per account':<72}{'before':>9}{'now':>9}"]
    whole = {"all": "all of it"}
    for stage, what in (STAGES | whole).items():
        figures = [
            None if told is None else sum(told.values()) if stage in whole else told[stage] for told in (before, now)
        ]
        lines.append(
            f"{stage + ': ' + what:<72}" + "".join(f"{'-' if f is None else format(f, '.1f'):>9}" for f in figures)
        )
    return "\n".join(lines)


@click.command(help=__doc__)
@click.option("--whole", "is_whole", is_flag=True, help="Count the whole bridge instead, beside a bare client.")
@click.option("--update", "is_update", is_flag=True, help="Write down what was counted as what is to be held.")
def main(*, is_update: bool, is_whole: bool) -> None:
    if missing := [name for name in ("valgrind", "setarch") if shutil.which(name) is None]:
        click.echo(f"SKIPPED: {missing[0]} is not here; on Debian: apt-get install valgrind util-linux")
        return
    if is_whole:
        for name, side in (("the whole bridge", ("walk", "slowed")), ("a bare client", ("bare", "walked"))):
            click.echo(f"{name}: {count_walk(*side):.0f} k instructions an account")
        return
    baseline: dict[str, dict[str, float]] = orjson.loads(BASELINE.read_bytes())
    who, now = made_with(), count()
    before = baseline.get(who)
    click.echo(table(before, now))
    if is_update:
        baseline[who] = {stage: round(figure, 1) for stage, figure in now.items()}
        BASELINE.write_bytes(orjson.dumps(baseline, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    elif before is None:
        click.echo(f"Not compared: nothing was counted before with {who}")
    elif sentences := worse(before, now):
        for sentence in sentences:
            click.echo(sentence, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
