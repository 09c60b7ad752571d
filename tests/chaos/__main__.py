"""The promise under fire: ``python -m tests.chaos --bridge-kills 200 --broker-kills 20 --seed 1 --json``.

Kills the bridge and the broker, stops, freezes, cuts and delays, while accounts of a pretend PBX change all the time,
and counts what reached consumers. Exit codes: 0 the promise was kept, 1 it was not (stderr says where), 2 it could not
be tried.
"""

import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from tests.chaos.counting import Result, verdict
from tests.chaos.errors import CannotRunError, StandstillError
from tests.chaos.faults import OF_A_DATABASE, Kind
from tests.chaos.run import Wish, chaos, say

KEPT, BROKEN, COULD_NOT_RUN = 0, 1, 2
CHANGES_PER_KILL = 200
KINDS = ("quorum", "classic")


@click.command(help="Disturb a bridge in every way there is, and count what its consumers saw.")
@click.option("--bridge-kills", type=click.IntRange(0), default=200, show_default=True, help="SIGKILLs of the bridge.")
@click.option("--broker-kills", type=click.IntRange(0), default=20, show_default=True, help="SIGKILLs of the broker.")
@click.option("--fault", "named", multiple=True, metavar="KIND=COUNT", help="At least so many of a kind; repeatable.")
@click.option("--alone", is_flag=True, help="Nothing but kills and the kinds of --fault.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of everything that is left to chance.")
@click.option("--changes", type=click.IntRange(1), help=f"At least so many; {CHANGES_PER_KILL} for every kill.")
@click.option("--queues", default=",".join(KINDS), show_default=True, help="Types of queues, all in one run.")
@click.option(
    "--log",
    type=click.Choice(["amqp", "native"]),
    default="amqp",
    show_default=True,
    help="native: the bridge writes the log by the stream protocol, and a plain reader of it counts too.",
)
@click.option(
    "--store",
    type=click.Choice(["sqlite", "postgresql"]),
    default="sqlite",
    show_default=True,
    help="postgresql: the store is in a server of its own, which is disturbed as well.",
)
@click.option(
    "--standby",
    type=click.Choice(["synchronous", "asynchronous"]),
    default="synchronous",
    show_default=True,
    help="Of the database; an asynchronous one lacks commits when it takes over.",
)
@click.option(
    "--bridges", type=click.IntRange(1), default=1, show_default=True, help="So many share a store in postgresql."
)
@click.option("--also", help="Start this command as another consumer of every type of queue.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave store, logs and effects there.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object on stdout.")
def main(  # noqa: PLR0913, PLR0917 - its options
    bridge_kills: int,
    broker_kills: int,
    named: Sequence[str],
    alone: bool,  # noqa: FBT001 - a flag of the command line
    seed: int,
    changes: int | None,
    queues: str,
    log: str,
    store: str,
    standby: str,
    bridges: int,
    also: str | None,
    keep: Path | None,
    is_json: bool,  # noqa: FBT001 - a flag of the command line
) -> None:
    kinds = [kind.strip() for kind in queues.split(",") if kind.strip()]
    if not kinds or set(kinds) - set(KINDS):
        raise click.UsageError(f"--queues takes {' and '.join(KINDS)}, separated by a comma")
    if not bridge_kills + broker_kills:
        raise click.UsageError("with no kill at all nothing would be shown: say --bridge-kills or --broker-kills")
    if bridges > 1 and store != "postgresql":
        raise click.UsageError("several bridges share a store in PostgreSQL only: say --store postgresql")
    wanted = changes or CHANGES_PER_KILL * (bridge_kills + broker_kills)
    is_database, at_least = store == "postgresql", read_faults(named)
    _refuse_impossible(at_least, is_database=is_database, bridges=bridges)
    wish = Wish(
        bridge_kills,
        broker_kills,
        seed,
        wanted,
        kinds,
        also,
        log == "native",
        is_database,
        at_least,
        alone,
        bridges,
        standby == "synchronous",
    )
    began = time.monotonic()
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what is done to the broker on purpose is no news
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        else:
            folder = keep.resolve()
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise click.UsageError(f"--keep wants a new or an empty folder, which {keep} is not")
        try:
            result, broken = asyncio.run(chaos(wish, folder))
        except StandstillError as problem:
            say(str(problem))
            sys.exit(BROKEN)
        except (CannotRunError, OSError, RuntimeError) as problem:
            say(f"this could not be tried: {problem}")
            sys.exit(COULD_NOT_RUN)
    seconds = round(time.monotonic() - began, 1)
    broken = [*verdict(result), *broken]
    click.echo(
        json.dumps({**result.as_json(), "seconds": seconds, "seed": seed}) if is_json else table(result, seconds)
    )
    for sentence in broken:
        say(sentence)
    sys.exit(BROKEN if broken else KEPT)


def _refuse_impossible(at_least: Mapping[Kind, int], *, is_database: bool, bridges: int) -> None:
    if not is_database and at_least.keys() & OF_A_DATABASE:
        raise click.UsageError("there is no database that could be disturbed: say --store postgresql")
    if bridges == 1 and Kind.BRIDGE_ADDED in at_least:
        raise click.UsageError("there can be one more of several bridges only: say --bridges 3 --store postgresql")


def read_faults(named: Sequence[str]) -> Mapping[Kind, int]:
    """Return how many of each kind somebody wants at least; raises ``click.UsageError``."""
    told = [one.partition("=") for one in named]
    if wrong := [kind for kind, _, count in told if kind not in set(Kind) or not count.isdigit()]:
        raise click.UsageError(f"--fault takes KIND=COUNT (not {', '.join(wrong)}) of {', '.join(Kind)}")
    return {Kind(kind): int(count) for kind, _, count in told}


def table(result: Result, seconds: float) -> str:
    """Return the counts for people."""
    rows = [
        ("all", result.total, len(result.faults)),
        *((kind, tally, result.injected(kind)) for kind, tally in result.by_fault.items()),
        *((name, tally, len(result.faults)) for name, tally in result.by_queue.items()),
    ]
    lines = [f"{result.changes} changes, {len(result.faults)} faults, {seconds:g} s", ""]
    lines.append(
        f"{'':<20}{'faults':>8}{'lost':>8}{'disorder':>10}{'applied 2x':>12}{'delivered 2x':>14}{'at most':>10}"
    )
    lines += [
        f"{name:<20}{injected:>8}{tally.lost:>8}{tally.out_of_order:>10}{tally.applied_twice:>12}"
        f"{tally.delivered_twice:>14}{tally.delivered_twice_bound:>10}"
        for name, tally, injected in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
