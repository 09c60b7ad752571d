"""Commands that steer a running bridge, or work on its store while it is stopped."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import sleep
from typing import Any, Final, NoReturn
from urllib.parse import quote

import click
import orjson
from rich.console import Console
from rich.containers import Lines
from rich.text import Text

from bridge.cli.common import (
    FAILED,
    LARGEST,
    config_option,
    json_option,
    own_config_option,
    print_json,
    read_settings,
    run_now,
    safe_json,
    say,
    terminal,
)
from bridge.clock import utc_now
from bridge.errors import BridgeError, NobodyAnswers
from bridge.events.wording import clean, shown
from bridge.model import SourceName
from bridge.observability.boxes import by_trouble
from bridge.observability.component_status import Level
from bridge.observability.report import plural
from bridge.ops.control_socket import (
    ask,
    no_pbx,
    not_parked,
    not_paused,
    parked_as_json,
    paused,
    resumed,
    retried,
)
from bridge.runtime.from_settings import build_store_place
from bridge.runtime.reloaded import Reloaded
from bridge.security.secret import scrub
from bridge.store.places import StorePlace
from bridge.store.records import Pause
from bridge.store.tables.store import TableStore

WATCH_SECONDS: Final = 2.0

_STYLES: Final = {"ok": "bold green", "warn": "bold yellow", "error": "bold red"}


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="The whole status as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.option("--live", is_flag=True, help="Ask only whether the process turns, not whether changes flow.")
@click.option("--watch", is_flag=True, help="Show it anew every two seconds, until stopped.")
@click.option("--find", "wanted", help="Only PBXs with this in their name, each with its sentence.")
@click.option("--trouble", is_flag=True, help="Only PBXs that are not well, each with its sentence.")
@click.option("--all", "is_all", is_flag=True, help="Each PBX with its sentence, however many they are.")
def status(  # noqa: PLR0913 - the options of a command, which are passed by name
    config: Path | None,
    *,
    as_json: bool,
    quiet: bool,
    live: bool,
    watch: bool,
    wanted: str | None,
    trouble: bool,
    is_all: bool,
) -> None:
    """Ask the running bridge how it is doing; exit code 0 where changes flow.

    What needs a look comes first; of many PBXs those that are well are only counted.
    """
    board = _Board(wanted or "", is_trouble=trouble, is_all=is_all)
    path = _socket(config)
    if watch:
        if as_json or quiet or live:
            raise click.UsageError("--watch goes with no other option")
        _watch(path, board)
    text = run_now(ask(path, "GET", "/livez" if live else "/status")).decode().strip()
    is_well = True
    if live:
        words = Text(text)
    else:
        told = orjson.loads(text)
        is_well = bool(told["ready"])
        words = board.words(told)
    if as_json:
        click.echo(safe_json(text.encode()))
    elif not quiet:
        terminal().print(words)
    sys.exit(0 if is_well else FAILED)


@dataclass(frozen=True, slots=True)
class _Board:
    """What is wanted of the status: its sentences, or those of some PBXs."""

    wanted: str = ""
    is_trouble: bool = False
    is_all: bool = False

    def words(self, told: Mapping[str, Any]) -> Text:
        """Return the sentences of the status page, the first in the colour of the whole."""
        first, *others = (clean(sentence) for sentence in told["sentences"])
        if self.wanted or self.is_trouble or self.is_all:
            levels = {
                name: Level(source["level"])
                for name, source in told["sources"].items()
                if self.wanted in name and not (self.is_trouble and source["level"] == Level.OK)
            }
            others = [clean(told["sources"][name]["sentence"]) for name in by_trouble(levels)]
            others = others or ["No PBX is like that."]
        return Text("\n").join([Text(first, style=_STYLES.get(told["level"], "")), *map(Text, others)])


def _watch(path: Path, board: _Board) -> NoReturn:
    console = terminal()
    while True:
        try:
            words = board.words(orjson.loads(run_now(ask(path, "GET", "/status"))))
        except NobodyAnswers as problem:  # it may be on its way up again
            words = Text(str(problem), style=_STYLES["error"])
        clock = Text(f"{utc_now().astimezone():%H:%M:%S}", style="dim")
        console.clear()  # of a terminal; does nothing to a file
        console.print(fitting(Text("\n").join([clock, words]), console) if console.is_terminal else words)
        sleep(WATCH_SECONDS)


def fitting(words: Text, console: Console) -> Text:
    """Return as many lines of *words* as the terminal shows, so that their top stays; no word is cut in two."""
    lines = words.wrap(console, console.width)
    room = max(2, console.height - 1)
    if len(lines) > room:
        more = len(lines) - room + 1
        lines = Lines(
            [*lines[: room - 1], Text(f"… and {plural(more, 'line')} more: account-bridge status", style="dim")]
        )
    return Text("\n").join(lines)


@click.command()
@config_option
@json_option
def reload(config: Path | None, *, as_json: bool) -> None:
    """Have the running bridge read its configuration again: PBXs are added, removed and changed while it runs.

    A mistake in it changes nothing. Keys that count at the next start only are named. SIGHUP does the same.
    """
    told = orjson.loads(run_now(ask(_socket(config), "POST", "/reload")))
    if as_json:
        print_json(told)
    else:
        for sentence in Reloaded(**told).sentences():
            click.echo(scrub(sentence))


@click.command()
@config_option
@click.argument("source")
@click.option("--accept-deletions", is_flag=True, help="Delete what this walk does not see, however much it is.")
@json_option
def resync(config: Path | None, source: str, *, accept_deletions: bool, as_json: bool) -> None:
    """Have the running bridge read the whole list of a PBX once more, now."""
    query = {"accept_deletions": "yes"} if accept_deletions else {}
    say(
        run_now(ask(_socket(config), "POST", f"/resync/{quote(source, safe='')}", **query)).decode().strip(),
        as_json=as_json,
    )


@click.command()
@config_option
@click.argument("source")
@click.option("--reason", default="", help="Why; shown in the status and by trace.")
@json_option
def pause(config: Path | None, source: str, *, reason: str, as_json: bool) -> None:
    """Read a PBX no more, until it is resumed; also across restarts of the bridge."""

    def noted(store: TableStore) -> bytes:
        store.pause(_configured(config, source), Pause(utc_now(), reason))
        return paused(source).encode()

    say(
        done_by_bridge(config, "POST", f"/pause/{quote(source, safe='')}", offline=noted, reason=reason)
        .decode()
        .strip(),
        as_json=as_json,
    )


@click.command()
@config_option
@click.argument("source")
@json_option
def resume(config: Path | None, source: str, *, as_json: bool) -> None:
    """Read a paused PBX again, from where it was paused."""

    def noted(store: TableStore) -> bytes:
        return (resumed(source) if store.resume(_configured(config, source)) else not_paused(source)).encode()

    say(
        done_by_bridge(config, "POST", f"/resume/{quote(source, safe='')}", offline=noted).decode().strip(),
        as_json=as_json,
    )


@click.command()
@config_option
@click.argument("source")
@json_option
def admit(config: Path | None, source: str, *, as_json: bool) -> None:
    """Say yes to a new PBX that waits to be let in, or to one that dials from elsewhere or differs from before.

    Which ones wait, and how they differ, is in the status.
    """
    say(
        run_now(ask(_socket(config), "POST", f"/admit/{quote(source, safe='')}")).decode().strip(),
        as_json=as_json,
    )


def _configured(config: Path | None, source: str) -> SourceName:
    known = [pbx.name for pbx in read_settings(config, require=False, level="error").pbx]
    if source not in known:
        raise BridgeError(no_pbx(source, known))
    return SourceName(source)


@click.group("parked", invoke_without_command=True)
@config_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
def parked_group(context: click.Context, config: Path | None, *, as_json: bool) -> None:
    """List the events that the broker refused for good; each holds back the later ones of its account.

    With a subcommand, decide about one of them, by the number in front of it.
    """
    context.obj = config
    if context.invoked_subcommand is not None:
        return

    def listed(store: TableStore) -> bytes:
        return orjson.dumps([parked_as_json(found) for found in store.parked()], option=orjson.OPT_UTC_Z)

    found = orjson.loads(done_by_bridge(config, "GET", "/parked", offline=listed))
    if as_json:
        print_json(found)
        return
    console = terminal()
    for event in found:
        console.print(_line(event))
    console.print(
        "Once it is mended: account-bridge parked retry NUMBER. To let one go: account-bridge parked discard NUMBER "
        "--reason WHY"
        if found
        else "No event is parked."
    )


@parked_group.command()
@click.argument("position", type=click.IntRange(1, LARGEST))
@click.pass_obj
@own_config_option
@json_option
def retry(config: Path | None, position: int, own_config: Path | None, *, as_json: bool) -> None:
    """Send a parked event once more, for instance after the broker's limit was raised.

    It goes to the end of what waits, under a new number: by that it is listed should it be refused again.
    """
    config = own_config or config

    def unpark(store: TableStore) -> bytes:
        if not store.unpark(position):
            raise BridgeError(not_parked(position))
        return retried(position, "when the bridge runs").encode()

    say(done_by_bridge(config, "POST", f"/parked/{position}/retry", offline=unpark).decode().strip(), as_json=as_json)


@parked_group.command()
@click.argument("position", type=click.IntRange(1, LARGEST))
@click.option("--reason", required=True, help="Why; kept with the event and in the log.")
@click.confirmation_option(prompt="No subscriber will ever hear of this change. Discard it?")
@click.pass_obj
@own_config_option
@json_option
def discard(config: Path | None, position: int, reason: str, own_config: Path | None, *, as_json: bool) -> None:
    """Never send a parked event; what waits behind it goes out."""
    config = own_config or config

    def dropped(store: TableStore) -> bytes:
        if not store.discard(position, reason, utc_now()):
            raise BridgeError(not_parked(position))
        return f"event {position} is discarded".encode()

    say(
        done_by_bridge(config, "POST", f"/parked/{position}/discard", offline=dropped, reason=reason).decode().strip(),
        as_json=as_json,
    )


def done_by_bridge(
    config: Path | None, method: str, target: str, *, offline: Callable[[TableStore], bytes], **query: str
) -> bytes:
    """Return what the running bridge answers; where none runs, what *offline* does with its store."""
    place = _place(config)
    try:
        return run_now(ask(place.socket, method, target, **query))
    except NobodyAnswers:
        if not place.exists():
            raise
        with place.store() as store:
            return offline(store)


def _socket(config: Path | None) -> Path:
    return _place(config).socket


def _place(config: Path | None) -> StorePlace:
    return build_store_place(read_settings(config, require=False, level="error").store)


def _line(event: dict[str, Any]) -> Text:
    created = datetime.fromisoformat(event["created_at"]).astimezone()
    waiting = f"; {plural(event['waiting'], 'later event')} of the account behind it" if event["waiting"] else ""
    return Text.assemble(
        (f"{event['position']:>8}  ", "bold"),
        f"{created:%Y-%m-%d %H:%M}  {event['routing_key']}  ",
        (clean(shown(event["name"] or event["subject"])), "bold"),
        f"  ({event['bytes']} bytes, refused by the {event['refused_by']}{waiting})",
        f"\n          {clean(event['reason'])}",
    )


COMMANDS: Final = (status, reload, resync, pause, resume, admit, parked_group)
