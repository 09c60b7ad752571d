"""A run: faults at random moments while accounts change without a pause, then peace, then the count."""

import asyncio
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bridge.config.tables import RabbitMqTable
from bridge.model import Sink, SourceName
from bridge.simulator.directory import NoSuchAccount
from bridge.simulator.pbx import Pbx
from tests.chaos.appliers import Applier
from tests.chaos.counting import History, Result, count, differing, final_revisions, missing
from tests.chaos.errors import StandstillError
from tests.chaos.faults import OF_A_BRIDGE, OF_A_DATABASE, TO_A_PBX, Fault, Kind, Link, plan
from tests.chaos.readers import Reader
from tests.chaos.servers import Servers
from tests.chaos.site import ANSWER_SECONDS, HEARTBEAT_SECONDS, SOURCE, Site, built

DEADLINE_SECONDS = 180.0
"""From a fault that is over until changes arrive again. The bridge waits 15 s at most between two attempts; where the
machine is busy, a log of thousands takes it 20 s, and a list of a thousand accounts a minute."""

QUIET_SECONDS = 20.0
"""Without a delivery while nobody disturbs anything: longer than any pause of the bridge."""

MOST_NAMED = 5
LOOK_SECONDS = 0.01
REPORT_SECONDS = 10.0
EFFECTS_SECONDS = 0.2
LONGEST_LAG = 3000
"""Changes that a consumer may be behind before a fault waits for it."""

LONGEST_ROUND_SECONDS = 1.0
"""Until the fault of a round comes, however many of its changes have arrived."""

NODE_START_SECONDS = 3.0
"""About as long as a broker takes to start."""

MOST_RELOADS = 5
RELOAD_SECONDS = 0.2
"""Between two of them, on average."""

WALK_BESIDE_CHANGES_SECONDS = 10.0
"""A bridge with little of the machine, one row at a time, never comes to the end of a list that changes as fast."""

MOST_REDIALS = 5
REDIALS_SECONDS = 0.5
"""The same of the PBX that dials."""

MOST_HOURS_OFF = 12
LONGEST_WITHOUT_SECONDS = 8.0
"""A connection to the database: longer than a lease."""

ASK_AHEAD = (1, 7, 64, 256)

BURST = 100
TRICKLE_SECONDS = 0.03

LATENCY_SECONDS = (0.0, 0.002, 0.02)
"""Of the way to the broker, one of them for each round: over a longer way more is in flight when the fault comes."""


@dataclass(frozen=True)
class Wish:
    """What to do."""

    bridge_kills: int
    broker_kills: int
    seed: int
    changes: int
    queues: Sequence[str]
    also: str | None = None
    is_log_native: bool = False
    is_store_a_database: bool = False
    at_least: Mapping[Kind, int] | None = None
    is_alone: bool = False
    bridges: int = 1
    is_standby_synchronous: bool = True


