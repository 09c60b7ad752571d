"""Many PBXs with accounts behind them, in one bridge: a first start, a rest, an outage of the broker, and a restart."""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.events.cloudevents import ACCOUNT_CHANGED, decode
from bridge.model import OutboxRow
from bridge.runtime.bridge import Bridge
from bridge.runtime.committer import Committed
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.benchmark import sides, site
from tests.benchmark.bare import APP, PASSWORD
from tests.benchmark.figures import Figure, percentile
from tests.benchmark.running import Benchmark, Run

PATIENCE_SECONDS = 1500
CHANGES_PER_SECOND = 20
"""Of all PBXs together, one after the other, from the first second to the last."""
REST_SECONDS = 15.0
"""How long the bridge is watched once everything is told."""
OUTAGE_SECONDS = 5.0
MARK = "changed at "
"""In front of the time in a display name; the clock is the same in all processes of a machine."""


def served(*, pbxs: int, accounts: int, changes: float) -> dict[str, Any]:
    """Serve so many pretend PBXs until stdin is closed; their ports are the line that is printed first."""
    asyncio.run(_serve(pbxs, accounts, changes))
    return {}


async def _serve(pbxs: int, accounts: int, changes: float) -> None:
    async with AsyncExitStack() as stack:
        sites = await serve_all(stack, pbxs, accounts)
        changing = asyncio.create_task(keep_changing(sites, changes))
        await asyncio.to_thread(sys.stdin.read)
        changing.cancel()
        await asyncio.wait([changing])


async def serve_all(stack: AsyncExitStack, pbxs: int, accounts: int) -> list[Pbx]:
    """Return so many pretend PBXs, served until *stack* is closed; their ports are the line that is printed."""
    modes = Modes.parse(["push-row"])
    made = [
        Pbx(accounts=accounts, seed=number, modes=modes, app=APP, password=PASSWORD, remember=100)
        for number in range(pbxs)
    ]
    ports = [(await stack.enter_async_context(serve(pbx))).port for pbx in made]
    print(json.dumps(ports), flush=True)  # noqa: T201 - what the other side waits for
    return made


async def keep_changing(pbxs: Sequence[Pbx], per_second: float) -> None:
    """Change so many accounts a second, of one connected PBX after the other; the new name tells when."""
    turn = 0
    while per_second:
        await asyncio.sleep(1 / per_second)
        pbx = pbxs[turn % len(pbxs)]
        if pbx.connections:
            pbx.change_display_name(pbx.pick(), f"{MARK}{time.monotonic():.6f}")
        turn += 1


@dataclass(slots=True)
class _Seen:
    """What the bridge did, by the clock that all processes share."""

    began_at: float = field(default_factory=time.monotonic)
    first_at: float = 0.0
    """When the broker confirmed the first event."""
    confirmed: int = 0
    verified: dict[str, float] = field(default_factory=dict)
    """When each PBX was read to its end for the first time."""
    waits: list[tuple[float, float]] = field(default_factory=list)
    """Of each change of a PBX that was read to its end before: when it was made, and how long it took."""

    def published(self, rows: Sequence[OutboxRow]) -> None:
        now = time.monotonic()
        self.first_at = self.first_at or now
        for row in rows:
            self.confirmed += row.event_type == ACCOUNT_CHANGED
            if MARK.encode() in row.body and row.source in self.verified:
                name = decode(row.body).account.get("display_name") or ""
                made_at = float(name.removeprefix(MARK)) if name.startswith(MARK) else 0.0
                if made_at > self.verified[row.source]:
                    self.waits.append((made_at, now - made_at))

    def told(self, news: Committed) -> None:
        if news.certificate is not None:
            self.verified.setdefault(news.source, time.monotonic())

    def between(self, since: float, until: float) -> list[float]:
        return [wait for made_at, wait in self.waits if since <= made_at < until]


