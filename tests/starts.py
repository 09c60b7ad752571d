"""Starts and stops of a bridge at random moments, in the midst of trouble: ``python -m tests.starts``.

Every start is a process of its own between a pretend PBX and a real broker, each behind a proxy. The disk is full or
fills up (a real file system of its own), the broker is away, accepts and says nothing, or is half-open from some chunk
or moment on, and so are the PBX and the port of the log; the PBX may also say a byte at a time. After nothing to three
seconds comes SIGTERM or SIGINT, now and then a second signal; where this machine lets us, some of the processes are the
first of their PID namespace, as in a container. Each has to end in its time, with an exit code and words that stand in
the README, and to leave a whole store. Where a store has seen its share of that, one more start without trouble has to
publish everything, in order and without a gap. What is wrong is printed as it is found; the exit code is 1 then.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any, Final

import aio_pika

from bridge.runtime.hard_end import HUNG, STOP_SECONDS
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.process import Command
from tests.support.proxy import Proxy
from tests.support.rabbit import PrivateBroker
from tests.support.site import PASSWORD
from tests.support.witness import bind

LATEST_SIGNAL_SECONDS: Final = 3.0
"""After the start; the bridge is loaded after one second, reads and publishes soon after."""

SLACK_SECONDS: Final = 4.0
"""More than the deadline: the watcher looks once a second, and the machine is busy."""

AT_ONCE_SECONDS: Final = 8.0
"""For an end at a second signal, on a busy machine."""

CALM_SECONDS: Final = 300.0
"""For everything to be published once the trouble is over, on a busy machine; the broker is tried again after 15."""

STARTS_OF_A_STORE: Final = 8
ACCOUNTS: Final = 300
DISK: Final = "64m"
NOWHERE: Final = 1
"""A port where nobody listens."""


class Trouble(StrEnum):
    """What may be wrong with a neighbour."""

    NONE = "well"
    AWAY = "away"
    SILENT = "accepts and says nothing"
    FROZEN = "takes some chunks and then nothing"
    FALLS_SILENT = "falls silent"
    HALF_OPEN = "half-open"
    DRIPPING = "a byte at a time"


class Disk(StrEnum):
    """The same of the disk."""

    WELL = "well"
    FULL = "full"
    FILLS_UP = "fills up"


@dataclass(frozen=True, slots=True)
class Plan:
    """One start: what is wrong, and when it is to end."""

    number: int
    broker: Trouble
    pbx: Trouble
    log: Trouble
    disk: Disk
    free_kb: int
    """Left on the full disk."""
    chunks: int
    """That pass before the frozen ones freeze."""
    trouble_seconds: float
    """When that begins which does so at a moment."""
    first: Signals
    signal_seconds: float
    is_late: bool
    """Counted from when the bridge is loaded, which may take long on a busy machine."""
    second: Signals | None
    second_seconds: float
    """After the first."""
    is_first: bool
    """The first process of its namespace, to which a signal without a handler does nothing."""

    def __str__(self) -> str:
        words = [f"broker {self.broker}", f"PBX {self.pbx}", f"log {self.log}", f"disk {self.disk}"]
        words += [f"{self.first.name} after {self.signal_seconds:.2f} s{' of work' * self.is_late}"]
        words += [f"{self.second.name} {self.second_seconds:.2f} s later"] if self.second is not None else []
        words += ["PID 1"] if self.is_first else []
        return f"start {self.number}: {', '.join(words)}"


def plan(number: int, seed: int, *, has_disk: bool, has_namespaces: bool) -> Plan:
    """Return the start of this number; the same for the same *seed*."""
    chance = random.Random(f"starts {seed} {number}")  # noqa: S311 - a plan, no secret
    well, every = [Trouble.NONE], list(Trouble)
    signals = [SIGTERM, SIGTERM, SIGINT]
    is_first = has_namespaces and chance.random() < 0.25
    return Plan(
        number=number,
        broker=chance.choice(well * 2 + every),
        pbx=chance.choice(well * 4 + every),
        log=chance.choice(well * 2 + every),
        disk=chance.choice([Disk.WELL, *Disk]) if has_disk else Disk.WELL,
        free_kb=chance.choice([0, 4, 16, 64, 256, 1024]),
        chunks=chance.randrange(60),
        trouble_seconds=chance.uniform(0, LATEST_SIGNAL_SECONDS),
        first=chance.choice(signals),
        signal_seconds=chance.uniform(0, LATEST_SIGNAL_SECONDS),
        is_late=chance.random() < 0.75 or is_first,  # before our first line it hears of no signal
        second=chance.choice(signals) if chance.random() < 0.25 else None,
        second_seconds=chance.uniform(0, 2),
        is_first=is_first,
    )


def may_mount() -> bool:
    """Return whether a disk of our own can be had here, which may be filled."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
        )
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


