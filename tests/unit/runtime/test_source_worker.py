import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest
import structlog
from structlog.testing import capture_logs

from bridge.clock import utc_now
from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import DeletionLimit
from bridge.errors import PbxRefusedLogin, PbxUnreachable, StoreUnusable
from bridge.events.normalize import Rules
from bridge.model import Certificate, Cursor
from bridge.observability.component_status import Level
from bridge.observability.report import completeness
from bridge.pbx.reader import Deliver, TryDeliver, WalkEvent
from bridge.pbx.walk.actions import RowRead
from bridge.pbx.walk.schedule import CONFIRM_AFTER, Habits
from bridge.runtime.source_worker import SourceSpec, SourceWorker, reading, restore_worker
from bridge.store.records import Pause
from bridge.store.sqlite.store import SqliteStore
from tests.support.boards import NOW, board
from tests.support.rows import HQ, batch, row

if TYPE_CHECKING:
    from bridge.observability.status import BridgeStatus

Result = TypeVar("Result")

RULES = Rules(key=b"k" * 32)
AWAY, REFUSED = PbxUnreachable("nobody answers"), PbxRefusedLogin("the password is wrong")


class HandHeldSource:
    """Tells what the test has put into it; where that is an error, it fails with it."""

    def __init__(self) -> None:
        self.tells: asyncio.Queue[WalkEvent | Exception] = asyncio.Queue()
        self.begun: asyncio.Queue[Cursor] = asyncio.Queue()
        self.is_reading = False
        self.walks = 0

    def request_walk(self) -> None:
        self.walks += 1

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:  # noqa: ARG002
        self.is_reading = True
        self.begun.put_nowait(since)
        try:
            while True:
                told = await self.tells.get()
                if isinstance(told, Exception):
                    raise told
                await deliver(told)
        finally:
            self.is_reading = False


class Site:
    """A PBX that is followed while inside ``following``."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.source = HandHeldSource()
        self.board: BridgeStatus = board(NOW, HQ)
        self.part = self.board.sources[HQ]
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.habits = Habits(nightly_at=None)
        self.is_store_quick = asyncio.Event()
        self.is_store_quick.set()
        self.fails_once: Exception | None = None
        """What the next call of the store raises."""

    async def _offload(self, call: Callable[..., Result], /, *args: Any) -> Result:
        await self.is_store_quick.wait()
        failure, self.fails_once = self.fails_once, None
        if failure is not None:
            raise failure
        return call(*args)

    async def restore_worker(self) -> SourceWorker:
        return await restore_worker(
            SourceSpec(HQ, self.source),
            self.store,
            offload=self._offload,
            board=self.board,
            has_room=self.has_room,
            rules=RULES,
            deletion_limit=DeletionLimit(),
            habits=self.habits,
            on_committed=lambda _told: None,
            on_keeping=lambda: None,
        )

    @asynccontextmanager
    async def following(self) -> AsyncIterator[SourceWorker]:
        followed = await self.restore_worker()
        task = asyncio.create_task(followed.follow())
        try:
            async with asyncio.timeout(30):
                yield followed
        finally:
            task.cancel()
            await asyncio.wait([task])

    @property
    def kept(self) -> Cursor:
        return self.store.place(HQ).cursor


@pytest.fixture
def logging_on() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.BoundLogger)
    yield
    structlog.configure(**before)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with SqliteStore(tmp_path / "bridge.db") as store:
        yield Site(store)


async def test_reading_goes_on_where_an_earlier_bridge_stood(site: Site) -> None:
    first = row("anna", 7)
    ingest(site.store, batch(first), rules=RULES, now=NOW)
    async with site.following():
        assert await site.source.begun.get() == site.part.cursor == first.cursor
        assert reading(HQ) in site.board.tasks


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0)


async def a_moment() -> None:
    """Let everybody do what there is to do."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_what_was_read_is_durable_when_following_is_cancelled(site: Site) -> None:
    rows = [row(f"a{number}", number) for number in range(1, 100)]
    async with site.following():
        await site.source.begun.get()
        site.is_store_quick.clear()
        for delivered in rows:
            site.source.tells.put_nowait(RowRead(delivered, delivered.cursor))
        await until(site.source.tells.empty)
        asyncio.get_running_loop().call_later(0.05, site.is_store_quick.set)
    assert site.kept == rows[-1].cursor


