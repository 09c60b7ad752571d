"""``backup`` and ``restore``: copies of the store."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from bridge.cli.common import config_option, settings_of
from bridge.errors import BridgeError
from bridge.store.backup import back_up, put_back


@click.command()
@config_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(config: Path | None, file: Path) -> None:
    """Copy the store into a new FILE, while the bridge goes on.

    The copy holds personal data and the key of the store: only its owner may read it. Put it back with restore.
    """
    path = settings_of(config, require=False, level="error").store.path
    try:
        size = back_up(path, file, datetime.now(UTC))
    except FileExistsError as problem:
        raise BridgeError(f"{file} is there already; name a file that is not") from problem
    click.echo(f"{path} is copied to {file} ({size / 1_000_000:.1f} MB), as of now")


@click.command()
@config_option
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.confirmation_option(prompt="Put this copy in the place of the store? The present one is kept beside it.")
def restore(config: Path | None, file: Path) -> None:
    """Put a copy in the place of the store of a stopped bridge.

    The next start begins a new lineage and reads every PBX from its start, so that no number is used twice and nothing
    is missed.
    """
    path = settings_of(config, require=False, level="error").store.path
    kept = put_back(file, path, datetime.now(UTC))
    where = f"; what was there is now {kept}" if kept is not None else ""
    click.echo(f"{path} is now the copy {file}{where}. The next start begins a new lineage with a full walk")


COMMANDS: Final = (backup, restore)
