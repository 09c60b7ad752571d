import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.broker.confirms import Outcomes
from bridge.delivery.ingest import ingest
from bridge.delivery.limits import Limits
from bridge.errors import (
    BridgeError,
    BrokerRefusedLogin,
    BrokerUnreachable,
    EventUnroutable,
    FenceHeld,
    LogUnreadable,
    StoreOutdated,
    StoreUnusable,
    TopologyMismatch,
)
from bridge.events.normalize import Rules
from bridge.model import Numbers, OutboxRow, SourceName
from bridge.observability.component_status import Level, StreamStatus
from bridge.observability.report import problems
from bridge.runtime.outbox_monitor import OutboxMonitor
from bridge.runtime.sinks import STOP_SECONDS, Find, Sinks, StreamSink
from bridge.store.records import LogContents
from bridge.store.sqlite.backup import back_up
from bridge.store.sqlite.store import SqliteStore
from tests.support.boards import NOW, board
from tests.support.outbox import unsent
from tests.support.rows import HQ, batch, row
from tests.support.world import at_once

AWAY, REFUSED = BrokerUnreachable("nobody answers"), BrokerRefusedLogin("the password is wrong")


class Broker:
    """Confirms what it gets, unless it is slow; *problem* keeps sessions from starting, *refusal* is for all rows."""

    def __init__(self) -> None:
        self.sent: list[OutboxRow] = []
        self.problem: BridgeError | None = None
        self.refusal: BridgeError | None = None
        self.fence: FenceHeld | None = None
        self.is_quick = asyncio.Event()
        self.is_quick.set()
        self._news = asyncio.Event()
        self._told = 0

    def reconsider(self) -> None:
        """Take the news that what was refused may be taken now."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Broker"]:
        if self.problem is not None:
            raise self.problem
        self._told = len(self.sent)
        yield self

    def fail(self, problem: BridgeError) -> None:
        """End the session, and let none begin."""
        self.problem = problem
        self._news.set()

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        self.sent += rows
        self._news.set()

    def explain_refusal(self, _row: OutboxRow) -> BridgeError | None:
        return None

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        return {HQ: self.fence} if self.fence is not None else {}

    async def release(self, _sources: Collection[SourceName]) -> None:
        pass

    async def claim(self, _sources: Collection[SourceName]) -> None:
        """Take the fences that are free."""

    async def outcomes(self) -> Outcomes:
        while self._told == len(self.sent):
            if self.problem is not None:
                raise self.problem
            self._news.clear()
            await self._news.wait()
        await self.is_quick.wait()
        told, self._told = self._told, len(self.sent)
        tags = range(told + 1, self._told + 1)
        if self.refusal is not None:
            return Outcomes((), [(tag, self.refusal) for tag in tags])
        return Outcomes(tags, ())


class Site:
    """The sinks of a store with two events in it, with a broker and a log that the test holds in its hand."""

    def __init__(self, store: SqliteStore, stream: StreamSink | None = None) -> None:
        self.store = store
        self.broker = Broker()
        self.board = board(NOW, HQ)
        self.published: list[OutboxRow] = []
        self.asked: list[tuple[Mapping[str, tuple[int, str]], bool]] = []
        """From where the log was read, and whether something was looked for in it."""
        self.log_has: list[str] = []
        self.given: list[Mapping[SourceName, Numbers]] = []
        self.patience: list[bool] = []
        self.in_log: LogContents | BridgeError = LogContents({})
        self.sinks = Sinks(
            store,
            self.broker,
            stream,
            board=self.board,
            outbox_monitor=OutboxMonitor(self.board, store, at_once, Limits(min_free_bytes=0), asyncio.Event()),
            offload=at_once,
            window=8,
            on_published=self.published.extend,
            read_log=self._read_log,
        )

    async def _read_log(
        self,
        places: Mapping[str, tuple[int, str]],
        find: Find | None,
        given: Mapping[SourceName, Numbers],
        *,
        is_patient: bool = False,
    ) -> LogContents:
        self.patience.append(is_patient)
        self.given.append(given)
        self.asked.append((places, find is not None))
        if find is not None:
            for identity in self.log_has:
                await find([identity])
        if isinstance(self.in_log, BridgeError):
            raise self.in_log
        return self.in_log

    def is_ahead(self) -> LogContents:
        """Return a log that has later numbers than the store."""
        return LogContents({HQ: (self.store.place(HQ).lineage, 1000, 0)})

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            self.sinks.start(group)
            yield
            await self.sinks.wind_down()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    file = tmp_path / "bridge.db"
    with SqliteStore(file) as store:
        ingest(store, batch(row("anna", 1), row("bernd", 2)), rules=Rules(key=store.key), now=NOW)
    with SqliteStore(file) as store:  # which might be an older copy, for all that it knows
        yield Site(store)


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0)


async def test_nothing_is_proven_until_the_log_could_be_read(site: Site) -> None:
    site.in_log = AWAY
    proving = asyncio.create_task(site.sinks.prove())
    await until(lambda: site.board.broker.problem)
    assert (site.board.broker.level, site.board.broker.cause) == (Level.WARN, "broker_unreachable")
    assert not proving.done()
    site.in_log = LogContents({}, places={"log": (7, "mark")})
    assert await proving is False
    assert site.store.is_proven
    assert site.asked == [({}, False)] * 2
    assert site.store.log_places() == {"log": (7, "mark")}, "the next reading goes on from there"


async def test_a_log_that_cannot_be_read_to_its_end_proves_nothing(site: Site) -> None:
    site.in_log = LogUnreadable("its end did not come in time")
    lineage = site.store.place(HQ).lineage
    assert await site.sinks.prove()
    assert site.store.place(HQ).lineage > lineage
    assert "its end did not come in time" in site.store.restored
    told = [problem for problem in problems(site.board, NOW) if problem.cause == "log_unreadable"]
    assert [problem.words for problem in told] == [
        "Each start tells everything anew, under a new lineage: its end did not come in time."
    ]
    assert site.board.level(NOW) is not Level.OK


async def test_a_log_that_is_ahead_means_that_the_store_is_an_older_copy(site: Site) -> None:
    lineage, site.in_log = site.store.place(HQ).lineage, site.is_ahead()
    assert await site.sinks.prove()
    assert site.store.place(HQ).lineage > lineage
    async with site.publishing():
        await until(lambda: len(site.published) == 2)


async def test_what_waits_in_an_older_copy_is_looked_for_in_the_log_before_it_is_written_there(
    tmp_path: Path,
) -> None:
    """Under the name of a new generation the broker would take it once more."""
    file = tmp_path / "written.db"
    with SqliteStore(file) as store:
        store.begin_log(1)
        ingest(store, batch(row("anna", 1), row("bernd", 2)), rules=Rules(key=store.key), now=NOW)
    with SqliteStore(file) as store:
        store.begin_log(1)
        site = Site(store)
        written, other = (found.event_id for found in unsent(store.log))
        site.in_log, site.log_has = site.is_ahead(), ["another", written]
        assert await site.sinks.prove()
        assert [is_looking for _, is_looking in site.asked] == [False, True]
        assert [found.event_id for found in unsent(store.log)] == [other]
        assert len(unsent(store.exchange)) == 2


async def test_a_store_that_knows_that_it_is_a_copy_asks_once_what_of_it_is_in_the_log(
    tmp_path: Path,
) -> None:
    file = tmp_path / "written.db"
    with SqliteStore(file) as store:
        store.begin_log(1)
        ingest(store, batch(row("anna", 1)), rules=Rules(key=store.key), now=NOW)
    back_up(file, tmp_path / "copy.db", NOW)
    with SqliteStore(tmp_path / "copy.db") as store:
        store.begin_log(1)
        site = Site(store)
        (waiting,) = unsent(store.log)
        site.log_has = [waiting.event_id]
        assert await site.sinks.prove()
        assert await site.sinks.prove()
        assert [is_looking for _, is_looking in site.asked] == [True, False]
        assert not unsent(store.log)


async def test_what_is_found_counts_although_the_log_is_not_read_to_its_end_and_the_rest_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.store.tables.looking.PAGE_ROWS", 2)
    file = tmp_path / "written.db"
    with SqliteStore(file) as store:
        store.begin_log(1)
        rows = [row(f"account {number}", number) for number in range(1, 8)]
        ingest(store, batch(*rows), rules=Rules(key=store.key), now=NOW)
    back_up(file, tmp_path / "copy.db", NOW)
    with SqliteStore(tmp_path / "copy.db") as store:
        store.begin_log(1)
        site = Site(store)
        ids = [found.event_id for found in unsent(store.log)]
        site.log_has, site.in_log = ids[1:3], AWAY
        proving = asyncio.create_task(site.sinks.prove())
        await until(lambda: site.board.broker.problem)
        assert [found.event_id for found in unsent(store.log)] == [ids[0], *ids[3:]]
        site.log_has, site.in_log = ids[:6], LogContents({})
        await proving
        assert [found.event_id for found in unsent(store.log)] == [ids[6]]
        assert (store.log.backlog.rows, store.exchange.backlog.rows) == (1, 7)


async def test_later_numbers_seen_while_running_end_the_bridge(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.runtime.sinks.MARK_EVENTS", 2)
    await site.sinks.prove()
    site.in_log = site.is_ahead()
    with pytest.raises(ExceptionGroup) as ended:
        async with site.publishing():
            await asyncio.Event().wait()
    (problem,) = ended.value.exceptions
    assert isinstance(problem, StoreOutdated)
    assert "hq 1000 of" in str(problem)
    assert site.patience == [False, True], "nothing else was to be done at the start"


async def test_a_copy_whose_original_still_runs_gives_no_numbers_until_that_has_ended(site: Site) -> None:
    """Or else both would give the same ones, and the later of the two would not be heard of."""
    lineage = site.store.place(HQ).lineage
    site.broker.problem = FenceHeld("another bridge publishes", "fence")
    proving = asyncio.create_task(site.sinks.prove())
    await until(lambda: site.board.broker.problem)
    assert not proving.done()
    assert not site.store.is_proven
    site.in_log = site.is_ahead()
    site.broker.problem = None
    assert await proving
    assert site.store.place(HQ).lineage > lineage


async def test_numbers_that_somebody_else_gave_while_the_broker_was_away_end_the_bridge(site: Site) -> None:
    await site.sinks.prove()
    with pytest.raises(ExceptionGroup) as ended:
        async with site.publishing():
            await until(lambda: len(site.published) == 2)
            site.broker.fail(AWAY)
            await until(lambda: site.board.broker.problem)
            site.in_log = site.is_ahead()
            site.broker.problem = None
            await asyncio.Event().wait()
    (problem,) = ended.value.exceptions
    assert isinstance(problem, StoreOutdated)


async def test_after_many_events_the_log_is_read_so_that_the_next_start_has_little_to_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.runtime.sinks.MARK_EVENTS", 2)
    await site.sinks.prove()
    site.in_log = LogContents({}, places={"log": (9, "mark")})
    async with site.publishing():
        await until(site.store.log_places)
    assert site.store.log_places() == {"log": (9, "mark")}


async def test_the_log_is_told_what_was_given_while_it_has_less_than_the_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set back now, the store would find nothing later in the log than it has itself."""
    monkeypatch.setattr("bridge.runtime.sinks.MARK_SECONDS", 0.01)
    with SqliteStore(tmp_path / "bridge.db") as store:
        store.begin_log(1)
        log = Broker()
        log.problem = AWAY
        site = Site(store, StreamSink(store.log, log, StreamStatus(since=NOW)))
        await site.sinks.prove()
        async with site.publishing():
            ingest(store, batch(row("anna", 1), row("bernd", 2)), rules=Rules(key=store.key), now=NOW)
            site.sinks.wake(HQ)
            await until(lambda: site.published)
            await until(lambda: site.given[-1:] == [{HQ: (store.place(HQ).lineage, 2, 0)}])
            marks = len(site.given)
            await asyncio.sleep(0.1)
            assert len(site.given) == marks, "the same is told once"


