"""On a real SQLite file, against a broker that a test holds in its hand."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.broker.confirms import Outcomes
from bridge.delivery import fences as fencing
from bridge.delivery import relay as relaying
from bridge.delivery.ingest import ingest
from bridge.delivery.relay import OutboxRelay
from bridge.errors import (
    BridgeError,
    BrokerDidNotConfirm,
    BrokerRefusedEvent,
    BrokerUnreachable,
    EventForbidden,
    EventUnroutable,
    FenceHeld,
    LeaseLost,
)
from bridge.events.normalize import Rules
from bridge.model import Batch, NewEvent, OutboxRow, SourceName
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import row

NOW = datetime(2026, 11, 23, 20, 31, 7, 123456, tzinfo=UTC)
RULES = Rules(key=b"k" * 32)
HQ, BRANCH = SourceName("hq"), SourceName("branch")
PULLED = BrokerUnreachable("the plug was pulled")
TOO_LARGE = BrokerRefusedEvent("message size 5 is larger than 4")
NACKED, RETURNED = BrokerDidNotConfirm("a queue refused it"), EventUnroutable("no queue takes it")
SECONDS = 10

Result = TypeVar("Result")

FIRST_PAUSES = ("UNROUTABLE_FIRST_SECONDS", "REFUSED_FIRST_SECONDS")


class HandHeldBroker:
    """Keeps what is sent, tells what the test says, and fails where and when the test says."""

    def __init__(self) -> None:
        self.sessions = 0
        self.sent: list[OutboxRow] = []
        """In this session; the tag of a row is its place in it."""
        self.ever: list[tuple[int, OutboxRow]] = []
        """Everything, with the number of its session."""
        self.unfit: dict[str, BridgeError] = {}
        self.fences: dict[SourceName, FenceHeld] = {}
        """What somebody else holds."""
        self.claims = 0
        self.released: list[SourceName] = []
        self.fenced: dict[SourceName, FenceHeld] = {}
        self.fails_at: dict[str, BaseException] = {}
        """By the name of a call: what it raises, once."""
        self._failure: BridgeError | None = None
        self._confirmed: list[int] = []
        self._refused: list[tuple[int, BridgeError]] = []
        self._news = asyncio.Condition()

    def reconsider(self) -> None:
        """Take the news that what was refused may be taken now."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator["HandHeldBroker"]:
        self._fail("session")
        self.sessions += 1
        self.sent, self._confirmed, self._refused, self._failure = [], [], [], None
        self.fenced = dict(self.fences)
        yield self

    async def claim(self, sources: Collection[SourceName]) -> None:
        self._fail("claim")
        for source in sources:
            self.claims += 1
            self.fenced.pop(source, None)
            if source in self.fences:
                self.fenced[source] = self.fences[source]

    async def release(self, sources: Collection[SourceName]) -> None:
        self._fail("release")
        self.released += sources

    def explain_refusal(self, row: OutboxRow) -> BridgeError | None:
        self._fail("refusal_of")
        return self.unfit.get(row.event_id)

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        assert not self.fenced.keys() & {row.source for row in rows}, "not one event goes past a fence"
        if "send" in self.fails_at:
            self._failure = self._failure or PULLED
            async with self._news:
                self._news.notify_all()
        self._fail("send")
        if self._failure is not None:
            raise self._failure
        async with self._news:
            self.sent += rows
            self.ever += [(self.sessions, row) for row in rows]
            self._news.notify_all()

    async def outcomes(self) -> Outcomes:
        self._fail("outcomes")
        async with self._news:
            await self._news.wait_for(lambda: self._confirmed or self._refused or self._failure is not None)
            if self._confirmed or self._refused:
                told = Outcomes(self._confirmed, self._refused)
                self._confirmed, self._refused = [], []
                return told
            assert self._failure is not None
            raise self._failure

    def _fail(self, call: str) -> None:
        if (problem := self.fails_at.pop(call, None)) is not None:
            raise problem

    async def has_sent(self, count: int) -> None:
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(lambda: len(self.sent) >= count)

    async def tell(self, *confirmed: int, refused: Sequence[tuple[int, BridgeError]] = ()) -> None:
        """Tell what became of rows, by tag."""
        async with self._news:
            self._confirmed += confirmed
            self._refused += refused
            self._news.notify_all()

    async def fail(self, failure: BridgeError = PULLED, *, after_confirming: Sequence[int] = ()) -> None:
        async with self._news:
            self._confirmed += after_confirming
            self._failure = failure
            self._news.notify_all()


