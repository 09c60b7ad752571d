"""``config``: the settings, for people."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from bridge.cli.common import CONFIG_FILE, CONFIG_HELP, config_option, print_json, read_settings, stand_for, terminal
from bridge.config import template
from bridge.config.loading import origins
from bridge.errors import BridgeError
from bridge.events.wording import clean


@click.group("config")
@click.option("--config", type=CONFIG_FILE, help=CONFIG_HELP)
@click.pass_context
def config_group(context: click.Context, config: Path | None) -> None:
    """Begin with settings, look at them, and let an editor help with them."""
    if config is not None:
        stand_for(context, config)


@config_group.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
def init(file: Path | None) -> None:
    """Write a commented file with every setting to FILE, or to stdout where none is named."""
    text = template.commented()
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except OSError as problem:
        raise BridgeError(
            f"{file} cannot be written: {problem.strerror}. Name a file that is not there yet"
        ) from problem
    click.echo(f"{file} is written. Say which PBX and which broker in it, then: account-bridge check --config {file}")


@config_group.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(config: Path | None, *, as_json: bool) -> None:
    """Show what is in effect, secrets hidden, and where each value comes from."""
    settings = read_settings(config, require=False, level="error")
    found = list(template.in_effect(settings, origins(config, os.environ)))
    if as_json:
        print_json([asdict(setting) for setting in found])
        return
    console = terminal()
    for line in template.toml(found):
        is_default = line.endswith("# default")
        console.print(Text(clean(line), style="dim" if is_default else ""))


@config_group.command()
def schema() -> None:
    """Print a JSON Schema of the file, for editors that complete and check TOML."""
    print_json(template.schema())


COMMANDS: Final = (config_group,)