@pytest.mark.parametrize("problem", [LogUnreadable("too slow"), AWAY, REFUSED, TopologyMismatch("not ours")])
async def test_a_log_that_cannot_be_read_while_running_disturbs_nobody(
    site: Site, problem: BridgeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.runtime.sinks.MARK_EVENTS", 2)
    await site.sinks.prove()
    site.in_log = problem
    async with site.publishing():
        await until(lambda: len(site.asked) == 2)
        await until(lambda: len(site.published) == 2)


async def test_who_else_sends_for_a_source_is_shown_until_nobody_does(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.delivery.fences.FENCE_SECONDS", 0.01)
    await site.sinks.prove()
    site.broker.fence = FenceHeld("a second bridge")
    part = site.board.sources[HQ]
    async with site.publishing():
        await until(lambda: part.fenced)
        assert part.fenced == {"broker": "a second bridge"}
        assert not site.board.broker.problem, "the broker is well"
        assert not site.published
        site.broker.fence = None
        await until(lambda: site.published)
    assert (part.fenced, part.fenced_since) == ({}, None)


async def test_what_the_exchange_does_not_take_is_shown_until_it_does(site: Site) -> None:
    await site.sinks.prove()
    site.broker.refusal = EventUnroutable("no queue takes it")
    part = site.board.sources[HQ]
    async with site.publishing():
        await until(lambda: part.held_back)
        assert (part.held_back, part.held_cause) == ("no queue takes it", "event_unroutable")
        site.broker.refusal = None
        site.sinks.wake_all()
        await until(lambda: len(site.published) == 2)
    assert {part.held_back, part.held_cause, part.held_since} == {"", None}


async def test_a_stop_waits_for_the_confirms_of_what_was_sent_and_sends_nothing_more(site: Site) -> None:
    site.broker.is_quick.clear()
    async with site.publishing():
        await until(lambda: len(site.broker.sent) == 2)
        stopping = asyncio.create_task(site.sinks.wind_down())
        ingest(site.store, batch(row("carla", 3), since=site.store.place(HQ).cursor), rules=Rules(key=b"k"), now=NOW)
        site.sinks.wake(HQ)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not stopping.done()
        site.broker.is_quick.set()
        await stopping
    assert (len(site.broker.sent), len(site.published)) == (2, 2)
    assert len(unsent(site.store.exchange)) == 1


async def test_a_stop_does_not_wait_for_a_broker_that_is_away(site: Site) -> None:
    site.broker.problem = REFUSED
    async with asyncio.timeout(STOP_SECONDS / 2), site.publishing():
        await until(lambda: site.board.broker.problem)
        assert site.board.broker.level is Level.ERROR


async def test_what_no_waiting_helps_ends_the_group(site: Site) -> None:
    site.broker.problem = StoreUnusable("the disk is gone")
    with pytest.raises(ExceptionGroup) as ended:
        async with site.publishing():
            await asyncio.Event().wait()
    assert isinstance(ended.value.exceptions[0], StoreUnusable)