class Site:
    """A store, a broker and what relays between them; told what becomes of rows."""

    def __init__(self, store: SqliteStore, *, window: int = 4, offload: Any = None) -> None:
        self.store = store
        self.broker = HandHeldBroker()
        self.done: list[OutboxRow] = []
        self.refused: list[OutboxRow] = []
        self._turn = threading.Lock()
        self.stops: list[tuple[OutboxRow, BridgeError, float]] = []
        self.fences: list[tuple[SourceName, str, float]] = []
        self.unfences: list[SourceName] = []
        self.relay = OutboxRelay(
            store.exchange,
            self.broker,
            self,
            offload=offload or self._on_a_thread,
            clock=lambda: NOW,
            window=window,
            prepare=self._prepare,
        )
        self.prepared = 0

    async def _on_a_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        def in_turn() -> Any:
            with self._turn:  # as the one thread of a bridge has it
                return call(*args)

        return await asyncio.to_thread(in_turn)

    async def _prepare(self, session: HandHeldBroker) -> None:
        session._fail("prepare")  # noqa: SLF001 - a failure like the others
        self.prepared += 1

    def published(self, rows: Sequence[OutboxRow]) -> None:
        self.done += rows

    def alive(self) -> None:
        """Take the news that the relay goes on."""

    def parked(self, row: OutboxRow, _reason: str) -> None:
        self.refused.append(row)

    def stopped(self, row: OutboxRow, problem: BridgeError, pause_seconds: float) -> None:
        self.stops.append((row, problem, pause_seconds))

    def fenced(self, source: SourceName, problem: BridgeError, pause_seconds: float) -> None:
        self.fences.append((source, str(problem), pause_seconds))

    def unfenced(self, source: SourceName) -> None:
        self.unfences.append(source)

    def take(self, source: SourceName, *accounts: str, wake: bool = True) -> None:
        """Have each of these accounts change once."""
        with self._turn:
            place = self.store.place(source)
            rows = [row(name, place.sequence + n, dn=str(place.sequence + n)) for n, name in enumerate(accounts, 1)]
            ingest(self.store, Batch(source, place.cursor, rows[-1].cursor, rows), rules=RULES, now=NOW)
        if wake:
            self.relay.wake(source)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["asyncio.Task[None]"]:
        """Relay while inside, then stop; what is in flight then has to be told of by then."""
        before = self.broker.sessions
        task = asyncio.create_task(self.relay.run())
        await self.until(lambda: self.broker.sessions > before or task.done())
        try:
            yield task
            self.relay.stop()
            async with asyncio.timeout(SECONDS):
                await task
        finally:
            task.cancel()
            await asyncio.wait([task])

    @asynccontextmanager
    async def failing(self, problem: type[BaseException]) -> AsyncIterator["asyncio.Task[None]"]:
        """Relay while inside; the session then ends with *problem*."""
        before = self.broker.sessions
        task = asyncio.create_task(self.relay.run())
        await self.until(lambda: self.broker.sessions > before or task.done())
        yield task
        async with asyncio.timeout(SECONDS):
            with pytest.raises(problem):
                await task
        assert (self.relay.in_flight, self.relay.is_in_session) == (0, False)

    def has_stopped(self, times: int) -> bool:
        return len(self.stops) == times

    def has_news(self, told: int) -> bool:
        return len(self.broker.sent) > told or not self.store.backlog.rows

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not is_so():
                await asyncio.sleep(0)

    @property
    def sent(self) -> list[tuple[str, int]]:
        """What was sent in this session: sources and sequences."""
        return [(found.source, found.sequence) for found in self.broker.sent]

    @property
    def waiting(self) -> list[tuple[str, int]]:
        return [(found.source, found.sequence) for found in unsent(self.store.exchange)]

    @property
    def in_doubt(self) -> list[int]:
        return [found.sequence for found in unsent(self.store.exchange) if found.is_in_doubt]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        yield opened


@pytest.fixture
def site(store: SqliteStore) -> Site:
    return Site(store)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait for the next attempt."""
    for name in FIRST_PAUSES:
        monkeypatch.setattr(relaying, name, 0.0)


def of_hq(*sequences: int) -> list[tuple[str, int]]:
    return [(HQ, sequence) for sequence in sequences]


# ---------------------------------------------------------------------- sources that go


async def test_the_fence_of_who_goes_is_given_back_and_taken_anew_before_its_next_event(site: Site) -> None:
    site.take(HQ, "a")
    async with site.running():
        await site.broker.has_sent(1)
        await site.broker.tell(1)
        await site.until(lambda: not site.waiting)
        site.relay.let_go(HQ)
        await site.until(lambda: site.broker.released)
        claims = site.broker.claims
        site.take(HQ, "b")
        await site.broker.has_sent(2)
        assert site.broker.claims == claims + 1
        await site.broker.tell(2)
        await site.until(lambda: not site.waiting)
    assert site.broker.released == [HQ]


async def test_who_is_back_before_that_keeps_it(site: Site) -> None:
    site.relay.let_go(HQ)
    site.relay.let_go(BRANCH)
    site.relay.hold_on(HQ)
    async with site.running():
        await site.until(lambda: site.broker.released)
    assert site.broker.released == [BRANCH]


async def test_a_session_that_breaks_while_a_fence_is_given_back_has_none_any_more(site: Site) -> None:
    site.relay.let_go(HQ)
    site.broker.fails_at["release"] = PULLED
    site.take(HQ, "a")
    async with site.failing(BrokerUnreachable):
        await site.until(lambda: "release" not in site.broker.fails_at)
        await site.broker.fail()
    async with site.running():
        await site.broker.has_sent(1)
        await site.broker.tell(1)
        await site.until(lambda: not site.waiting)
    assert site.broker.released == []


# ---------------------------------------------------------------------- sources that another bridge takes


async def test_who_is_withdrawn_sends_nothing_more_and_is_quiet_once_all_is_confirmed(site: Site) -> None:
    site.take(HQ, "a", "b")
    site.take(BRANCH, "c")
    async with site.running():
        await site.broker.has_sent(3)
        quiet = asyncio.create_task(asyncio.wait_for(site.relay.withdraw(HQ), SECONDS))
        site.take(HQ, "d")
        await site.broker.tell(*(tag for tag, (name, _) in enumerate(site.sent, 1) if name == BRANCH))
        await site.until(lambda: (BRANCH, 1) not in site.waiting)
        assert not quiet.done()
        await site.broker.tell(*(tag for tag, (name, _) in enumerate(site.sent, 1) if name == HQ))
        assert await quiet
        assert site.waiting == of_hq(3)
        assert HQ not in site.relay.sources_in_flight
        site.relay.take_up(HQ)
        await site.broker.has_sent(4)
        await site.broker.tell(4)
        await site.until(lambda: not site.waiting)


async def test_one_of_whom_nothing_is_on_its_way_is_quiet_at_once(site: Site) -> None:
    await asyncio.wait_for(site.relay.withdraw(HQ), SECONDS)
    site.take(HQ, "a")
    site.take(BRANCH, "b")
    async with site.running():
        await site.broker.has_sent(1)
        await site.broker.tell(1)
        await site.until(lambda: site.waiting == of_hq(1))
        assert site.sent == [(BRANCH, 1)]


async def test_a_withdrawn_lane_is_quiet_when_the_session_ends_and_its_rows_are_in_doubt(site: Site) -> None:
    site.take(HQ, "a")
    async with site.failing(BrokerUnreachable):
        await site.broker.has_sent(1)
        quiet = site.relay.withdraw(HQ)  # awaited once it is too late
        await site.broker.fail()
    assert not await asyncio.wait_for(quiet, SECONDS), "and it is said that the broker may still have some"
    assert site.in_doubt == [1]


async def test_what_is_abandoned_ends_the_session_and_nothing_is_recorded_of_it(site: Site) -> None:
    """It may be another bridge's now: that knows what is in doubt, and this one would be refused."""
    site.take(HQ, "a", "b")
    async with site.failing(LeaseLost):
        await site.broker.has_sent(2)
        site.relay.abandon(LeaseLost("taken over"))
        assert site.relay.in_flight == 0
    assert site.in_doubt == []
    async with site.running():
        site.relay.take_up(HQ)
        await site.broker.has_sent(2)
        await site.broker.tell(1, 2)
        await site.until(lambda: not site.waiting)


