"""The bridge before it is known whether its store is the newest state of itself, and just after."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog
from structlog.testing import capture_logs

from bridge.clock import utc_now
from bridge.delivery.ingest import ingest
from bridge.delivery.limits import Limits
from bridge.errors import BrokerUnreachable
from bridge.events.normalize import Rules
from bridge.model import Certificate, Cursor, SourceName
from bridge.observability.component_status import Level
from bridge.observability.report import completeness
from bridge.pbx.reader import Deliver, TryDeliver
from bridge.pbx.walk.schedule import Habits
from bridge.runtime.bridge import Bridge, BrokerSide
from bridge.runtime.options import Options
from bridge.runtime.source_worker import SourceSpec
from bridge.store.records import LogContents, Pause
from bridge.store.sqlite.backup import back_up
from bridge.store.sqlite.store import SqliteStore
from tests.support.boards import NOW, board
from tests.support.rows import HQ, batch, row

if TYPE_CHECKING:
    from bridge.observability.status import BridgeStatus


class SilentSource:
    """Is read, and tells nothing."""

    def __init__(self) -> None:
        self.is_reading = asyncio.Event()
        self.walks = 0

    def request_walk(self) -> None:
        self.walks += 1

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:  # noqa: ARG002
        self.is_reading.set()
        try:
            while True:
                await asyncio.sleep(60)
        finally:
            self.is_reading.clear()


class NoBroker:
    """It is reached once, for the store to be compared with its log, and never to publish."""

    def __init__(self) -> None:
        self._is_there = True

    def reconsider(self) -> None:
        """Take the news that what was refused may be taken now."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        was_there, self._is_there = self._is_there, False
        if not was_there:
            raise BrokerUnreachable("nobody answers")
        yield self

    @property
    def fenced(self) -> NoReturn:
        raise BrokerUnreachable("nobody answers")


class Site:
    """A bridge of one PBX; *in_log* is what it is told about the log as soon as that is *reached*."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.source = SilentSource()
        self.reached = asyncio.Event()
        self.in_log = LogContents({})
        self.board: BridgeStatus = board(NOW, HQ)
        self.part = self.board.sources[HQ]
        self.bridge = Bridge(
            store,
            [SourceSpec(HQ, self.source)],
            BrokerSide(NoBroker(), read_log=self._read_log),
            Options(Rules(key=store.key), habits=Habits(nightly_at=None), limits=Limits(min_free_bytes=0)),
            board=self.board,
        )

    async def _read_log(self, *_: object, **_how: object) -> LogContents:
        await self.reached.wait()
        return self.in_log

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bridge]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.bridge.run(stop))
        try:
            async with asyncio.timeout(30):
                yield self.bridge
        finally:
            stop.set()
            await task

    async def waiting(self) -> None:
        await until(lambda: "has to be compared" in self.part.doing or self.part.is_paused)

    def certify(self, at: datetime = NOW) -> None:
        """Let a walk of the PBX have ended."""
        with self.store.transaction() as transaction:
            transaction.place(HQ)
            transaction.certify(
                Certificate(HQ, 1, at, at, accounts=2, repaired=0, deleted=0, held=0, absent=0, sequence=2)
            )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two events, which might be an older copy, for all that it knows."""
    with SqliteStore(tmp_path / "bridge.db") as store:
        ingest(store, batch(row("anna", 1), row("bernd", 2)), rules=Rules(key=store.key), now=NOW)
    return tmp_path / "bridge.db"


@pytest.fixture
def site(path: Path) -> Iterator[Site]:
    with SqliteStore(path) as store:
        yield Site(store)


@pytest.fixture
def logging_on() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.BoundLogger)
    yield
    structlog.configure(**before)


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


async def test_before_a_pbx_is_read_its_pause_and_last_walk_are_shown_as_the_store_knows_them(site: Site) -> None:
    site.certify()
    site.store.pause(HQ, Pause(NOW, "firmware"))
    async with site.running() as bridge:
        await site.waiting()
        assert (site.part.doing, site.part.since) == ("paused by an operator (firmware)", NOW)
        assert (site.part.is_paused, site.part.level) == (True, Level.PAUSED)
        assert completeness(site.part, NOW).startswith("2 accounts, all match, verified")
        assert await bridge.resume(HQ)
        assert not await bridge.resume(HQ)
        assert not site.part.is_paused
        assert site.part.doing == "waiting for the broker: its log has to be compared with the store"
        site.reached.set()
        await site.source.is_reading.wait()
    assert not site.store.paused()


async def test_a_pbx_can_be_paused_before_it_is_read(site: Site) -> None:
    async with site.running() as bridge:
        await site.waiting()
        assert not await bridge.pause(SourceName("no"), "")
        assert await bridge.pause(HQ, "firmware")
        assert site.part.doing == "paused by an operator (firmware)"
        assert site.store.paused()[HQ].reason == "firmware"
        site.reached.set()
        await until(lambda: "read hq" in site.board.tasks)
        await asyncio.sleep(0.05)
        assert site.part.is_paused
        assert not site.source.is_reading.is_set()
        assert await bridge.resume(HQ)
        await site.source.is_reading.wait()


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_a_walk_that_is_wanted_before_a_pbx_is_read_is_done_then(
    site: Site,
    is_wanted: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.runtime.bridge.WALK_CHECK_SECONDS", 0.01)
    site.certify(utc_now())
    async with site.running() as bridge:
        await site.waiting()
        assert not bridge.resync(SourceName("no"), accept_deletions=False)
        assert not is_wanted or bridge.resync(HQ, accept_deletions=True)
        site.reached.set()
        await site.source.is_reading.wait()
        site.part.set_doing("up to date", Level.OK, NOW)
        await asyncio.sleep(0.1)
        assert bool(site.source.walks) is is_wanted


@pytest.mark.usefixtures("logging_on")
async def test_what_was_certified_is_told_no_more_once_everything_is_told_anew(site: Site) -> None:
    site.certify()
    site.in_log = LogContents({HQ: (site.store.place(HQ).lineage, 1000, 0)})
    with capture_logs() as logged:
        async with site.running():
            await site.waiting()
            assert site.part.verified_at == NOW
            site.reached.set()
            await site.source.is_reading.wait()
            assert "Deletions unknown" in completeness(site.part, NOW)
            assert "the log at the broker has later numbers" in site.part.warning
    (renewed,) = (line for line in logged if line["event"] == "store.renewed")
    assert "the log at the broker has later numbers" in renewed["problem"]


@pytest.mark.usefixtures("logging_on")
async def test_why_everything_is_told_anew_is_logged_although_a_walk_was_faster_than_the_broker(path: Path) -> None:
    back_up(path, path.with_name("copy.db"), NOW)
    with SqliteStore(path.with_name("copy.db")) as store, capture_logs() as logged:
        site = Site(store)
        async with site.running():
            await site.source.is_reading.wait()
            site.certify()
            assert not store.restored
            site.reached.set()
            await until(lambda: any(line["event"] == "store.renewed" for line in logged))
            assert not site.part.warning
    (renewed,) = (line for line in logged if line["event"] == "store.renewed")
    assert renewed["problem"].startswith("everything is told anew, since it is the copy of")
