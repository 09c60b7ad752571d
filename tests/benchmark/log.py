"""A full outbox into the log: by the stream protocol, and through the exchange to which the log is bound."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bridge.broker.publisher import ExchangePublisher
from bridge.broker.stream.publisher import StreamPublisher, name_producer
from bridge.broker.topology import Topology
from bridge.clock import utc_now
from bridge.delivery.log_recovery import DeduplicatingSession, recover
from bridge.delivery.relay import OutboxRelay
from bridge.errors import BridgeError
from bridge.model import OutboxRow, SourceName
from bridge.store.sqlite.store import SqliteStore
from bridge.store.thread import StoreThread
from tests.benchmark import outbox, sides, site
from tests.benchmark.figures import Figure
from tests.benchmark.running import Benchmark, Run

WAYS = ("stream", "exchange")


class Relaying:
    """One full outbox of so many rows being sent, and when its relay connected and ended."""

    def __init__(self, rows: int) -> None:
        self.offload = StoreThread()
        self._missing = rows
        self.relay: OutboxRelay | None = None
        self.connected_at = 0.0
        self.last_at = 0.0

    def is_now(self, state: str) -> None:
        if state == "connected":
            self.connected_at = time.perf_counter()

    def published(self, rows: Sequence[OutboxRow]) -> None:
        self.last_at = time.perf_counter()
        self._missing -= len(rows)
        if self._missing <= 0 and self.relay is not None:
            self.relay.stop()

    def alive(self) -> None:
        """Take the news that the relay goes on."""

    def parked(self, row: OutboxRow, reason: str) -> None:
        raise AssertionError(f"{row.event_id} was refused: {reason}")

    def stopped(self, row: OutboxRow, problem: BridgeError, _pause_seconds: float) -> None:
        raise AssertionError(f"{row.event_id} was not taken") from problem

    def fenced(self, source: SourceName, problem: BridgeError, _pause_seconds: float) -> None:
        raise AssertionError(f"{source} waits: {problem}")

    def unfenced(self, _source: SourceName) -> None: ...


def drained(*, way: str, template: str, urls: Sequence[str], exchange: str, rows: int) -> dict[str, Any]:
    """Send a copy of the *template* by one of ``WAYS``; over when all of its *rows* are confirmed and recorded."""
    relaying = Relaying(rows)
    with tempfile.TemporaryDirectory() as folder, closing(relaying.offload):
        path = Path(folder) / "bridge.db"
        shutil.copy(template, path)
        with SqliteStore(path) as store:
            make = _by_stream if way == "stream" else _by_exchange
            relaying.relay = make(store, relaying, urls, exchange)
            busy = time.process_time()
            asyncio.run(relaying.relay.run())
            cpu = time.process_time() - busy
    return {"seconds": relaying.last_at - relaying.connected_at, "cpu_seconds": cpu}


def _by_stream(store: SqliteStore, relaying: Relaying, urls: Sequence[str], exchange: str) -> OutboxRelay:
    publisher = StreamPublisher(
        lambda: urls[:1],
        lambda: urls[1:],
        topology=Topology(exchange=exchange, log_partitions=1),
        producer=lambda: name_producer(store.generation),
        on_state=relaying.is_now,
    )
    store.begin_log(1)

    async def recovering(session: DeduplicatingSession) -> None:
        await recover(session, store.log, offload=relaying.offload, now=utc_now())

    return OutboxRelay(store.log, publisher, relaying, offload=relaying.offload, clock=utc_now, prepare=recovering)


def _by_exchange(store: SqliteStore, relaying: Relaying, urls: Sequence[str], exchange: str) -> OutboxRelay:
    publisher = ExchangePublisher(lambda: urls[:1], topology=Topology(exchange=exchange), on_state=relaying.is_now)
    return OutboxRelay(store.exchange, publisher, relaying, offload=relaying.offload, clock=utc_now)


def _publish(run: Run) -> list[Figure]:
    count = run.pick(40_000, 6000)
    figure = Figure(
        "log_publish",
        "writing a full outbox into the log by the stream protocol, against the same through the exchange by AMQP",
        side_unit="events per second",
    )
    cpu = Figure("log_publish_cpu_us", "writing the log: CPU per event", "µs", note="reference: by AMQP")
    template = run.folder / "log.db"
    outbox.fill(site.in_file(template), count, partitions=1)
    for number in run.rounds(6):
        measured = {way: _one(run, way, template, count) for way in (WAYS if number % 2 else reversed(WAYS))}
        ours, theirs = (measured[way] for way in WAYS)
        rates = count / ours["seconds"], count / theirs["seconds"]
        figure.add(*rates, rates[0] / rates[1])
        costs = ours["cpu_seconds"] / count * 1e6, theirs["cpu_seconds"] / count * 1e6
        cpu.add(*costs, costs[0])
    return [figure, cpu]


def _one(run: Run, way: str, template: Path, count: int) -> dict[str, Any]:
    exchange = site.new_exchange()
    urls = [run.broker.url, run.broker.stream_url]
    measured = sides.run("log", "drained", way=way, template=str(template), urls=urls, exchange=exchange, rows=count)
    site.remove(run.broker.url, f"{exchange}.log")
    return measured


BENCHMARKS = (Benchmark("log_publish", ("log_publish", "log_publish_cpu_us"), _publish, is_extra=True),)
