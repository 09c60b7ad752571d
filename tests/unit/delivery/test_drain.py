"""On a real SQLite file, against a broker that a test holds in its hand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bridge.confirms import Outcomes
from bridge.delivery.drain import Drain
from bridge.delivery.ingest import ingest
from bridge.errors import BridgeError, BrokerRefusedEvent, BrokerUnreachable
from bridge.model import Batch, OutboxRow
from bridge.normalize import Rules
from bridge.store.sqlite import SqliteStore
from tests.support.rows import batch, cursor, row

RULES = Rules(key=b"k" * 32)
NOW = datetime(2026, 11, 23, 20, 31, 7, 123456, tzinfo=UTC)
PULLED = BrokerUnreachable("the plug was pulled")
TOO_LARGE = BrokerRefusedEvent("message size 5 is larger than 4")

Result = TypeVar("Result")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        yield opened


def take(store: SqliteStore, *batches: Batch) -> None:
    for each in batches:
        ingest(store, each, rules=RULES, now=NOW)


class HandHeldBroker:
    """Keeps what is sent, confirms what the test says, and fails when the test says."""

    def __init__(self) -> None:
        self.sent: list[OutboxRow] = []
        self.sessions = 0
        self._confirmed = 0
        self._told = 0
        self._failure: BridgeError | None = None
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def session(self) -> AsyncIterator["HandHeldBroker"]:
        self.sessions += 1
        self.sent, self._confirmed, self._told, self._failure = [], 0, 0, None
        yield self

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        if self._failure is not None:
            raise self._failure
        async with self._news:
            self.sent += rows
            self._news.notify_all()

    def refusal_of(self, _row: OutboxRow) -> BridgeError | None:
        return None

    async def outcomes(self) -> Outcomes:
        async with self._news:
            await self._news.wait_for(lambda: self._confirmed > self._told or self._failure is not None)
            if self._confirmed > self._told:
                told, self._told = self._told, self._confirmed
                return Outcomes(range(told + 1, self._told + 1), ())
            assert self._failure is not None
            raise self._failure

    async def has_sent(self, count: int) -> None:
        async with asyncio.timeout(10), self._news:
            await self._news.wait_for(lambda: len(self.sent) >= count)

    async def confirm(self, count: int) -> None:
        async with self._news:
            self._confirmed = count
            self._news.notify_all()

    async def fail(self, failure: BridgeError = PULLED, *, after_confirming: int = 0) -> None:
        async with self._news:
            self._confirmed = max(self._confirmed, after_confirming)
            self._failure = failure
            self._news.notify_all()


async def in_a_thread(call: Callable[..., Result], /, *args: Any) -> Result:
    return await asyncio.to_thread(call, *args)


def draining(store: SqliteStore, broker: HandHeldBroker, *, window: int = 4) -> Drain:
    return Drain(store, broker, offload=in_a_thread, clock=lambda: NOW, window=window)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_never_more_than_the_window_is_unconfirmed_and_the_order_is_kept(store: SqliteStore) -> None:
    take(store, batch(*[row(str(n), n) for n in range(1, 11)]))
    broker = HandHeldBroker()
    drain = draining(store, broker)
    running = asyncio.create_task(drain.run())
    await broker.has_sent(4)
    assert (len(broker.sent), drain.in_flight) == (4, 4)
    await broker.confirm(3)
    await broker.has_sent(7)
    await broker.confirm(7)
    await broker.has_sent(10)
    await broker.confirm(10)
    await eventually(lambda: store.backlog.rows == 0)
    assert [sent.sequence for sent in broker.sent] == list(range(1, 11))
    drain.stop()
    await running


async def test_a_failed_session_marks_the_confirmed_prefix_and_flags_the_rest(store: SqliteStore) -> None:
    """What was confirmed while the session died still counts, and what was not is sent again, marked."""
    take(store, batch(*[row(str(n), n) for n in range(1, 7)]))
    broker = HandHeldBroker()
    drain = draining(store, broker)
    running = asyncio.create_task(drain.run())
    await broker.has_sent(4)
    await broker.fail(after_confirming=2)
    with pytest.raises(BrokerUnreachable, match="plug"):
        await running
    left = store.unpublished(0, 10)
    assert [(found.sequence, found.is_in_doubt) for found in left] == [(3, True), (4, True), (5, False), (6, False)]
    again = asyncio.create_task(drain.run())
    await eventually(lambda: broker.sessions == 2)
    await broker.has_sent(4)
    assert [sent.sequence for sent in broker.sent] == [3, 4, 5, 6]
    await broker.confirm(4)
    drain.stop()
    await again
    assert store.backlog.rows == 0


async def test_a_stop_waits_for_what_is_in_flight_and_sends_nothing_more(store: SqliteStore) -> None:
    take(store, batch(*[row(str(n), n) for n in range(1, 7)]))
    broker = HandHeldBroker()
    drain = draining(store, broker)
    running = asyncio.create_task(drain.run())
    await broker.has_sent(4)
    drain.stop()
    await broker.confirm(4)
    await running
    assert len(broker.sent) == 4
    assert [(found.sequence, found.is_in_doubt) for found in store.unpublished(0, 9)] == [(5, False), (6, False)]


async def test_rows_that_come_later_are_sent_when_the_drain_is_woken(store: SqliteStore) -> None:
    broker = HandHeldBroker()
    drain = draining(store, broker)
    running = asyncio.create_task(drain.run())
    await eventually(lambda: broker.sessions == 1)
    take(store, batch(row("a", 1)))
    drain.wake()
    await broker.has_sent(1)
    await broker.confirm(1)
    drain.stop()
    await running
    assert store.backlog.rows == 0


async def test_confirms_are_no_reason_to_ask_for_rows(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    unpublished = SqliteStore.unpublished

    def counted(self: SqliteStore, after: int, limit: int) -> Sequence[OutboxRow]:
        asked.append(after)
        return unpublished(self, after, limit)

    monkeypatch.setattr(SqliteStore, "unpublished", counted)
    take(store, batch(*(row(f"a{number}", number) for number in range(1, 5))))
    broker = HandHeldBroker()
    drain = Drain(store, broker, offload=in_a_thread, clock=lambda: NOW, window=10)
    running = asyncio.create_task(drain.run())
    await broker.has_sent(4)
    await broker.confirm(1)
    await eventually(lambda: drain.in_flight == 3)
    await broker.confirm(4)
    await eventually(lambda: drain.in_flight == 0)
    assert asked == [0]
    take(store, batch(row("a9", 9), since=cursor(4)))
    drain.wake()
    await broker.has_sent(5)
    drain.stop()
    await broker.confirm(5)
    await running
    assert len(asked) == 2


async def parked_second(store: SqliteStore, broker: HandHeldBroker, drain: Drain) -> None:
    """Of the accounts a, b, c and b again: have the first event of b refused, in a window and then alone."""
    take(store, batch(row("a", 1), row("b", 2), row("c", 3), row("b", 4, dn="new")))
    running = asyncio.create_task(drain.run())
    await broker.has_sent(4)
    await broker.fail(TOO_LARGE, after_confirming=1)
    with pytest.raises(BrokerRefusedEvent):
        await running
    assert store.parked() == [], "it might have been any of three"
    running = asyncio.create_task(drain.run())
    await eventually(lambda: broker.sessions == 2)
    await broker.has_sent(1)
    await broker.fail(TOO_LARGE)
    with pytest.raises(BrokerRefusedEvent):
        await running


async def test_a_row_refused_for_good_is_parked_and_only_its_account_waits(store: SqliteStore) -> None:
    broker = HandHeldBroker()
    drain = draining(store, broker)
    await parked_second(store, broker, drain)
    (parked,) = store.parked()
    assert (parked.sequence, parked.waiting, parked.reason) == (2, 1, str(TOO_LARGE))
    running = asyncio.create_task(drain.run())
    await eventually(lambda: broker.sessions == 3)
    await broker.has_sent(1)
    await broker.confirm(1)
    await eventually(lambda: store.backlog.rows == 0)
    assert [sent.sequence for sent in broker.sent] == [3]
    drain.stop()
    await running


async def test_a_parked_row_that_is_tried_again_goes_out_in_front_of_what_waited_behind_it(store: SqliteStore) -> None:
    broker = HandHeldBroker()
    drain = draining(store, broker)
    await parked_second(store, broker, drain)
    running = asyncio.create_task(drain.run())
    await eventually(lambda: broker.sessions == 3)
    await broker.has_sent(1)
    store.unpark(store.parked()[0].position)
    drain.go_back()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(broker.sent) == 1, "not while a later row is on its way, which could then not be told from it"
    await broker.confirm(1)
    await broker.has_sent(3)
    await broker.confirm(3)
    await eventually(lambda: store.backlog.rows == 0)
    assert [(sent.sequence, sent.is_in_doubt) for sent in broker.sent] == [(3, True), (2, False), (4, True)]
    drain.stop()
    await running