def may_unshare() -> bool:
    """Return whether a process may be the first of a PID namespace here."""
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(["unshare", "--pid", "--fork", "true"], check=False, capture_output=True).returncode
    )


@contextmanager
def disk_at(folder: Path, *, is_own: bool) -> Iterator[None]:
    """Make *folder*, as a disk of its own or not."""
    folder.mkdir()
    if is_own:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        if is_own:
            subprocess.run(["umount", str(folder)], check=True)


@dataclass
class Figures:
    """What came of it."""

    starts: int = 0
    seconds: list[float] = field(default_factory=list)
    """From the first signal to the end, of each that was running then."""
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """What should not be, in words; one with its output."""
    published: int = 0
    repeated: int = 0
    """Of those, delivered more than once."""
    stores: int = 0

    def summary(self) -> dict[str, Any]:
        waits = sorted(self.seconds)
        return {
            "starts": self.starts,
            "wrong": len(self.wrong),
            "exit_codes": dict(sorted(self.codes.items())),
            "seconds_from_signal_to_end": {
                name: round(waits[int(share * (len(waits) - 1))], 2)
                for name, share in (("median", 0.5), ("p95", 0.95), ("most", 1.0))
                if waits
            },
            "stores_whole_and_published": self.stores,
            "events": self.published,
            "delivered_again": self.repeated,
        }


