"""Runs the parts and stops them: PBXs being followed, the sinks of the outbox, and housekeeping."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

from bridge.clock import utc_now
from bridge.delivery.leaving import Retired, retire
from bridge.delivery.sink import Publisher
from bridge.errors import LeaseLost, PbxUnreachable
from bridge.events.normalize import account_key
from bridge.logs import get_logger
from bridge.model import AccountGuid, OutboxRow, SourceName
from bridge.observability.component_status import Level
from bridge.observability.source_status import SourceStatus
from bridge.observability.status import BridgeStatus
from bridge.pbx.turnstile import Turnstile
from bridge.runtime.committer import Committed
from bridge.runtime.interpreter import give_memory_back, tune
from bridge.runtime.options import Options
from bridge.runtime.outbox_monitor import OutboxMonitor
from bridge.runtime.retry import again_when_lost
from bridge.runtime.row_budget import RowBudget
from bridge.runtime.sinks import ReadLog, Sinks, StreamSink
from bridge.runtime.source_worker import SourceSpec, SourceWorker, reading, restore_status, restore_worker, show_pause
from bridge.store.contract import OperatorStore
from bridge.store.records import Admission, Forgotten, InboundPbx, Newcomers, Parked, Pause
from bridge.store.sqlite.erasure import AGAIN_SECONDS, READER_TRIES, still_read
from bridge.store.thread import StoreThread

PRUNE_ROWS: Final = 500
PRUNE_SECONDS: Final = 60.0
WALK_CHECK_SECONDS: Final = 5.0
DISK_CHECK_SECONDS: Final = 1.0

STORE_STUCK: Final = timedelta(minutes=1)
"""The store is asked something every second; an answer may take as long as a backup that holds the file."""

HOUSEKEEPING_STUCK: Final = timedelta(minutes=10)
SHARING_STUCK: Final = timedelta(minutes=2)

WAITS_FOR_PROOF: Final = "waiting for the broker: its log has to be compared with the store"
"""What a PBX does that is not read yet."""

APART_SECONDS: Final = 0.01
"""Between dialling one PBX for the first time and the next: a thousand logins at once cost 13 KB of memory each for
ever, and the time of those that are read."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told what happens."""

    on_committed: Callable[[Committed], None] = lambda _told: None
    """What became durable."""
    on_published: Callable[[Sequence[OutboxRow]], None] = lambda _rows: None
    """What the exchange confirmed."""


