"""A store and what writes its events to a log, without a PBX: for the cases in which numbers matter."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from bridge.broker import Topology
from bridge.delivery.drain import Drain
from bridge.delivery.ingest import Ingested, ingest
from bridge.delivery.settle import Knowing, settle
from bridge.log_publisher import LogPublisher, producer_of
from bridge.model import Batch, Cursor, OutboxRow, Row
from bridge.normalize import Rules
from bridge.store.sqlite import SqliteStore
from tests.support.rabbit import GivenBroker, PrivateBroker
from tests.support.rows import HQ, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")

Result = TypeVar("Result")


async def at_once(call: Callable[..., Result], /, *args: Any) -> Result:
    return call(*args)


class LogWriter:
    """Writes what is in *path* to the log of one exchange."""

    def __init__(self, broker: PrivateBroker | GivenBroker, path: Path, *, exchange: str = "", **topology: Any) -> None:
        self.broker = broker
        self.path = path
        self.exchange = exchange or f"pbx.accounts.{uuid4().hex[:8]}"
        self.topology = Topology(exchange=self.exchange, **{"log_partitions": 1, **topology})
        self.warnings: list[str] = []
        self.settled: list[int] = []
        self.parked: list[OutboxRow] = []

    @property
    def streams(self) -> Sequence[str]:
        return self.topology.log_streams

    @contextmanager
    def store(self) -> Iterator[SqliteStore]:
        """Open the store for the log."""
        with SqliteStore(self.path) as store:
            store.log.begin(self.topology.log_partitions)
            yield store

    def publisher(self, store: SqliteStore, *, fence: str = "hq") -> LogPublisher:
        return LogPublisher(
            lambda: [self.broker.url],
            lambda: [self.broker.stream_url],
            topology=self.topology,
            producer=lambda: producer_of(store.lineage),
            fences=[f"{self.exchange}.log.writer.{fence}"],
        )

    def drain(self, store: SqliteStore, *, window: int = 256) -> Drain:
        async def settling(session: Knowing) -> None:
            settled, warning = await settle(session, store.log, offload=at_once, clock=lambda: NOW)
            self.settled.append(settled)
            self.warnings.append(warning)

        return Drain(
            store.log,
            self.publisher(store),
            offload=at_once,
            clock=lambda: NOW,
            window=window,
            settle=settling,
            on_parked=lambda parked, _reason: self.parked.append(parked),
        )

    @asynccontextmanager
    async def draining(self, store: SqliteStore) -> AsyncIterator[Drain]:
        """Write while inside; what ends the writing ends the test."""
        drain = self.drain(store)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(drain.run())
            yield drain
            drain.stop()

    async def write(self, store: SqliteStore) -> None:
        """Write everything that waits, and return."""
        async with self.draining(store):
            await everything_written(store)


async def everything_written(store: SqliteStore) -> None:
    async with asyncio.timeout(10):
        while store.log.backlog.rows:
            await asyncio.sleep(0.01)


def take(store: SqliteStore, *rows: Row) -> Ingested:
    """Ingest *rows* behind whatever was taken before."""
    since: Cursor = store.place(HQ).cursor
    return ingest(store, Batch(HQ, since, rows[-1].cursor, rows), rules=RULES, now=NOW)


def changes(first: int, count: int, **fields: Any) -> list[Row]:
    """Return so many new accounts, numbered from *first*."""
    return [row(f"account {number}", number, **fields) for number in range(first, first + count)]
