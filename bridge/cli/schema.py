"""``schema``: what subscribers of a bridge with these settings can rely on."""

from pathlib import Path
from typing import Final

import click

from bridge.cli.common import config_option, read_settings
from bridge.events.asyncapi import ASYNCAPI, documents
from bridge.runtime.from_settings import build_offer


@click.command()
@config_option
@click.argument("name", default=ASYNCAPI)
@click.option("--list", "is_list", is_flag=True, help="Print the names of the documents.")
def schema(config: Path | None, name: str, *, is_list: bool) -> None:
    """Print a document of the contract as configured: AsyncAPI, or with its NAME a JSON Schema."""
    offered = documents(build_offer(read_settings(config, require=False, level="error")))
    if is_list:
        click.echo("\n".join(sorted(offered)))
        return
    if name not in offered:
        raise click.UsageError(f"there is no document {name!r}; there are {', '.join(sorted(offered))}")
    click.echo(offered[name])


COMMANDS: Final = (schema,)
