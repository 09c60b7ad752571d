"""The commands. Each reads what it needs, runs one part, and ends with an exit code that a script can act on.

0: done. 1: something failed, and a sentence on stderr says what. 2: wrong usage or configuration.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import aiohttp
import click
import orjson
from rich.console import Console

from bridge import __version__, logs
from bridge.build import built
from bridge.cloudevents import AccountChanged
from bridge.config import CONFIG_VARIABLE, Settings
from bridge.consumer.client import ACCOUNT_KEYS, Delivery, Start, subscribe
from bridge.demo import Plan, Summary, as_line, play
from bridge.doctor import examine
from bridge.errors import BadConfig, BridgeError
from bridge.secret import Secret
from bridge.service import Patience, keep_trying
from bridge.simulator.modes import Modes, UnknownMode
from bridge.simulator.pbx import Pbx
from bridge.simulator.scenario import BadScenario, load, names
from bridge.simulator.server import serve
from bridge.terminal import event_line
from bridge.web import CLIENT_HEADER
from bridge.web import serve as serve_status

FAILED: Final = 1
MISUSED: Final = 2
STATUS_SECONDS: Final = 5
REMEMBERED: Final = 10_000
"""Mutations and deliveries that a simulator keeps on record, so that it may run for weeks."""

log = logs.get_logger(__name__)

Result = TypeVar("Result")

config_option = click.option(
    "--config",
    "config",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=CONFIG_VARIABLE,
    help="The TOML file with the settings. BRIDGE_… variables win over it.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="account-bridge")
def commands() -> None:
    """Publish every account change of innovaphone PBXs to RabbitMQ, each change once."""


def main() -> None:
    """Run the command line; what goes wrong ends with a sentence and an exit code, not with a traceback."""
    try:
        commands(standalone_mode=False)
    except BadConfig as problem:
        _end(str(problem), MISUSED)
    except BridgeError as problem:
        _end(str(problem), FAILED)
    except click.ClickException as problem:
        problem.show()
        sys.exit(MISUSED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone, which is how `… | head` ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _end(sentence: str, code: int) -> None:
    click.echo(f"account-bridge: {logs.scrub(sentence)}", err=True)
    sys.exit(code)


@commands.command()
@config_option
def run(config: Path | None) -> None:
    """Read the PBXs and publish their changes, until stopped."""
    settings = _settings(config)
    _run(_bridge(settings))


async def _bridge(settings: Settings) -> None:
    log.info("bridge.starting", version=__version__, settings=settings.redacted())
    with built(settings) as bridge, _stop_signals() as stop:
        async with contextlib.AsyncExitStack() as stack:
            page = settings.status
            if page.enabled:
                token = page.secret.reveal() if page.secret else None
                port = await stack.enter_async_context(
                    serve_status(
                        bridge.board,
                        host=page.host,
                        port=page.port,
                        token=token,
                        resync=lambda name, accept: bridge.resync(name, accept_deletions=accept),
                    )
                )
                log.info("status.listening", url=f"http://{page.host}:{port}/status")
            await bridge.run(stop)


@commands.command()
@config_option
def check(config: Path | None) -> None:
    """Try the store, the PBXs and the broker for real, and say what is wrong and how to mend it."""
    settings = _settings(config, level="error")
    console = Console(highlight=False, soft_wrap=True)

    async def examined() -> bool:
        is_well = True
        async for finding in examine(settings):
            is_well &= finding.is_well
            mark, style = ("ok  ", "green") if finding.is_well else ("FAIL", "bold red")
            console.print(f"[{style}]{mark}[/]  {finding.what:<14} ", end="")
            console.print(logs.scrub(finding.words), markup=False)
        return is_well

    if not _run(examined()):
        sys.exit(FAILED)


@commands.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The whole status as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.option("--live", is_flag=True, help="Ask only whether the process turns, not whether changes flow.")
def status(config: Path | None, *, as_json: bool, quiet: bool, live: bool) -> None:
    """Ask the running bridge how it is doing; exit code 0 where changes flow."""
    settings = _settings(config, require=False, level="error")
    is_well, text = _run(_ask_bridge(settings, "GET", "/livez" if live else "/status"))
    if live:
        words = text.strip()
    else:
        told = orjson.loads(text)
        words = text.strip() if as_json else "\n".join(told["sentences"])
        is_well = is_well and bool(told["ready"])
    if not quiet:
        click.echo(words)
    sys.exit(0 if is_well else FAILED)


@commands.command()
@config_option
@click.argument("source")
@click.option("--accept-deletions", is_flag=True, help="Delete what this walk does not see, however much it is.")
def resync(config: Path | None, source: str, *, accept_deletions: bool) -> None:
    """Have the running bridge read the whole list of a PBX once more, now."""
    settings = _settings(config, require=False, level="error")
    path = f"/resync/{source}" + ("?accept_deletions=yes" if accept_deletions else "")
    is_well, text = _run(_ask_bridge(settings, "POST", path))
    click.echo(text.strip(), err=not is_well)
    sys.exit(0 if is_well else FAILED)


async def _ask_bridge(settings: Settings, method: str, path: str) -> tuple[bool, str]:
    page = settings.status
    host = "127.0.0.1" if page.host in {"0.0.0.0", "::"} else page.host  # noqa: S104 - compared, not listened on
    url = f"http://{host}:{page.port}{path}"
    headers = {CLIENT_HEADER: __version__}
    if page.secret:
        headers["Authorization"] = f"Bearer {page.secret.reveal()}"
    try:
        timeout = aiohttp.ClientTimeout(total=STATUS_SECONDS)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, headers=headers) as answer,
        ):
            text = await answer.text()
            if answer.status == HTTPStatus.UNAUTHORIZED:
                raise BadConfig("the running bridge wants another token: set status.token to the one it has")
            return answer.ok, text
    except (aiohttp.ClientError, TimeoutError) as problem:
        raise BridgeError(f"no bridge answers at {url}. Is it running, and is status.port the same?") from problem


@commands.command()
@config_option
@click.option("--amqp-url", help="The broker; by default the configured one.")
@click.option("--exchange", help="The exchange; by default the configured one.")
@click.option("--queue", help="A durable queue to read from, and to keep; by default one that goes with this command.")
@click.option("--from", "start", help="Read the log instead: 'first', or a time like 2026-11-23T20:00.")
@click.option("--key", "keys", multiple=True, default=ACCOUNT_KEYS, show_default=True, help="Which routing keys.")
@click.option("--json", "as_json", is_flag=True, help="One event per line, as it was published.")
def tail(  # noqa: PLR0913, PLR0917 - the options of a command, which are passed by name
    config: Path | None,
    amqp_url: str | None,
    exchange: str | None,
    queue: str | None,
    start: str | None,
    keys: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Show account changes as they pass, until stopped."""
    settings = _settings(config, require=False, level="warning")
    urls = [amqp_url] if amqp_url else settings.rabbitmq.urls
    if not urls:
        raise BadConfig("no broker is configured: set BRIDGE_RABBITMQ_URL, or give --amqp-url")
    begin = start if start in {None, "first", "last", "next"} else _time(start or "")
    subscribed = partial(
        subscribe,
        urls,
        exchange=exchange or settings.rabbitmq.exchange,
        queue=queue,
        keys=keys,
        start=cast("Start | None", begin),
    )
    _run(_tail(subscribed, _shower(as_json=as_json)))


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as problem:
        raise click.UsageError(f"--from wants 'first' or a time like 2026-11-23T20:00, not {text!r}") from problem


