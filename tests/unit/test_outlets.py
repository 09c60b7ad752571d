import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from bridge.outlets import STOP_SECONDS, Outlets

from bridge.clock import utc_now
from bridge.confirms import Outcomes
from bridge.delivery.ingest import ingest
from bridge.delivery.limits import Limits
from bridge.errors import BridgeError, BrokerRefusedLogin, BrokerUnreachable, StoreOutdated, StoreUnusable
from bridge.model import OutboxRow
from bridge.normalize import Rules
from bridge.status import Level
from bridge.store.sqlite import SqliteStore
from bridge.tally import Tally
from tests.support.boards import NOW, board
from tests.support.rows import HQ, batch, row
from tests.support.world import at_once

AWAY, REFUSED = BrokerUnreachable("nobody answers"), BrokerRefusedLogin("the password is wrong")


class Broker:
    """Confirms what it gets, unless it is slow; *problem* keeps sessions from starting."""

    def __init__(self) -> None:
        self.sent: list[OutboxRow] = []
        self.problem: BridgeError | None = None
        self.is_quick = asyncio.Event()
        self.is_quick.set()
        self._news = asyncio.Event()
        self._told = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Broker"]:
        if self.problem is not None:
            raise self.problem
        yield self

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        self.sent += rows
        self._news.set()

    def refusal_of(self, _row: OutboxRow) -> BridgeError | None:
        return None

    async def outcomes(self) -> Outcomes:
        while self._told == len(self.sent):
            self._news.clear()
            await self._news.wait()
        await self.is_quick.wait()
        told, self._told = self._told, len(self.sent)
        return Outcomes(range(told + 1, self._told + 1), ())


class Site:
    """The ways out of a store with two events in it, to a broker and a log that the test holds in its hand."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.broker = Broker()
        self.board = board(NOW, HQ)
        self.published: list[OutboxRow] = []
        self.asked: list[str] = []
        """The lineages whose numbers were looked for in the log."""
        self.in_log: Mapping[str, int] | BridgeError = {}
        self.restored = 0
        has_room = asyncio.Event()
        self.outlets = Outlets(
            store,
            self.broker,
            None,
            board=self.board,
            tally=Tally(self.board, store, at_once, Limits(min_free_bytes=0), has_room),
            offload=at_once,
            window=8,
            on_published=self.published.extend,
            on_restored=self._count_restored,
            newest_in_log=self._newest,
        )

    def _count_restored(self) -> None:
        self.restored += 1

    async def _newest(self, lineage: str) -> Mapping[str, int]:
        self.asked.append(lineage)
        if isinstance(self.in_log, BridgeError):
            raise self.in_log
        return self.in_log

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            self.outlets.start(group)
            yield
            await self.outlets.wind_down()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    file = tmp_path / "bridge.db"
    with SqliteStore(file) as store:
        ingest(store, batch(row("anna", 1), row("bernd", 2)), rules=Rules(key=store.key), now=NOW)
    with SqliteStore(file) as store:  # which might be an older copy, for all that it knows
        yield Site(store)


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():
        await asyncio.sleep(0)


async def test_nothing_is_sent_before_the_store_was_compared_with_the_log(site: Site) -> None:
    site.in_log = AWAY
    async with site.publishing():
        await until(lambda: site.board.broker.problem)
        assert (site.board.broker.level, site.board.broker.cause) == (Level.WARN, "broker_unreachable")
        assert not site.broker.sent
        site.in_log = {}
        await until(lambda: len(site.published) == 2)
    assert site.asked == [site.store.lineage] * 2


async def test_who_may_write_and_not_read_the_log_publishes_all_the_same(site: Site) -> None:
    site.in_log = REFUSED
    async with site.publishing():
        await until(lambda: len(site.published) == 2)
    assert site.restored == 0


async def test_a_log_that_is_ahead_means_that_the_store_is_an_older_copy(site: Site) -> None:
    lineage, site.in_log = site.store.lineage, {HQ: 1000}
    async with site.publishing():
        await until(lambda: len(site.published) == 2)
    assert (site.restored, site.store.lineage != lineage) == (1, True)


async def test_a_broker_that_has_numbers_we_never_sent_means_the_same(site: Site) -> None:
    site.broker.problem = StoreOutdated("the log has later numbers")
    async with site.publishing():
        await until(lambda: site.restored)
        assert site.board.broker.cause == "store_outdated"


async def test_a_stop_waits_for_the_confirms_of_what_was_sent_and_sends_nothing_more(site: Site) -> None:
    site.broker.is_quick.clear()
    async with site.publishing():
        await until(lambda: len(site.broker.sent) == 2)
        stopping = asyncio.create_task(site.outlets.wind_down())
        ingest(site.store, batch(row("carla", 3), since=site.store.place(HQ).cursor), rules=Rules(key=b"k"), now=NOW)
        site.outlets.wake()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not stopping.done()
        site.broker.is_quick.set()
        await stopping
    assert (len(site.broker.sent), len(site.published)) == (2, 2)
    assert len(site.store.unpublished(0, 10)) == 1


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
    assert any("'publish' has ended: the disk is gone" in words for words in site.board.stuck(utc_now()))


async def test_publishing_that_hangs_is_red_within_a_minute(site: Site) -> None:
    site.broker.is_quick.clear()
    async with site.publishing():
        await until(lambda: len(site.broker.sent) == 2)
        assert not site.board.stuck(utc_now())
        assert any("'publish'" in words for words in site.board.stuck(utc_now() + timedelta(seconds=61)))
        site.broker.is_quick.set()
        await until(lambda: len(site.published) == 2)
