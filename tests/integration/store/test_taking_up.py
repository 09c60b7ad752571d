"""One of several bridges as it takes up and gives up PBXs, on a real database; what another one does is done here."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridge.delivery.ingest import ingest
from bridge.delivery.leaving import Retired
from bridge.delivery.limits import Limits
from bridge.errors import BridgeError, LeaseLost, StoreOutdated, StoreUnreachable
from bridge.events.normalize import Rules
from bridge.model import SourceName
from bridge.observability.source_status import SourceStatus
from bridge.ops import control_socket
from bridge.pbx.walk.schedule import Habits
from bridge.runtime.bridge import Bridge, BrokerSide
from bridge.runtime.options import Options
from bridge.runtime.sharing import POLL_SECONDS, QUIET_SECONDS, SourceSharing
from bridge.runtime.source_worker import SourceSpec
from bridge.runtime.steering import YIELD, SharedSteering
from bridge.store.postgres.shared import SharedStore
from bridge.store.postgres.store import StoreOptions
from bridge.store.sharing import View
from tests.support.boards import NOW, board
from tests.support.engines import PostgresEngine
from tests.support.rows import HQ, batch, row
from tests.unit.delivery.test_relay import HandHeldBroker
from tests.unit.runtime.test_bridge import SilentSource

OPTIONS = StoreOptions(lease_seconds=1.0, patience_seconds=20.0, opening_seconds=0.0)
SECONDS = 30
BRANCH = SourceName("branch")


class Dialled:
    """The PBXs that dial: one, which has no connection at present."""

    def __init__(self, follow: Callable[[SourceName], None]) -> None:
        self.names = frozenset([HQ])
        self.follow = follow

    async def refresh(self) -> None:
        """Ask anew which those are."""

    def let_go(self, name: SourceName) -> None:
        """Give up its connection."""

    def connected_seconds(self, _name: SourceName) -> float | None:
        return None


@dataclass
class Site:
    """A bridge that runs, and the store of another one beside it."""

    bridge: Bridge
    store: SharedStore
    other: SharedStore
    broker: HandHeldBroker
    running: "asyncio.Task[None]"

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(SECONDS):
            while not is_so():
                assert not self.running.done(), self.running.exception()
                await asyncio.sleep(0.02)

    async def take_over(self) -> None:
        """Have the other one take what the bridge has, which is silent."""

        def is_taken() -> bool:
            free = [one.name for one in self.other.look().free]
            return bool(free) and self.other.claim([HQ]) == [HQ]

        async with asyncio.timeout(SECONDS):
            while not await asyncio.to_thread(is_taken):
                await asyncio.sleep(0.02)

    def fall_silent(self) -> None:
        """Have the bridge say nothing any more, as one that is frozen."""
        assert self.store.lease is not None
        self.store.lease._is_closed.set()  # noqa: SLF001 - nobody else may do that


@asynccontextmanager
async def running(engine: PostgresEngine, *, writes_log: bool = False) -> AsyncIterator[Site]:
    with ExitStack() as stack:
        store, other = [stack.enter_context(SharedStore(engine.database, OPTIONS)) for _ in range(2)]
        for one in (store, other) if writes_log else ():
            one.begin_log(1)
        other.compare(None)
        broker = HandHeldBroker()
        shown = board(NOW)
        shown.sources.clear()  # it has none yet
        bridge = Bridge(
            store,
            [],
            BrokerSide(broker, may_send=lambda: store.is_good),
            Options(Rules(key=store.key), habits=Habits(nightly_at=None), limits=Limits(min_free_bytes=0)),
            board=shown,
            is_shared=True,
        )

        def follow(name: SourceName) -> None:
            part = SourceStatus(since=NOW)
            bridge.follow(SourceSpec(name, SilentSource()), part)

        steering = SharedSteering(bridge, store)
        bridge.sharing = sharing = SourceSharing(
            bridge, store, [], lambda name, _: SourceSpec(name, SilentSource()), steering
        )
        sharing.listen(Dialled(follow))
        store.add_sources([HQ])
        stop = asyncio.Event()
        task = asyncio.create_task(bridge.run(stop))
        site = Site(bridge, store, other, broker, task)
        try:
            await site.until(lambda: HQ in bridge.board.sources)
            yield site
        finally:
            stop.set()
            await asyncio.wait([task])
        task.result()


async def test_what_is_lost_while_it_is_given_away_is_not_followed_again(engine: PostgresEngine) -> None:
    async with running(engine) as site:
        told = batch(row("anna", 1))
        await site.bridge.offload(lambda: ingest(site.store, told, rules=Rules(key=b"k"), now=NOW))
        site.bridge.sinks.wake(HQ)
        await site.broker.has_sent(1)
        life = site.store.life
        site.other.wishes.ask(HQ, YIELD, {"life": site.other.life})
        await site.until(lambda: HQ not in site.bridge.board.sources)
        site.fall_silent()
        await site.take_over()
        await site.until(lambda: site.store.life != life and site.store.is_good)
        async with asyncio.timeout(SECONDS):
            for _ in range(int(2 * QUIET_SECONDS / 0.02)):
                assert HQ not in site.bridge.board.sources
                assert not site.running.done()
                await asyncio.sleep(0.02)
        assert site.other.held.keys() == {HQ}


async def test_a_bridge_does_not_yield_to_itself(engine: PostgresEngine) -> None:
    """Its own wish may be left from when another one had the PBX, whose connection is about to be read here."""
    async with running(engine) as site:
        number = site.other.wishes.ask(HQ, YIELD, {"life": site.store.life})
        assert number is not None
        await site.until(lambda: site.other.wishes.answer_to(number) is not None)
        assert site.other.wishes.answer_to(number) == {"done": True}
        assert HQ in site.bridge.board.sources
        assert site.store.held.keys() == {HQ}


async def test_what_is_claimed_to_be_retired_is_not_given_back_before_that(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(engine) as site:
        site.other.add_sources([BRANCH])
        retire = site.bridge.retire
        turns = 0
        look = site.store.look

        def counted() -> View:
            nonlocal turns
            turns += 1
            return look()

        async def later(name: SourceName, *, tells_deletions: bool) -> Retired:
            monkeypatch.setattr(site.store, "look", counted)
            with suppress(TimeoutError):
                async with asyncio.timeout(3 * POLL_SECONDS):
                    await site.until(lambda: turns > 1)
            assert BRANCH in site.store.held
            return await retire(name, tells_deletions=tells_deletions)

        monkeypatch.setattr(site.bridge, "retire", later)
        assert isinstance(site.bridge.sharing, SourceSharing)
        await site.bridge.sharing.steering.retire(BRANCH, tells_deletions=True)


@pytest.mark.parametrize("changed", [{"hq"}, set()], ids=["connected anew", "left out"])
async def test_what_is_lost_while_it_is_configured_anew_is_let_go_of_once(
    engine: PostgresEngine, changed: set[str]
) -> None:
    async with running(engine) as site:
        sharing = site.bridge.sharing
        assert isinstance(sharing, SourceSharing)
        if not changed:
            sharing._inbound = None  # noqa: SLF001 - so that nobody names it any more
        configuring = asyncio.create_task(sharing.configure([], changed, sharing._build))  # noqa: SLF001
        while HQ in site.bridge._readers:  # noqa: SLF001 - until it is being let go of
            await asyncio.sleep(0)
        sharing._drop_all(LeaseLost("taken over"))  # noqa: SLF001 - as whoever watches the lease does, at any moment
        async with asyncio.timeout(SECONDS):
            await configuring
        sharing._inbound = sharing._inbound or Dialled(lambda _: None)  # noqa: SLF001
        await site.until(lambda: not sharing._ending)  # noqa: SLF001


async def taken(site: Site, number: int) -> None:
    """Have the bridge take a row, and send it to a broker that does not confirm it yet."""
    told = batch(row("anna", number))
    await site.bridge.offload(lambda: ingest(site.store, told, rules=Rules(key=b"k"), now=NOW))
    site.bridge.sinks.wake(HQ)
    await site.broker.has_sent(number)


async def turned(site: Site, count: int) -> None:
    """Return once the bridge has looked at the database so many times more."""
    look, turns = site.store.look, 0

    def counted() -> View:
        nonlocal turns
        turns += 1
        return look()

    site.store.look = counted  # type: ignore[method-assign]
    await site.until(lambda: turns >= count)
    site.store.look = look  # type: ignore[method-assign]


async def test_a_pbx_is_kept_where_the_connection_breaks_while_it_is_given_away(engine: PostgresEngine) -> None:
    """The broker may have something of it yet, which only this bridge knows to wait for."""
    async with running(engine) as site:
        await taken(site, 1)
        number = site.other.wishes.ask(HQ, YIELD, {"life": site.other.life})
        assert number is not None
        await site.until(lambda: HQ not in site.bridge.board.sources)
        await site.broker.fail()
        await site.until(lambda: not site.store.held or HQ in site.bridge.board.sources)
        assert site.store.held.keys() == {HQ}
        await site.until(lambda: site.broker.sessions > 1)
        await site.broker.has_sent(1)
        assert site.broker.sent[0].is_in_doubt
        await site.broker.tell(1)
        await site.until(lambda: not site.store.exchange.waiting(HQ))


async def test_a_wish_that_nobody_understands_ends_no_bridge(engine: PostgresEngine) -> None:
    """Otherwise it would end the next one that has the PBX, too, and the next."""
    async with running(engine) as site:
        number = site.other.wishes.ask(HQ, "pause", {"until": "another version knows"})
        assert number is not None
        await site.until(lambda: site.other.wishes.answer_to(number))
        assert "refused" in (site.other.wishes.answer_to(number) or {})


async def test_before_any_bridge_has_had_a_pbx_that_is_configured_nobody_says_that_there_is_none(
    engine: PostgresEngine, tmp_path: Path
) -> None:
    depot = SourceName("depot")
    async with running(engine) as site:
        sharing = site.bridge.sharing
        assert isinstance(sharing, SourceSharing)
        steering = sharing.steering
        assert not await steering.pause(depot, "")
        site.bridge.dialled = [depot]
        with pytest.raises(BridgeError, match="no bridge has had depot yet"):
            await steering.pause(depot, "")
        async with control_socket.serve(steering, path := tmp_path / "socket"):
            for target in ("/pause/depot", "/resume/depot", "/resync/depot"):
                with pytest.raises(BridgeError, match="no bridge has had depot yet"):
                    await control_socket.ask(path, "POST", target)


async def test_a_wish_that_comes_while_a_pbx_is_given_away_is_for_whoever_gets_it(engine: PostgresEngine) -> None:
    async with running(engine) as site:
        await taken(site, 1)
        site.other.wishes.ask(HQ, YIELD, {"life": site.other.life})
        await site.until(lambda: HQ not in site.bridge.board.sources)
        number = site.other.wishes.ask(HQ, "pause", {"reason": "moving house"})
        assert number is not None
        await turned(site, 2)
        assert site.other.wishes.answer_to(number) is None
        await site.broker.tell(1)
        await site.until(lambda: site.other.claim([HQ]))
        assert [wish.number for wish in site.other.wishes.for_us()] == [number]


async def test_a_pbx_that_leaves_is_kept_until_the_log_has_all_of_it(engine: PostgresEngine) -> None:
    """Nobody would take it up any more to write the rest."""
    async with running(engine, writes_log=True) as site:
        await taken(site, 1)
        await site.broker.tell(1)
        await site.until(lambda: not site.store.exchange.waiting(HQ))
        sharing = site.bridge.sharing
        assert isinstance(sharing, SourceSharing)
        sharing._inbound = None  # noqa: SLF001 - so that nobody names it any more
        await sharing.configure([], [], sharing._build)  # noqa: SLF001
        await turned(site, 3)
        assert site.store.held.keys() == {HQ}

        def write() -> None:
            site.store.log.mark_published(site.store.log.unpublished({HQ: 0}, 10, 10), NOW)

        await site.bridge.offload(write)
        await site.until(lambda: not site.store.held)


async def test_a_bridge_that_was_taken_to_be_dead_waits_for_a_database_that_is_away(engine: PostgresEngine) -> None:
    async with running(engine) as site:
        life, live_anew, tried = site.store.life, site.store.live_anew, 0

        def away() -> None:
            nonlocal tried
            tried += 1
            if tried == 1:
                raise StoreUnreachable("nobody answers")
            live_anew()

        site.store.live_anew = away  # type: ignore[method-assign]
        site.fall_silent()
        await site.take_over()
        await site.until(lambda: site.store.life != life and site.store.is_good)
        assert tried == 2


async def test_a_wish_that_finds_the_database_set_back_ends_the_bridge(engine: PostgresEngine) -> None:
    """The next start sees to that; to go on would be to build on what is not there."""
    with pytest.raises(StoreOutdated, match="gone back in time"):
        async with running(engine) as site:
            engine.server.run("UPDATE bridge SET commits = commits - 1 WHERE commits > 1", engine.name)
            site.other.wishes.ask(HQ, "pause", {"reason": "moving house"})
            await asyncio.wait([site.running], timeout=SECONDS)
            assert site.running.done()
