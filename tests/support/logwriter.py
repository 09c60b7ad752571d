"""A store and what writes its events to a log, without a PBX: for the cases in which numbers matter."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from bridge.broker.connection import connect
from bridge.broker.declare import declare
from bridge.broker.stream.publisher import StreamPublisher, name_producer, provide_log
from bridge.broker.topology import Topology
from bridge.delivery.ingest import Ingested, ingest
from bridge.delivery.log_recovery import DeduplicatingSession, recover
from bridge.delivery.relay import OutboxRelay
from bridge.errors import BridgeError
from bridge.events.normalize import Rules
from bridge.model import Batch, Cursor, OutboxRow, Row, SourceName
from bridge.runtime.log_scan import scan_log
from bridge.store.sqlite.store import SqliteStore
from tests.support.rabbit import GivenBroker, PrivateBroker
from tests.support.rows import HQ, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")

Result = TypeVar("Result")


async def at_once(call: Callable[..., Result], /, *args: Any) -> Result:
    return call(*args)


class LogWriter:
    """Writes what is in *path* to the log of one exchange; told what becomes of rows."""

    def __init__(self, broker: PrivateBroker | GivenBroker, path: Path, *, exchange: str = "", **topology: Any) -> None:
        self.broker = broker
        self.path = path
        self.exchange = exchange or f"pbx.accounts.{uuid4().hex[:8]}"
        self.topology = Topology(exchange=self.exchange, **{"log_partitions": 1, **topology})
        self.warnings: list[str] = []
        self.settled: list[int] = []
        self.refused: list[OutboxRow] = []
        self.fences: list[SourceName] = []
        self.unfences: list[SourceName] = []

    @property
    def streams(self) -> Sequence[str]:
        return self.topology.log_streams

    @contextmanager
    def store(self) -> Iterator[SqliteStore]:
        """Open the store for the log."""
        with SqliteStore(self.path) as store:
            store.begin_log(self.topology.log_partitions)
            yield store

    async def prove(self, store: SqliteStore) -> bool:
        """Compare the store with the log as a bridge does at its start; true where everything is told anew."""
        async with connect([self.broker.url], client_name="log writer") as connection:
            await declare(connection, self.topology)
            await provide_log(connection, self.topology, is_declaring=True)
            for _ in range(2):  # a lineage that begins with the first look has something to look for
                at, is_looking = 0, False
                while at := store.note_looked_for(at):
                    is_looking = True

                async def find(ids: Sequence[str]) -> None:
                    store.found_in_log(ids)

                places = store.log_places()
                found = await scan_log(connection, self.topology, places=places, find=find if is_looking else None)
                renewed = store.compare(found)
            return renewed

    def publisher(self, store: SqliteStore, *, fence: str = "hq") -> StreamPublisher:
        return StreamPublisher(
            lambda: [self.broker.url],
            lambda: [self.broker.stream_url],
            topology=self.topology,
            producer=lambda: name_producer(store.generation),
            sources=[SourceName(fence)],
            name_fence=lambda source: f"{self.exchange}.log.writer.{source}",
        )

    def relay(self, store: SqliteStore, *, window: int = 256) -> OutboxRelay:
        async def recovering(session: DeduplicatingSession) -> None:
            settled, warning = await recover(session, store.log, offload=at_once, now=NOW)
            self.settled.append(settled)
            self.warnings.append(warning)

        return OutboxRelay(
            store.log,
            self.publisher(store),
            self,
            offload=at_once,
            clock=lambda: NOW,
            window=window,
            prepare=recovering,
        )

    def published(self, rows: Sequence[OutboxRow]) -> None:
        """Take the news that the log has *rows*."""

    def alive(self) -> None:
        """Take the news that the relay goes on."""

    def parked(self, row: OutboxRow, _reason: str) -> None:
        """Take the news that *row* was refused for good."""
        self.refused.append(row)

    def stopped(self, row: OutboxRow, problem: BridgeError, _pause_seconds: float) -> None:
        """Take the news that *row* was not taken: nothing of that kind is played here."""
        raise AssertionError(f"{row} was not taken") from problem

    def fenced(self, source: SourceName, _problem: BridgeError, _pause_seconds: float) -> None:
        """Take the news that somebody else writes for *source*."""
        self.fences.append(source)

    def unfenced(self, source: SourceName) -> None:
        """Take the news that it goes on."""
        self.unfences.append(source)

    @asynccontextmanager
    async def writing(self, store: SqliteStore) -> AsyncIterator[OutboxRelay]:
        """Write while inside; what ends the writing ends the test."""
        relay = self.relay(store)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            group.create_task(relay.run())
            yield relay
            relay.stop()

    async def write(self, store: SqliteStore) -> None:
        """Write everything that waits, and return."""
        async with self.writing(store):
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
