"""The log of several bridges: whoever has a source writes it under the same name, and the broker holds each once."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest

from bridge.broker.stream import by_source
from bridge.broker.stream.by_source import SourceStreamPublisher
from bridge.broker.stream.publisher import StreamSession
from bridge.broker.topology import Topology
from bridge.delivery.ingest import ingest
from bridge.delivery.relay import OutboxRelay
from bridge.errors import BridgeError, BrokerUnreachable
from bridge.model import OutboxRow, SourceName
from bridge.runtime.shared_side import SharingSide
from bridge.store.postgres.shared import SharedStore
from bridge.store.postgres.store import StoreOptions
from tests.support.engines import PostgresEngine
from tests.support.logs import read_log
from tests.support.logwriter import NOW, RULES, at_once
from tests.support.rabbit import PrivateBroker
from tests.support.rows import HQ, batch, row

BRANCH, DEPOT = SourceName("branch"), SourceName("depot")
SECONDS = 60


class Site:
    """A broker, and bridges by their stores."""

    def __init__(self, broker: PrivateBroker, stores: Sequence[SharedStore]) -> None:
        self.broker = broker
        self.first, self.second = stores
        name = f"pbx.accounts.{uuid4().hex[:8]}"
        self.topology = Topology(exchange=name, log_partitions=1)

    def publisher(self, store: SharedStore) -> SourceStreamPublisher:
        side = SharingSide(store, self.topology.exchange)
        side.offload = at_once
        return SourceStreamPublisher(
            lambda: [self.broker.url], lambda: [self.broker.stream_url], topology=self.topology, written=side
        )

    @asynccontextmanager
    async def session(self, store: SharedStore) -> AsyncIterator[StreamSession]:
        async with asyncio.timeout(SECONDS), self.publisher(store).session() as session:
            yield session

    async def write(self, store: SharedStore) -> None:
        """Write all that waits of what a bridge has."""
        relay = OutboxRelay(store.log, self.publisher(store), self, offload=at_once, clock=lambda: NOW)
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            group.create_task(relay.run())
            while store.log.backlog.rows:
                await asyncio.sleep(0.01)
            relay.stop()

    async def sequences(self, count: int) -> list[tuple[str, int]]:
        """Return what the log has, once that is so much and nothing more comes."""
        (reading,) = await read_log(self.broker, self.topology.log_streams, until=count)
        return [(str(event["source"]).removeprefix("/pbx/"), int(str(event["sequence"]))) for event in reading.events]

    def published(self, rows: Sequence[OutboxRow]) -> None: ...

    def alive(self) -> None: ...

    def parked(self, row: OutboxRow, reason: str) -> None:
        raise AssertionError(f"{row} was refused: {reason}")

    def stopped(self, row: OutboxRow, problem: BridgeError, _pause_seconds: float) -> None:
        raise AssertionError(f"{row} was not taken") from problem

    def fenced(self, source: SourceName, problem: BridgeError, _pause_seconds: float) -> None:
        raise AssertionError(f"{source} waits") from problem

    def unfenced(self, source: SourceName) -> None: ...


@pytest.fixture
def site(engine: PostgresEngine, broker: PrivateBroker) -> Iterator[Site]:
    options = StoreOptions(lease_seconds=60.0, patience_seconds=20.0, opening_seconds=0.0)
    with ExitStack() as stack:
        stores = [stack.enter_context(SharedStore(engine.database, options)) for _ in range(2)]
        for store in stores:
            store.compare(None)
            store.begin_log(1)
        stores[0].add_sources([HQ, BRANCH, DEPOT])
        yield Site(broker, stores)


def tell(store: SharedStore, *numbers: int, source: SourceName = HQ) -> None:
    for number in numbers:
        since = store.place(source).cursor
        ingest(
            store, replace(batch(row(f"account {number}", number), since=since), source=source), rules=RULES, now=NOW
        )


def unwritten(store: SharedStore) -> Sequence[OutboxRow]:
    return store.log.unpublished({HQ: 0}, 100, 100)


async def test_what_a_deposed_bridge_still_writes_is_there_once_and_in_order(site: Site) -> None:
    """It wrote some, which nobody recorded, stood still, and goes on with what it had read before."""
    site.first.claim([HQ])
    tell(site.first, 1, 2, 3, 4, 5)
    rows = unwritten(site.first)
    async with site.session(site.first) as deposed:
        await deposed.claim([HQ])
        await deposed.send(rows[:2])
        assert len((await deposed.outcomes()).confirmed) > 0
        site.first.give_back(HQ)
        site.second.claim([HQ])
        async with site.session(site.second) as heir:
            await heir.claim([HQ])
            assert [one.sequence for one in unwritten(site.second)] == [3, 4, 5]
            await deposed.send(rows[2:4])  # before the heir has written anything
        tell(site.second, 6, 7)
        await site.write(site.second)
        await deposed.send(rows[2:])  # and behind all of it
        tell(site.second, 8)
        await site.write(site.second)
    assert await site.sequences(8) == [("hq", number) for number in range(1, 9)]


async def test_a_source_that_goes_to_and_fro_is_written_once_and_in_order(site: Site) -> None:
    """Both keep their connection, and with it their producer."""
    number = 0
    async with site.session(site.first) as one, site.session(site.second) as other:
        for _ in range(4):
            for session, store in ((one, site.first), (other, site.second)):
                store.claim([HQ])
                tell(store, number + 1, number + 2)
                number += 2
                await session.claim([HQ])
                rows = unwritten(store)
                await session.send(rows)
                got = 0
                while got < len(rows):
                    got += len((await session.outcomes()).confirmed)
                store.log.mark_published(rows[:1], NOW)  # it comes to no more
                store.give_back(HQ)
    assert await site.sequences(number) == [("hq", one) for one in range(1, number + 1)]


async def test_a_bridge_that_had_many_sources_one_after_the_other_writes_all_of_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_source, "MAX_PRODUCERS", 2)
    site.first.claim([HQ, BRANCH, DEPOT])
    async with site.session(site.first) as session:
        await session.claim([HQ, BRANCH])
        await session.claim([DEPOT])
        assert session.fenced.keys() == {DEPOT}
        site.first.give_back(HQ)
        await session.claim([DEPOT])
        assert not session.fenced
        tell(site.first, 1, source=DEPOT)
        tell(site.first, 1, source=BRANCH)
        for source in (DEPOT, BRANCH):
            await session.send(site.first.log.unpublished({source: 0}, 10, 10))
        assert await site.sequences(2) == [("depot", 1), ("branch", 1)]


async def test_nothing_is_written_under_the_name_of_a_generation_that_is_over(site: Site) -> None:
    """Under that the broker knows positions that are given once more, and would drop what comes with them."""
    site.first.claim([HQ])
    async with site.session(site.first) as session:
        with site.second.together():
            site.second._renew("as after a restored backup")  # noqa: SLF001 - only a start does that
        site.first.lose([HQ])
        site.first.claim([HQ])
        with pytest.raises(BrokerUnreachable, match="begun anew"):
            await session.claim([HQ])
