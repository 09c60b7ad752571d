"""``run`` and ``check``: the bridge itself, and a look at everything it needs."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final

import click
from rich.text import Text

from bridge import __version__, logs
from bridge.cli.common import (
    FAILED,
    config_option,
    ended_alike,
    print_json,
    read_settings,
    reload_signal,
    run_now,
    stop_signals,
    terminal,
)
from bridge.cli.tail import shower
from bridge.config.loading import load_settings
from bridge.config.settings import Settings
from bridge.events.wording import clean
from bridge.observability.component_status import Level
from bridge.ops import control_socket
from bridge.ops.check import Finding, run_checks
from bridge.ops.shadow import ShadowSummary, play_shadow
from bridge.runtime.from_settings import build_store_place
from bridge.runtime.hard_end import HardEnd
from bridge.runtime.listening import serve_inbound
from bridge.runtime.wiring import build_bridge, build_page, build_reloader, get_steered
from bridge.security.secret import scrub

log = logs.get_logger(__name__)


@click.command()
@config_option
@click.option("--shadow", is_flag=True, help="Publish nothing; show what would be sent. Has a store of its own.")
@click.option("--once", is_flag=True, help="With --shadow: end when every PBX was read to its end.")
@click.option("--json", "as_json", is_flag=True, help="With --shadow: one event per line, and the summary as the last.")
def run(config: Path | None, *, shadow: bool, once: bool, as_json: bool) -> None:
    """Read the PBXs and publish their changes, until stopped."""
    if not shadow:
        if once or as_json:
            raise click.UsageError("--once and --json go with --shadow")
        with HardEnd() as hard_end, ended_alike() as hung_up:
            load = partial(load_settings, config, dict(os.environ))
            run_now(_bridge(read_settings(config), hard_end, load, hung_up))
        return
    settings = load_settings(config, os.environ, require_rabbitmq=False)
    logs.configure("warning", settings.log.format)
    summary = run_now(_shadow(settings, as_json=as_json, is_once=once))
    if as_json:
        print_json(asdict(summary), indent=False)
    else:
        console = terminal()
        for sentence in summary.sentences():
            console.print(Text(clean(sentence)))
    if summary.problems:
        sys.exit(FAILED)


async def _shadow(settings: Settings, *, as_json: bool, is_once: bool) -> ShadowSummary:
    with stop_signals() as stop:
        return await play_shadow(settings, shower(as_json=as_json), stop, is_once=is_once)


async def _bridge(settings: Settings, hard_end: HardEnd, load: Callable[[], Settings], hung_up: Event) -> None:
    log.info("bridge.starting", version=__version__, settings=settings.redacted())
    for sentence in settings.insecurities():
        log.warning("settings.insecure", problem=sentence)
    for who, words in settings.troubles():
        log.error("file.unusable", of=who, problem=words)
    with build_bridge(settings) as bridge, stop_signals() as stop:
        hard_end.watch(bridge.board, stop.is_set)
        reloader = build_reloader(settings, bridge, load)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(
                control_socket.serve(get_steered(bridge), build_store_place(settings.store).own_socket, reloader)
            )
            stack.enter_context(reload_signal(reloader.request, hung_up))
            reloading = await stack.enter_async_context(_running(reloader.keep_reloading()))
            bridge.board.expect("reload", reloading)
            await stack.enter_async_context(build_page(settings, bridge.board))
            await stack.enter_async_context(serve_inbound(settings, bridge))
            stack.callback(hard_end.stop)  # whatever the reason was
            await bridge.run(stop)


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def check(config: Path | None, *, as_json: bool) -> None:
    """Try the store, the PBXs and the broker for real, and say what is wrong and how to mend it.

    On a stopped bridge it opens the store as run does: it brings the tables up to date, and may begin a new lineage.
    """
    settings = read_settings(config, level="error")
    console = terminal()

    async def examined() -> list[Finding]:
        found = []
        async for finding in run_checks(settings):
            found.append(finding)
            if not as_json:
                console.print(_line(finding))
        return found

    found = run_now(examined())
    if as_json:
        print_json([{**asdict(finding), "words": scrub(finding.words)} for finding in found])
    if not all(finding.is_well for finding in found):
        sys.exit(FAILED)


def _line(finding: Finding) -> Text:
    mark, style = _MARKS[finding.level]
    return Text.assemble((mark, style), f"  {finding.what:<14} ", scrub(finding.words))


_MARKS: Final = {Level.OK: ("ok  ", "green"), Level.WARN: ("warn", "yellow"), Level.ERROR: ("FAIL", "bold red")}

COMMANDS: Final = (run, check)