async def test_confirms_of_what_was_forgotten_change_nothing(site: Site) -> None:
    site.take(HQ, "a")
    site.take(BRANCH, "b")
    async with site.running():
        await site.broker.has_sent(2)
        site.relay.forget([HQ])
        assert site.relay.in_flight == 1
        await site.broker.tell(1, 2)
        await site.until(lambda: site.waiting == of_hq(1) and not site.relay.in_flight)


async def test_after_a_while_in_which_nothing_ran_nothing_is_sent(store: SqliteStore) -> None:
    site, may_send = Site(store), [True]
    site.relay._may_send = lambda: may_send[0]  # noqa: SLF001 - as it is wired where bridges share
    site.take(HQ, "a")
    async with site.failing(LeaseLost):
        await site.broker.has_sent(1)
        await site.broker.tell(1)
        may_send[0] = False
        site.take(HQ, "b")
    assert site.sent == of_hq(1)


# ---------------------------------------------------------------------- window, order, progress


async def test_never_more_than_the_window_is_unconfirmed_and_the_order_is_kept(site: Site) -> None:
    site.take(HQ, *"abcdefghij")
    async with site.running():
        await site.broker.has_sent(4)
        assert (len(site.broker.sent), site.relay.in_flight) == (4, 4)
        await site.broker.tell(1, 2, 3)
        await site.broker.has_sent(7)
        assert site.relay.in_flight <= 4
        await site.broker.tell(4, 5, 6, 7)
        await site.broker.has_sent(10)
        await site.broker.tell(8, 9, 10)
        await site.until(lambda: site.store.backlog.rows == 0)
    assert site.sent == of_hq(*range(1, 11))
    assert [found.sequence for found in site.done] == list(range(1, 11))


async def test_only_the_unbroken_confirmed_prefix_of_a_lane_is_marked(site: Site) -> None:
    site.take(HQ, *"abc")
    site.take(BRANCH, "x")
    async with site.running():
        await site.broker.has_sent(4)
        lanes = {name: [at for at, sent in enumerate(site.sent, 1) if sent[0] == name] for name in (HQ, BRANCH)}
        await site.broker.tell(*lanes[HQ][1:], *lanes[BRANCH])
        await site.until(lambda: site.done)
        assert [(found.source, found.sequence) for found in site.done] == [(BRANCH, 1)]
        assert site.waiting == of_hq(1, 2, 3)
        await site.broker.tell(lanes[HQ][0])
        await site.until(lambda: not site.waiting)
    assert [found.sequence for found in site.done[1:]] == [1, 2, 3], "what was told out of order is marked in order"


async def test_a_lane_with_much_to_send_lets_the_others_have_their_turn(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "FAIR_ROWS", 2)
    site = Site(store, window=4)
    site.take(HQ, *"abcdefgh")
    site.take(BRANCH, *"xy")
    async with site.running():
        for number in range(1, 11):
            await site.broker.has_sent(number)
            await site.broker.tell(number)
        await site.until(lambda: not site.waiting)
    assert {(BRANCH, 1), (BRANCH, 2)} <= set(site.sent[:4])
    assert [sent for sent in site.sent if sent[0] == HQ] == of_hq(*range(1, 9))


