"""A second bridge that holds the fence of one PBX: that one waits, all others go on, and both write nothing of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import aio_pika
import pytest

from bridge.broker import fence
from bridge.broker.connection import connect
from bridge.broker.fence import FORMER_SECONDS, FormerFences
from bridge.broker.publisher import ExchangePublisher
from bridge.broker.topology import Subscription, Topology
from bridge.delivery import fences
from bridge.delivery.ingest import ingest
from bridge.delivery.relay import OutboxRelay
from bridge.errors import BridgeError, BrokerUnreachable, FenceHeld
from bridge.model import Batch, OutboxRow, SourceName
from bridge.store.sqlite.store import SqliteStore
from tests.support.logs import read_log
from tests.support.logwriter import NOW, RULES, LogWriter, at_once, changes, everything_written, take
from tests.support.rabbit import PrivateBroker
from tests.support.rows import HQ

BRANCH = SourceName("branch")
SECONDS = 60


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "FENCE_SECONDS", 0.2)


@asynccontextmanager
async def second_bridge(broker: PrivateBroker, fence: str) -> AsyncIterator[None]:
    """Hold *fence* while inside."""
    async with connect([broker.url], client_name="another bridge") as connection:
        channel = await connection.channel()
        await channel.declare_queue(fence, durable=False, exclusive=True)
        yield


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not is_so():
            await asyncio.sleep(0.01)


def take_branch(store: SqliteStore, first: int, count: int) -> None:
    rows = changes(first, count)
    since = store.place(BRANCH).cursor
    ingest(store, Batch(BRANCH, since, rows[-1].cursor, rows), rules=RULES, now=NOW)


class Watched:
    """Told what becomes of rows and sources."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.fences: list[tuple[SourceName, str]] = []
        self.unfences: list[SourceName] = []

    def published(self, rows: Sequence[OutboxRow]) -> None:
        self.done += [(row.source, row.sequence) for row in rows]

    def alive(self) -> None: ...

    def parked(self, row: OutboxRow, reason: str) -> None:
        raise AssertionError(f"{row} was refused: {reason}")

    def stopped(self, row: OutboxRow, problem: BridgeError, _pause_seconds: float) -> None:
        raise AssertionError(f"{row} was not taken") from problem

    def fenced(self, source: SourceName, problem: BridgeError, _pause_seconds: float) -> None:
        self.fences.append((source, str(problem)))

    def unfenced(self, source: SourceName) -> None:
        self.unfences.append(source)


@pytest.mark.parametrize("configured", [[HQ, BRANCH], [HQ]])
async def test_the_exchange_gets_everything_but_what_a_second_bridge_publishes_until_that_is_gone(
    broker: PrivateBroker, tmp_path: Path, configured: list[SourceName]
) -> None:
    name = f"pbx.accounts.{uuid4().hex[:8]}"
    topology = Topology(exchange=name, has_log=False, subscriptions=(Subscription(f"{name}.q"),))
    watched = Watched()
    with SqliteStore(tmp_path / "bridge.db") as store:
        publisher = ExchangePublisher(
            lambda: [broker.url],
            topology=topology,
            sources=configured,
            name_fence=lambda source: f"{name}.writer.{source}",
        )
        relay = OutboxRelay(store.exchange, publisher, watched, offload=at_once, clock=lambda: NOW)
        take_branch(store, 1, 3)
        take(store, *changes(1, 2))
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            async with second_bridge(broker, f"{name}.writer.{BRANCH}"):
                group.create_task(relay.run())
                await until(lambda: len(watched.done) == 2 and len(watched.fences) >= 3)
                take(store, *changes(3, 2))
                relay.wake(HQ)
                await until(lambda: len(watched.done) == 4)
                assert watched.done == [(HQ, number) for number in range(1, 5)]
                source, words = watched.fences[-1]
                assert source == BRANCH
                assert f"it holds the queue {name}.writer.{BRANCH}" in words
                assert "second bridge for the same PBX, which must be stopped" in words
            await until(lambda: len(watched.done) == 7)
            assert watched.done[4:] == [(BRANCH, number) for number in range(1, 4)]
            assert watched.unfences == [BRANCH]
            relay.stop()
    async with await aio_pika.connect(broker.url) as connection:
        queue = await (await connection.channel()).declare_queue(f"{name}.q", passive=True)
        assert queue.declaration_result.message_count == 7, "each once"


