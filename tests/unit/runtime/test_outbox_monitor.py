import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import pytest

from bridge.delivery.limits import Limits
from bridge.model import AccountChange, ChangeKind, Cursor, OutboxRow, SourceName
from bridge.observability.component_status import Level
from bridge.observability.status import BridgeStatus
from bridge.runtime.committer import Committed
from bridge.runtime.outbox_monitor import BLOCKED, OutboxMonitor
from bridge.store.records import Backlog, StoreFigures
from tests.support.boards import NOW, board, wait
from tests.support.rows import HQ

Result = TypeVar("Result")
CHANGE = AccountChange(HQ, ChangeKind.CREATED, {"guid": "g"}, (), {}, 1, Cursor())
ROW = OutboxRow(1, HQ, 1, "id", "pbx.account.changed", "hq.account.created", b"{}", NOW - timedelta(seconds=2))


@dataclass
class Store:
    """What is asked of a store, as a test sets it."""

    backlog: Backlog = field(default_factory=Backlog)
    left: dict[SourceName, int] = field(default_factory=dict)
    in_doubt: dict[SourceName, int] = field(default_factory=dict)
    asked: int = 0

    @property
    def exchange(self) -> "Store":
        return self

    def figures(self) -> StoreFigures:
        return StoreFigures(5_000_000_000, 0.25, {"57P01": 2})

    def parked_by_source(self) -> Mapping[SourceName, int]:
        return {HQ: self.backlog.parked}

    def waiting(self, source: SourceName) -> int:
        return self.left.get(source, 0)

    def doubtful(self) -> Mapping[SourceName, int]:
        self.asked += 1
        return self.in_doubt


def at_once(call: Callable[..., Result], /, *args: Any) -> Awaitable[Result]:
    async def done() -> Result:
        return call(*args)

    return done()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def told() -> BridgeStatus:
    return board(NOW, "hq", "branch")


@pytest.fixture
def has_room() -> asyncio.Event:
    made = asyncio.Event()
    made.set()
    return made


@pytest.fixture
def outbox_monitor(told: BridgeStatus, store: Store, has_room: asyncio.Event) -> OutboxMonitor:
    return OutboxMonitor(told, cast("Any", store), at_once, Limits(max_events=10), has_room)


async def test_what_waits_of_a_source_is_what_the_store_says_whoever_left_it_there(
    outbox_monitor: OutboxMonitor, told: BridgeStatus, store: Store
) -> None:
    store.left = {HQ: 7, SourceName("gone from the configuration"): 3}
    await outbox_monitor.measure(NOW)
    assert (told.sources["hq"].unsent, told.sources["branch"].unsent) == (7, 0)


def test_what_is_told_waits_and_what_is_confirmed_does_not(
    outbox_monitor: OutboxMonitor, told: BridgeStatus, store: Store
) -> None:
    store.backlog, store.left = Backlog(rows=1), {HQ: 1}
    outbox_monitor.told(Committed(HQ, [CHANGE]))
    assert (told.unsent, told.sources["hq"].unsent) == (1, 1)
    store.backlog, store.left = Backlog(), {}
    outbox_monitor.published([ROW], NOW)
    assert (told.unsent, told.sources["hq"].unsent, told.published) == (0, 0, 1)
    assert told.last_lag_seconds == 2.0
    assert told.sources["hq"].last_confirm_at == told.broker.last_progress_at == NOW


def test_a_confirm_proves_that_the_broker_takes_events(outbox_monitor: OutboxMonitor, told: BridgeStatus) -> None:
    told.broker.failed("no queue takes it", Level.WARN, NOW, needs_proof=True)
    told.broker.set_doing("connected", Level.OK, NOW)
    assert not told.broker.is_usable
    outbox_monitor.published([ROW], NOW)
    assert told.broker.is_usable


async def test_doubts_are_counted_only_where_there_may_be_some(
    outbox_monitor: OutboxMonitor, told: BridgeStatus, store: Store
) -> None:
    await outbox_monitor.measure(NOW)
    await outbox_monitor.measure(NOW)
    assert store.asked == 1
    store.in_doubt, store.backlog = {HQ: 2}, Backlog(rows=2, held_rows=1, parked=1)
    outbox_monitor.doubt()
    await outbox_monitor.measure(NOW)
    part = told.sources["hq"]
    assert (told.in_doubt, part.in_doubt, part.parked) == (2, 2, 1)
    store.in_doubt = {}
    outbox_monitor.published([ROW], NOW)
    await outbox_monitor.measure(NOW)
    assert told.in_doubt == 0
    assert (told.commit_seconds, told.store_repeats) == (0.25, {"57P01": 2})


def test_at_a_limit_there_is_no_room_until_there_is(
    outbox_monitor: OutboxMonitor, told: BridgeStatus, store: Store, has_room: asyncio.Event
) -> None:
    told.free_bytes = store.figures().free_bytes
    store.backlog = Backlog(rows=10)
    outbox_monitor.count()
    assert "the outbox is full" in told.full
    assert not has_room.is_set()
    store.backlog = Backlog(rows=8)
    outbox_monitor.count()
    assert (told.full, has_room.is_set()) == ("", True)


async def test_who_waits_for_a_good_reason_is_not_stuck(
    outbox_monitor: OutboxMonitor, told: BridgeStatus, store: Store
) -> None:
    later = NOW + timedelta(hours=1)
    for task in ("publish", "read hq", "read branch"):
        told.watch(task, timedelta(minutes=5))
    wait(told, timedelta(hours=1))
    store.backlog = Backlog(rows=1)
    await outbox_monitor.measure(later)
    assert len(told.stuck()) == 3
    told.broker.cause = BLOCKED
    told.sources["branch"].is_paused = True
    await outbox_monitor.measure(later)
    assert [words.split("'")[1] for words in told.stuck()] == ["read hq"]
