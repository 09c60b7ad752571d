"""``rename``: a PBX that is called otherwise from now on."""

from pathlib import Path
from typing import Final

import click

from bridge.cli.common import NAME, config_option, json_option, read_settings, say
from bridge.clock import utc_now
from bridge.delivery.leaving import rename
from bridge.errors import BridgeError
from bridge.model import SourceName
from bridge.observability.report import plural
from bridge.runtime.from_settings import build_store_place


@click.command("rename")
@config_option
@click.argument("source")
@click.argument("name", type=NAME)
@click.option("--no-deletions", is_flag=True, help="Tell nobody that the accounts are gone under the former name.")
@click.confirmation_option(prompt="Tell every account anew, under the new name?", help="Do not ask.")
@json_option
def rename_command(config: Path | None, source: str, name: str, *, no_deletions: bool, as_json: bool) -> None:
    """Have a PBX go on under another NAME; with the bridge stopped, and the configuration changed.

    It is read on from where it was, and nothing is missed. Subscribers know accounts by the name of their PBX, so they
    are told of each that it is gone under the former name, and then of each once as initial under the new one.
    """
    settings = read_settings(config, require=False, level="error")
    followed = [pbx.name for pbx in settings.pbx]
    if source in followed:
        raise BridgeError(f"{source} is still configured: call it {name} there first")
    if name not in followed and settings.listen is None:
        raise BridgeError(f"{name} is not configured: call the PBX so there first")
    place = build_store_place(settings.store)
    if not place.exists():
        raise BridgeError(f"there is no store {place} yet, so nothing has a former name")
    with place.store() as store:
        now = utc_now()
        count = rename(store, SourceName(source), SourceName(name), now=now, tells_deletions=not no_deletions)
    told = "" if no_deletions else f" after its end under the name {source}"
    words = (
        f"{source} is called {name} from now on. {plural(count, 'account')} will be told as initial under that name"
        f"{told}, as soon as the bridge runs; a subscriber that binds {source}.# has to bind {name}.# as well"
    )
    say(words, as_json=as_json, accounts=count)


COMMANDS: Final = (rename_command,)