async def _tail(
    subscribed: Callable[[], contextlib.AbstractAsyncContextManager[AsyncIterator[Delivery]]],
    show: Callable[[AccountChanged, bytes], None],
) -> None:
    patience = Patience(misconfigured_seconds=3)

    async def receive() -> None:
        async with subscribed() as deliveries:
            async for delivery in deliveries:
                patience.progress()
                show(delivery.event, delivery.body)
                await delivery.ack()

    def say(problem: BridgeError, pause_seconds: float) -> None:
        log.warning("tail.waiting", problem=str(problem), again_in_seconds=round(pause_seconds, 1))

    with _stop_signals() as stop:
        receiving = asyncio.create_task(keep_trying(receive, patience, say))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([receiving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if receiving.done():
            receiving.result()
        receiving.cancel()
        await asyncio.wait([receiving])


@commands.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8088, show_default=True, help="0 takes any free one.")
@click.option("--accounts", default=100, show_default=True, type=click.IntRange(min=0))
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same accounts and changes.")
@click.option("--changes-per-second", default=0.0, show_default=True, type=click.FloatRange(min=0))
@click.option("--round-trip-ms", default=0.0, show_default=True, type=click.FloatRange(min=0))
@click.option("--app", default="demo", show_default=True, help="Name of the App object.")
@click.option("--password", help="Its password; by default 'demo'.")
@click.option("--password-file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--mode", "modes", multiple=True, help="How it behaves where the vendor says nothing, e.g. idle-silent.")
@click.option("--scenario", help="A ready scenario or a TOML file with one.")
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
) -> None:
    """Be a pretend PBX, until stopped."""
    logs.configure("info")
    secret = Secret(file=password_file).reveal() if password_file else password or "demo"
    try:
        behaviour = Modes.parse(modes)
        pbx = Pbx(
            accounts=accounts,
            seed=seed,
            app=app,
            password=secret,
            name="simulator",
            modes=behaviour,
            remember=REMEMBERED,
        )
        script = load(scenario) if scenario else None
    except UnknownMode as problem:
        raise click.UsageError(str(problem)) from problem
    except BadScenario as problem:
        raise click.UsageError(f"{problem} Ready ones: {', '.join(names())}") from problem

    async def served() -> None:
        with _stop_signals() as stop:
            async with serve(
                pbx,
                host=host,
                port=port,
                round_trip_seconds=round_trip_ms / 1000,
                changes_per_second=changes_per_second,
                scenario=script,
            ) as serving:
                click.echo(f"a pretend PBX with {accounts} accounts listens on {serving.url} (app {app})", err=True)
                await stop.wait()

    try:
        _run(served())
    except OSError as problem:
        raise BadConfig(f"cannot listen on {host}:{port}: {problem.strerror}") from problem


