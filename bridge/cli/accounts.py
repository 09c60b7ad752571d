"""``trace`` and ``accounts``: what the store knows, whether a bridge has it open or not."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import orjson
from rich.console import Console
from rich.text import Text

from bridge.cli.common import (
    FAILED,
    config_option,
    followed_in,
    not_followed,
    print_json,
    read_settings,
    run_now,
    terminal,
)
from bridge.clock import utc_now
from bridge.config.settings import Settings
from bridge.errors import BridgeError, NobodyAnswers
from bridge.events.wording import choose_name, clean, shown
from bridge.model import SourceName
from bridge.observability.report import in_future, plural
from bridge.ops.control_socket import ask
from bridge.ops.trace import (
    EventState,
    Live,
    Trace,
    as_published,
    as_told,
    former,
    has_usn,
    is_meant,
    near,
    split_words,
    trace,
    unfinished,
)
from bridge.runtime.from_settings import build_store_place
from bridge.store.records import KnownAccount
from bridge.store.tables.reader import TableReader

MAX_TRACED: Final = 5
"""Accounts in one answer."""
_EVENT_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_STYLES: Final = {
    EventState.CONFIRMED: "green",
    EventState.DISCARDED: "dim",
    EventState.PARKED: "bold red",
    EventState.HELD: "red",
}


@click.command("trace")
@config_option
@click.argument("who")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def trace_command(config: Path | None, who: str, *, as_json: bool) -> None:
    """Tell what became of an account's changes, and why one was not sent.

    WHO is an extension, a name, a user name, an e-mail address, a guid, the usn of the PBX, or the id of an event.
    Exit code 1 where nobody is found.
    """
    settings = read_settings(config, require=False, level="error")
    live = _live(settings)
    with build_store_place(settings.store).reader() as store:
        found = meant(store, who)
        sources = {source.name: source for source in store.sources()}
        told = [
            trace(
                known,
                store.list_events(known.source, known.key),
                sources[known.source],
                live,
                renewed=store.renewed,
                unpublished=_unpublished(settings, known.source),
                keep_days=settings.replay.keep_days,
            )
            for known in found[:MAX_TRACED]
        ]
        sentences = [] if told else _nobody(store, who, settings)
    if len(found) > MAX_TRACED:
        sentences = [f"{len(found)} accounts answer to {who!r}; these are the first {MAX_TRACED}. Ask by guid."]
    if as_json:
        print_json({"who": who, "accounts": [asdict(found) for found in told], "sentences": sentences})
    else:
        console = terminal()
        for one in told:
            _show(console, one)
        for sentence in sentences:
            console.print(Text(clean(sentence)))
    if not told:
        sys.exit(FAILED)


@click.command()
@config_option
@click.option("--source", help="Only of this PBX.")
@click.option("--find", "wanted", help="Only with this in an extension, name, user name, address or guid.")
@click.option("--deleted", is_flag=True, help="Those that are deleted, instead of those that are there.")
@click.option("--json", "as_json", is_flag=True, help="One account per line.")
def accounts(config: Path | None, source: str | None, wanted: str | None, *, deleted: bool, as_json: bool) -> None:
    """List the accounts as they were last published."""
    settings = read_settings(config, require=False, level="error")
    console = terminal()
    count = 0
    with build_store_place(settings.store).reader() as store:
        known_sources = store.sources()
        names = [known.name for known in known_sources]
        if source is not None and source not in names:
            raise BridgeError(_no_source(source, names))
        followed = followed_in(settings, known_sources)
        for known in store.accounts():
            is_wanted = known.source == source if source is not None else known.source in followed
            if known.is_deleted == deleted and is_wanted and _has(known, wanted):
                count += 1
                if as_json:
                    print_json(_as_json(known), indent=False)
                else:
                    console.print(_line(known))
        suggestions = near(store.accounts(), wanted) if wanted and not count else []
        renewed = store.renewed
    if as_json:
        return
    for left in (found for found in known_sources if found.name not in followed):
        if source in {None, left.name}:
            listed = "" if source else f" Its {plural(left.accounts, 'account')} are not listed."
            console.print(Text(f"{not_followed(left.name)}.{listed}", style="dim"))
    untold = unfinished((known for known in known_sources if source in {None, known.name}), renewed)
    if not count:
        nobody = _none(wanted, suggestions, deleted=deleted, is_read=bool(known_sources))
        console.print(Text(clean(f"{nobody} {untold}" if untold and (renewed or not (wanted or deleted)) else nobody)))
    elif renewed and untold:
        console.print(Text(untold))


def _live(settings: Settings) -> Live:
    try:
        answer = run_now(ask(build_store_place(settings.store).socket, "GET", "/status"))
    except NobodyAnswers:
        return Live.of(None)
    return Live.of(orjson.loads(answer))


def meant(store: TableReader, who: str) -> Sequence[KnownAccount]:
    """Return the accounts that answer to *who*, at present or, where none does, formerly."""
    if _EVENT_ID.fullmatch(who):
        event = store.event(who.lower())
        if event is not None and event.account_key is not None:
            return list(_known(store, event.source, event.account_key))
    found = [known for known in store.accounts() if is_meant(known.account, who)]
    found = found or [known for known in store.accounts() if has_usn(known, who)]
    return found or list(_formerly(store, who))


def _formerly(store: TableReader, who: str) -> Iterator[KnownAccount]:
    """Yield accounts that were called *who* once: the change that is asked for may be the one that took it away."""
    seen: dict[tuple[SourceName, str], None] = {}
    for page in store.events():
        for event in page:
            if event.account_key is not None and former(event, who):
                seen[event.source, event.account_key] = None
    for source, key in seen:
        yield from _known(store, source, key)


def _known(store: TableReader, source: SourceName, key: str) -> Iterator[KnownAccount]:
    """Yield an account as the mirror has it or, where that began anew without it, as it was told of last."""
    known = store.account(source, key)
    if known is not None:
        yield known
        return
    told = [event for event in store.list_events(source, key) if event.forgotten_at is None]
    yield from map(as_told, told[-1:])


def _nobody(store: TableReader, who: str, settings: Settings) -> list[str]:
    sentences = [f"No account answers to {who!r}, and none did in the events that are kept."]
    sources = store.sources()
    if untold := unfinished(sources, store.renewed):
        sentences.append(untold)
    if suggestions := near(store.accounts(), who):
        sentences.append(f"Did you mean {' or '.join(repr(word) for word in suggestions)}?")
    hidden = {name for pbx in settings.pbx for name in _unpublished(settings, pbx.name)}
    if hidden:
        sentences.append(f"By configuration nobody can be found by {', '.join(sorted(hidden))}: try the guid.")
    followed = followed_in(settings, sources)
    for source in (found for found in sources if found.name in followed):
        verified = (
            f"its last full walk was proven {source.verified_at.astimezone():%Y-%m-%d %H:%M:%S}"
            f"{in_future(source.verified_at, utc_now())}"
            if source.verified_at
            else "no full walk of it was proven yet"
        )
        sentences.append(f"{source.name} has {source.accounts} accounts; {verified}.")
    if not sources:
        sentences.append("No PBX was ever read into this store.")
    return sentences


def _unpublished(settings: Settings, source: SourceName) -> list[str]:
    publish = settings.resolve_publish(source)
    return [*publish.exclude, *(f"{name} (masked)" for name in publish.mask)]


def _show(console: Console, found: Trace) -> None:
    for number, sentence in enumerate(found.sentences):
        style = "bold" if number == 0 else "bold red" if sentence.startswith("NOT ") else ""
        console.print(Text(clean(sentence), style=style))
    if found.events:
        console.print(Text("  seen                 state       change     event", style="dim"))
    for event in found.events:
        console.print(
            Text.assemble(
                f"  {event.seen_at.astimezone():%Y-%m-%d %H:%M:%S}  ",
                (f"{event.state:<10}", _STYLES.get(event.state, "yellow")),
                f"  {event.change:<9}  {event.event}  {clean(', '.join(event.changed))}",
            )
        )
    console.print()


def _has(known: KnownAccount, wanted: str | None) -> bool:
    if wanted is None:
        return True
    text = as_published(wanted).casefold()
    return any(text in word.casefold() for word in split_words(known.account)) or text in known.key


def _none(wanted: str | None, suggestions: Sequence[str], *, deleted: bool, is_read: bool) -> str:
    if wanted is not None:
        maybe = f" Did you mean {' or '.join(repr(word) for word in suggestions)}?" if suggestions else ""
        return f"No account has {wanted!r} in its extension, names, addresses or guid.{maybe}"
    if deleted:
        return "No account is deleted."
    return "No account is known." if is_read else "No account is known yet: no PBX was read into this store."


def _no_source(name: str, known: Sequence[str]) -> str:
    return f"no PBX in this store is called {name!r}; there is {', '.join(known) or 'none yet'}"


def _as_json(known: KnownAccount) -> dict[str, Any]:
    return {
        "source": known.source,
        "revision": known.revision,
        "deleted": known.is_deleted,
        "missed_walks": known.missed,
        "account": known.account,
    }


def _line(known: KnownAccount) -> Text:
    account = known.account
    numbers = ", ".join(map(str, account.get("numbers") or ()))
    return Text.assemble(
        f"{clean(numbers):<10}  ",
        (f"{clean(shown(choose_name(account))):<30}  ", "bold"),
        f"{clean(str(account.get('h323') or '')):<24}  ",
        (f"{known.source:<8}  revision {known.revision}  {clean(str(account['guid']))}", "dim"),
    )


COMMANDS: Final = (trace_command, accounts)