@pytest.mark.parametrize("problem", [TypeError("cannot be written"), PbxUnreachable("odd"), StoreUnusable("full")])
async def test_a_stop_ends_it_whatever_goes_wrong_with_what_was_read_last(site: Site, problem: Exception) -> None:
    """Or it would be tried again, and nobody would wait for the end of that."""
    task = asyncio.create_task((await site.restore_worker()).follow())
    await site.source.begun.get()
    site.is_store_quick.clear()
    delivered = row("anna", 7)
    site.source.tells.put_nowait(RowRead(delivered, delivered.cursor))
    await until(site.source.tells.empty)
    await a_moment()
    site.fails_once = problem
    task.cancel()
    await a_moment()
    site.is_store_quick.set()
    done, _ = await asyncio.wait([task], timeout=10)
    assert done
    if isinstance(problem, StoreUnusable):
        assert task.exception() is problem
    else:
        assert task.cancelled()


async def test_after_a_failure_the_pbx_is_read_again(site: Site) -> None:
    async with site.following():
        await site.source.begun.get()
        site.source.tells.put_nowait(AWAY)
        await site.source.begun.get()
        assert (site.part.level, site.part.problem, site.part.cause) == (Level.WARN, str(AWAY), "pbx_unreachable")


async def test_what_somebody_has_to_mend_is_shown_as_an_error(site: Site) -> None:
    async with site.following():
        site.source.tells.put_nowait(REFUSED)
        await until(lambda: bool(site.part.problem))
        assert (site.part.level, site.part.cause) == (Level.ERROR, "pbx_refused_login")


async def test_what_no_waiting_helps_ends_it(site: Site) -> None:
    followed = await site.restore_worker()
    site.source.tells.put_nowait(StoreUnusable("the disk is gone"))
    async with asyncio.timeout(30):
        with pytest.raises(StoreUnusable):
            await followed.follow()


@pytest.mark.parametrize(
    "problem", [RecursionError("deep"), MemoryError(), ValueError("s3cret"), ExceptionGroup("x", [KeyError(1)])]
)
@pytest.mark.usefixtures("logging_on")
async def test_whatever_happens_while_a_pbx_is_read_is_its_own_trouble(site: Site, problem: Exception) -> None:
    """It ends that connection, with a sentence, and is tried again; nothing else hears of it."""
    with capture_logs() as logged:
        async with site.following():
            await site.source.begun.get()
            site.source.tells.put_nowait(problem)
            await site.source.begun.get()
    assert (site.part.level, site.part.cause) == (Level.WARN, "pbx_reading_failed")
    assert "in a way that nobody thought of" in site.part.problem
    assert "s3cret" not in site.part.problem
    (told,) = [entry["exception"] for entry in logged if entry["event"] == "source.reading_failed"]
    assert told.splitlines()[-1].startswith(("RecursionError", "MemoryError", "ValueError", "KeyError"))


async def test_a_row_that_cannot_be_made_durable_is_asked_for_again(site: Site) -> None:
    """What fails is the trouble of the PBX whose row it is; what was durable before stays so."""
    first, second = row("anna", 7), row("berta", 8)
    async with site.following():
        await site.source.begun.get()
        site.source.tells.put_nowait(RowRead(first, first.cursor))
        await until(lambda: site.kept == first.cursor)
        site.fails_once = TypeError("cannot be written")
        site.source.tells.put_nowait(RowRead(second, second.cursor))
        assert await site.source.begun.get() == first.cursor
        assert site.part.cause == "pbx_reading_failed"
        site.source.tells.put_nowait(RowRead(second, second.cursor))
        await until(lambda: site.kept == second.cursor)


async def test_a_pause_breaks_the_reading_off_until_it_ends(site: Site) -> None:
    async with site.following() as followed:
        await site.source.begun.get()
        followed.hold(Pause(NOW, "a new firmware"))
        await until(lambda: not site.source.is_reading)
        assert (site.part.is_paused, site.part.level, site.part.since) == (True, Level.PAUSED, NOW)
        assert site.part.doing == "paused by an operator (a new firmware)"
        followed.hold(None)
        await site.source.begun.get()
        assert not site.part.is_paused