async def sequences(writer: LogWriter, until_count: int) -> list[tuple[str, int]]:
    (reading,) = await read_log(writer.broker, writer.streams, until=until_count)
    return [(str(event["source"]).rpartition("/")[2], int(str(event["sequence"]))) for event in reading.events]


async def test_the_log_gets_everything_but_what_a_second_bridge_writes_until_that_is_gone(
    broker: PrivateBroker, tmp_path: Path
) -> None:
    first = LogWriter(broker, tmp_path / "first.db")
    second = LogWriter(broker, tmp_path / "second.db", exchange=first.exchange)
    with first.store() as store, second.store() as other:
        take(other, *changes(1, 7))
        take_branch(other, 1, 3)
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            take(store, *changes(1, 5))
            async with first.writing(store):
                await everything_written(store)
                relay = second.relay(other)
                group.create_task(relay.run())
                await everything_written(other)
                assert other.log.backlog.held_rows == 7
                take(other, *changes(8, 2))
                take_branch(other, 4, 1)
                relay.wake(HQ)
                await until(lambda: other.log.backlog.held_rows == 9 and not other.log.backlog.rows)
                told = await sequences(first, 9)
                assert told == [("hq", n) for n in range(1, 6)] + [("branch", n) for n in range(1, 5)]
                assert set(second.fences) == {HQ}
            await until(lambda: not other.log.backlog.held_rows and not other.log.backlog.rows)
            assert second.unfences == [HQ]
            relay.stop()
    assert (await sequences(first, 18))[9:] == [("hq", number) for number in range(1, 10)], "each once and in order"


async def test_what_waits_for_a_fence_waits_through_a_restart_and_goes_out_in_order(
    broker: PrivateBroker, tmp_path: Path
) -> None:
    writer = LogWriter(broker, tmp_path / "bridge.db")
    async with second_bridge(broker, f"{writer.exchange}.log.writer.{HQ}"):
        with writer.store() as store:
            take(store, *changes(1, 3))
            take_branch(store, 1, 1)
            await writer.write(store)
            assert store.log.backlog.held_rows == 3
    with writer.store() as store:
        assert store.log.put_off_sources() == [HQ]
        take(store, *changes(4, 2))
        await writer.write(store)
        assert not store.log.put_off_sources()
    assert await sequences(writer, 6) == [("branch", 1), *(("hq", number) for number in range(1, 6))]


