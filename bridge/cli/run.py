"""``run`` and ``check``: the bridge itself, and a look at everything it needs."""

import contextlib
import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from bridge import __version__, control, logs
from bridge.build import built, page
from bridge.cli.common import FAILED, config_option, run_now, settings_of, stop_signals
from bridge.config import Settings
from bridge.doctor import examine

log = logs.get_logger(__name__)


@click.command()
@config_option
def run(config: Path | None) -> None:
    """Read the PBXs and publish their changes, until stopped."""
    settings = settings_of(config)
    run_now(_bridge(settings))


async def _bridge(settings: Settings) -> None:
    log.info("bridge.starting", version=__version__, settings=settings.redacted())
    with built(settings) as bridge, stop_signals() as stop:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(control.serve(bridge, control.socket_path(settings.store.path)))
            await stack.enter_async_context(page(settings, bridge.board))
            await bridge.run(stop)


@click.command()
@config_option
def check(config: Path | None) -> None:
    """Try the store, the PBXs and the broker for real, and say what is wrong and how to mend it."""
    settings = settings_of(config, level="error")
    console = Console(highlight=False, soft_wrap=True)

    async def examined() -> bool:
        is_well = True
        async for finding in examine(settings):
            is_well &= finding.is_well
            mark, style = ("ok  ", "green") if finding.is_well else ("FAIL", "bold red")
            console.print(f"[{style}]{mark}[/]  {finding.what:<14} ", end="")
            console.print(logs.scrub(finding.words), markup=False)
        return is_well

    if not run_now(examined()):
        sys.exit(FAILED)


COMMANDS: Final = (run, check)
