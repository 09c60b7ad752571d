"""``replay`` and ``snapshot``: events to one queue only."""

import contextlib
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import click

from bridge.broker.admin import private_exchange
from bridge.broker.connection import connect
from bridge.broker.publisher import ExchangePublisher
from bridge.broker.topology import Topology
from bridge.cli.accounts import meant
from bridge.cli.common import (
    FAILED,
    QUEUE,
    config_option,
    followed_in,
    not_followed,
    print_json,
    read_settings,
    run_now,
    time_option,
)
from bridge.clock import utc_now
from bridge.config.settings import Settings
from bridge.errors import BadConfig, BridgeError
from bridge.events.cloudevents import APP_ID
from bridge.model import SourceName
from bridge.ops.replay import Sender, Snapshot, as_row, is_replayable, sending
from bridge.ops.trace import unfinished
from bridge.runtime.from_settings import build_store_place
from bridge.security.tls import client_context

queue_option = click.option("--queue", required=True, type=QUEUE, help="The queue that gets them; nobody else does.")


@click.command()
@config_option
@queue_option
@click.option("--since", required=True, callback=time_option, help="Seen since then, like 2026-11-23T20:00.")
@click.option("--account", "who", help="Only of this one: extension, name, guid …")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def replay(config: Path | None, queue: str, since: datetime, who: str | None, *, as_json: bool) -> None:
    """Send published events to one queue again, same ids, with the header x-label: replay.

    An inbox that has seen them does nothing; one that lost its state gets them back.
    """
    settings = _settings(config)

    async def replayed() -> tuple[int, int]:
        left_out = 0
        with build_store_place(settings.store).reader() as store:
            accounts = None if who is None else {(known.source, known.key) for known in meant(store, who)}
            if accounts is not None and not accounts:
                raise BridgeError(f"no account answers to {who!r}; account-bridge trace tells more")
            async with _sender(settings, queue, "replay") as sender:
                for page in store.events(since=since):
                    wanted = [
                        event for event in page if accounts is None or (event.source, event.account_key) in accounts
                    ]
                    rows = [as_row(event) for event in wanted if is_replayable(event)]
                    left_out += sum(event.forgotten_at is not None for event in wanted)
                    await sender.send(rows)
                return sender.confirmed, left_out

    sent, left_out = run_now(replayed())
    if as_json:
        print_json({"queue": queue, "sent": sent, "forgotten": left_out})
        return
    click.echo(f"{sent} events were sent to {queue} again, and confirmed" if sent else _nothing(settings, since))
    if left_out:
        click.echo(f"{left_out} were left out: their personal data was taken out (account-bridge forget)")


@click.command()
@config_option
@queue_option
@click.option("--source", help="Only accounts of this PBX.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def snapshot(config: Path | None, queue: str, source: str | None, *, as_json: bool) -> None:
    """Send the present state of all accounts to one queue, with the header x-label: snapshot.

    Every account comes as initial, under an id of its own; what changes meanwhile comes once more.
    """
    settings = _settings(config)

    async def sent_all() -> tuple[int, int, str]:
        with build_store_place(settings.store).reader() as store:
            known = store.sources()
            names = [found.name for found in known]
            if source is not None and source not in names:
                raise BridgeError(f"no PBX in this store is called {source!r}; there is {', '.join(names) or 'none'}")
            followed = followed_in(settings, known)
            if source is not None and source not in followed:
                raise BridgeError(f"{not_followed(source)}. No snapshot of it is sent")
            wanted = followed if source is None else frozenset({SourceName(source)})
            renewed = store.renewed
            async with _sender(settings, queue, "snapshot") as sender:
                sent, again = await Snapshot(store, uuid4().hex, utc_now, wanted).send(sender)
        untold = unfinished((found for found in known if found.name in wanted), renewed)
        return sent, again, untold if renewed is not None or not sent + again else ""

    count, again, untold = run_now(sent_all())
    _tell_snapshot(queue, count, again, untold, as_json=as_json)
    if untold:
        sys.exit(FAILED)


def _tell_snapshot(queue: str, count: int, again: int, untold: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"queue": queue, "sent": count, "again": again, "unfinished": untold})
        return
    more = f"; {again} were sent once more, since they changed meanwhile" if again else ""
    nobody = "no account is there, and nothing was sent"
    said = f"{count} accounts were sent to {queue}, and confirmed{more}" if count + again else nobody
    click.echo(f"{said}. {untold} Ask for the snapshot once more then" if untold else said)


def _settings(config: Path | None) -> Settings:
    settings = read_settings(config, require=False, level="error")
    if not settings.rabbitmq.urls:
        raise BadConfig("no broker is configured: name the settings by --config FILE, or set BRIDGE_RABBITMQ_URL_FILE")
    return settings


@contextlib.asynccontextmanager
async def _sender(settings: Settings, queue: str, label: str) -> AsyncIterator[Sender]:
    rabbitmq = settings.rabbitmq
    context = client_context(rabbitmq.trust)
    async with contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(
            connect(rabbitmq.urls, client_name=f"{APP_ID} {label}", ssl_context=context)
        )
        name = await stack.enter_async_context(private_exchange(connection, Topology(rabbitmq.exchange), queue))
        publisher = ExchangePublisher(
            lambda: rabbitmq.urls,
            topology=Topology(name, has_log=False),
            is_declaring=False,
            confirm_deadline_seconds=rabbitmq.confirm_timeout_seconds,
            ssl_context=context,
            label=label,
        )
        sender = await stack.enter_async_context(sending(publisher))
        try:
            yield sender
        except BridgeError as problem:
            raise BridgeError(f"after {sender.confirmed} confirmed events: {problem}") from problem


def _nothing(settings: Settings, since: datetime) -> str:
    return (
        f"no event that was sent since {since.astimezone():%Y-%m-%d %H:%M} is kept (replay.keep_days is "
        f"{settings.replay.keep_days:g}); nothing was sent. The log may have more: account-bridge tail --from first"
    )


COMMANDS: Final = (replay, snapshot)