class Run:
    """One run at one site."""

    def __init__(self, wish: Wish, site: Site) -> None:
        self._wish = wish
        self._site = site
        self._chance = random.Random(f"run {wish.seed}")  # noqa: S311 - moments, no secrets
        self._faults: list[Fault] = []
        self._due = 0
        """Edits to be made as soon as possible; one now and then is made anyway."""
        self._began = time.monotonic()
        self._seconds: dict[Kind, float] = defaultdict(float)
        self._differing: dict[str, Sequence[str]] = {}
        self._found_by_walks = 0
        self._taken_over: dict[Kind, list[float]] = defaultdict(list)
        """Seconds until another bridge had the PBX, where there are several."""
        self._is_changing = asyncio.Event()
        self._is_changing.set()

    async def go(self) -> tuple[Result, list[str]]:
        """Do everything that was wished, and return the count and what else was broken.

        Raises:
            StandstillError: the bridge did not come back.
            CannotRunError: something else did not.

        """
        faults = plan(
            bridge_kills=self._wish.bridge_kills,
            broker_kills=self._wish.broker_kills,
            seed=self._wish.seed,
            links=list(self._site.links),
            at_least=self._wish.at_least,
            is_alone=self._wish.is_alone,
            is_shared=self._site.is_shared,
        )
        async with (
            aside(self._keep_changing()) as changing,
            aside(self._keep_reading()),
            aside(self._keep_reporting(sum(1 + fault.with_bridge for fault in faults))),
        ):
            await self._progress()
            for number, fault in enumerate(faults):
                began = time.monotonic()
                await self._until_the_moment(len(faults) - number)
                await self._disturb(fault)
                await self._progress()
                self._seconds[fault.kind] += time.monotonic() - began
            await self._enough_changes()
            changing.cancel()
            broken = await self._peace()
        for applier in self._site.appliers:
            applier.read_on()
        self._say_what_took_long()
        histories = self._histories()
        for history in histories:
            if history.differing:
                say(f"{history.name}: not as the PBX has them: {', '.join(history.differing[:MOST_NAMED])}")
        result = count(histories, self._faults, window=RabbitMqTable().window)
        result.deletions_found_by_walks = self._found_by_walks
        for words in missing(histories):
            say(words)
        return result, broken

    # What happens meanwhile

    def _done(self, kind: Kind) -> int:
        return sum(fault.kind is kind for fault in self._faults)

    def _say_what_took_long(self) -> None:
        each = [f"{kind} {seconds / self._done(kind):.1f}" for kind, seconds in sorted(self._seconds.items())]
        say(f"seconds for each: {', '.join(each)}")
        if self._site.restarts:
            say(f"bridges that asked to be started again, and were: {self._site.restarts}")
        for kind, seconds in sorted(self._taken_over.items()):
            say(
                f"taken over after {kind}: {median(seconds):.2f} s, at most {max(seconds):.2f} s ({len(seconds)} times)"
            )

    async def _keep_changing(self) -> None:
        """Edit accounts in bursts while edits are due, and otherwise one at a time, so that there is always news."""
        while True:
            await self._is_changing.wait()
            burst = min(self._due, self._chance.randint(1, BURST))
            self._due -= burst
            for _ in range(burst or 1):
                self._chance.choice([*self._site.pbxs.values()]).random_mutation()
            await asyncio.sleep(self._chance.uniform(0, TRICKLE_SECONDS) if burst else TRICKLE_SECONDS)

    async def _keep_reading(self) -> None:
        while True:
            for applier in self._site.appliers:
                applier.read_on()
            await asyncio.sleep(EFFECTS_SECONDS)

    async def _keep_reporting(self, planned: int) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            say(
                f"{time.monotonic() - self._began:.0f} s: {len(self._faults)} of {planned} faults, "
                f"{self._done(Kind.BRIDGE_SIGKILL)} bridge kills, {self._done(Kind.BROKER_KILL)} broker kills, "
                f"{self._changes} changes, consumers at most {max(self._lags(), default=0)} behind"
            )

    # What is waited for

    @property
    def _changes(self) -> int:
        return max((reader.distinct for reader in self._site.readers), default=0)

    def _lags(self) -> list[int]:
        return [self._changes - len(applier.distinct) for applier in self._site.appliers]

    async def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until *is_so*.

        Raises:
            StandstillError: that took too long, or the bridge or a consumer of ours ended by itself.

        """
        until = time.monotonic() + DEADLINE_SECONDS
        while not is_so():
            self._site.check()
            if time.monotonic() > until:
                last = (
                    f"after the fault {self._faults[-1]} (number {len(self._faults)})" if self._faults else "at first"
                )
                raise StandstillError(f"{what} within {DEADLINE_SECONDS:g} s {last}.")
            await asyncio.sleep(LOOK_SECONDS)

    async def _progress(self, sources: Sequence[SourceName] = ()) -> None:
        """Wait until every reader has a change that is made from now on at each PBX, or at that of each of *sources*.

        Rows are published in order: whatever is published again after a fault has then come.
        """
        await self._to_the_end(self._told(sources or [*self._site.pbxs]))
        await self._wait(lambda: max(self._lags(), default=0) < LONGEST_LAG, "A consumer with an inbox fell behind")

    async def _told(self, sources: Sequence[SourceName]) -> None:
        for name, new in [(name, NewAccount(self._site.pbxs[name])) for name in sources]:
            await self._wait(partial(new.is_told, self._site.readers), f"No new change of {name} reached every queue")

    async def _to_the_end(self, reading: Coroutine[Any, Any, None]) -> None:
        """Wait for what has lists read to their end, and change nothing more where that takes long."""
        task = asyncio.create_task(reading)
        await asyncio.wait([task], timeout=WALK_BESIDE_CHANGES_SECONDS)
        if not task.done():
            self._is_changing.clear()
        try:
            await task
        finally:
            self._is_changing.set()

    async def _until_the_moment(self, rounds_left: int) -> None:
        """Make this round's share of changes, more or less, and wait until some part of them has arrived."""
        self._site.links[Link.BROKER].delay(self._chance.choice(LATENCY_SECONDS))
        share = max(0, self._wish.changes - self._changes) / rounds_left
        edits = round(share * self._chance.expovariate(1))
        self._due += edits
        goal, until = self._changes + self._chance.randint(0, edits), time.monotonic() + LONGEST_ROUND_SECONDS
        await self._wait(lambda: self._changes >= goal or time.monotonic() > until, "The PBX was not read")

    async def _enough_changes(self) -> None:
        while self._changes < self._wish.changes:
            self._due += self._wish.changes - self._changes
            await self._wait(lambda: not self._due, "The PBX was not read")
            await self._progress()

    # Faults

    async def _disturb(self, fault: Fault) -> None:
        self._note(fault)
        match fault.kind:
            case _ if fault.kind in OF_A_BRIDGE and self._site.is_shared:
                await self._disturb_holder(fault.kind)
            case Kind.BRIDGE_SIGKILL:
                await asyncio.to_thread(self._site.end_bridge, is_killed=True)
                self._site.start_bridge()
            case Kind.BRIDGE_SIGTERM:
                await self._stop_bridge()
                self._site.start_bridge()
            case Kind.BRIDGE_SIGSTOP:
                self._site.bridge.pause()
                await asyncio.sleep(self._chance.uniform(0.1, HEARTBEAT_SECONDS / 2))
                self._site.bridge.go_on()
            case Kind.BROKER_KILL:
                await asyncio.to_thread(self._site.broker.kill)
                starting = asyncio.create_task(asyncio.to_thread(self._site.broker.start))
                if fault.with_bridge:
                    await asyncio.wait([starting], timeout=self._chance.uniform(0, NODE_START_SECONDS))
                    self._note(Fault(Kind.BRIDGE_SIGKILL))
                    await asyncio.to_thread(self._site.end_bridge, is_killed=True)
                    if self._chance.random() < 1 / 2:
                        await starting
                    self._site.start_bridge()
                await starting
            case Kind.BROKER_ALARM:
                await asyncio.to_thread(self._site.broker.alarm)
                await asyncio.sleep(self._chance.uniform(0, 1))
                await asyncio.to_thread(self._site.broker.end_alarm)
            case _ if fault.link is not None:
                await self._disturb_link(fault)
            case _:
                await self._disturb_others(fault.kind)
        self._site.links[Link.BROKER].delay(0)

    async def _disturb_holder(self, kind: Kind) -> None:
        """End or freeze the bridge that has the PBX, and take the time until another one has it; then it is back."""
        await self._wait(lambda: self._site.holder is not None, "No bridge has the PBX")
        bridge, began = self._site.bridge, time.monotonic()
        if kind is Kind.BRIDGE_SIGSTOP:
            bridge.pause()
        elif kind is Kind.BRIDGE_SIGTERM:
            ending = asyncio.create_task(self._stop_bridge())
        else:
            await asyncio.to_thread(self._site.end_bridge, is_killed=True)
        await self._wait(lambda: self._site.holder not in {None, bridge.number}, "No other bridge has the PBX")
        self._taken_over[kind].append(time.monotonic() - began)
        if kind is Kind.BRIDGE_SIGSTOP:
            await self._progress(
                [SourceName(SOURCE)]
            )  # the other PBX may hold its connection to that bridge to be good
            bridge.go_on()
        elif kind is Kind.BRIDGE_SIGTERM:
            await ending
        self._site.start_bridge()

    async def _reload(self) -> None:
        """Take the PBX out of the configuration and put it back, or change it, a few times within a second or so."""
        await self._wait(lambda: bool(self._site.bridge.logs("source.starting")), "The bridge does not read")
        for _ in range(self._chance.randint(1, MOST_RELOADS)):
            if self._chance.random() < 2 / 3:
                self._site.configure(None)
                self._site.hang_up()
                await asyncio.sleep(self._chance.expovariate(1 / RELOAD_SECONDS))
            self._site.configure(self._chance.choice(ASK_AHEAD))
            self._site.hang_up()
            await asyncio.sleep(self._chance.expovariate(1 / RELOAD_SECONDS))

    async def _redial(self) -> None:
        """Have the PBX dial anew, a few times; the bridge it leaves may not hear of that."""
        link = self._site.links[Link.DIALLED]
        for _ in range(self._chance.randint(1, MOST_REDIALS)):
            if self._chance.random() < 1 / 2:
                link.half_open("far")
            else:
                link.reset()
            await asyncio.sleep(self._chance.expovariate(1 / REDIALS_SECONDS))

    async def _disturb_others(self, kind: Kind) -> None:
        """Do what happens neither to the bridge nor to a connection of its own."""
        match kind:
            case Kind.CONSUMER_KILL:
                await self._kill_consumer()
            case Kind.RELOAD:
                await self._reload()
            case Kind.STORE_SET_BACK | Kind.STORE_LOST:
                await self._replace_store(kind)
            case Kind.BROKER_EMPTIED:
                await self._empty_broker()
            case _ if kind in OF_A_DATABASE:
                await self._disturb_database(kind)
            case Kind.PBX_REDIALS:
                await self._redial()
            case Kind.CLOCK_OFF:
                self._site.set_clock(self._chance.uniform(-1, 1) * MOST_HOURS_OFF * 3600)
            case Kind.BRIDGE_ADDED:
                await self._add_or_remove_bridge()
            case _:
                await self._turn_back_pbx(kind)

    def _note(self, fault: Fault) -> None:
        self._faults.append(fault)
        self._site.faults = len(self._faults)

    async def _stop_bridge(self) -> None:
        bridge = self._site.bridge
        code = await asyncio.to_thread(self._site.end_bridge, is_killed=False)
        if code:
            raise StandstillError(f"the bridge ended with exit code {code} after SIGTERM: {bridge.err[-1:]}")

    async def _add_or_remove_bridge(self) -> None:
        is_there = self._site.has_one_more
        if not is_there:
            self._site.add_bridge()
        await self._wait(lambda: self._site.is_begun, "The bridge that was added does not begin")
        if is_there and (code := await asyncio.to_thread(self._site.remove_bridge)):
            raise StandstillError(f"the bridge that was added ended with exit code {code} after SIGTERM")

    async def _stop_all(self) -> None:
        await self._wait(lambda: self._site.is_begun, "A bridge does not begin")  # before, SIGTERM just ends it
        while self._site.is_running:
            await self._stop_bridge()

    async def _replace_store(self, kind: Kind) -> None:
        """Kill the bridge, put an older copy in the place of its store, or nothing, and start it again."""
        copy = await asyncio.to_thread(self._site.copy_store) if kind is Kind.STORE_SET_BACK else None
        if copy is not None:
            await self._progress()
        await asyncio.to_thread(self._site.end_bridges, is_killed=True)
        gone = max((await asyncio.to_thread(self._site.waiting_in_store)).values())
        await asyncio.to_thread(self._site.replace_store, copy)
        unsent = 0 if copy is None else (await asyncio.to_thread(self._site.waiting_in_store))[Sink.EXCHANGE]
        self._faults[-1] = replace(self._faults[-1], unsent=unsent, gone=gone)
        self._site.start_bridge()

    async def _empty_broker(self) -> None:
        """Let consumers come to the end, and then the broker forget everything that it has ever known."""
        self._is_changing.clear()
        try:
            await self._calm()
            until = time.monotonic() + DEADLINE_SECONDS
            while await self._site.waiting() or any(self._lags()):
                if time.monotonic() > until:
                    raise StandstillError(f"The queues were not read to their end within {DEADLINE_SECONDS:g} s.")
                await asyncio.sleep(LOOK_SECONDS)
            await self._site.empty_broker()
        finally:
            self._is_changing.set()

    async def _turn_back_pbx(self, kind: Kind) -> None:
        """Set the machine of the PBX back, or let its other node take over as that was; then have it walked.

        A walk comes by itself as well, but not more than once an hour for this reason.
        """
        pbx = self._site.pbx
        if kind is Kind.PBX_SET_BACK:
            snapshot = pbx.take_snapshot()
            self._due += BURST
            await self._wait(lambda: not self._due, "The PBX was not read")
            pbx.vm_rollback(snapshot)
        elif pbx.has_standby:
            pbx.fail_back_as_it_was()
        else:
            pbx.failover_to_standby()
        await self._to_the_end(asyncio.to_thread(self._site.walk))

    async def _kill_consumer(self) -> None:
        applier = self._chance.choice(self._site.appliers)
        await self._wait(lambda: bool(applier.since_start), f"The consumer {applier.name} applied nothing")
        await asyncio.to_thread(applier.kill)
        applier.read_on()
        applier.start()

    async def _disturb_database(self, kind: Kind) -> None:
        servers = self._site.database
        assert servers is not None
        match kind:
            case Kind.DATABASE_CUT:
                await asyncio.to_thread(servers.primary.cut_all)
            case Kind.DATABASE_RESTART:
                await asyncio.to_thread(servers.primary.stop, self._chance.choice(["fast", "immediate"]))
                await asyncio.sleep(self._chance.uniform(0, 2))
                await asyncio.to_thread(servers.primary.start)
            case Kind.DATABASE_FAILOVER:
                await self._fail_over(servers)
            case Kind.CONNECTIONS_USED_UP:
                await asyncio.to_thread(servers.use_up, self._chance.uniform(0, LONGEST_WITHOUT_SECONDS))
            case Kind.OLD_SNAPSHOT:
                await asyncio.to_thread(servers.hold_snapshot)

    async def _fail_over(self, servers: Servers) -> None:
        """Have a standby take over; without the last commits where it is not synchronous, which ends all bridges."""
        await asyncio.to_thread(servers.stand_by)
        if servers.is_synchronous:
            await asyncio.sleep(self._chance.uniform(0, 1))
            await asyncio.to_thread(servers.fail_over)
            return
        await self._progress()
        running = self._site.pause_bridges()
        gone = max((await asyncio.to_thread(self._site.waiting_in_store)).values())
        await asyncio.to_thread(servers.fail_over)
        unsent = (await asyncio.to_thread(self._site.waiting_in_store))[Sink.EXCHANGE]
        self._faults[-1] = replace(self._faults[-1], unsent=unsent, gone=gone)
        self._site.let_bridges_go_on()
        until = time.monotonic() + DEADLINE_SECONDS
        while running > 0:
            running -= await asyncio.to_thread(self._site.start_ended)
            if time.monotonic() > until:
                raise StandstillError(f"{running} bridges did not see that commits of theirs are gone")
            await asyncio.sleep(LOOK_SECONDS)

    async def _disturb_link(self, fault: Fault) -> None:
        assert fault.link is not None
        link = self._site.links[fault.link]
        # What the bridge must notice by itself it is given the time for, but not for more than is needed.
        silence = 2 * ANSWER_SECONDS if fault.link in TO_A_PBX else 5 * HEARTBEAT_SECONDS
        match fault.kind:
            case Kind.CUT_MID_FRAME:
                cut = link.cut_mid_frame()
                await self._wait(cut.is_set, "Nothing was sent that could be cut")
            case Kind.BLACK_HOLE:
                link.black_hole()
                await link.until_given_up(self._chance.choice([0.5, silence]))
            case Kind.HALF_OPEN:
                link.half_open(self._chance.choice(["near", "far"]))
                await link.until_given_up(self._chance.choice([0.5, silence]))
            case Kind.DELAY:
                link.delay(self._chance.uniform(0.05, 0.3))
                await asyncio.sleep(self._chance.uniform(0.2, 1))
                link.delay(0)
        if fault.kind is not Kind.DELAY:
            link.reset()

    # The end

    async def _peace(self) -> list[str]:
        """Let everything arrive, end the bridge and empty the queues; what does not arrive in time is for the count.

        A PBX need not report a deletion to whoever reads its list from the start at that moment; two full walks find
        what it did not. Nothing else is left for them: whatever differs before them is lost.
        """
        await self._calm()
        truth = self._site.truth()
        self._differing = {reader.name: differing(reader.states, truth) for reader in self._site.readers}
        unreported = {guid for differs in self._differing.values() for guid in differs if guid not in truth}
        if unreported:
            say(f"{len(unreported)} deletions were not reported; two full walks look for them")
            for source in [*self._site.pbxs] * 2:
                await asyncio.to_thread(self._site.walk, source)
            await self._calm()
            self._found_by_walks = len(unreported)
        for reader in self._site.readers:
            healed = unreported - set(differing(reader.states, truth))
            self._differing[reader.name] = [guid for guid in self._differing[reader.name] if guid not in healed]
        await self._stop_all()
        until = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < until and (await self._site.waiting() or any(self._lags())):
            await asyncio.sleep(EFFECTS_SECONDS)
        left = await self._site.waiting()
        broken = [f"{left} messages are left in the queues."] if left else []
        return broken + [
            f"The PBX complains: {mistake}" for pbx in self._site.pbxs.values() for mistake in pbx.oracle.mistakes
        ]

    async def _calm(self) -> None:
        """Wait until every reader has the truth, or nothing has come for a while."""
        truth, last, since = self._site.truth(), -1, time.monotonic()
        while any(reader.states != truth for reader in self._site.readers):
            self._site.check()
            came = sum(len(reader.deliveries) for reader in self._site.readers)
            if came != last:
                last, since = came, time.monotonic()
            if time.monotonic() - since > QUIET_SECONDS:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _histories(self) -> list[History]:
        readers = self._site.readers
        return [
            *(
                History(
                    reader.name,
                    reader.deliveries,
                    may_repeat=reader.may_repeat,
                    differing=self._differing[reader.name],
                    is_of_log=not reader.may_repeat,
                )
                for reader in readers
            ),
            *(
                History(
                    applier.name,
                    applier.applied,
                    is_applied=True,
                    differing=self._applied_otherwise(applier),
                )
                for applier in self._site.appliers
            ),
        ]

    def _applied_otherwise(self, applier: Applier) -> Sequence[str]:
        """Return the accounts that do not stand where the PBX has them, by any rule that *applier* keeps."""
        truth, states = self._site.truth(), applier.states()
        if not states:  # it tells numbers only
            return differing(final_revisions(applier.applied), self._site.readers[0].revisions)
        return [f"{guid} by {rule}" for rule, final in states.items() for guid in differing(final, truth)]


