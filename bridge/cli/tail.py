"""``tail``: account changes as they pass."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, cast

import click

from bridge import logs
from bridge.cli.common import (
    BROKER,
    EXCHANGE,
    IN_PROCESS_LIST,
    KEY,
    QUEUE,
    YEARS,
    config_option,
    read_settings,
    run_now,
    safe_json,
    stop_signals,
    terminal,
)
from bridge.consumer.subscriber import ACCOUNT_KEYS, Delivery, Start, subscribe
from bridge.errors import BadConfig, BridgeError
from bridge.events.cloudevents import AccountChanged
from bridge.model import ChangeKind
from bridge.ops.terminal import event_line
from bridge.ops.trace import is_meant
from bridge.runtime.retry import Backoff, keep_trying
from bridge.security.tls import client_context
from bridge.security.urls import split_urls

FIRST_SHOWN: Final = 20
"""Accounts of the demo's first walk that are shown one by one."""

log = logs.get_logger(__name__)


@click.command()
@config_option
@click.option("--amqp-url", type=BROKER, help=f"The broker; by default the configured one. {IN_PROCESS_LIST}")
@click.option("--exchange", type=EXCHANGE, help="The exchange; by default the configured one.")
@click.option(
    "--queue", type=QUEUE, help="A durable queue to read from, and to keep; by default one that goes with this command."
)
@click.option("--from", "start", help="Read the log instead: 'first', or a time like 2026-11-23T20:00.")
@click.option(
    "--place",
    "place_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep in this FILE how far the log was shown, and go on there the next time; --from is for the first time.",
)
@click.option(
    "--key", "keys", multiple=True, type=KEY, default=ACCOUNT_KEYS, show_default=True, help="Which routing keys."
)
@click.option("--source", help="Only of this PBX.")
@click.option("--change", type=click.Choice([kind.value for kind in ChangeKind]), help="Only such changes.")
@click.option("--field", help="Only where this field differs, like numbers.")
@click.option("--account", "who", help="Only of this one: extension, name, user name, address or guid.")
@click.option("--json", "as_json", is_flag=True, help="One event per line, as it was published.")
def tail(  # noqa: PLR0913, PLR0917 - the options of a command, which are passed by name
    config: Path | None,
    amqp_url: str | None,
    exchange: str | None,
    queue: str | None,
    start: str | None,
    place_file: Path | None,
    keys: tuple[str, ...],
    source: str | None,
    change: str | None,
    field: str | None,
    who: str | None,
    *,
    as_json: bool,
) -> None:
    """Show account changes as they pass, until stopped."""
    settings = read_settings(config, require=False, level="warning")
    urls = split_urls(amqp_url) if amqp_url else settings.rabbitmq.urls
    if not urls:
        raise BadConfig(
            "no broker is configured: name the settings by --config FILE, set BRIDGE_RABBITMQ_URL, or give --amqp-url"
        )
    if start is not None and queue is None and not (settings.rabbitmq.log_stream or exchange or amqp_url):
        raise BadConfig("--from reads the log, and there is none: rabbitmq.log_stream is false")
    if place_file is not None and (start is None or queue is not None or settings.rabbitmq.log_partitions > 1):
        raise click.UsageError("--place goes with --from, and with a log in one part")
    begin = start if start in {None, "first", "last", "next"} else _time(start or "")
    place = LogPlace(cast("Start | None", begin), place_file, has_parts=settings.rabbitmq.log_partitions > 1)
    subscribed = partial(
        subscribe,
        urls,
        exchange=exchange or settings.rabbitmq.exchange,
        queue=queue,
        keys=keys,
        partitions=settings.rabbitmq.log_partitions,
        ssl_context=client_context(settings.rabbitmq.trust),
    )
    show = shower(as_json=as_json)

    def show_wanted(event: AccountChanged, body: bytes) -> None:
        is_wanted = (
            source in {None, event.source}
            and change in {None, event.kind.value}
            and (field is None or field in event.changed)
            and (who is None or is_meant(event.account, who) or is_meant({**event.previous, "guid": ""}, who))
        )
        if is_wanted:
            show(event, body)

    run_now(_tail(lambda: subscribed(start=place.start), show_wanted, place))


class LogPlace:
    """How far the log was shown: in *file*, if one is given, and otherwise for as long as this command runs.

    A log that *has_parts* is shown from its start again, since each has offsets of its own.

    Raises:
        BridgeError: the file cannot be used.

    """

    def __init__(self, start: "Start | None", file: Path | None = None, *, has_parts: bool = False) -> None:
        self._file = file
        self._has_parts = has_parts
        self.start = start
        """Where in the log to begin."""
        if file is not None and file.exists():
            try:
                self.start = int(file.read_text("ascii")) + 1
            except (OSError, ValueError) as problem:
                raise BridgeError(f"{file} has no place in the log: {problem}. Remove it to begin anew") from problem

    def __repr__(self) -> str:
        return f"<LogPlace {self.start}>"

    def passed(self, offset: int | None) -> None:
        """Take note that the entry with this *offset* was shown; what comes from a queue has none."""
        if offset is None or self.start is None or self._has_parts:
            return
        self.start = offset + 1
        if self._file is not None:
            new = self._file.with_name(f"{self._file.name}.new")
            try:
                new.write_text(f"{offset}\n", "ascii")
                new.replace(self._file)
            except OSError as problem:
                raise BridgeError(f"{self._file} cannot be written: {problem.strerror}") from problem


def _time(text: str) -> datetime:
    try:
        told = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        told = None
    if told is None or told.year not in YEARS:
        raise click.UsageError(f"--from wants 'first' or a time like 2026-11-23T20:00, not {text!r}")
    return told


async def _tail(
    subscribed: Callable[[], contextlib.AbstractAsyncContextManager[AsyncIterator[Delivery]]],
    show: Callable[[AccountChanged, bytes], None],
    place: "LogPlace",
) -> None:
    patience = Backoff(misconfigured_seconds=3)

    async def receive() -> None:
        async with subscribed() as deliveries:
            async for delivery in deliveries:
                patience.progress()
                show(delivery.event, delivery.body)
                place.passed(delivery.offset)
                await delivery.ack()

    def say(problem: BridgeError, pause_seconds: float) -> None:
        log.warning("tail.waiting", problem=str(problem), again_in_seconds=round(pause_seconds, 1))

    with stop_signals() as stop:
        receiving = asyncio.create_task(keep_trying(receive, patience, say))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([receiving, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if receiving.done():
            receiving.result()
        receiving.cancel()
        await asyncio.wait([receiving])


def shower(*, as_json: bool, accounts: int = 0) -> Callable[[AccountChanged, bytes], None]:
    """Return what shows an event; of a long first walk only the beginning and the progress are shown."""
    if as_json:
        return lambda _event, body: click.echo(safe_json(body))
    console = terminal()

    def show(event: AccountChanged, _body: bytes) -> None:
        number = event.sequence
        if number <= FIRST_SHOWN or number > accounts:
            console.print(event_line(event))
        elif number == accounts or number % max(1, accounts // 10) == 0:
            console.print(f"  … {number} of {accounts} accounts", style="dim")

    return show


COMMANDS: Final = (tail,)
