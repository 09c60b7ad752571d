"""Two sieges of a running bridge: by visitors of its page who hold connections, and by somebody with a password."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from bridge.simulator.pbx import Pbx
from bridge.simulator.server import call
from tests.support.dialled_site import PASSWORD, DialledSite, pbx_called
from tests.support.dialling import introduce, log_in
from tests.support.process import Command, run

TOKEN = "pl4nted-s3cret-of-the-page"
DESCRIPTORS = 1024
"""That the bridge may have, as is usual; more cannot be had."""
HALF_REQUESTS = 1100
PATIENCE_SECONDS = 20.0


@dataclass
class PageFigures:
    """What visitors who hold connections cost; seconds, and ``None`` where nothing came within 20 s."""

    half_requests: int = 0
    descriptors: int = 0
    pbx_seconds: float | None = None
    """A PBX dials: TLS and the opening of the WebSocket."""
    livez_seconds: float | None = None
    health_check_seconds: float | None = None
    """``account-bridge status --live``, most of which is Python's own start."""
    guesses: int = 0
    guesses_looked_at: int = 0
    """Of 24 addresses, within 5 s."""
    status_seconds: float | None = None
    """Of somebody with the right token from elsewhere meanwhile."""


@dataclass
class InsiderFigures:
    """What somebody reaches who knows the password of an App object."""

    new_names: int = 0
    let_in: int = 0
    in_capitals: str = ""
    """What became of the System Name in other letters: ``the same PBX`` or ``another PBX``."""
    takeover: str = ""
    """What the status says of a login under the name of a PBX that is connected, with another guid."""
    refused: dict[str, int] = field(default_factory=dict)


async def timed(what: Callable[[], Awaitable[object]]) -> float | None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await what()
    except (OSError, EOFError, TimeoutError, WebSocketException, aiohttp.ClientError, AssertionError):
        return None
    return round(time.monotonic() - began, 3)


async def page_besieged(place: DialledSite) -> PageFigures:
    """Hold half-sent requests and guess tokens at the page of a bridge that has few file descriptors."""
    figures = PageFigures()
    place.environment |= {"BRIDGE_STATUS_HOST": "0.0.0.0", "BRIDGE_STATUS_TOKEN": TOKEN}  # noqa: S104 - for strangers
    limited = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", sys.executable, "-m", "bridge")
    with Command("run", environment=place.environment, program=limited) as bridge:
        place.port = int((await asyncio.to_thread(bridge.wait_for_log, "listen.listening"))["port"])
        port = page_port(bridge)
        url = f"http://127.0.0.1:{port}"
        held = await half_requests(port)
        figures.half_requests = len(held)
        await asyncio.sleep(1)
        figures.descriptors = len(list(Path(f"/proc/{bridge.number}/fd").iterdir()))

        async def dial() -> None:
            async with connect(place.url, ssl=place.context, proxy=None):
                pass

        async def health() -> None:
            code, _ = await asyncio.to_thread(run, "status", "--live", environment=place.environment)
            assert code == 0

        figures.pbx_seconds = await timed(dial)
        figures.livez_seconds = await timed(lambda: asked(f"{url}/livez"))
        figures.health_check_seconds = await timed(health)
        for writer in held:
            writer.transport.abort()
        guessing = [asyncio.create_task(keep_guessing(f"{url}/status", number, figures)) for number in range(24)]
        await asyncio.sleep(5)
        figures.status_seconds = await timed(lambda: asked(f"{url}/status", TOKEN))
        for task in guessing:
            task.cancel()
        await asyncio.wait(guessing)
        bridge.kill()
    return figures


def page_port(bridge: Command) -> int:
    return int(re.findall(r":(\d+)/", bridge.logs("status.listening")[0]["url"])[0])


async def half_requests(port: int) -> list[asyncio.StreamWriter]:
    held = []
    for number in range(HALF_REQUESTS):
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(f"127.1.{number % 7}.{1 + number % 200}", 0)
                )
            writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: ")
            held.append(writer)
    return held


async def asked(url: str, token: str = "", address: str = "127.0.0.1") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url, headers=headers) as answer:
        await answer.read()
        return answer.status


async def keep_guessing(url: str, number: int, figures: PageFigures) -> None:
    while True:
        figures.guesses += 1
        with suppress(OSError, aiohttp.ClientError):
            status = await asked(url, f"guess number {figures.guesses}", f"127.2.0.{number + 1}")
            figures.guesses_looked_at += status == 401


async def taken_in(place: DialledSite, names: int) -> InsiderFigures:
    """Claim so many new names, and that of a PBX that is connected, with the right password."""
    figures = InsiderFigures()
    pbx = pbx_called("main", 5)
    async with place.bridge() as bridge, call(pbx, place.url, ssl_context=place.context):
        await asyncio.to_thread(bridge.wait_for_log, "source.verified")
        before = await sources_of(place)
        await claim(place, pbx, domain="EXAMPLE.COM", guid=pbx.app_guid)
        figures.in_capitals = "the same PBX" if await sources_of(place) == before else "another PBX"
        await claim(place, pbx, guid="f" * 32)
        status = await status_of(place)
        told = [problem["words"] for problem in status["problems"] if problem["cause"] == "pbx_unlike_before"]
        figures.takeover = told[0].partition(", first")[0] if told else "nothing"
        before = set(status["sources"])
        for number in range(names):
            await claim(place, pbx, name=f"new {number}")
            figures.new_names += 1
        figures.let_in = len(await sources_of(place) - before)
        await asyncio.sleep(1.2)  # the status of the door is a second old at most
        figures.refused = (await status_of(place))["door"]["refusals"]
        bridge.kill()
    return figures


async def claim(place: DialledSite, pbx: Pbx, *, domain: str = "example.com", guid: str = "", name: str = "") -> None:
    told = name or pbx.name
    with suppress(WebSocketException, OSError):
        async with connect(place.url, ssl=place.context, proxy=None, close_timeout=1) as socket:
            information = {"appobj": "app", "appdn": "app", "pbx": told, "cn": "app", "apps": []}
            await log_in(socket, password=PASSWORD, domain=domain, guid=guid or "e" * 32, info=information)
            await introduce(socket, pbx=told, domain=domain)
            await socket.recv()


async def status_of(place: DialledSite) -> dict[str, Any]:
    _, command = await asyncio.to_thread(run, "status", "--json", environment=place.environment)
    return dict(json.loads("\n".join(command.out)))


async def sources_of(place: DialledSite) -> set[str]:
    return set((await status_of(place))["sources"])
