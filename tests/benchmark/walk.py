"""A walk of one PBX: everything durable and confirmed, against a client that does nothing but ask and read."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.events.cloudevents import ACCOUNT_CHANGED
from bridge.model import Cursor, OutboxRow
from bridge.pbx.outbound import PbxSource
from bridge.pbx.reader import WalkEvent
from bridge.pbx.walk.actions import CaughtUp, EpochBegan, RowRead
from bridge.runtime import committer
from bridge.runtime.committer import Committed
from tests.benchmark import node, sides, site
from tests.benchmark.bare import APP, PASSWORD
from tests.benchmark.figures import Figure
from tests.benchmark.running import Benchmark, Run

ACCOUNTS = 20_000
SLOWED = 100
"""So many times longer a group may gather under valgrind, where everything is 10 to 60 times slower."""


def whole(*, url: str, broker: str, accounts: int) -> dict[str, Any]:
    """Walk the list with the whole bridge; over when the broker has confirmed the last account."""
    stop, seen = asyncio.Event(), _Seen()

    def published(rows: Sequence[OutboxRow]) -> None:
        seen.confirmed += sum(row.event_type == ACCOUNT_CHANGED for row in rows)
        if seen.confirmed == accounts:
            seen.over_at = datetime.now(UTC)
        seen.look(stop)

    def told(news: Committed) -> None:
        if news.certificate is not None:
            seen.began_at = news.certificate.started_at
        seen.look(stop)

    with tempfile.TemporaryDirectory() as folder:
        wanted = site.settings(Path(folder), pbxs=[url], broker=broker, exchange=site.new_exchange())
        with site.bridge_of(wanted, on_committed=told, on_published=published) as bridge:
            busy = time.process_time()
            asyncio.run(bridge.run(stop))
            cpu = time.process_time() - busy
    assert seen.began_at is not None
    assert seen.over_at is not None
    return {"seconds": (seen.over_at - seen.began_at).total_seconds(), "cpu_seconds": cpu}


def slowed(*, url: str, broker: str, accounts: int) -> dict[str, Any]:
    """Do the same under a tool that makes everything slower, or hardly two rows would become durable together."""
    committer.CLOSE_SECONDS *= SLOWED  # type: ignore[misc]
    committer.GATHER_SECONDS *= SLOWED  # type: ignore[misc]
    return whole(url=url, broker=broker, accounts=accounts)


def read(*, url: str, accounts: int) -> dict[str, Any]:
    """Read the list and drop it."""
    return asyncio.run(_read(url, accounts))


async def _read(url: str, accounts: int) -> dict[str, Any]:
    source = PbxSource(url, app=APP, password=lambda: PASSWORD)
    over: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    rows, began, busy = 0, 0.0, 0.0

    def take(heard: WalkEvent) -> bool:
        nonlocal rows, began, busy
        match heard:
            case EpochBegan():
                began, busy = time.perf_counter(), time.process_time()
            case RowRead():
                rows += 1
            case CaughtUp():
                over.set_result({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - busy})
        return True

    async def deliver(heard: WalkEvent) -> None:
        take(heard)

    reading = asyncio.create_task(source.read(Cursor(), deliver, take))
    measured = await over
    reading.cancel()
    await asyncio.wait([reading])
    assert rows == accounts, f"{rows} accounts instead of {accounts}"
    return measured


@dataclass(slots=True)
class _Seen:
    confirmed: int = 0
    began_at: datetime | None = None
    """When the walk began, as its certificate says."""
    over_at: datetime | None = None
    """When the last account was confirmed."""

    def look(self, stop: asyncio.Event) -> None:
        if self.began_at is not None and self.over_at is not None:
            stop.set()


def measure(name: str, what: str, *, round_trip_ms: float, rounds: int, quick: int) -> Benchmark:
    """Return the benchmark of a walk at this round trip."""

    def measured(run: Run) -> list[Figure]:
        count = run.pick(ACCOUNTS, quick)
        figure = Figure(name, what, side_unit="µs per account")
        cpu = Figure(f"{name}_cpu_us", f"{what}: CPU per account", "µs", note="reference: of the bare client")
        with site.pretend_pbx(accounts=count, round_trip_ms=round_trip_ms) as url:
            for number in run.rounds(rounds):
                # Who goes first changes, and a first round warms up the pretend PBX; what it says is not used.
                if number == 1:
                    sides.run("bare", "walked", url=url, accounts=count)
                bare, whole = _both(url, run.broker.url, count, bare_first=number % 2 == 1)
                per_account = 1e6 / count
                figure.add(
                    whole["seconds"] * per_account, bare["seconds"] * per_account, bare["seconds"] / whole["seconds"]
                )
                cpu.add(
                    whole["cpu_seconds"] * per_account,
                    bare["cpu_seconds"] * per_account,
                    whole["cpu_seconds"] * per_account,
                )
        return [figure, cpu]

    return Benchmark(name, [name, f"{name}_cpu_us"], measured)


def _both(url: str, broker: str, accounts: int, *, bare_first: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    if bare_first:
        bare = sides.run("bare", "walked", url=url, accounts=accounts)
    whole = sides.run("walk", "whole", url=url, broker=broker, accounts=accounts)
    if not bare_first:
        bare = sides.run("bare", "walked", url=url, accounts=accounts)
    return bare, whole


def _reading(run: Run) -> list[Figure]:
    count = run.pick(ACCOUNTS, 1000)
    what = "an account that is read and dropped: CPU, against a bare client"
    figure = Figure("reading_cpu_us", what, "µs", side_unit="µs")
    with site.pretend_pbx(accounts=count) as url:
        for _ in run.rounds(5):
            bare = sides.run("bare", "walked", url=url, accounts=count)
            ours = sides.run("walk", "read", url=url, accounts=count)
            bare, ours = (side["cpu_seconds"] / count * 1e6 for side in (bare, ours))
            figure.add(ours, bare, ours)
    return [figure]


def _node_red(run: Run) -> list[Figure]:
    count = run.pick(ACCOUNTS, 1000)
    figure = Figure(
        "walk_node_red",
        "the same walk by Node-RED with its AMQP node, which keeps nothing and waits for no confirm: its time by ours",
        side_unit="µs per account",
    )
    cpu = Figure("walk_node_red_cpu_us", "the same: CPU per account", "µs", note="reference: of Node-RED")
    try:
        node.prepare(node.NODE_RED)
    except node.NodeMissingError as problem:
        figure.missing = cpu.missing = str(problem)
        return [figure, cpu]
    with site.pretend_pbx(accounts=count) as url:
        for number in run.rounds(3):
            if number % 2:  # who goes first changes
                theirs = _by_node_red(run, url, count)
                ours = sides.run("walk", "whole", url=url, broker=run.broker.url, accounts=count)
            else:
                ours = sides.run("walk", "whole", url=url, broker=run.broker.url, accounts=count)
                theirs = _by_node_red(run, url, count)
            costs = ours["seconds"] / count * 1e6, theirs["seconds"] / count * 1e6
            figure.add(*costs, costs[1] / costs[0])
            costs = ours["cpu_seconds"] / count * 1e6, theirs["cpu_seconds"] / count * 1e6
            cpu.add(*costs, costs[0])
    return [figure, cpu]


def _by_node_red(run: Run, url: str, accounts: int) -> dict[str, Any]:
    exchange = site.new_exchange()
    queue = f"{exchange}.q"
    site.declare(run.broker.url, exchange, queue)
    pbx = {"url": url, "app": APP, "password": PASSWORD, "accounts": accounts}
    broker = {"host": "127.0.0.1", "port": run.broker.port, "exchange": exchange}
    with node.measured("node_red.mjs", **pbx, **broker, folder=str(run.folder)) as measured:
        site.arrived(run.broker.url, queue, accounts)
    site.remove(run.broker.url, queue)
    return measured


BENCHMARKS = (
    Benchmark("reading", ("reading_cpu_us",), _reading, is_extra=True),
    measure(
        "walk_loopback",
        "walk of one PBX, loopback, against a bare client",
        round_trip_ms=0,
        rounds=5,
        quick=3000,
    ),
    measure("walk_1ms", "the same at a round trip of 1 ms", round_trip_ms=1, rounds=3, quick=600),
    Benchmark("walk_node_red", ("walk_node_red", "walk_node_red_cpu_us"), _node_red, is_extra=True),
)
