"""``retire``: a PBX that is followed no more."""

from pathlib import Path
from typing import Final
from urllib.parse import quote

import click
import orjson

from bridge.cli.common import config_option, json_option, read_settings, say
from bridge.cli.control import done_by_bridge
from bridge.clock import utc_now
from bridge.delivery.leaving import retire
from bridge.model import SourceName
from bridge.observability.report import plural
from bridge.store.tables.store import TableStore


@click.command("retire")
@config_option
@click.argument("source")
@click.option(
    "--tell-deletions", is_flag=True, help="Tell subscribers that its accounts are gone; otherwise they keep them."
)
@click.option(
    "--discard-unsent",
    is_flag=True,
    help="Do not wait until everything of it is sent, but never send it; only with the bridge stopped.",
)
@click.confirmation_option(
    prompt="This cannot be undone. Let go of everything that is known of it?", help="Do not ask."
)
@json_option
def retire_command(
    config: Path | None, source: str, *, tell_deletions: bool, discard_unsent: bool, as_json: bool
) -> None:
    """Let go of a PBX that is no longer configured: its rows leave the store once everything of it is sent.

    Whether subscribers are told that its accounts are gone is up to you: they are where the PBX was switched off, and
    are not where another bridge follows it. The bridge may run.
    """
    if discard_unsent and tell_deletions:
        raise click.UsageError("--tell-deletions makes events, and --discard-unsent sends none")

    def retired(store: TableStore) -> bytes:
        followed = [pbx.name for pbx in read_settings(config, require=False, level="error").pbx]
        told = {"tells_deletions": tell_deletions, "discards_unsent": discard_unsent}
        return orjson.dumps(retire(store, SourceName(source), followed, now=utc_now(), **told))

    wanted = {"deletions": "tell"} if tell_deletions else {"unsent": "discard"} if discard_unsent else {}
    done = orjson.loads(done_by_bridge(config, "POST", f"/retire/{quote(source, safe='')}", offline=retired, **wanted))
    told = f"{plural(done['told'], 'account')} {'is' if done['told'] == 1 else 'are'} told to be gone. "
    words = f"{source} is gone from the store" if done["is_gone"] else f"{source} goes once everything of it is sent"
    say(f"{told if tell_deletions else ''}{words}", as_json=as_json, **done)


COMMANDS: Final = (retire_command,)