@dataclass(frozen=True, slots=True)
class BrokerSide:
    """What there is at the broker."""

    publisher: Publisher
    """To the exchange."""
    stream: StreamSink | None = None
    """The log, where the bridge writes it."""
    read_log: ReadLog | None = None
    look_after: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Watches queues that somebody may delete."""
    dialled: dict[SourceName, None] = field(default_factory=dict)
    """The PBXs that we dial, as of now: their fences are taken as soon as a session begins. Kept up to date here."""
    may_send: Callable[[], bool] = lambda: True
    """False while other bridges may have what is ours."""


class Sharing(Protocol):
    """What takes up and gives up PBXs where several bridges share them."""

    async def keep_sharing(self) -> None:
        """Look at the database for ever, and follow what is ours."""

    async def keep_watch(self) -> None:
        """Say that the bridge works, and have it stop as soon as others may have what is ours."""

    async def configure(
        self,
        names: Collection[SourceName],
        changed: Collection[str],
        build: Callable[[SourceName, SourceStatus], SourceSpec],
    ) -> None:
        """Go on with these PBXs, of which those *changed* are connected anew; let go of what is not among them."""

    async def end(self) -> None:
        """Give everything back, once nothing is read and sent any more."""


class Bridge:
    """Everything running: reads all PBXs, relays the outbox, prunes, and keeps the board."""

    def __init__(  # noqa: PLR0913 - its parts
        self,
        store: OperatorStore,
        pbxs: Sequence[SourceSpec],
        broker: BrokerSide,
        options: Options,
        *,
        board: BridgeStatus,
        hooks: Hooks = Hooks(),
        turnstile: Turnstile | None = None,
        is_shared: bool = False,
    ) -> None:
        self.board = board
        self.sharing: Sharing | None = None
        """Where several bridges share the PBXs; set before it runs."""
        self.turnstile = turnstile or Turnstile()
        """Where PBXs wait for their turn to be read as a whole."""
        self._store = store
        self._pbxs = {pbx.name: pbx for pbx in pbxs}
        self._dialled = broker.dialled
        self._dialled.update(dict.fromkeys(self._pbxs))
        self._leaving: set[SourceName] = set()
        """PBXs that are followed no more, and of which not everything is sent yet."""
        self._arriving: set[SourceName] = set()
        """PBXs that were added, and for which another bridge may have published meanwhile, as the log tells."""
        self._looking = asyncio.Lock()
        self._is_compared = False
        """True once the log was compared with the store."""
        self._readers: dict[SourceName, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        """What readers run in, while the bridge does."""
        self._is_stopping = False
        self._sharing_tasks: list[asyncio.Task[None]] = []
        self._next_start = float("-inf")
        """When the next PBX may be dialled for the first time, by the clock of the loop."""
        self._options = options
        self._on_committed = hooks.on_committed
        self._on_published = hooks.on_published
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._walk_check = asyncio.Event()
        self._followed: dict[SourceName, SourceWorker] = {}
        self._budget = RowBudget(options.max_rows_ahead)
        self._offload = self.offload = StoreThread()
        """Where the store is asked."""
        behind = None if broker.stream is None else broker.stream.outbox
        self._outbox_monitor = OutboxMonitor(board, store, self._offload, options.limits, self._has_room, behind)
        self._sinks = self.sinks = Sinks(
            store,
            broker.publisher,
            broker.stream,
            board=board,
            outbox_monitor=self._outbox_monitor,
            offload=self._offload,
            window=options.window,
            on_published=self._published,
            read_log=broker.read_log,
            look_after=broker.look_after,
            may_send=broker.may_send,
            is_ours=lambda name: is_shared or (name in self.board.sources and name not in self._arriving),
        )
        self._is_proven = False
        """True once PBXs are read, since the store is known to be the newest state of itself."""
        self._early_pauses: dict[SourceName, Pause | None] = {}
        """What operators decided about PBXs that were not followed yet."""
        self._early_walks: dict[SourceName, bool] = {}
        """Walks that operators wanted of such, and whether these may delete whatever they do not see."""

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop* is set, then commit what was read and wait for the confirms of what was sent.

        Raises:
            Fatal: nothing can be done by waiting; everything durable stays as it is.

        """
        tune()
        try:
            self.board.broker.last_progress_at = await self._offload(self._store.past.last_confirmed_at)
            await self._measure()
            for watched, limit in (("store", STORE_STUCK), ("prune", HOUSEKEEPING_STUCK)):
                self.board.watch(watched, limit)
            async with asyncio.TaskGroup() as group:
                self._group = group
                beginning = group.create_task(self._begin(group), name="begin")
                pruning = group.create_task(again_when_lost(self._keep_pruning), name="prune")
                walking = group.create_task(self._keep_walking(), name="walk")
                measuring = group.create_task(self._keep_measuring(), name="measure")
                for task in (pruning, walking, measuring):
                    self.board.expect(task.get_name(), task)
                await stop.wait()
                log.info("bridge.stopping")
                self._is_stopping = True
                self.board.expect_nothing()
                await self._stop_sharing()
                readers = list(self._readers.values())
                for task in (beginning, *readers, pruning, walking, measuring):
                    task.cancel()
                await self._sinks.wind_down()
                if self.sharing is not None:
                    if readers:
                        await asyncio.wait(readers)
                    await self.sharing.end()
                log.info("bridge.stopped")
        except ExceptionGroup as failures:
            raise _first(failures) from None
        finally:
            self._offload.close()

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        """Read, as soon as no number can be given twice, and send, once the log was compared."""
        renewed = await self._offload(self._why_renewed)  # a walk may have told everything until the broker is reached
        if self._store.is_proven:
            self._begin_reading()
        else:
            for name in list(self.board.sources):
                await self._show_waiting(SourceName(name))
        if await self._sinks.prove():
            log.warning("store.renewed", problem=await self._offload(self._why_renewed) or renewed)
            await self._show_renewed()
        self._is_compared = True
        self._begin_reading()
        self._sinks.start(group)
        if self.sharing is not None:
            self._begin_sharing(group, self.sharing)

    def _begin_sharing(self, group: asyncio.TaskGroup, sharing: Sharing) -> None:
        self.board.watch("share", SHARING_STUCK)
        for name, work in (("share", sharing.keep_sharing()), ("watch the lease", sharing.keep_watch())):
            task = group.create_task(work, name=name)
            self._sharing_tasks.append(task)
            self.board.expect(name, task)

    async def _stop_sharing(self) -> None:
        for task in self._sharing_tasks:
            task.cancel()
        if self._sharing_tasks:
            await asyncio.wait(self._sharing_tasks)

    def _why_renewed(self) -> str:
        return self._store.restored

    async def _show_renewed(self) -> None:
        """Show of which PBXs not everything is told anew yet."""
        why = await self._offload(self._why_renewed)
        for name in await self._offload(self._store.incomplete) & self.board.sources.keys():
            self.board.sources[name].begins_anew()
            self.board.sources[name].warned(f"A full walk has to end before all is told: {why}.")

    async def _show_waiting(self, name: SourceName) -> None:
        """Show what the store knows of a PBX that is not read yet."""
        if (part := self.board.sources.get(name)) is None:
            return  # it was removed meanwhile
        pause, _ = await restore_status(name, part, self._store, offload=self._offload)
        if not self._is_proven:
            part.set_doing(WAITS_FOR_PROOF, Level.WARN, utc_now())
            show_pause(part, self._early_pauses.get(name, pause))

    def _begin_reading(self) -> None:
        if not self._is_proven:
            self._is_proven = True
            self._start_reading(self._pbxs.values())

    async def _follow(self, pbx: SourceSpec, first_pause_seconds: float) -> None:
        try:
            await self._follow_while_ours(pbx, first_pause_seconds)
        except LeaseLost as problem:  # before there was anything to be tried again
            log.info("source.lost", source=pbx.name, problem=str(problem))

    async def _follow_while_ours(self, pbx: SourceSpec, first_pause_seconds: float) -> None:
        await asyncio.sleep(first_pause_seconds)
        if pbx.name in self._arriving:
            await self._look_for(pbx.name)
        followed = self._followed[pbx.name] = await restore_worker(
            pbx,
            self._store,
            offload=self._offload,
            board=self.board,
            has_room=self._has_room,
            rules=self._options.rules,
            deletion_limit=self._options.deletion_limit,
            habits=self._options.habits,
            on_committed=self._told,
            on_keeping=partial(self._sinks.wake, pbx.name),
            budget=self._budget,
        )
        if pbx.name in self._early_pauses:
            followed.hold(self._early_pauses.pop(pbx.name))
        if pbx.name in self._early_walks:
            followed.resync(accept_deletions=self._early_walks.pop(pbx.name))
        await followed.follow()

    async def _look_for(self, name: SourceName) -> None:
        """See in the log whether another bridge published for a PBX that was added: it is told anew then."""
        self.board.sources[name].set_doing(WAITS_FOR_PROOF, Level.WARN, utc_now())
        async with self._looking:
            asked = frozenset(self._arriving)
            if name in asked:  # or one look was for many
                await self._sinks.look()
                self._arriving -= asked

    async def register_inbound(self, caller: InboundPbx, newcomers: Newcomers) -> Admission:
        """Take note that a PBX has logged in, and return whether it may be let in; a new one may have to wait.

        Raises:
            PbxUnreachable: the bridge is stopping.
            StoreUnusable: the store cannot be written.

        """
        if self._is_stopping:
            raise PbxUnreachable("the bridge is stopping")
        meeting = await self._offload(self._store.book.register_inbound, caller, utc_now(), newcomers)
        if meeting is Admission.WAITS and self.board.listener is not None:
            self.board.listener.expect(caller)
        return meeting

    async def oddity(self, name: SourceName) -> str:
        """Return what is odd about a PBX that dialled, as a sentence; empty where nothing is."""
        return await self._offload(self._store.book.oddity, name)

    async def callers(self, since: datetime) -> Sequence[InboundPbx]:
        """Return the PBXs that have dialled *since* then."""
        return await self._offload(self._store.book.known, since)

    async def admit(self, name: SourceName) -> bool:
        """Say yes to a new PBX that waits, or to what is odd about a known one; False where there is none like that."""
        waiting = {} if self.board.listener is None else self.board.listener.waiting
        if name in waiting:
            is_admitted = await self._offload(self._store.book.admit, waiting[name], utc_now())
            waiting.pop(name, None)
        else:
            is_admitted = await self._offload(self._store.book.acknowledge, name)
            if name in self.board.sources:
                self.board.sources[name].oddity = ""
        log.info("listen.admitted", source=name, is_admitted=is_admitted)
        return is_admitted

    def follow(self, pbx: SourceSpec, part: SourceStatus, *, is_added: bool = False) -> None:
        """Follow one more PBX from now on, or from the start if the bridge does not run yet; *part* is its place.

        One that *is_added* another bridge may have followed until now.
        """
        if is_added and self._is_compared:
            self._arriving.add(pbx.name)
        self.board.sources[pbx.name] = part
        self._pbxs[pbx.name] = pbx
        self._leaving.discard(pbx.name)
        self._sinks.hold_on(pbx.name)
        if self._is_stopping:
            return
        if self._is_proven:
            self._outbox_monitor.count_of(pbx.name)  # of a time when it was followed before
            self._start_reading([pbx])
        elif self._group is not None:
            self._group.create_task(self._show_waiting(pbx.name), name=f"show {pbx.name}")

    async def give_up(self, name: SourceName) -> None:
        """Read a PBX no more, once all that was read of it is durable; what waits is for another bridge to send."""
        await self.unfollow(name)
        self._leaving.discard(name)

    async def unfollow(self, name: SourceName) -> SourceStatus:
        """Read a PBX no more, once all that was read of it is durable, and return its place.

        What waits of it is still sent, its rows stay in the store, and once everything is sent another bridge may
        publish for it.
        """
        reader = self._readers.pop(name, None)
        self.board.forget_task(reading(name))
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
            self.board.forget_task(reading(name))  # it may just have begun
        for known in (self._pbxs, self._followed, self._early_pauses, self._early_walks):
            known.pop(name, None)
        self._leaving.add(name)
        self._arriving.discard(name)
        return self.board.sources.pop(name)

    @property
    def dialled(self) -> Collection[SourceName]:
        """The PBXs that we dial, as of now: one that dials us cannot have their names."""
        return self._dialled.keys()

    @dialled.setter
    def dialled(self, names: Collection[SourceName]) -> None:
        self._dialled.clear()  # who keeps an eye on it has the same one
        self._dialled.update(dict.fromkeys(names))

    @property
    def key(self) -> bytes:
        """Secret of the store, for digests and masks."""
        return self._store.key

    @property
    def is_stopping(self) -> bool:
        """True from when a stop was asked for."""
        return self._is_stopping

    async def _let_go(self) -> None:
        """Let somebody else publish for PBXs that are followed no more, as soon as everything of them is sent."""
        for name in await self._offload(self._store.leavers.sent, frozenset(self._leaving)):
            if name in self._leaving:
                self._leaving.discard(name)
                self._sinks.let_go(name)

    def beat(self, name: SourceName) -> None:
        """Record that the reading of a PBX is alive, although there may be nothing to read."""
        self.board.beat(reading(name))

    def _start_reading(self, pbxs: Iterable[SourceSpec]) -> None:
        if self._group is not None:
            now = asyncio.get_running_loop().time()
            for pbx in pbxs:
                self._next_start = max(now, self._next_start + APART_SECONDS)
                reader = self._group.create_task(self._follow(pbx, self._next_start - now), name=reading(pbx.name))
                self._readers[pbx.name] = reader
                self.board.expect(reading(pbx.name), reader)

    def resync(self, name: SourceName, *, accept_deletions: bool) -> bool:
        """Walk a PBX from its start as soon as it is reached; False where there is none of that name.

        With *accept_deletions* the accounts that this walk does not see may be deleted, however many they are.
        """
        if name not in self.board.sources:
            return False
        followed = self._followed.get(name)
        if followed is None:
            self._early_walks[name] = accept_deletions or self._early_walks.get(name, False)
        else:
            followed.resync(accept_deletions=accept_deletions)
            self._walk_check.set()
        return True

    async def walk(self, name: SourceName, *, accept_deletions: bool) -> bool:
        """Do the same, for who waits for an answer."""
        return self.resync(name, accept_deletions=accept_deletions)

    async def pause(self, name: SourceName, reason: str) -> bool:
        """Read a PBX no more until ``resume``, restarts included; False where there is none of that name."""
        if name not in self.board.sources:
            return False
        pause = Pause(utc_now(), reason)
        await self._offload(self._store.pause, name, pause)
        log.warning("source.paused", source=name, reason=reason)
        self._hold(name, pause)
        return True

    async def resume(self, name: SourceName) -> bool:
        """Read a PBX again; False where there is none of that name, or it was not paused."""
        if name not in self.board.sources or not await self._offload(self._store.resume, name):
            return False
        log.info("source.resumed", source=name)
        self._hold(name, None)
        return True

    def _hold(self, name: SourceName, pause: Pause | None) -> None:
        if name not in self.board.sources:
            return  # it was removed meanwhile; the store knows
        followed = self._followed.get(name)
        if followed is not None:
            followed.hold(pause)
        else:  # it is not read before the log was compared with the store
            self._early_pauses[name] = pause
            show_pause(self.board.sources[name], pause, otherwise="starting" if self._is_proven else WAITS_FOR_PROOF)

    async def parked(self) -> Sequence[Parked]:
        """Return the events that the broker refused for good, the oldest first."""
        return await self._offload(self._store.parked)

    async def forget(self, guid: AccountGuid) -> Forgotten:
        """Take the personal data of an account out of the store, unless events of it are to be sent yet.

        Raises:
            BridgeError: somebody reads the store all the time, so that the name is still in its write-ahead log.

        """
        done = await self._offload(partial(self._store.forget, account_key(guid), utc_now(), discard_unsent=False))
        for _ in range(READER_TRIES):
            if await self._offload(self._store.empty_write_ahead):
                break
            await asyncio.sleep(AGAIN_SECONDS)
        else:
            raise still_read()
        log.info("account.forgotten", accounts=done.accounts, events=done.events, unsent=done.unsent)
        return done

    async def retire(self, name: SourceName, *, tells_deletions: bool) -> Retired:
        """Let go of a PBX that is not followed, and return what became of it.

        Raises:
            BridgeError: there is none of that name, or it is followed.
            StoreUnusable: the store cannot be written.

        """
        call = partial(retire, self._store, name, list(self.board.sources), tells_deletions=tells_deletions)
        done = await self._offload(partial(call, now=utc_now()))
        log.warning("source.retired", source=name, deletions_told=done.told, is_gone=done.is_gone)
        await self.show_left()
        self._released()
        return done

    async def show_left(self) -> None:
        """Show what the store has of PBXs that are not followed."""
        followed = set(map(SourceName, self.board.sources))
        if (cluster := self.board.cluster) is not None:  # by other bridges, too
            followed |= {*self._dialled, *(SourceName(name) for name, bridge in cluster.holders.items() if bridge)}
        self.board.left = await self._offload(self._store.leavers.left, frozenset(followed))

    async def retry(self, position: int) -> bool:
        """Send a parked event once more, and return whether there was one at *position*."""
        is_found = await self._offload(self._store.unpark, position)
        self._released()
        return is_found

    async def discard(self, position: int, reason: str) -> bool:
        """Never send a parked event, and return whether there was one at *position*."""
        is_found = await self._offload(self._store.discard, position, reason, utc_now())
        if is_found:
            log.warning("event.discarded", position=position, reason=reason)
        self._released()
        return is_found

    def _released(self) -> None:
        self._outbox_monitor.doubt()
        self._outbox_monitor.count_all()
        self._sinks.wake_all()

    async def _keep_walking(self) -> None:
        was_used = False
        while True:
            now = utc_now().astimezone()
            for followed in self._followed.values():
                followed.walk_if_due(now)
            is_used = self.turnstile.inside > 0
            if is_used or was_used:
                give_memory_back()
            was_used = is_used
            self._walk_check.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WALK_CHECK_SECONDS):
                    await self._walk_check.wait()

    async def _keep_pruning(self) -> None:
        while True:
            while await self._offload(self._store.prune, utc_now() - self._options.keep, PRUNE_ROWS) == PRUNE_ROWS:
                continue
            await self.show_left()
            self.board.beat("prune")
            await asyncio.sleep(PRUNE_SECONDS)

    async def _keep_measuring(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            begun = now()
            await asyncio.sleep(DISK_CHECK_SECONDS)
            self.board.loop_lag_seconds = now() - begun - DISK_CHECK_SECONDS
            await self._measure()

    async def _measure(self) -> None:
        await self._outbox_monitor.measure(utc_now())
        if self._leaving:
            await self._let_go()
        self.board.beat("store")

    def _published(self, rows: Sequence[OutboxRow]) -> None:
        self._budget.told(row.source for row in rows)
        self._on_published(rows)

    def _told(self, told: Committed) -> None:
        self._outbox_monitor.told(told)
        self._on_committed(told)


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
