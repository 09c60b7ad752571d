"""A crowd from 64 addresses at the door of a running bridge, and how long everybody else waits meanwhile."""

import asyncio
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
from websockets.asyncio.client import connect

from tests.support.dialled_site import PASSWORD, DialledSite
from tests.support.dialling import log_in
from tests.support.sieges import TOKEN, page_port

ADDRESSES: Final = 64
AT_ONCE: Final = 128
DIALS_PER_SECOND: Final = 20


@dataclass
class Waits:
    """How long others waited, in milliseconds."""

    dials: list[float] = field(default_factory=list)
    """Of PBXs: TLS, WebSocket and login."""
    answers: list[float] = field(default_factory=list)
    """Of the page, on a connection that stays."""


@dataclass
class CrowdFigures:
    """What the crowd cost others: nobody comes, it comes to another bridge of this machine, it comes to this one.

    The three take turns. What it costs to share the machine with it shows in the second.
    """

    dial_ms: list[dict[str, float]] = field(default_factory=list)
    status_ms: list[dict[str, float]] = field(default_factory=list)
    bridge_cpu: list[float] = field(default_factory=list)
    """A share of one core."""
    memory_mb: tuple[float, float] = (0.0, 0.0)
    """Before, and at most."""
    refused: int = 0
    """Strangers, in all."""
    turned_away: int = 0
    """Of those, unseen."""
    failed: int = 0
    """Dials and questions of others that came to nothing."""

    @property
    def ratios(self) -> dict[str, float]:
        """How the p99 with the crowd here is to that without it, and to that with it elsewhere."""
        return {
            f"{what} to {other}": round(told[2]["p99"] / told[number]["p99"], 2)
            for what, told in (("dial", self.dial_ms), ("status", self.status_ms))
            for number, other in ((0, "nobody"), (1, "elsewhere"))
        }


def shares(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        **{name: round(ordered[int(share * (len(ordered) - 1))], 1) for name, share in (("p50", 0.5), ("p99", 0.99))},
    }


def cpu_seconds(process: int) -> float:
    told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / 100


def memory_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return round(int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024, 1)


async def crowded(place: DialledSite, other: DialledSite, *, rounds: int, seconds: float) -> CrowdFigures:
    """Have PBXs dial and the page asked, by turns without the crowd, with it at *other*, and with it here."""
    figures, phases = CrowdFigures(), (Waits(), Waits(), Waits())
    place.environment["BRIDGE_STATUS_TOKEN"] = TOKEN
    async with place.bridge() as bridge, other.bridge():
        url = f"http://127.0.0.1:{page_port(bridge)}/status"
        failed: list[str] = []
        await others(place, url, 3, Waits(), failed)  # what is loaded at first use is no cost of the crowd
        before = most = memory_mb(bridge.number)
        used = [0.0, 0.0, 0.0]
        for number in range(3 * rounds):
            phase = number % 3
            crowd = await attacking((0, other.port, place.port)[phase]) if phase else None
            began = cpu_seconds(bridge.number)
            asking = asyncio.create_task(others(place, url, seconds, phases[phase], failed))
            while not asking.done():
                most = max(most, memory_mb(bridge.number))
                await asyncio.wait([asking], timeout=0.1)
            used[phase] += cpu_seconds(bridge.number) - began
            if crowd is not None:
                crowd.send_signal(signal.SIGKILL)
                await crowd.wait()
            await asyncio.sleep(1)
        figures.dial_ms = [shares(waits.dials) for waits in phases]
        figures.status_ms = [shares(waits.answers) for waits in phases]
        figures.bridge_cpu = [round(each / rounds / seconds, 2) for each in used]
        figures.memory_mb, figures.failed = (before, most), len(failed)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
            await asyncio.sleep(1.2)  # the status of the door is a second old at most
            async with session.get(url) as answer:
                refused = dict((await answer.json())["door"]["refusals"])
        figures.refused = sum(refused.values())
        figures.turned_away = refused.get("too many connections in a short time", 0)
        bridge.kill()
    return figures


async def attacking(port: int) -> asyncio.subprocess.Process:
    """Have the strangers come from a process of their own, as long as it lives."""
    arguments = ("--count", "10000000", "--at-once", str(AT_ONCE), "--addresses", str(ADDRESSES), "--attack", str(port))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.hostile", *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    await process.stderr.readline()
    return process


async def others(place: DialledSite, url: str, seconds: float, waits: Waits, failed: list[str]) -> None:
    """Dial and ask for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(_keep_dialling(place, waits, failed))
            group.create_task(_keep_asking(url, waits, failed))


async def _keep_dialling(place: DialledSite, waits: Waits, failed: list[str]) -> None:
    context = place.context
    while True:
        began = time.monotonic()
        try:
            async with connect(place.url, ssl=context, proxy=None, close_timeout=1, ping_interval=None) as socket:
                assert (await log_in(socket, password=PASSWORD, guid="a" * 32)).get("ok")
                waits.dials.append(1000 * (time.monotonic() - began))
                socket.transport.abort()
        except (OSError, AssertionError, EOFError) as problem:
            failed.append(repr(problem))
        await asyncio.sleep(1 / DIALS_PER_SECOND)


async def _keep_asking(url: str, waits: Waits, failed: list[str]) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        while True:
            began = time.monotonic()
            async with session.get(url) as answer:
                await answer.read()
                if answer.status != 200:
                    failed.append(str(answer.status))
            waits.answers.append(1000 * (time.monotonic() - began))
            await asyncio.sleep(1 / DIALS_PER_SECOND)