class Place:
    """A store, the neighbours of its bridge, and proxies before them."""

    def __init__(self, folder: Path, broker: PrivateBroker, pbx: Pbx, proxies: dict[str, Proxy], name: str) -> None:
        self.folder = folder
        self.broker = broker
        self.pbx = pbx
        self.proxies = proxies
        self.exchange = f"pbx.accounts.{name}"
        self.queue = f"{self.exchange}.q"
        self.is_native = "log" in proxies
        self.made = 0
        """Changes of accounts."""

    @property
    def database(self) -> Path:
        return self.folder / "bridge.db"

    def environment(self, wrong: dict[str, Trouble]) -> dict[str, str]:
        ports = {
            name: NOWHERE if wrong.get(name) is Trouble.AWAY else proxy.port for name, proxy in self.proxies.items()
        }
        told = {
            "BRIDGE_PBX_NAME": "hq",
            "BRIDGE_PBX_URL": f"ws://127.0.0.1:{ports['pbx']}/PBX0/APPS/websocket",
            "BRIDGE_PBX_APP": "app",
            "BRIDGE_PBX_PASSWORD": PASSWORD,
            "BRIDGE_PBX_POLL_INTERVAL_SECONDS": "0.2",
            "BRIDGE_RABBITMQ_URL": f"amqp://guest:guest@127.0.0.1:{ports['broker']}/",
            "BRIDGE_RABBITMQ_EXCHANGE": self.exchange,
            "BRIDGE_STORE_URL": f"sqlite:///{self.database}",
            "BRIDGE_STORE_MIN_FREE_BYTES": "0",
            "BRIDGE_STATUS_PORT": "0",
        }
        if self.is_native:
            told["BRIDGE_RABBITMQ_STREAM_URL"] = f"rabbitmq-stream://guest:guest@127.0.0.1:{ports['log']}/"
        return told

    def change(self, count: int) -> None:
        """Have so many accounts renamed."""
        for _ in range(count):
            self.made += 1
            self.pbx.change_display_name(self.pbx.pick(), f"name {self.made}")

    def fill(self, free_kb: int) -> None:
        """Leave nothing of the disk but so much."""
        ballast = self.folder / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)) == 1 << 16:
                continue
        os.truncate(ballast, max(0, ballast.stat().st_size - (free_kb << 10)))

    def make_room(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def damage(self) -> str:
        """Return what is wrong with the store that was left behind, looked at as a copy; empty if nothing is."""
        if not self.database.exists():
            return ""
        with tempfile.TemporaryDirectory() as elsewhere:
            for suffix in ("", "-wal"):
                file = self.database.with_name(self.database.name + suffix)
                if file.exists():
                    shutil.copy(file, elsewhere)
            with closing(sqlite3.connect(Path(elsewhere) / self.database.name)) as copy:
                found = copy.execute("PRAGMA integrity_check").fetchone()[0]
        return "" if found == "ok" else str(found)


@asynccontextmanager
async def place_at(
    folder: Path, broker: PrivateBroker, *, name: str, is_native: bool, has_disk: bool
) -> AsyncIterator[Place]:
    pbx = Pbx(accounts=ACCOUNTS, app="app", password=PASSWORD)
    async with AsyncExitStack() as stack:
        stack.enter_context(disk_at(folder, is_own=has_disk))
        served = await stack.enter_async_context(serve(pbx))
        ports = {"broker": broker.port, "pbx": served.port} | ({"log": broker.stream_port} if is_native else {})
        proxies = {to: await stack.enter_async_context(Proxy(port)) for to, port in ports.items()}
        place = Place(folder, broker, pbx, proxies, name)
        await bind(broker, place.exchange, place.queue)
        yield place


async def one_start(place: Place, planned: Plan, figures: Figures) -> None:
    """Start the bridge, make trouble, stop it, and look at what it left behind."""
    wrong = {"broker": planned.broker, "pbx": planned.pbx, "log": planned.log}
    program: tuple[str, ...] = (sys.executable, "-m", "bridge")
    if planned.is_first:
        program = ("unshare", "--pid", "--fork", "--kill-child", *program)
    troubles = [begin(proxy, wrong[name], planned) for name, proxy in place.proxies.items()]
    place.change(random.Random(planned.number).randrange(40))  # noqa: S311 - no secret
    if planned.disk is Disk.FULL:
        await asyncio.to_thread(place.fill, planned.free_kb)
    if planned.disk is Disk.FILLS_UP:
        troubles.append(fills_up(place, planned))
    running = [asyncio.create_task(trouble) for trouble in troubles]
    began = time.monotonic()
    with Command("run", environment=place.environment(wrong), program=program) as bridge:
        try:
            await stopped(bridge, planned, began, figures)
        except AssertionError as found:
            words = f"{planned}: {found}"
            figures.wrong.append(words)
            print(f"WRONG: {words}\n{bridge.printed}\n", file=sys.stderr, flush=True)  # noqa: T201 - its output
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    for proxy in place.proxies.values():
        proxy.reset()
    place.make_room()
    if damage := await asyncio.to_thread(place.damage):
        figures.wrong.append(f"{planned}: {damage}")


def begin(proxy: Proxy, trouble: Trouble, planned: Plan) -> Coroutine[None, None, None]:
    """Return what makes this trouble."""
    at_once: dict[Trouble, Callable[[], None]] = {
        Trouble.SILENT: proxy.black_hole,
        Trouble.FROZEN: lambda: proxy.freeze_after(planned.chunks),
        Trouble.DRIPPING: lambda: proxy.drip(0.01),
    }
    at_a_moment: dict[Trouble, Callable[[], None]] = {
        Trouble.FALLS_SILENT: proxy.black_hole,
        Trouble.HALF_OPEN: lambda: proxy.half_open("near"),
    }
    if trouble in at_once:
        at_once[trouble]()
    return later(planned.trouble_seconds, at_a_moment.get(trouble, lambda: None))


async def later(seconds: float, call: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    call()


async def fills_up(place: Place, planned: Plan) -> None:
    await asyncio.sleep(planned.trouble_seconds)
    await asyncio.to_thread(place.fill, planned.free_kb)


async def stopped(bridge: Command, planned: Plan, began: float, figures: Figures) -> None:
    """Send the signals and wait for the end.

    Raises:
        AssertionError: with what is not as it should be.

    """
    figures.starts += 1
    process = bridge.number
    if planned.is_first:
        process = await asyncio.to_thread(first_child, bridge)
    while planned.is_late and bridge.is_running and not bridge.err:
        await asyncio.sleep(0.005)
    began = time.monotonic() if planned.is_late else began
    await ended(bridge, planned.signal_seconds - (time.monotonic() - began))
    signalled, deadline, is_asked = time.monotonic(), STOP_SECONDS + SLACK_SECONDS, bridge.is_running
    if is_asked:
        send(process, planned.first)
    is_asked_twice = False
    if planned.second is not None and is_asked and not await ended(bridge, planned.second_seconds):
        is_asked_twice = True
        send(process, planned.second)
        deadline = time.monotonic() - signalled + AT_ONCE_SECONDS
    if not await ended(bridge, deadline - (time.monotonic() - signalled)):
        raise AssertionError(f"not ended {time.monotonic() - signalled:.1f} s after the signal")
    took = time.monotonic() - signalled
    code = await asyncio.to_thread(bridge.wait)
    how = "by itself" if not is_asked else "at the second signal" if is_asked_twice else "at the signal"
    figures.codes[f"{code} {how}"] += 1
    if is_asked:
        figures.seconds.append(took)
    asked_by = [planned.first] * is_asked
    look(bridge, code, [*asked_by, planned.second] if is_asked_twice and planned.second else asked_by, planned)


def look(bridge: Command, code: int, signals: Sequence[Signals], planned: Plan) -> None:
    """Look at what a bridge that had these *signals* ended with.

    Raises:
        AssertionError: with what is not as it should be.

    """
    last = bridge.err[-1] if bridge.err else ""
    is_ours = bool(bridge.logs("."))  # otherwise only the interpreter was there yet
    assert "Traceback" not in bridge.printed or (not is_ours and last == "KeyboardInterrupt"), "a traceback"
    if code == 1:
        assert planned.disk is not Disk.WELL, "exit code 1"
        assert last.startswith("account-bridge: "), f"no sentence: {last!r}"
        assert "is full" in last or "Look at the disk" in last, f"not about the disk: {last!r}"
        return
    assert code != HUNG, "it hung"
    if code < 0 and (not is_ours or last.startswith("account-bridge: ") or bridge.logs("bridge.stopped")):
        code = 128 - code  # only the interpreter was there, not yet or no more we
    assert code in {128 + each for each in signals} | ({0} if signals else set()), f"exit code {code}"


async def ended(bridge: Command, seconds: float) -> bool:
    """Wait so long for the end, and return whether it came."""
    until = time.monotonic() + seconds
    while bridge.is_running and time.monotonic() < until:
        await asyncio.sleep(0.01)
    return not bridge.is_running


def first_child(bridge: Command) -> int:
    """Return the process that is the first of its namespace."""
    while bridge.is_running:
        with suppress(OSError):
            if children := Path(f"/proc/{bridge.number}/task/{bridge.number}/children").read_text().split():
                return int(children[0])
        time.sleep(0.002)
    return bridge.number


def send(process: int, what: Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, what)


async def all_is_published(place: Place, figures: Figures) -> None:
    """Start once more without trouble: what the PBX has must arrive, in order and without a gap."""
    events: list[dict[str, Any]] = []
    arrived = events.append
    place.change(1)
    truth = {guid: record.dn for guid, record in place.pbx.truth().items()}

    async def consume() -> None:
        async with await aio_pika.connect(place.broker.url) as connection:
            queue = await (await connection.channel()).declare_queue(place.queue, passive=True)
            async with queue.iterator(no_ack=True) as messages:
                async for message in messages:
                    arrived(json.loads(message.body))

    def present() -> dict[str, str]:
        return {event["subject"]: event["data"]["account"].get("display_name", "") for event in events}

    consuming = asyncio.create_task(consume())
    with Command("run", environment=place.environment({})) as bridge:
        until = time.monotonic() + CALM_SECONDS
        while present() != truth and bridge.is_running and time.monotonic() < until:
            await asyncio.sleep(0.2)
        missing = {guid for guid, name in truth.items() if present().get(guid) != name}
        code = await asyncio.to_thread(bridge.terminate) if bridge.is_running else await asyncio.to_thread(bridge.wait)
    consuming.cancel()
    await asyncio.wait([consuming])
    problems = [f"{len(missing)} accounts are not published"] if missing else []
    problems += [f"the last start ended with {code}"] if code else []
    first: dict[str, tuple[str, int]] = {}
    for event in events:
        first.setdefault(event["id"], (event["lineage"], int(event["sequence"])))
    places = list(first.values())
    if places != sorted(places):
        problems.append("first deliveries are out of order")
    for lineage in {found for found, _ in places}:
        numbers = [sequence for found, sequence in places if found == lineage]
        if numbers != list(range(1, len(numbers) + 1)):
            problems.append(f"a gap in {lineage}: {numbers[:3]} … {numbers[-3:]}, {len(numbers)} of them")
    figures.wrong += [f"{place.exchange}: {problem}" for problem in problems]
    if problems:
        print(f"WRONG: {place.exchange}: {problems}\n{bridge.printed}", file=sys.stderr, flush=True)  # noqa: T201
    figures.published += len(first)
    figures.repeated += len(events) - len(first)
    figures.stores += not problems


async def play(  # noqa: PLR0913 - what makes a run
    folder: Path,
    broker: PrivateBroker,
    *,
    runs: int,
    seed: int,
    at_once: int = 3,
    starts_of_a_store: int = STARTS_OF_A_STORE,
) -> Figures:
    """Play *runs* starts, so many at once, each worker on one store after the other, and return the figures."""
    figures, numbers = Figures(), iter(range(runs))
    can = {"has_disk": may_mount(), "has_namespaces": may_unshare()}

    async def work(worker: int) -> None:
        for turn in range(runs):
            mine = list(islice(numbers, starts_of_a_store))
            if not mine:
                return
            name = f"{worker}.{turn}"
            is_native = (worker + turn) % 2 == 0
            async with place_at(
                folder / name, broker, name=name, is_native=is_native, has_disk=can["has_disk"]
            ) as place:
                for number in mine:
                    await one_start(place, plan(number, seed, **can), figures)
                await all_is_published(place, figures)

    await asyncio.gather(*(work(worker) for worker in range(at_once)))
    return figures


def main() -> None:
    """Play it on a broker of its own, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=3)
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(PrivateBroker(streams=True))
        figures = asyncio.run(play(folder, broker, runs=chosen.runs, seed=chosen.seed, at_once=chosen.at_once))
    print(json.dumps({**figures.summary(), "problems": figures.wrong}, indent=2))  # noqa: T201 - its output
    sys.exit(1 if figures.wrong else 0)


if __name__ == "__main__":
    main()