@commands.command()
@click.option("--accounts", default=50, show_default=True, type=click.IntRange(min=0))
@click.option("--changes", default=20, show_default=True, type=click.IntRange(min=0), help="Only with --once.")
@click.option("--changes-per-second", default=1.0, show_default=True, type=click.FloatRange(min=0))
@click.option("--once", is_flag=True, help="End when all accounts and changes were delivered.")
@click.option("--seed", default=1, show_default=True)
@click.option("--amqp-url", help="A broker; by default BRIDGE_RABBITMQ_URL, and without either the terminal.")
@click.option("--json", "as_json", is_flag=True, help="One event per line on stdout, and the summary as the last line.")
def demo(  # noqa: PLR0913 - the options of a command
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
    settings = _settings(None, require=False, level="warning")
    urls = [amqp_url] if amqp_url else settings.rabbitmq.urls
    plan = Plan(accounts, changes, changes_per_second, is_once=once, seed=seed, amqp_urls=urls)
    if not as_json:
        _greet(plan)
    show = _shower(as_json=as_json, accounts=accounts)

    async def played() -> Summary:
        with _stop_signals() as stop:
            return await play(plan, show, stop)

    try:
        summary = _run(played())
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


def _shower(*, as_json: bool, accounts: int = 0) -> Callable[[AccountChanged, bytes], None]:
    """Return what shows an event; of a long first walk only the beginning and the progress are shown."""
    if as_json:
        return lambda _event, body: click.echo(body)
    console = Console(highlight=False, soft_wrap=True)

    def show(event: AccountChanged, _body: bytes) -> None:
        number = event.sequence
        if number <= FIRST_SHOWN or number > accounts:
            console.print(event_line(event))
        elif number == accounts or number % max(1, accounts // 10) == 0:
            console.print(f"  … {number} of {accounts} accounts", style="dim")

    return show


FIRST_SHOWN: Final = 20
"""Accounts of the demo's first walk that are shown one by one."""


def _settings(config: Path | None, *, require: bool = True, level: str | None = None) -> Settings:
    settings = Settings.load(config, os.environ, require_pbx=require, require_rabbitmq=require)
    logs.configure(level or settings.log.level, settings.log.format)
    logs.hide(settings.secrets())
    return settings


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Yield an event that SIGTERM and SIGINT set; a second signal ends the process the hard way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def stopped() -> None:
        stop.set()
        for each in signals:
            loop.remove_signal_handler(each)

    for each in signals:
        loop.add_signal_handler(each, stopped)
    try:
        yield stop
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