async def test_rows_that_come_later_are_sent_when_the_relay_is_woken(site: Site) -> None:
    async with site.running():
        site.take(HQ, "a")
        await site.broker.has_sent(1)
        await site.broker.tell(1)
    assert site.store.backlog.rows == 0


async def test_confirms_are_no_reason_to_ask_for_rows(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    unpublished = store.exchange.unpublished

    def counted(after: Any, limit: int, share: int) -> Sequence[OutboxRow]:
        asked.append(after)
        return unpublished(after, limit, share)

    monkeypatch.setattr(store.exchange, "unpublished", counted)
    site = Site(store, window=10)
    site.take(HQ, *"abcd")
    async with site.running():
        await site.broker.has_sent(4)
        await site.broker.tell(1)
        await site.until(lambda: site.relay.in_flight == 3)
        await site.broker.tell(2, 3, 4)
        await site.until(lambda: site.relay.in_flight == 0)
        assert asked == [{HQ: 0}]
        site.take(HQ, "e")
        await site.broker.has_sent(5)
        await site.broker.tell(5)
    assert len(asked) == 2


# ---------------------------------------------------------------------- a session that ends


async def test_a_failed_session_marks_the_confirmed_prefix_and_flags_the_rest(site: Site) -> None:
    """What was confirmed while the session died still counts, and what was not is sent again, marked."""
    site.take(HQ, *"abcdef")
    async with site.failing(BrokerUnreachable):
        await site.broker.has_sent(4)
        await site.broker.fail(after_confirming=[1, 2, 4])
    assert (site.waiting, site.in_doubt) == (of_hq(3, 4, 5, 6), [3, 4])
    async with site.running():
        await site.broker.has_sent(4)
        assert [(found.sequence, found.is_in_doubt) for found in site.broker.sent] == [
            (3, True),
            (4, True),
            (5, False),
            (6, False),
        ]
        await site.broker.tell(1, 2, 3, 4)
    assert site.store.backlog.rows == 0


@pytest.mark.parametrize("call", ["session", "prepare", "refusal_of", "send", "outcomes"])
@pytest.mark.parametrize("problem", [PULLED, ValueError("nobody's plan")], ids=["bridge", "other"])
async def test_a_session_that_fails_at_any_of_its_calls_loses_nothing(
    site: Site, call: str, problem: Exception
) -> None:
    site.take(HQ, *"abc")
    site.broker.fails_at = {call: problem}
    async with site.failing(type(problem) if call != "send" else Exception):
        pass
    assert site.waiting == of_hq(1, 2, 3)
    async with site.running():
        await site.broker.has_sent(3)
        await site.broker.tell(1, 2, 3)
    assert not site.waiting
    assert [found.sequence for found in site.done] == [1, 2, 3]


async def test_a_stop_waits_for_what_is_in_flight_and_sends_nothing_more(site: Site) -> None:
    site.take(HQ, *"abcdef")
    async with site.running():
        await site.broker.has_sent(4)
        site.relay.stop()
        site.relay.wake_all()
        await site.broker.tell(1, 2, 3, 4)
    assert len(site.broker.ever) == 4
    assert (site.waiting, site.in_doubt) == (of_hq(5, 6), [])


async def test_a_stop_while_the_outbox_is_read_waits_for_nothing_that_was_not_sent(store: SqliteStore) -> None:
    is_reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow(call: Callable[..., Result], /, *args: Any) -> Result:
        found = call(*args)
        if call == store.exchange.unpublished:
            is_reading.set()
            await go_on.wait()
        return found

    site = Site(store, offload=slow)
    site.take(HQ, *"ab")
    async with site.running():
        await is_reading.wait()
        site.relay.stop()
        go_on.set()
    assert (site.broker.ever, site.in_doubt) == ([], [])


# ---------------------------------------------------------------------- rows that are not taken


@pytest.mark.parametrize("refusal", [NACKED, RETURNED], ids=["nack", "return"])
@pytest.mark.usefixtures("at_once")
async def test_a_row_that_is_not_taken_stops_its_lane_only(site: Site, refusal: BridgeError) -> None:
    """The others go on in the same session, and the lane goes on behind the row once it is taken."""
    site.take(HQ, *"ab")
    site.take(BRANCH, *"xy")
    async with site.running():
        await site.broker.has_sent(4)
        tags = {sent: tag for tag, sent in enumerate(site.sent, 1)}
        rest = [tag for sent, tag in tags.items() if sent != (HQ, 1)]
        await site.broker.tell(*rest, refused=[(tags[HQ, 1], refusal)])
        await site.broker.has_sent(5)
        assert site.sent[4] == (HQ, 1), "alone, until it is decided"
        assert site.relay.in_flight == 1
        site.take(BRANCH, "z")
        await site.broker.has_sent(6)
        await site.broker.tell(6)
        await site.broker.tell(5)
        await site.broker.has_sent(7)
        assert (site.sent[6], site.broker.sent[6].is_in_doubt) == ((HQ, 2), True), "it may have been taken before"
        await site.broker.tell(7)
        await site.until(lambda: not site.waiting)
    assert site.broker.sessions == 1
    ((first, problem, _),) = site.stops
    assert (first.source, first.sequence, problem) == (HQ, 1, refusal)
    assert [found.sequence for found in site.done if found.source == HQ] == [1, 2]


async def test_a_lane_waits_until_it_is_known_what_became_of_everything_it_sent(site: Site) -> None:
    site.take(HQ, *"abc")
    async with site.running():
        await site.broker.has_sent(3)
        await site.broker.tell(refused=[(2, NACKED)])
        await site.broker.tell(3)
        site.take(HQ, "d")
        for _ in range(100):
            await asyncio.sleep(0)
        assert (site.stops, len(site.sent)) == ([], 3), "nothing of it is sent while the first one is undecided"
        await site.broker.tell(1)
        await site.until(lambda: site.stops)
        assert site.waiting == of_hq(2, 3, 4)
    assert site.in_doubt == [2, 3]


@pytest.mark.usefixtures("at_once")
async def test_the_pause_grows_to_its_ceiling_and_begins_anew_once_all_that_waited_was_taken(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.take(HQ, "a")
    monkeypatch.setattr(relaying, "UNROUTABLE_SECONDS", 0.0)
    async with site.running():
        await site.broker.has_sent(1)
        monkeypatch.setattr(relaying, "REFUSED_FIRST_SECONDS", 1.0)
        monkeypatch.setattr(relaying, "REFUSED_SECONDS", 5.0)
        for tag in range(1, 6):
            await site.broker.has_sent(tag)
            await site.broker.tell(refused=[(tag, NACKED)])
            await site.until(partial(site.has_stopped, tag))
            site.relay.wake_all()  # or else this test would have to wait
        assert [pause for _, _, pause in site.stops] == [1.0, 2.0, 4.0, 5.0, 5.0]
        await site.broker.has_sent(6)
        await site.broker.tell(refused=[(6, RETURNED)])
        await site.until(lambda: len(site.stops) == 6)
        assert site.stops[-1][2] == 0.0, "a row that came back reached nobody: it has a ceiling of its own"
        await site.broker.has_sent(7)
        await site.broker.tell(7)
        await site.until(lambda: not site.relay._lanes[HQ].narrow)  # noqa: SLF001 - or else it would be a matter of luck
        site.take(HQ, "b")
        await site.broker.has_sent(8)
        await site.broker.tell(refused=[(8, NACKED)])
        await site.until(lambda: len(site.stops) == 7)
        assert site.stops[-1][2] == 1.0


@pytest.mark.usefixtures("at_once")
async def test_a_queue_that_is_full_and_slowly_read_costs_the_others_few_repetitions(site: Site) -> None:
    """Each attempt is answered by as many confirms as there is room, and by refusals behind them."""
    site.take(HQ, *(f"a{number}" for number in range(24)))
    ever, told, room = Counter[int](), 0, 3
    async with site.running():
        while site.store.backlog.rows:
            await site.until(partial(site.has_news, told))
            fresh = site.broker.sent[told:]
            ever.update(found.sequence for found in fresh)
            tags = range(told + 1, told + len(fresh) + 1)
            told += len(fresh)
            await site.broker.tell(*tags[:room], refused=[(tag, NACKED) for tag in tags[room:]])
    assert sum(ever.values()) <= 2 * 24
    assert max(ever.values()) <= 4, ever


async def test_a_lane_that_is_seen_first_when_somebody_wakes_all_is_sent(site: Site) -> None:
    """After a restart there was nothing to send, and then an operator wants a parked event tried once more."""
    await parked_second(site)
    async with site.running():
        await site.broker.has_sent(1)
        await site.broker.tell(1)
        await site.until(lambda: not site.store.backlog.rows)
    again = Site(site.store)
    async with again.running():
        await again.until(lambda: again.prepared)
        await asyncio.sleep(0.05)
        assert again.store.unpark(again.store.parked()[0].position)
        again.relay.wake_all()
        await again.broker.has_sent(2)
        await again.broker.tell(1, 2)


async def test_what_nobody_may_publish_stops_one_lane(site: Site) -> None:
    site.take(HQ, "a")
    async with site.failing(EventForbidden):
        await site.broker.has_sent(1)
        await site.broker.fail(EventForbidden("not this topic"))
    assert [found.source for found, _, _ in site.stops] == [HQ]
    assert not site.store.parked(), "the user may be allowed to"
    async with site.failing(EventForbidden):
        site.take(BRANCH, "y")
        site.relay.wake_all()
        await site.broker.has_sent(1)
        first = site.sent[0]
        await asyncio.sleep(0.05)
        assert site.sent == [first], "nothing else is on its way, or it would be sent once more"
        await site.broker.fail(EventForbidden("not this topic"))
    assert len(site.stops) == 2, "and nobody has to be looked for"


async def test_a_source_that_somebody_else_sends_for_waits_alone_and_goes_on_when_it_may(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "FENCE_FIRST_SECONDS", 0.01)
    site.take(HQ, *"ab")
    site.take(BRANCH, *"xy")
    site.broker.fences[BRANCH] = FenceHeld("a second bridge")
    async with site.running():
        await site.broker.has_sent(2)
        await site.broker.tell(1, 2)
        await site.until(lambda: len(site.fences) >= 4)
        assert site.sent == [(HQ, 1), (HQ, 2)], "the same session goes on"
        assert {(source, words) for source, words, _ in site.fences} == {(BRANCH, "a second bridge")}
        pauses = [pause for _, _, pause in site.fences[:4]]
        assert pauses == [0.01, 0.02, 0.04, 0.08]
        site.take(HQ, "c")
        await site.broker.has_sent(3)
        await site.broker.tell(3)
        site.broker.fences.clear()
        await site.broker.has_sent(5)
        assert site.sent[3:] == [(BRANCH, 1), (BRANCH, 2)]
        await site.broker.tell(4, 5)
        assert site.unfences == [BRANCH]
    assert site.broker.sessions == 1
    assert not site.stops


async def test_a_source_that_turns_up_while_somebody_else_sends_for_it_is_asked_about_no_more_than_needed(
    site: Site,
) -> None:
    site.broker.fences[BRANCH] = FenceHeld("a second bridge")
    async with site.running():
        site.broker.fenced.clear()  # it was not asked about when the session began
        for number in range(5):
            site.take(BRANCH, "x")
            site.take(HQ, "a")
            await site.broker.has_sent(number + 1)
            await site.broker.tell(number + 1)
        assert [source for source, _ in site.sent] == [HQ] * 5
        assert site.broker.claims == 2, "each of them once"
        assert len(site.fences) == 1


async def test_a_claim_that_fails_ends_the_session_behind_the_confirms_that_still_come(site: Site) -> None:
    site.take(HQ, "a")
    async with site.failing(BrokerUnreachable):
        await site.broker.has_sent(1)
        site.broker.fails_at["claim"] = PULLED
        site.take(BRANCH, "x")
        await site.until(lambda: "claim" not in site.broker.fails_at)
        await site.broker.fail(after_confirming=[1])
    assert [found.source for found in site.done] == [HQ]


async def test_others_are_not_sent_one_by_one_while_the_suspects_wait(site: Site) -> None:
    """Behind a row that comes back there is one that ended the session."""
    site.take(HQ, "a", "b")
    async with site.failing(BrokerRefusedEvent):
        await site.broker.has_sent(2)
        await site.broker.fail(TOO_LARGE)
    async with site.running():
        await site.broker.has_sent(1)
        await site.broker.tell(refused=[(1, RETURNED)])
        await site.until(lambda: site.stops)
        site.take(BRANCH, *"xyz")
        await site.broker.has_sent(4)
        assert site.relay.in_flight == 3
        await site.broker.tell(2, 3, 4)


async def test_a_lane_that_waits_goes_on_by_itself_when_its_pause_is_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "UNROUTABLE_FIRST_SECONDS", 0.05)
    site.take(HQ, *"ab")
    async with site.running():
        await site.broker.has_sent(2)
        began = asyncio.get_running_loop().time()
        await site.broker.tell(refused=[(1, RETURNED), (2, RETURNED)])
        await site.until(lambda: site.stops)
        site.relay.wake(HQ)
        await site.broker.has_sent(3)
        assert asyncio.get_running_loop().time() - began >= 0.05, "and news are no reason to be earlier"
        await site.broker.tell(3)
        await site.broker.has_sent(4)
        await site.broker.tell(4)
        await site.until(lambda: not site.waiting)


async def test_a_pause_that_ends_while_it_is_looked_at_is_not_slept_through(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes on between the question which lanes are due and the question when the next one is."""
    for name in FIRST_PAUSES:
        monkeypatch.setattr(relaying, name, 0.3)
    loop = asyncio.get_running_loop()
    passed = 0.0
    real = loop.time
    site.take(HQ, "a")
    async with site.running():
        await site.broker.has_sent(1)
        await site.broker.tell(refused=[(1, RETURNED)])
        await site.until(lambda: site.stops)
        _, _, pause = site.stops[0]
        due = site.relay._lanes[HQ].not_before  # noqa: SLF001 - which is what the clock is made to pass

        def hurrying() -> float:
            nonlocal passed
            if sys._getframe(1).f_code.co_filename == relaying.__file__:  # noqa: SLF001 - for the relay alone
                passed += pause / 2 + 0.01
                return due - pause / 2 - 0.02 + passed
            return real()

        monkeypatch.setattr(loop, "time", hurrying)
        site.relay.wake(HQ)
        await site.broker.has_sent(2)
        await site.broker.tell(2)


async def test_a_pause_is_kept_over_sessions(site: Site) -> None:
    site.take(HQ, "a")
    async with site.failing(BrokerUnreachable):
        await site.broker.has_sent(1)
        await site.broker.tell(refused=[(1, NACKED)])
        await site.until(lambda: site.stops)
        await site.broker.fail()
    async with site.running():
        site.take(BRANCH, "x")
        await site.broker.has_sent(1)
        assert site.sent == [(BRANCH, 1)]
        await site.broker.tell(1)


# ---------------------------------------------------------------------- rows that are refused for good


async def test_a_row_that_would_be_refused_is_parked_before_it_is_sent_and_only_its_account_waits(site: Site) -> None:
    site.take(HQ, "a", "b", "a", "c")
    first = unsent(site.store.exchange)[0]
    site.broker.unfit = {first.event_id: TOO_LARGE}
    async with site.running():
        await site.broker.has_sent(2)
        await site.broker.tell(1, 2)
        await site.until(lambda: not site.store.backlog.rows)
    assert site.sent == of_hq(2, 4)
    (parked,) = site.store.parked()
    assert (parked.sequence, parked.waiting, parked.reason) == (1, 1, str(TOO_LARGE))
    assert [found.sequence for found in site.refused] == [1]
    assert site.broker.sessions == 1


async def test_several_that_would_be_refused_are_all_parked(site: Site) -> None:
    site.take(HQ, *"abc")
    site.take(BRANCH, *"xy")
    bad = [found for found in unsent(site.store.exchange) if found.sequence == 1]
    site.broker.unfit = dict.fromkeys([found.event_id for found in bad], TOO_LARGE)
    async with site.running():
        await site.broker.has_sent(3)
        await site.broker.tell(1, 2, 3)
        await site.until(lambda: not site.store.backlog.rows)
    assert sorted(site.sent) == sorted([(BRANCH, 2), *of_hq(2, 3)])
    assert len(site.store.parked()) == 2


async def parked_second(site: Site) -> None:
    """Of the accounts a, b, c and b again: have the first event of b refused, in a window and then alone."""
    site.take(HQ, "a", "b", "c", "b")
    async with site.failing(BrokerRefusedEvent):
        await site.broker.has_sent(4)
        await site.broker.fail(TOO_LARGE, after_confirming=[1])
    assert site.store.parked() == [], "it might have been any of three"
    async with site.failing(BrokerRefusedEvent):
        await site.broker.has_sent(1)
        assert site.sent == of_hq(2)
        await site.broker.fail(TOO_LARGE)


async def test_a_row_that_ends_the_session_is_found_by_sending_one_at_a_time(site: Site) -> None:
    await parked_second(site)
    (parked,) = site.store.parked()
    assert (parked.sequence, parked.waiting, parked.reason) == (2, 1, str(TOO_LARGE))
    async with site.running():
        await site.broker.has_sent(1)
        await site.broker.tell(1)
        await site.until(lambda: site.store.backlog.rows == 0)
    assert site.sent == of_hq(3)


async def test_one_at_a_time_is_over_when_nothing_waits_any_more(site: Site) -> None:
    site.take(HQ, *"ab")
    async with site.failing(BrokerRefusedEvent):
        await site.broker.has_sent(2)
        await site.broker.fail(TOO_LARGE)
    async with site.running():
        await site.broker.has_sent(1)
        assert site.relay.in_flight == 1
        await site.broker.tell(1)
        await site.broker.has_sent(2)
        assert site.relay.in_flight == 1
        await site.broker.tell(2)
        await site.until(lambda: site.store.backlog.rows == 0)
        site.take(HQ, *"cd")
        await site.broker.has_sent(4)
        assert site.relay.in_flight == 2
        await site.broker.tell(3, 4)


async def test_a_parked_row_that_is_tried_again_is_sent_behind_what_came_later_in_front_of_what_it_held(
    site: Site,
) -> None:
    await parked_second(site)
    async with site.running():
        await site.broker.has_sent(1)
        assert site.store.unpark(site.store.parked()[0].position)
        site.relay.wake_all()
        await site.broker.has_sent(3)
        await site.broker.tell(3, 2, 1)
        await site.until(lambda: site.store.backlog.rows == 0)
    assert site.sent == of_hq(3, 2, 4)


# ---------------------------------------------------------------------- cancelled, wherever it waits


@pytest.mark.parametrize("moment", range(40))
async def test_a_relay_that_is_cancelled_at_any_of_its_steps_loses_nothing(store: SqliteStore, moment: int) -> None:
    async def offload(call: Callable[..., Result], /, *args: Any) -> Result:
        await asyncio.sleep(0)
        found = call(*args)
        await asyncio.sleep(0)
        return found

    site = Site(store, offload=offload)
    site.take(HQ, *"abc")
    site.take(BRANCH, "x")
    task = asyncio.create_task(site.relay.run())
    for step in range(moment):
        await asyncio.sleep(0)
        if step == 20:
            await site.broker.tell(1, refused=[(2, NACKED)])
    task.cancel()
    async with asyncio.timeout(SECONDS):
        with suppress(asyncio.CancelledError):
            await task
    assert (site.relay.in_flight, site.relay.is_in_session) == (0, False)
    confirmed = {*of_hq(1, 2, 3), (BRANCH, 1)} - {*site.waiting}
    assert confirmed <= {*site.sent[: moment > 20]}, "nothing is done but the one that was confirmed"
    assert {(found.source, found.sequence) for found in site.done} <= confirmed
    doubtful = {(found.source, found.sequence) for found in unsent(store.exchange) if found.is_in_doubt}
    assert {*site.sent} - confirmed <= doubtful, "what was sent and not confirmed is sent again, marked"


# ---------------------------------------------------------------------- whatever happens


class Chance:
    """A broker and an operator, and a relay between them, that do what a list of numbers says."""

    def __init__(self, store: SqliteStore, choose: Callable[[int], int]) -> None:
        self.site = Site(store, window=3, offload=_now)
        self.choose = choose
        self.outbox = store.exchange
        self.confirmed: set[str] = set()
        """Ids that the broker confirmed, told or not."""
        self.discarded: set[str] = set()
        self.made: dict[str, list[str]] = {}
        """By account: the ids of its events, in order."""
        self.task: asyncio.Task[None] | None = None

    async def play(self, steps: int) -> None:
        moves: list[Callable[[], Awaitable[None]]] = [
            self.change,
            self.change,
            self.confirm,
            self.confirm,
            self.refuse,
            self.break_off,
            self.refuse_for_good,
            self.retry,
            self.discard,
        ]
        for _ in range(steps):
            await moves[self.choose(len(moves))]()
            await self.settle()
        await self.finish()

    async def settle(self) -> None:
        """Let everybody come to rest, with a session under way."""
        for _ in range(30):
            if self.task is None or self.task.done():
                if self.task is not None:
                    with suppress(BridgeError):
                        await self.task
                self.task = asyncio.create_task(self.site.relay.run())
            await asyncio.sleep(0)

    async def change(self) -> None:
        source = (HQ, BRANCH)[self.choose(2)]
        before = {found.event_id for found in _all(self.site.store)}
        self.site.take(source, *("abc"[self.choose(3)] for _ in range(1 + self.choose(3))))
        if not self.choose(5):
            self._certify(source)
        for found in _all(self.site.store):
            if found.event_id not in before:
                self.made.setdefault(f"{found.source} {found.account_key}", []).append(found.event_id)

    def _certify(self, source: SourceName) -> None:
        number = len(_all(self.site.store))
        with self.site.store.transaction() as transaction:
            transaction.place(source)
            event = NewEvent(0, f"certificate {number}", "pbx.source.verified", None, "key", b"{}", NOW)
            transaction.add_events(source, [event])
        self.site.relay.wake(source)

    @property
    def undecided(self) -> list[int]:
        return sorted(self.site.relay._sent)  # noqa: SLF001 - the tags that the broker may tell of

    async def confirm(self) -> None:
        tags = [tag for tag in self.undecided if not self.choose(2)]
        self.confirmed |= {self.site.broker.sent[tag - 1].event_id for tag in tags}
        await self.site.broker.tell(*tags)

    async def refuse(self) -> None:
        if self.undecided:
            tag = self.undecided[self.choose(len(self.undecided))]
            await self.site.broker.tell(refused=[(tag, (NACKED, RETURNED)[self.choose(2)])])

    async def break_off(self) -> None:
        tags = [tag for tag in self.undecided if not self.choose(2)]
        self.confirmed |= {self.site.broker.sent[tag - 1].event_id for tag in tags}
        await self.site.broker.fail(after_confirming=tags)

    async def refuse_for_good(self) -> None:
        if self.choose(2):
            await self.site.broker.fail(TOO_LARGE)
        elif waiting := unsent(self.outbox):
            self.site.broker.unfit[waiting[self.choose(len(waiting))].event_id] = TOO_LARGE

    async def retry(self) -> None:
        if parked := self.site.store.parked():
            found = parked[self.choose(len(parked))]
            self.site.broker.unfit.pop(found.event_id, None)
            self.site.store.unpark(found.position)
            self.site.relay.wake_all()

    async def discard(self) -> None:
        if parked := self.site.store.parked():
            found = parked[self.choose(len(parked))]
            self.site.store.discard(found.position, "why", NOW)
            self.discarded.add(found.event_id)
            self.site.relay.wake_all()

    async def finish(self) -> None:
        """Everything heals: what is parked is tried again, and the broker takes all."""
        self.site.broker.unfit.clear()
        for parked in self.site.store.parked():
            self.site.store.unpark(parked.position)
        self.site.relay.wake_all()
        for _ in range(400):
            await self.settle()
            tags = self.undecided
            self.confirmed |= {self.site.broker.sent[tag - 1].event_id for tag in tags}
            await self.site.broker.tell(*tags)
            if not tags and not self.site.store.backlog.rows:
                break
        self.site.relay.stop()
        assert self.task is not None
        async with asyncio.timeout(SECONDS):
            await self.task


async def _now(call: Callable[..., Result], /, *args: Any) -> Result:
    return call(*args)


def _all(store: SqliteStore) -> list[Any]:
    from bridge.store.sqlite.reader import StoreReader  # noqa: PLC0415

    with StoreReader(store._path) as reader:  # noqa: SLF001 - beside the store, as an operator looks
        return [event for page in reader.events() for event in page]


@given(st.data())
def test_whatever_happens_each_lane_is_sent_in_order_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(0, 10_000), min_size=20, max_size=200))
    source = iter(numbers)

    def choose(count: int) -> int:
        return next(source, 0) % count

    async def played(store: SqliteStore) -> Chance:
        chance = Chance(store, choose)
        await chance.play(len(numbers) // 3)
        return chance

    with pytest.MonkeyPatch.context() as patch, SqliteStore(tmp_path_factory.mktemp("s") / "bridge.db") as store:
        for name in FIRST_PAUSES:
            patch.setattr(relaying, name, 0.0)
        chance = asyncio.run(played(store))
        marked = [found.event_id for found in chance.site.done]
        assert set(marked) <= chance.confirmed, "nothing is done that was not confirmed"
        events = _all(store)
        assert {found.event_id for found in events} == set(marked) | chance.discarded, "nothing is lost"
        assert len(marked) == len(set(marked)), "and nothing is done twice"
        assert (store.backlog.rows, store.backlog.held_rows) == (0, 0)
        for account, made in chance.made.items():
            if not account.endswith("None"):
                told = [found.event_id for _, found in chance.site.broker.ever if found.event_id in made]
                first = list(dict.fromkeys(told))
                assert first == [identity for identity in made if identity in first], "first appearances in order"
        for session in range(1, chance.site.broker.sessions + 1):
            for name in (HQ, BRANCH):
                sent = [f for number, f in chance.site.broker.ever if number == session and f.source == name]
                stops = sum(1 for before, after in pairwise(sent) if after.position <= before.position)
                assert stops <= len(chance.site.stops), "positions fall only where the lane was stopped"
