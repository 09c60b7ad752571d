"""Many PBXs at which nothing happens, in one process: what each of them costs in memory and CPU."""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from bridge.runtime.bridge import Bridge
from tests.benchmark import sides, site
from tests.benchmark.figures import Figure
from tests.benchmark.plots import Line, Plot
from tests.benchmark.running import Benchmark, Run

POLL_SECONDS = 120
KEEPALIVE_SECONDS = 40
ACCOUNTS = 5
SETTLE_SECONDS = 300


def settled(*, url: str, broker: str, pbxs: int, hurry: float, seconds: float) -> dict[str, Any]:
    """Follow so many PBXs; once all are walked and all is sent, watch for *seconds*. *hurry* divides all intervals."""
    measured: dict[str, Any] = {}
    stop = asyncio.Event()

    async def running(bridge: Bridge) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(bridge.run(stop))
            async with asyncio.timeout(SETTLE_SECONDS):
                while not _is_settled(bridge):
                    await asyncio.sleep(0.2)
            measured["bytes"] = sides.rss_bytes()
            busy, began = time.process_time(), time.monotonic()
            await asyncio.sleep(seconds)
            measured["cpu_share"] = (time.process_time() - busy) / (time.monotonic() - began)
            stop.set()

    with tempfile.TemporaryDirectory() as folder:
        wanted = site.settings(
            Path(folder),
            pbxs=[url] * pbxs,
            broker=broker,
            exchange=site.new_exchange(),
            poll_interval_seconds=str(POLL_SECONDS / hurry),
            keepalive_seconds=str(KEEPALIVE_SECONDS / hurry),
        )
        with site.bridge_of(wanted) as bridge:
            asyncio.run(running(bridge))
    return measured


def _is_settled(bridge: Bridge) -> bool:
    board = bridge.board
    return board.published > 0 and not board.unsent and all(part.verified_at for part in board.sources.values())


def _idle(run: Run) -> list[Figure]:
    most = run.pick(1000, 300)
    # In a hurry everything happens forty times as often and counts a fortieth.
    hurry = run.pick(1, 40)
    seconds = 1.1 * POLL_SECONDS / hurry
    memory = Figure("idle_memory_kb", f"{most} idle PBXs in one process: memory of each", "KB", side_unit="MB in all")
    memory.note = "reference: with one PBX"
    cpu = Figure(
        "idle_cpu_share", "1000 idle PBXs, polled every 120 s: share of one core", side_unit="share of one core"
    )
    cpu.note = f"reference: one PBX; measured with {most} PBXs for {seconds:g} s"
    by_pbxs: dict[int, dict[str, Any]] = {}
    with site.pretend_pbx(accounts=ACCOUNTS) as url:
        for pbxs in (1, most) if run.is_quick else (1, 10, 100, most):
            watched = seconds if pbxs == most else run.pick(30, 1)
            run.say(f"{pbxs} PBXs, watched for {watched:g} s")
            by_pbxs[pbxs] = sides.run(
                "idle", "settled", url=url, broker=run.broker.url, pbxs=pbxs, hurry=hurry, seconds=watched
            )
    one, many = by_pbxs[1], by_pbxs[most]
    memory.add(many["bytes"] / 1e6, one["bytes"] / 1e6, (many["bytes"] - one["bytes"]) / (most - 1) / 1000)
    shares = many["cpu_share"] / hurry, one["cpu_share"] / hurry
    cpu.add(*shares, shares[0] * 1000 / most)
    points = [(pbxs, measured["bytes"] / 1e6) for pbxs, measured in by_pbxs.items()]
    run.plots.append(Plot("memory-pbxs.svg", "Memory of one process", "PBXs", "MB", [Line("idle PBXs", points)]))
    return [memory, cpu]


BENCHMARKS = (Benchmark("idle", ("idle_memory_kb", "idle_cpu_share"), _idle),)
