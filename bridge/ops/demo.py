"""Everything in one process on a temporary folder: a pretend PBX, the bridge, and a subscriber."""

import asyncio
import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import uuid4

from bridge import __version__
from bridge.broker.connection import connect
from bridge.broker.declare import declare
from bridge.broker.publisher import ExchangePublisher
from bridge.broker.topology import Topology
from bridge.clock import steady, utc_now
from bridge.consumer.subscriber import subscribe
from bridge.delivery.limits import Limits
from bridge.delivery.sink import Publisher
from bridge.errors import BridgeError
from bridge.events import cloudevents
from bridge.events.cloudevents import AccountChanged
from bridge.events.normalize import Rules
from bridge.logs import get_logger
from bridge.model import OutboxRow, SourceName
from bridge.observability.component_status import ComponentStatus
from bridge.observability.source_status import SourceStatus
from bridge.observability.status import BridgeStatus
from bridge.ops.terminal import TerminalPublisher
from bridge.pbx.outbound import PbxSource
from bridge.pbx.walk.actions import Pace
from bridge.runtime.bridge import Bridge, BrokerSide, Hooks
from bridge.runtime.options import Options
from bridge.runtime.retry import Backoff, keep_trying
from bridge.runtime.source_worker import SourceSpec
from bridge.simulator.pbx import Pbx as PretendPbx
from bridge.simulator.server import serve
from bridge.store.sqlite.store import SqliteStore

SOURCE: Final = SourceName("demo")
PASSWORD: Final = "demo"  # noqa: S105 - of a PBX that exists only while the demo runs
POLL_SECONDS: Final = 0.2
STALL_SECONDS: Final = 60.0
"""Without any progress for so long, ``--once`` gives up."""

log = get_logger(__name__)


@dataclass(slots=True)
class DemoSummary:
    """What came of a demo."""

    published: int = 0
    """Events that the broker confirmed; without a broker, that were shown."""
    received: int = 0
    """Deliveries at the subscriber."""
    applied: int = 0
    """Changes the subscriber applied: each id once."""
    lost: int = 0
    """Published and never received."""
    duplicates: int = 0
    """Deliveries of what had been received before."""
    out_of_order: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class SampleSubscriber:
    """The sample subscriber: applies each change once, by remembering ids in a table with a unique key."""

    summary: DemoSummary
    show: Callable[[AccountChanged, bytes], None]
    inbox: sqlite3.Connection
    last_sequence: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, event: AccountChanged, body: bytes) -> None:
        """Apply *event* unless it was applied before."""
        self.summary.received += 1
        with self.inbox:
            added = self.inbox.execute("INSERT OR IGNORE INTO inbox VALUES (?)", (event.event_id,)).rowcount
        if added:
            self.summary.applied += 1
            self.summary.out_of_order += event.sequence < self.last_sequence
            self.last_sequence = event.sequence
            self.show(event, body)
        else:
            self.summary.duplicates += 1
        self.news.set()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demo is to do."""

    accounts: int = 50
    changes: int = 20
    """Only with *is_once*; otherwise they go on until the demo is stopped."""
    changes_per_second: float = 1.0
    is_once: bool = False
    seed: int = 1
    amqp_urls: Sequence[str] = ()


async def play(plan: Plan, show: Callable[[AccountChanged, bytes], None], stop: asyncio.Event) -> DemoSummary:
    """Run the demo until it is through or *stop* is set.

    Raises:
        BridgeError: a part of it failed for good.
        TimeoutError: nothing came for a minute although it should have.

    """
    started = monotonic()
    summary = DemoSummary()
    with tempfile.TemporaryDirectory(prefix="account-bridge-demo-") as folder:
        inbox = sqlite3.connect(Path(folder) / "inbox.db", isolation_level="IMMEDIATE", check_same_thread=False)
        with closing(inbox), SqliteStore(Path(folder) / "bridge.db") as store:
            inbox.execute("PRAGMA synchronous=OFF")
            inbox.execute("CREATE TABLE inbox (event_id TEXT PRIMARY KEY)")
            subscriber = SampleSubscriber(summary, show, inbox)
            pbx = PretendPbx(accounts=plan.accounts, seed=plan.seed, app=SOURCE, password=PASSWORD, name=SOURCE)
            async with serve(pbx) as served, _publisher(plan, subscriber, stop) as publisher:
                bridge = _bridge(store, served.url, publisher, summary)
                stop_bridge = asyncio.Event()
                running = asyncio.create_task(bridge.run(stop_bridge))
                try:
                    await _await_first(running, stop, _script(plan, pbx, subscriber))
                finally:
                    stop_bridge.set()
                    await asyncio.wait([running])
                running.result()
    summary.lost = max(0, summary.published - summary.applied)
    summary.seconds = round(monotonic() - started, 2)
    return summary


def as_line(summary: DemoSummary) -> dict[str, float]:
    """Return *summary* as the demo's last line has it."""
    return asdict(summary)


