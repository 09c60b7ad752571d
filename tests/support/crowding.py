"""A crowd from 64 addresses at the door of a running bridge, and how long everybody else waits for an answer meanwhile."""

import asyncio
import json
import random
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect

from tests.support.dialled_site import PASSWORD, DialledSite, pbx_called
from tests.support.dialling import introduce, log_in
from tests.support.process import Command
from tests.support.sieges import TOKEN, asked, page_port

ADDRESSES: Final = 64
PHASE_SECONDS: Final = 12.0


@dataclass
class Waits:
    """How long others waited, in milliseconds."""

    dials: list[float] = field(default_factory=list)
    """Of a PBX: TLS, WebSocket and login."""
    answers: list[float] = field(default_factory=list)
    """Of the page."""


@dataclass
class CrowdFigures:
    """What the crowd cost."""

    dial_p99_ms: tuple[float, float] = (0.0, 0.0)
    """Without it, and with it."""
    status_p99_ms: tuple[float, float] = (0.0, 0.0)
    samples: tuple[int, int] = (0, 0)
    strangers: int = 0
    memory_mb: tuple[float, float] = (0.0, 0.0)
    """Before, and at most."""
    cpu: tuple[float, float] = (0.0, 0.0)
    """Of the bridge, as a share of one core, without and with."""


def p99(values: list[float]) -> float:
    return round(sorted(values)[int(0.99 * (len(values) - 1))], 1)


def cpu_seconds(process: int) -> float:
    told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / 100


def memory_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def keep_dialling(place: DialledSite, waits: Waits) -> None:
    while True:
        began = time.monotonic()
        async with connect(place.url, ssl=place.context, proxy=None, close_timeout=1, ping_interval=None) as socket:
            assert (await log_in(socket, password=PASSWORD, guid="a" * 32)).get("ok")
            waits.dials.append(1000 * (time.monotonic() - began))
            await introduce(socket)
            socket.transport.abort()
        await asyncio.sleep(0.02)


async def keep_asking(url: str, waits: Waits) -> None:
    while True:
        began = time.monotonic()
        assert await asked(url, TOKEN) == 200
        waits.answers.append(1000 * (time.monotonic() - began))
        await asyncio.sleep(0.02)


async def others(place: DialledSite, url: str, seconds: float) -> Waits:
    """Dial and ask for so long."""
    waits = Waits()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            group.create_task(keep_dialling(place, waits))
            group.create_task(keep_asking(url, waits))
    return waits