async def test_what_our_own_last_connection_may_have_written_is_given_no_other_number(
    broker: PrivateBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fence is held until the broker has noticed its end: for so long the log waits, and no longer."""
    writer = LogWriter(broker, tmp_path / "bridge.db")
    with writer.store() as store:
        take(store, *changes(1, 3))
    async with second_bridge(broker, f"{writer.exchange}.log.writer.{HQ}"):
        with writer.store() as store:
            take_branch(store, 1, 2)
            with pytest.raises(FenceHeld, match="our own last one"):
                await asyncio.wait_for(writer.relay(store).run(), SECONDS)
            assert (store.log.backlog.rows, store.log.backlog.held_rows) == (5, 0)
            relay = writer.relay(store)
            with pytest.raises(FenceHeld):
                await asyncio.wait_for(relay.run(), SECONDS)
            monkeypatch.setattr(fences, "OWN_CONNECTION_SECONDS", 0.0)
            async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
                group.create_task(relay.run())
                await everything_written(store)
                relay.stop()
            assert store.log.backlog.held_rows == 3
    assert await sequences(writer, 2) == [("branch", 1), ("branch", 2)]


class Sharing:
    """One of several bridges, which took over from another."""

    def __init__(self, former: dict[SourceName, tuple[str, float]]) -> None:
        self.life = "me"
        self.former = former
        self.noted: list[str] = []
        self.own_fences: set[str] = set()
        self.cleared: list[SourceName] = []

    def name_fence(self) -> str:
        return f"pbx.accounts.writer.{self.life}.{uuid4().hex[:8]}"

    async def note_fence(self, queue: str) -> None:
        self.noted.append(queue)

    def has_former(self, source: SourceName) -> bool:
        return source in self.former

    async def former_fence(self, source: SourceName) -> tuple[str, float] | None:
        return self.former.get(source)

    async def clear_former(self, source: SourceName) -> None:
        self.cleared.append(source)
        del self.former[source]


@asynccontextmanager
async def taking_over(broker: PrivateBroker, sharing: Sharing) -> AsyncIterator[FormerFences]:
    async with connect([broker.url], client_name="heir") as connection:
        former = FormerFences(connection, Topology("pbx.accounts"), sharing)
        await former.hold()
        yield former


async def test_who_takes_over_waits_for_the_dead_connection_and_for_no_other(broker: PrivateBroker) -> None:
    fence = f"pbx.accounts.writer.dead.{uuid4().hex[:8]}"
    sharing = Sharing({HQ: (fence, 1.0)})
    async with taking_over(broker, sharing) as former:
        async with second_bridge(broker, sharing.noted[0] + ".other"):
            assert former.missing([HQ, BRANCH]) == [HQ]
        async with second_bridge(broker, fence):
            await former.take([HQ])
            assert former.fenced.keys() == {HQ}
            assert "not over yet" in str(former.fenced[HQ])
            assert sharing.cleared == []
        async with asyncio.timeout(SECONDS):
            while former.missing([HQ]):
                await former.take([HQ])
        assert (former.fenced, sharing.cleared) == ({}, [HQ])


async def test_a_connection_that_does_not_go_is_not_waited_for_for_ever(broker: PrivateBroker) -> None:
    """A node that is cut off keeps its queues: the order of what is new does not rest on them."""
    fence = f"pbx.accounts.writer.dead.{uuid4().hex[:8]}"
    sharing = Sharing({HQ: (fence, FORMER_SECONDS + 1)})
    async with taking_over(broker, sharing) as former, second_bridge(broker, fence):
        await former.take([HQ])
        assert (former.fenced, sharing.cleared) == ({}, [HQ])


async def test_our_own_last_connection_is_waited_for(broker: PrivateBroker) -> None:
    """The broker may have something of it yet, which would come behind what is newer."""
    sharing = Sharing({})
    async with taking_over(broker, sharing), taking_over(broker, sharing) as second:
        await second.take([HQ])
        assert "our own last connection" in str(second.fenced[HQ])
        async with taking_over(broker, sharing) as third:
            assert third.missing([HQ]) == [HQ]
            await third.take([HQ])
            assert third.fenced.keys() == {HQ}
    async with taking_over(broker, sharing) as last, asyncio.timeout(SECONDS):
        while last.missing([HQ]):
            await last.take([HQ])
        assert last.fenced == {}
    assert sharing.own_fences == {sharing.noted[-1]}


async def test_our_own_last_connection_is_not_waited_for_for_ever(
    broker: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "FORMER_SECONDS", 0.0)
    sharing = Sharing({})
    async with taking_over(broker, sharing), taking_over(broker, sharing) as second:
        await second.take([HQ])
        assert second.missing([HQ]) == []
        assert second.fenced == {}


async def test_the_fence_of_a_life_that_is_over_counts_no_more(broker: PrivateBroker) -> None:
    sharing = Sharing({})
    async with taking_over(broker, sharing) as former:
        assert former.missing([HQ]) == []
        sharing.life = "another"
        assert former.missing([HQ]) == [HQ]
        with pytest.raises(BrokerUnreachable, match="life which is over"):
            await former.take([HQ])