def followed(*, urls: list[str], broker: str, exchange: str, folder: str, is_known: bool) -> dict[str, Any]:
    """Follow PBXs until all is told; says so, and goes on until stdin is closed and all that was read is sent.

    *is_known*: the store in *folder* knows all of them, so that caught up is enough.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    stop, seen = asyncio.Event(), _Seen()
    measured: dict[str, Any] = {}

    async def watch(bridge: Bridge) -> None:
        sources, board = bridge.board.sources, bridge.board

        def is_over() -> bool:
            if is_known:
                return all(part.caught_up_at and part.caught_up_at >= board.started_at for part in sources.values())
            return len(seen.verified) == len(urls) and not board.unsent

        busy = time.process_time()
        while not is_over():
            await asyncio.sleep(0.05)
        over_at = time.monotonic()
        measured.update(
            seconds=over_at - seen.began_at,
            cpu_seconds=time.process_time() - busy,
            first_seconds=seen.first_at - seen.began_at,
            confirmed=seen.confirmed,
            peak=sides.peak_rss_bytes(),
            live=seen.between(seen.began_at, over_at),
            verified=sorted(at - seen.began_at for at in seen.verified.values()),
        )
        if not is_known:
            await asyncio.sleep(REST_SECONDS)
            measured.update(steady=sides.rss_bytes(), idle=seen.between(over_at + 1, time.monotonic() - 1))
        print("settled", flush=True)  # noqa: T201 - what the other side waits for
        await asyncio.to_thread(sys.stdin.read)
        back_at, before = time.monotonic(), seen.confirmed
        while board.unsent:
            await asyncio.sleep(0.02)
        measured.update(after_outage_seconds=time.monotonic() - back_at, after_outage_events=seen.confirmed - before)
        measured.update(peak_at_all=sides.peak_rss_bytes())

    async def running(bridge: Bridge) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(bridge.run(stop))
            await watch(bridge)
            stop.set()

    wanted = site.settings(Path(folder), pbxs=urls, broker=broker, exchange=exchange)
    with site.bridge_of(wanted, on_committed=seen.told, on_published=seen.published) as bridge:
        asyncio.run(running(bridge))
    return measured


def _measure(run: Run, name: str, pbxs: int, accounts: int) -> list[Figure]:
    size = f"{pbxs} PBXs with {accounts} accounts each"
    figures = {
        key: Figure(f"{name}_{key}", f"{size}: {what}", unit, side_unit=side, note=note)
        for key, what, unit, side, note in (
            ("first_confirm_s", "first start, until the first confirm", "s", "s", "ours: until all is confirmed"),
            ("cpu", "CPU of an account, against one PBX alone with as many", "", "µs", ""),
            ("peak_mb", "the most memory until all is told", "MB", "", ""),
            ("steady_mb", f"memory {REST_SECONDS:g} s after that", "MB", "", ""),
            ("live_p99", "a change of a PBX that is read, p99 while others are, against at rest", "", "ms", ""),
            ("restart_s", "restart with everything known, until all are caught up", "s", "s", "ours: CPU"),
            ("outage_s", f"back from {OUTAGE_SECONDS:g} s without a broker, until all is sent", "s", "", ""),
        )
    }
    folder = run.folder / name
    folder.mkdir()
    with sides.running("fleet", "served", pbxs=pbxs, accounts=accounts, changes=CHANGES_PER_SECOND) as pretended:
        urls = [f"ws://127.0.0.1:{port}" for port in json.loads(pretended.ready())]
        wanted = {"urls": urls, "broker": run.broker.url, "exchange": site.new_exchange(), "folder": str(folder)}
        run.say(f"{size}: first start")
        with sides.running("fleet", "followed", **wanted, is_known=False) as bridge:
            bridge.ready()
            run.say(f"{size}: no broker for {OUTAGE_SECONDS:g} s")
            run.broker.kill()
            time.sleep(OUTAGE_SECONDS)
            run.broker.start()
            first = bridge.result()
        run.say(f"{size}: restart")
        with sides.running("fleet", "followed", **wanted, is_known=True) as bridge:
            bridge.ready()
            again = bridge.result()
    run.say(json.dumps({key: value for key, value in first.items() if key not in {"live", "idle", "verified"}}))
    run.say(f"{pbxs * accounts} accounts behind one PBX")
    with site.pretend_pbx(accounts=pbxs * accounts) as url:
        alone = sides.run("walk", "whole", url=url, broker=run.broker.url, accounts=pbxs * accounts)
    cpu, cpu_alone = (side["cpu_seconds"] / (pbxs * accounts) * 1e6 for side in (first, alone))
    figures["first_confirm_s"].add(first["seconds"], alone["seconds"], first["first_seconds"])
    figures["cpu"].add(cpu, cpu_alone, cpu / cpu_alone)
    for key in ("peak", "steady"):
        figures[f"{key}_mb"].add(first[key] / 1e6, first[key] / 1e6, first[key] / 1e6)
    if first["live"] and first["idle"]:
        live, idle = (percentile(first[key], 0.99) * 1000 for key in ("live", "idle"))
        figures["live_p99"].add(live, idle, live / idle)
        figures["live_p99"].note = f"{len(first['live'])} changes against {len(first['idle'])}"
    else:
        figures["live_p99"].missing = "no PBX was read before all of them were"
    figures["restart_s"].add(again["cpu_seconds"], again["seconds"], again["seconds"])
    figures["outage_s"].add(first["after_outage_seconds"], first["after_outage_events"], first["after_outage_seconds"])
    return list(figures.values())


KEYS = ("first_confirm_s", "cpu", "peak_mb", "steady_mb", "live_p99", "restart_s", "outage_s")


def _fleet(run: Run) -> list[Figure]:
    return _measure(run, "fleet", *((60, 100) if run.is_quick else (300, 300)))


def _fleet_1000(run: Run) -> list[Figure]:
    return _measure(run, "fleet_1000", 1000, 500)


BENCHMARKS = (
    Benchmark("fleet", [f"fleet_{key}" for key in KEYS], _fleet, is_extra=True),
    Benchmark("fleet_1000", [f"fleet_1000_{key}" for key in KEYS], _fleet_1000, is_long=True),
)
