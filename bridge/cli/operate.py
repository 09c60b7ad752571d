"""Commands that steer a running bridge, or work on its store while it is stopped."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
import orjson
from rich.console import Console
from rich.text import Text

from bridge.cli.common import FAILED, config_option, run_now, settings_of
from bridge.control import ask, not_parked, parked_as_json, socket_path
from bridge.errors import BridgeError, NobodyAnswers
from bridge.store.sqlite import SqliteStore
from bridge.wording import clean


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The whole status as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.option("--live", is_flag=True, help="Ask only whether the process turns, not whether changes flow.")
def status(config: Path | None, *, as_json: bool, quiet: bool, live: bool) -> None:
    """Ask the running bridge how it is doing; exit code 0 where changes flow."""
    text = run_now(ask(_socket(config), "GET", "/livez" if live else "/status")).decode().strip()
    is_well, words = True, text
    if not live:
        told = orjson.loads(text)
        is_well = bool(told["ready"])
        words = text if as_json else "\n".join(told["sentences"])
    if not quiet:
        click.echo(words)
    sys.exit(0 if is_well else FAILED)


@click.command()
@config_option
@click.argument("source")
@click.option("--accept-deletions", is_flag=True, help="Delete what this walk does not see, however much it is.")
def resync(config: Path | None, source: str, *, accept_deletions: bool) -> None:
    """Have the running bridge read the whole list of a PBX once more, now."""
    query = {"accept_deletions": "yes"} if accept_deletions else {}
    click.echo(run_now(ask(_socket(config), "POST", f"/resync/{quote(source, safe='')}", **query)).decode().strip())


@click.group(invoke_without_command=True)
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
def parked(context: click.Context, config: Path | None, *, as_json: bool) -> None:
    """List the events that the broker refused for good; each holds back the later ones of its account.

    With a subcommand, decide about one of them, by the number in front of it.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return

    def listed(store: SqliteStore) -> bytes:
        return orjson.dumps([parked_as_json(found) for found in store.parked()], option=orjson.OPT_UTC_Z)

    found = orjson.loads(_done(config, "GET", "/parked", offline=listed))
    if as_json:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2))
        return
    console = Console(highlight=False, soft_wrap=True)
    for event in found:
        console.print(_line(event))
    if not found:
        console.print("No event is parked.")


@parked.command()
@click.argument("position", type=click.IntRange(min=1))
@click.pass_obj
def retry(config: Path | None, position: int) -> None:
    """Send a parked event once more, for instance after the broker's limit was raised."""

    def unpark(store: SqliteStore) -> bytes:
        if not store.unpark(position):
            raise BridgeError(not_parked(position))
        return f"event {position} is sent once more when the bridge runs".encode()

    click.echo(_done(config, "POST", f"/parked/{position}/retry", offline=unpark).decode().strip())


@parked.command()
@click.argument("position", type=click.IntRange(min=1))
@click.option("--reason", required=True, help="Why; kept with the event and in the log.")
@click.confirmation_option(prompt="No subscriber will ever hear of this change. Discard it?")
@click.pass_obj
def discard(config: Path | None, position: int, reason: str) -> None:
    """Never send a parked event; what waits behind it goes out."""

    def dropped(store: SqliteStore) -> bytes:
        if not store.discard(position, reason, datetime.now(UTC)):
            raise BridgeError(not_parked(position))
        return f"event {position} is discarded".encode()

    click.echo(_done(config, "POST", f"/parked/{position}/discard", offline=dropped, reason=reason).decode().strip())


def _done(
    config: Path | None, method: str, target: str, *, offline: Callable[[SqliteStore], bytes], **query: str
) -> bytes:
    """Return what the running bridge answers; where none runs, what *offline* does with its store."""
    path = settings_of(config, require=False, level="error").store.path
    try:
        return run_now(ask(socket_path(path), method, target, **query))
    except NobodyAnswers:
        if not path.exists():
            raise
        with SqliteStore(path) as store:
            return offline(store)


def _socket(config: Path | None) -> Path:
    return socket_path(settings_of(config, require=False, level="error").store.path)


def _line(event: dict[str, Any]) -> Text:
    created = datetime.fromisoformat(event["created_at"]).astimezone()
    waiting = f"; {event['waiting']} later ones wait behind it" if event["waiting"] else ""
    return Text.assemble(
        (f"{event['position']:>8}  ", "bold"),
        f"{created:%Y-%m-%d %H:%M}  {event['routing_key']}  ",
        (clean(event["name"] or event["subject"]), "bold"),
        f"  ({event['bytes']} bytes{waiting})\n          {clean(event['reason'])}",
    )


COMMANDS: Final = (status, resync, parked)