class NewAccount:
    """An account that is made at *pbx*, for which readers can be waited; another one where somebody deletes it."""

    def __init__(self, pbx: Pbx) -> None:
        self._pbx = pbx
        self._guid = pbx.create()

    def is_told(self, readers: Sequence[Reader]) -> bool:
        """Tell whether each of *readers* has heard of it."""
        if all(self._guid in reader.revisions for reader in readers):
            return True
        try:
            self._pbx.record(self._guid)
        except NoSuchAccount:
            self._guid = self._pbx.create()
        return False


def say(words: str) -> None:
    """Tell people how it goes."""
    print(f"chaos: {words}", file=sys.stderr, flush=True)  # noqa: T201 - its output


@asynccontextmanager
async def aside(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Do *work* meanwhile; what it failed of is raised."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def chaos(wish: Wish, folder: Path) -> tuple[Result, list[str]]:
    """Build a site in *folder* and run there; raises what ``Run.go`` and ``built`` raise."""
    build = built(
        folder,
        seed=wish.seed,
        kinds=wish.queues,
        also=wish.also,
        is_log_native=wish.is_log_native,
        is_store_a_database=wish.is_store_a_database,
        is_standby_synchronous=wish.is_standby_synchronous,
        bridges=wish.bridges,
    )
    async with build as site:
        return await Run(wish, site).go()
