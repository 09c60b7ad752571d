"""``simulate`` and ``demo``: a pretend PBX, alone or with everything around it."""

import asyncio
import sys
from pathlib import Path
from typing import Final

import click
import orjson

from bridge import logs
from bridge.cli.common import (
    BROKER,
    FAILED,
    IN_PROCESS_LIST,
    PORT,
    Number,
    checked,
    config_option,
    read_settings,
    run_now,
    stop_signals,
)
from bridge.cli.tail import shower
from bridge.config.pbx_tables import check_websocket
from bridge.errors import BadConfig, BridgeError, RecordingUnusable
from bridge.ops.demo import DemoSummary, Plan, as_line, play
from bridge.pbx.recording.frames import Recording, read
from bridge.security.secret import Secret, scrub
from bridge.security.tls import Trust, client_context
from bridge.security.urls import read_host, split_urls
from bridge.simulator.modes import Modes, UnknownMode
from bridge.simulator.pbx import Pbx
from bridge.simulator.recorded import RecordedPbx
from bridge.simulator.scenario import BadScenario, load, names
from bridge.simulator.server import keep_calling, serve

REMEMBERED: Final = 10_000
"""Mutations and deliveries that a simulator keeps on record, so that it may run for weeks."""

MAX_ACCOUNTS: Final = 1_000_000
"""As many as fit into the memory of a usual machine."""


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, type=checked(read_host), help="The address to listen on."
)
@click.option("--port", default=8088, type=PORT, show_default=True, help="0 takes any free one.")
@click.option(
    "--accounts", default=100, show_default=True, type=click.IntRange(0, MAX_ACCOUNTS), help="How many it has at first."
)
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same accounts and changes.")
@click.option(
    "--changes-per-second",
    default=0.0,
    show_default=True,
    type=Number(0, 1000),
    help="How often one of them changes by itself.",
)
@click.option(
    "--round-trip-ms", default=0.0, show_default=True, type=Number(0, 60_000), help="How long an answer takes at least."
)
@click.option("--app", default="demo", show_default=True, help="Name of the App object.")
@click.option(
    "--password",
    help="Its password; by default 'demo'. Everybody on this machine sees it in the list of processes: for one that is "
    "worth something use --password-file.",
)
@click.option("--password-file", type=click.Path(dir_okay=False, path_type=Path), help="A file with its password.")
@click.option(
    "--mode",
    "modes",
    multiple=True,
    help="How it behaves where the vendor says nothing, e.g. idle-silent; --list names all.",
)
@click.option("--scenario", help="A ready scenario (--list names them) or a TOML file with one.")
@click.option(
    "--call",
    "url",
    type=checked(check_websocket),
    help="Dial a bridge at this URL (ws or wss), as PBXs with the Websocket check mark do.",
)
@click.option("--ca-file", type=click.Path(dir_okay=False, path_type=Path), help="With --call: who signed the bridge.")
@click.option(
    "--recording",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Play a recorded PBX (observe --record, support-bundle) instead of making one up.",
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=Number(0.001, 10_000),
    help="With --recording: so many times as fast as it was.",
)
@click.option("--list", "is_list", is_flag=True, help="Print the modes and the ready scenarios, and end.")
def simulate(  # noqa: PLR0913, PLR0917 - the options of a command, which are passed by name
    host: str,
    port: int,
    accounts: int,
    seed: int,
    changes_per_second: float,
    round_trip_ms: float,
    app: str,
    password: str | None,
    password_file: Path | None,
    modes: tuple[str, ...],
    scenario: str | None,
    url: str | None,
    ca_file: Path | None,
    recording: Path | None,
    speed: float,
    *,
    is_list: bool,
) -> None:
    """Be a pretend PBX, until stopped."""
    if is_list:
        click.echo(_listed())
        return
    logs.configure("info")
    secret = Secret(file=password_file).reveal() if password_file else password or "demo"
    try:
        pbx = _made_up(accounts, seed, app, secret, modes)
        if recording is not None:
            _plays_alone(modes, scenario, changes_per_second)
            pbx = RecordedPbx(read_recording(recording), app=app, password=secret, speed=speed)
        script = load(scenario) if scenario else None
    except UnknownMode as problem:
        raise click.UsageError(str(problem)) from problem
    except BadScenario as problem:
        raise click.UsageError(f"{problem} Ready ones: {', '.join(names())}") from problem

    what = f"a pretend PBX with {accounts} accounts" if recording is None else f"the PBX recorded in {recording}"

    async def served() -> None:
        with stop_signals() as stop:
            async with serve(
                pbx,
                host=host,
                port=port,
                round_trip_seconds=round_trip_ms / 1000,
                changes_per_second=changes_per_second,
                scenario=script,
            ) as serving:
                _tell(f"{what} listens on {serving.url} (app {app})")
                await stop.wait()

    async def calling() -> None:
        _tell(f"{what} dials {url} (app {app})")
        context = client_context(Trust(ca_file=ca_file)) if (url or "").startswith("wss:") else None
        work = keep_calling(
            pbx,
            url or "",
            ssl_context=context,
            round_trip_seconds=round_trip_ms / 1000,
            changes_per_second=changes_per_second,
            scenario=script,
        )
        with stop_signals() as stop:
            dialling = asyncio.create_task(work)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([dialling, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (dialling, stopping):
                task.cancel()
            await asyncio.wait([dialling, stopping])
            if not dialling.cancelled():
                dialling.result()

    try:
        run_now(calling() if url else served())
    except OSError as problem:
        raise BadConfig(f"cannot listen on {host}:{port}: {problem.strerror}") from problem


def _made_up(accounts: int, seed: int, app: str, password: str, modes: tuple[str, ...]) -> Pbx:
    return Pbx(
        accounts=accounts,
        seed=seed,
        app=app,
        password=password,
        name="simulator",
        modes=Modes.parse(modes),
        remember=REMEMBERED,
    )


def _plays_alone(modes: tuple[str, ...], scenario: str | None, changes_per_second: float) -> None:
    if modes or scenario or changes_per_second:
        raise click.UsageError("--recording plays what was: leave out --mode, --scenario and --changes-per-second")


def read_recording(file: Path) -> Recording:
    """Return the recording in *file*.

    Raises:
        BridgeError: it cannot be read, or is none.

    """
    try:
        with file.open(encoding="utf-8") as lines:
            return read(lines)
    except OSError as problem:
        raise BridgeError(f"{file} cannot be read: {problem.strerror}") from problem
    except (RecordingUnusable, UnicodeDecodeError) as problem:
        raise BridgeError(f"{file} is no recording that can be played: {problem}") from problem


def _listed() -> str:
    told = ["Modes, by what they are about; the first of each is the default:"]
    told += [f"  {about}\n    {' '.join(words)}" for about, words in Modes.offered().items()]
    told += ["", "Scenarios:", *(f"  {name:<20}{load(name).about}" for name in names())]
    return "\n".join(told)


def _tell(sentence: str) -> None:
    click.echo(scrub(sentence), err=True)


@click.command()
@config_option
@click.option(
    "--accounts",
    default=50,
    show_default=True,
    type=click.IntRange(0, MAX_ACCOUNTS),
    help="How many there are at first.",
)
@click.option(
    "--changes", default=20, show_default=True, type=click.IntRange(0, MAX_ACCOUNTS), help="Only with --once."
)
@click.option(
    "--changes-per-second",
    default=1.0,
    show_default=True,
    type=Number(0, 1000),
    help="How often one of them changes.",
)
@click.option("--once", is_flag=True, help="End when all accounts and changes were delivered.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same accounts and changes.")
@click.option(
    "--amqp-url",
    type=BROKER,
    help=f"A broker; by default BRIDGE_RABBITMQ_URL, and without either the terminal. {IN_PROCESS_LIST}",
)
@click.option("--json", "as_json", is_flag=True, help="One event per line on stdout, and the summary as the last line.")
def demo(  # noqa: PLR0913, PLR0917 - the options of a command
    config: Path | None,
    accounts: int,
    changes: int,
    changes_per_second: float,
    seed: int,
    amqp_url: str | None,
    *,
    once: bool,
    as_json: bool,
) -> None:
    """See it work: a pretend PBX, the bridge and a subscriber, all in this process."""
    settings = read_settings(config, require=False, level="warning")
    urls = split_urls(amqp_url) if amqp_url else settings.rabbitmq.urls
    plan = Plan(accounts, changes, changes_per_second, is_once=once, seed=seed, amqp_urls=urls)
    if not as_json:
        _greet(plan)
    show = shower(as_json=as_json, accounts=accounts)

    async def played() -> DemoSummary:
        with stop_signals() as stop:
            return await play(plan, show, stop)

    try:
        summary = run_now(played())
    except TimeoutError as problem:
        raise BridgeError("nothing came for a minute although something should have; see the lines above") from problem
    line = as_line(summary)
    if as_json:
        click.echo(orjson.dumps(line))
    else:
        click.echo("  ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in line.items()))
    if summary.lost or summary.duplicates or summary.out_of_order:
        sys.exit(FAILED)


def _greet(plan: Plan) -> None:
    where = "a RabbitMQ exchange and back" if plan.amqp_urls else "this terminal"
    click.echo(
        f"A pretend PBX with {plan.accounts} accounts; every change goes through the bridge to {where}.", err=True
    )
    if not plan.amqp_urls:
        click.echo(
            "With a broker: docker run -d -p 5672:5672 rabbitmq:4, then add --amqp-url amqp://guest:guest@localhost/",
            err=True,
        )
    if not plan.is_once:
        click.echo("Ctrl-C ends it.", err=True)


COMMANDS: Final = (simulate, demo)
