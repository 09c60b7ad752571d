"""The sources of a bridge that shares them with others: it takes up and gives up PBXs while it runs.

Once a second it looks at the database: buries who is silent, takes what is free, gives away what is too much. Each
source is followed and let go of by the same way as one that is configured anew or taken out. What the bridge has is in
its memory and in the database; where the two differ, or its lease may be over, it drops everything at once, and takes
up again what is still its own.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from bridge.clock import utc_now
from bridge.errors import BridgeError, LeaseLost, PbxUnreachable
from bridge.logs import get_logger
from bridge.model import SourceName
from bridge.observability.cluster_status import ClusterStatus, PeerStatus
from bridge.observability.source_status import SourceStatus
from bridge.runtime.bridge import Bridge
from bridge.runtime.retry import Backoff, keep_trying
from bridge.runtime.source_worker import SourceSpec
from bridge.runtime.steering import YIELD, SharedSteering
from bridge.store.sharing import GIVING_SECONDS, View, Wish, choose_claims, choose_gifts

POLL_SECONDS: Final = 1.0
WATCH_SECONDS: Final = 0.25
"""How often a bridge looks whether its lease may be over, and says that it works."""

SHOW_SECONDS: Final = 5.0
"""How often it is asked who has which PBX, for who wants to see."""

WANTED_SECONDS: Final = 20.0
"""So long the connection of a PBX is kept that has dialled, while another bridge lets go of it: as long as a lease
lasts, and a little."""

QUIET_SECONDS: Final = 5.0
"""For what is on its way of a source that is given away; where the broker takes longer, it stays."""

log = get_logger(__name__)


class SharingStore(Protocol):
    """What is asked of a store that several bridges work on."""

    def waiting(self, source: SourceName) -> int:
        """Return how many events of a source some sink does not have; asked from any thread, as the next three."""

    @property
    def life(self) -> str:
        """The life of this bridge."""

    @property
    def is_good(self) -> bool:
        """True while nobody else can have what is ours."""

    def beat(self) -> None:
        """Say that the bridge works."""

    def look(self) -> View:
        """See to what dead bridges had, and return who lives and what is free."""

    def add_sources(self, names: Sequence[SourceName]) -> None:
        """Have all of these known, so that somebody can hold them."""

    def claim(self, names: Sequence[SourceName]) -> Sequence[SourceName]:
        """Take these sources, as far as nobody was faster, and return those that are ours now."""

    def claim_again(self) -> Sequence[SourceName]:
        """Take what is still ours under new epochs, after we took it to be lost; return it."""

    def give_back(self, name: SourceName, kept_for: str | None = None) -> None:
        """Let go of a source of which nothing is on its way; *kept_for* a while for that life."""

    def give_all_back(self, in_flight: Collection[SourceName]) -> None:
        """Let go of everything at the end; of those *in_flight* something is on its way."""

    def holders(self) -> Mapping[SourceName, str]:
        """Return the name of the bridge that has each source; empty where none has."""

    @property
    def wishes(self) -> "Wishes":
        """What is wanted of holders."""

    @property
    def held(self) -> Collection[SourceName]:
        """What is ours."""

    @property
    def taken_over(self) -> int:
        """How many sources were taken from bridges that did not let go of them."""

    @property
    def buried(self) -> int:
        """How many bridges this one took to be dead."""

    def lose(self, names: Sequence[SourceName]) -> None:
        """Take these sources not to be ours any more."""

    def live_anew(self) -> None:
        """Begin another life, since this one is over."""

    def tell_of_us(self, *, is_ready: bool, serves: str, page: str) -> None:
        """Tell the others whether we take sources, for what we are configured, and where we show how we are doing."""


class Wishes(Protocol):
    """What is asked of the wishes in it."""

    def ask(self, source: SourceName, kind: str, arguments: Mapping[str, Any]) -> int | None:
        """Want something of whoever has *source*, and return its number; ``None`` where there is no such source."""

    def answer_to(self, number: int) -> Mapping[str, Any] | None:
        """Return what became of a wish; ``None`` as long as nothing did."""

    def give_up(self, number: int) -> None:
        """Want it no more."""

    def for_us(self) -> Sequence[Wish]:
        """Return what is wanted of sources that are ours, the oldest first."""

    def forget_old(self) -> None:
        """Forget those that nobody asks about any more."""


Build = Callable[[SourceName, SourceStatus], SourceSpec]
"""Returns what is followed of a PBX that is configured, which tells its place what it does."""


class Inbound(Protocol):
    """The PBXs that dial, where this bridge listens."""

    @property
    def names(self) -> AbstractSet[SourceName]:
        """Those that have dialled, whichever bridge."""

    async def refresh(self) -> None:
        """Ask anew which those are."""

    def follow(self, name: SourceName) -> None:
        """Follow one that is ours from now on."""

    def let_go(self, name: SourceName) -> None:
        """Give up its connection, if it has one."""

    def connected_seconds(self, name: SourceName) -> float | None:
        """Return for how long it has been connected here; ``None`` where it is not."""


class SourceSharing:
    """Has *bridge* follow its part of the sources in *store*; *build* makes what is followed of each of *names*.

    *steering* does what somebody wants of a source that is ours.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its parts
        self,
        bridge: Bridge,
        store: SharingStore,
        names: Collection[SourceName],
        build: Build,
        steering: SharedSteering,
        page: str = "",
    ) -> None:
        self.steering = steering
        """Does what operators want."""
        self._shown_at = float("-inf")
        self._status = bridge.board.cluster = ClusterStatus(configured=len(names), is_waiting=True)
        self._bridge = bridge
        self._store = store
        self._names = frozenset(names)
        self._build = build
        self._page = page
        self._ours: set[SourceName] = set()
        """What is followed here."""
        self._leaving: set[SourceName] = set()
        """What is ours and configured no more: not read, and given back once all of it is sent."""
        self._inbound: Inbound | None = None
        steering.yield_to = self._yield_to
        self._is_told = False
        """True once the others know of us, in this life."""
        self._ending: dict[SourceName, asyncio.Task[None]] = {}
        """What ends the following of a source, before it can be followed again."""
        self._losses = 0
        """How often everything was dropped at once."""
        self._gave_at = 0.0
        self._looking_since: float | None = None
        self._alone = steering.alone

    def __repr__(self) -> str:
        return f"<SourceSharing {len(self._ours)} of {len(self._names)}>"

    # ------------------------------------------------------------------ the loops

    async def keep_sharing(self) -> None:
        """Look at the database for ever, and follow what is ours.

        Raises:
            Fatal: from the store.

        """
        while True:
            try:
                async with self._alone:
                    await self._turn()
            except LeaseLost as problem:
                log.warning("lease.lost", problem=str(problem))
                self._drop_all(problem)
                await keep_trying(partial(self._offload, self._store.live_anew), Backoff(), _not_alive)
                self._is_told = False
            self._bridge.board.beat("share")
            await asyncio.sleep(POLL_SECONDS)

    async def keep_watch(self) -> None:
        """Say that the bridge works, and have it stop as soon as others may have what is ours."""
        while True:
            self._store.beat()
            self._status.is_leased, self._status.is_waiting = self._store.is_good, False
            if (self._ours or self._leaving) and not self._store.is_good:
                words = "the database could not be reached for so long that other bridges may have these PBXs"
                log.warning("lease.in_doubt", problem=words)
                self._drop_all(LeaseLost(words))
            await asyncio.sleep(WATCH_SECONDS)

    async def end(self) -> None:
        """Give everything back, once nothing is read and sent any more."""
        for task in self._ending.values():
            task.cancel()
        await self._all_ended()
        try:
            await self._offload(self._store.give_all_back, self._bridge.sinks.left_in_flight)
        except BridgeError as problem:
            log.warning("lease.not_given_back", problem=str(problem))

    async def configure(self, names: Collection[SourceName], changed: Collection[str], build: Build) -> None:
        """Go on with these PBXs, of which those *changed* are connected anew; let go of what is not among them."""
        async with self._alone:
            self._build = build
            self._names, self._is_told = frozenset(names), False
            self._status.configured = len(self._names)
            for name in [name for name in self._ours if name in changed]:
                await self._stop_in_turn(name)
                if name in self._ours:  # it was not lost meanwhile
                    self._follow(name)
            for name in self._ours - self._servable:
                if name in self._ours:
                    self._ours.discard(name)
                    self._leaving.add(name)
                    await self._stop_in_turn(name)
            for name in self._leaving & self._names:
                self._leaving.discard(name)
                self._ours.add(name)
                self._follow(name)

    # ------------------------------------------------------------------ PBXs that dial

    def listen(self, inbound: Inbound) -> None:
        """Take up PBXs that dial, too."""
        self._inbound = inbound

    async def want(self, name: SourceName) -> None:
        """Have a PBX that has just dialled this bridge, whichever has it now: the newest connection wins.

        Raises:
            PbxUnreachable: the bridge that has it did not let go in time, or it has dialled that one since.

        """
        until = asyncio.get_running_loop().time() + WANTED_SECONDS
        wishes = self._store.wishes
        number: int | None = None
        while asyncio.get_running_loop().time() < until:
            if await self._has_got(name):
                return
            if self._is_told and number is None:
                number = await self._offload(wishes.ask, name, YIELD, {"life": self._store.life})
            answer = None if number is None else await self._offload(wishes.answer_to, number)
            if answer is not None and not answer.get("done"):
                raise PbxUnreachable(f"{name} has dialled another bridge since")
            await asyncio.sleep(WATCH_SECONDS)
        if number is not None:
            await self._offload(wishes.give_up, number)
        raise PbxUnreachable(f"another bridge has {name} and did not let go of it in time; it may dial again")

    async def _has_got(self, name: SourceName) -> bool:
        """Take a PBX if it is free, and tell whether it is ours."""
        async with self._alone:
            if self._is_told and name not in self._ours and name not in self._ending:
                self._take_up(await self._offload(self._store.claim, [name]))
            return name in self._ours

    def _yield_to(self, wish: Wish) -> bool:
        name = wish.source
        if wish.arguments["life"] == self._store.life:
            return True  # ours since we asked, in whatever way
        if self._inbound is None or name not in self._ours or name not in self._inbound.names:
            return False
        connected = self._inbound.connected_seconds(name)
        if connected is not None and connected < wish.age_seconds:
            return False
        self._ours.discard(name)
        self._begin_ending(name, self._give_back(name, str(wish.arguments["life"])))
        return True

    @property
    def _servable(self) -> AbstractSet[SourceName]:
        return self._names if self._inbound is None else self._names | self._inbound.names

    # ------------------------------------------------------------------ one look

    async def _turn(self) -> None:
        await self._take_news()
        if not self._is_told:
            await self._offload(self._store.add_sources, sorted(self._names))
            serves = hashlib.sha256("\n".join(sorted(self._names)).encode()).hexdigest()[:16]
            await self._offload(partial(self._store.tell_of_us, is_ready=True, serves=serves, page=self._page))
            self._is_told = True
        view = await self._offload(self._store.look)
        if not self._store.is_good:
            return
        if not view.is_as_believed:
            self._drop_all(LeaseLost("what is this bridge's in the database is not what it believed"))
            await self._all_ended()
            self._take_up(await self._offload(self._store.claim_again))
            return
        held = len(self._ours) + len(self._leaving) + len(self._ending)
        now = asyncio.get_running_loop().time()
        self._looking_since = self._looking_since or now
        seconds = now - self._looking_since
        wanted = choose_claims(self._store.life, view.free, view.peers, self._servable, held, seconds)
        wanted = [name for name in wanted if name not in self._ending]
        if wanted:
            self._take_up(await self._offload(self._store.claim, wanted))
        self._leaving |= set(self._store.held) - self._ours - self._ending.keys()  # what was taken to be retired
        self._let_leave()
        self._give_gifts(view)
        for wish in await self._offload(self._store.wishes.for_us):
            if wish.source not in self._ending:  # otherwise it is for whoever has that next
                await self.steering.grant(wish)
        await self._show(view, now)

    async def _show(self, view: View, now: float) -> None:
        status = self._status
        status.life, status.configured = self._store.life, len(self._names)
        status.taken_over, status.buried = self._store.taken_over, self._store.buried
        status.peers = [
            PeerStatus(peer.name, peer.life, peer.held, round(peer.age_seconds), peer.is_ready) for peer in view.peers
        ]
        status.without_bridge = {free.name: round(free.seconds) for free in view.free if free.name in self._names}
        if now - self._shown_at >= SHOW_SECONDS:
            self._shown_at = now
            if self._inbound is not None:
                await self._inbound.refresh()
            status.holders = await self._offload(self._store.holders)
            await self._offload(self._store.wishes.forget_old)

    def _take_up(self, names: Sequence[SourceName]) -> None:
        for name in names:
            log.info("source.taken_up", source=name)
            if name in self._servable:
                self._ours.add(name)
                self._follow(name)
            else:
                self._leaving.add(name)
            self._bridge.sinks.take_up(name)

    def _follow(self, name: SourceName) -> None:
        if self._inbound is not None and name not in self._names:
            self._inbound.follow(name)
            return
        part = SourceStatus(since=utc_now())
        self._bridge.follow(self._build(name, part), part)

    async def _stop_reading(self, name: SourceName) -> None:
        if name in self._bridge.board.sources:
            await self._bridge.give_up(name)
        if self._inbound is not None and name not in self._names:
            self._inbound.let_go(name)

    async def _stop_in_turn(self, name: SourceName) -> None:
        """Do the same with one that may be lost at any moment, which is another reason to stop."""
        self._begin_ending(name, self._stop_reading(name))
        ending = self._ending[name]
        await asyncio.wait([ending])
        if self._ending.get(name) is ending:
            del self._ending[name]
        ending.result()

    def _let_leave(self) -> None:
        for name in list(self._leaving):
            if not self._store.waiting(name):
                self._leaving.discard(name)
                self._begin_ending(name, self._give_back(name, None))

    def _give_gifts(self, view: View) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._gave_at < GIVING_SECONDS:
            return
        to, names = choose_gifts(self._store.life, view.peers, self._movable(), len(self._servable))
        for name in names:
            self._gave_at = now
            self._ours.discard(name)
            self._begin_ending(name, self._give_back(name, to))

    def _movable(self) -> Sequence[SourceName]:
        """Return what can be given away with little ado: nothing of it waits, and it is in no walk."""
        parts: Mapping[str, SourceStatus] = self._bridge.board.sources
        return [
            name
            for name in self._ours & self._names
            if name in parts and parts[name].walk is None and not self._store.waiting(name)
        ]

    # ------------------------------------------------------------------ how one ends

    async def _give_back(self, name: SourceName, kept_for: str | None) -> None:
        losses = self._losses
        await self._stop_reading(name)
        is_quiet = False
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS):
                is_quiet = await self._bridge.sinks.withdraw(name)
        if not is_quiet:
            if self._losses == losses:  # otherwise it is not ours to keep any more
                self._take_up([name])
            return
        await self._offload(self._store.give_back, name, kept_for)
        self._bridge.sinks.forget([name])
        log.info("source.given_back", source=name, kept_for=kept_for)

    def _drop_all(self, reason: BridgeError) -> None:
        """Read and send nothing any more, at once: whatever was begun finds out that it is not ours."""
        names = list({*self._ours, *self._leaving, *self._ending})
        self._losses += 1
        self._ours.clear()
        self._leaving.clear()
        losing = asyncio.ensure_future(self._offload(self._store.lose, names))  # before the outbox is asked again
        self._bridge.sinks.abandon(reason)
        for name in names:
            self._begin_ending(name, self._lose(name, losing))

    async def _lose(self, name: SourceName, losing: Awaitable[None]) -> None:
        await self._stop_reading(name)
        await losing

    def _begin_ending(self, name: SourceName, ending: Awaitable[None]) -> None:
        before = self._ending.get(name)

        async def end() -> None:
            if before is not None:
                await asyncio.wait([before])
            await ending

        self._ending[name] = asyncio.create_task(end(), name=f"end {name}")

    async def _take_news(self) -> None:
        """Look what became of what is ended beside this; a failure that is no loss of a lease is raised."""
        for name, task in list(self._ending.items()):
            if task.done():
                del self._ending[name]
                with suppress(LeaseLost):
                    task.result()

    async def _all_ended(self) -> None:
        if self._ending:
            await asyncio.wait(self._ending.values())
        self._ending.clear()

    @property
    def _offload(self) -> Callable[..., Awaitable]:  # type: ignore[type-arg]  # that of the bridge
        return self._bridge.offload


def _not_alive(problem: BridgeError, pause_seconds: float) -> None:
    log.warning("bridge.does_not_live", problem=str(problem), again_in_seconds=round(pause_seconds, 1))