async def _await_first(running: "asyncio.Task[None]", stop: asyncio.Event, script: Coroutine[None, None, None]) -> None:
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(script), asyncio.create_task(stop.wait())]
    try:
        await asyncio.wait([running, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()


async def _script(plan: Plan, pbx: PretendPbx, subscriber: SampleSubscriber) -> None:
    await _applied(subscriber, plan.accounts)
    chance = random.Random(plan.seed)  # noqa: S311 - a script, no secret
    if not plan.is_once:
        while True:
            await asyncio.sleep(1 / plan.changes_per_second if plan.changes_per_second else 3600)
            pbx.random_mutation()
    done = 0
    while done < plan.changes:
        done += _mutate(pbx, chance, at_most=plan.changes - done)
        await _applied(subscriber, plan.accounts + done)


def _mutate(pbx: PretendPbx, chance: random.Random, *, at_most: int) -> int:
    """Change some accounts, each of them once: two changes between two questions would be told as one."""
    present = sorted(pbx.truth())
    chosen = chance.sample(present, min(at_most, 100, len(present)))
    if not chosen:
        pbx.create()
        return 1
    for guid in chosen:
        chance.choice(
            (
                pbx.change_display_name,
                pbx.change_extension,
                pbx.toggle_group,
                pbx.touch,
                pbx.delete,
                lambda _guid: pbx.create(),
            )
        )(guid)
    return len(chosen)


async def _applied(subscriber: SampleSubscriber, count: int) -> None:
    while subscriber.summary.applied < count:
        subscriber.news.clear()
        async with asyncio.timeout(STALL_SECONDS):
            await subscriber.news.wait()


def _bridge(store: SqliteStore, url: str, publisher: Publisher, summary: DemoSummary) -> Bridge:
    now = utc_now()
    board = BridgeStatus(version=__version__, started_at=now, broker=ComponentStatus(since=now), steady=steady)
    board.sources = {SOURCE: SourceStatus(since=now)}
    source = PbxSource(url, app=SOURCE, password=lambda: PASSWORD, pace=Pace(poll_interval=POLL_SECONDS))

    def published(rows: Sequence[OutboxRow]) -> None:
        summary.published += sum(row.event_type == cloudevents.ACCOUNT_CHANGED for row in rows)

    return Bridge(
        store,
        [SourceSpec(SOURCE, source)],
        BrokerSide(publisher),
        Options(Rules(key=store.key), limits=Limits(min_free_bytes=0)),
        board=board,
        hooks=Hooks(on_published=published),
    )


@asynccontextmanager
async def _publisher(plan: Plan, subscriber: SampleSubscriber, stop: asyncio.Event) -> AsyncIterator[Publisher]:
    if not plan.amqp_urls:
        yield TerminalPublisher(subscriber.take)
        return
    # Names of its own, so that a demo never mixes with the events of a real PBX on the same broker.
    topology = Topology(exchange=f"pbx.accounts.demo-{uuid4().hex[:8]}", has_log=False)
    queue = f"{topology.exchange}.subscriber"
    is_bound = asyncio.Event()

    async def receive() -> None:
        async with connect(plan.amqp_urls, client_name="account-bridge demo") as connection:
            await declare(connection, topology)
        async with subscribe(plan.amqp_urls, exchange=topology.exchange, queue=queue) as deliveries:
            is_bound.set()
            async for delivery in deliveries:
                subscriber.take(delivery.event, delivery.body)
                await delivery.ack()

    receiving = asyncio.create_task(keep_trying(receive, Backoff(), _say_failure))
    stopping = asyncio.create_task(stop.wait())
    binding = asyncio.create_task(is_bound.wait())
    try:
        await asyncio.wait([receiving, stopping, binding], return_when=asyncio.FIRST_COMPLETED)
        yield ExchangePublisher(lambda: plan.amqp_urls, topology=topology)
    finally:
        for task in (receiving, stopping, binding):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await receiving
        with suppress(BridgeError):
            await _remove(plan.amqp_urls, topology.exchange, queue)


async def _remove(urls: Sequence[str], exchange: str, queue: str) -> None:
    async with connect(urls, client_name="account-bridge demo") as connection:
        channel = await connection.channel()
        await channel.queue_delete(queue)
        await channel.exchange_delete(exchange)


def _say_failure(problem: BridgeError, pause_seconds: float) -> None:
    log.warning("subscriber.failed", problem=str(problem), again_in_seconds=round(pause_seconds, 1))