async def test_a_pause_outlives_the_bridge(site: Site) -> None:
    site.store.pause(HQ, Pause(NOW, ""))
    async with site.following() as followed:
        assert site.part.is_paused
        followed.hold(None)
        await site.source.begun.get()


async def test_nothing_is_read_while_the_outbox_is_full(site: Site) -> None:
    """And it counts as paused, not as a fault of the PBX."""
    site.board.full = "the outbox is full"
    site.has_room.clear()
    async with site.following():
        await a_moment()
        assert (site.part.level, site.part.cause, site.source.begun.qsize()) == (Level.PAUSED, "outbox_full", 0)
        site.board.full = ""
        site.has_room.set()
        await site.source.begun.get()


async def test_an_outbox_that_becomes_full_takes_nothing_more(site: Site) -> None:
    async with site.following():
        since = await site.source.begun.get()
        site.board.full = "the outbox is full"
        delivered = row("anna", 7)
        site.source.tells.put_nowait(RowRead(delivered, delivered.cursor))
        await until(lambda: bool(site.part.problem))
        assert (site.part.level, site.part.cause, site.kept) == (Level.PAUSED, "outbox_full", since)


async def test_a_walk_that_is_due_waits_until_the_pbx_is_reached(site: Site) -> None:
    followed = await site.restore_worker()
    followed.ask_for_walk()
    site.part.failed("away", Level.WARN, NOW)
    followed.walk_if_due(NOW)
    assert site.source.walks == 0
    site.part.set_doing("reading", Level.OK, NOW)
    followed.walk_if_due(NOW)
    assert site.source.walks == 1


def certified(site: Site, *, at: datetime, absent: int = 0, held: int = 0) -> None:
    with site.store.transaction() as transaction:
        transaction.place(HQ)
        transaction.certify(
            Certificate(HQ, 1, at, at, accounts=250, repaired=0, deleted=0, held=held, absent=absent, sequence=1)
        )


async def test_after_a_restart_it_is_still_told_what_was_not_seen_and_when_that_is_decided(site: Site) -> None:
    now = utc_now()
    certified(site, at=now, absent=50)
    await site.restore_worker()
    decides = f"{(now + CONFIRM_AFTER).astimezone():%H:%M}"
    assert f"200 match, 50 were not seen; a second walk at {decides} decides" in completeness(site.part, now)


async def test_after_a_restart_held_deletions_are_still_told_with_the_remedy(site: Site) -> None:
    certified(site, at=utc_now(), absent=50, held=50)
    await site.restore_worker()
    told = completeness(site.part, utc_now())
    assert "200 match, 50 were not seen, whose deletion is held" in told
    assert "account-bridge resync hq --accept-deletions" in told


async def test_a_certificate_from_the_future_is_told_as_such_and_stops_no_nightly_walk(site: Site) -> None:
    """The clock was ahead once."""
    certified(site, at=utc_now() + timedelta(days=1500))
    site.habits = Habits()
    followed = await site.restore_worker()
    assert "in the future: the clock was wrong" in completeness(site.part, utc_now())
    site.part.set_doing("up to date", Level.OK, NOW)
    followed.walk_if_due(utc_now().astimezone())
    assert site.source.walks == 1


@pytest.mark.parametrize(
    ("since", "walks"), [(timedelta(minutes=-20), 1), (timedelta(seconds=5), 1), (timedelta(0), 0)]
)
async def test_a_pause_of_a_length_that_nobody_knows_counts_as_long(site: Site, since: timedelta, walks: int) -> None:
    """Recorded by a clock that was ahead, it lies in the future."""
    certified(site, at=utc_now())
    site.store.pause(HQ, Pause(utc_now() + since, ""))
    followed = await site.restore_worker()
    followed.hold(None)
    site.part.set_doing("up to date", Level.OK, NOW)
    followed.walk_if_due(utc_now().astimezone())
    assert site.source.walks == walks
