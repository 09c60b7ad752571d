"""``migrate-store``: from a file into a database, or back."""

from pathlib import Path
from typing import Final

import click
from pydantic import ValidationError

from bridge.cli.common import json_option, say
from bridge.config.store_table import StoreTable
from bridge.errors import BadConfig
from bridge.observability.report import plural
from bridge.ops.migrate_store import migrate_store
from bridge.runtime.from_settings import build_store_place
from bridge.security.secret import hide
from bridge.security.urls import secrets_in
from bridge.store.places import StorePlace


@click.command("migrate-store")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.confirmation_option(
    prompt="Move the store? The bridge has to be stopped; the old one is never used again.", help="Do not ask."
)
@json_option
def migrate_store_command(source: str, target: str, *, as_json: bool) -> None:
    """Move the store FROM one place TO another, which is empty; with the bridge stopped.

    Each is a URL as in store.url (sqlite:///bridge.db, postgresql://user@host/database), or @FILE, which holds one.
    Ids, numbers and what waits stay as they are, so subscribers notice nothing. What was interrupted goes on when it is
    run once more; the old store is refused by the bridge from then on.
    """
    old, new = _place(source), _place(target)
    done = migrate_store(old, new)
    counts = ", ".join(f"{count} of {table}" for table, count in done.rows.items())
    words = (
        f"{old} is moved to {new}{', from where an earlier try had come to' if done.went_on else ''} "
        f"({plural(sum(done.rows.values()), 'row')}: {counts}). Set store.url to it and start the bridge"
    )
    say(words, as_json=as_json, rows=dict(done.rows))


def _place(text: str) -> StorePlace:
    hide(secrets_in(text))
    try:
        named = {"url_file": Path(text[1:])} if text.startswith("@") else {"url": text}
        return build_store_place(StoreTable.model_validate(named))
    except ValidationError as problem:
        told = problem.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        raise BadConfig(f"{'the file' if text.startswith('@') else 'a store'} {told}") from None


COMMANDS: Final = (migrate_store_command,)
