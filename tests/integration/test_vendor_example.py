"""A party that shares no code with us, at either end: the vendor's example, run by Node."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bridge.pbx.inbound.identity import Identity
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.dialling import PASSWORD, Door, until

SCRIPT = Path(__file__).parents[1] / "support/vendor_example.mjs"
FLAG = "--experimental-websocket"


def has_node() -> bool:
    if shutil.which("node") is None:
        return False
    try:
        asked = subprocess.run(["node", FLAG, "-e", "WebSocket"], capture_output=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


pytestmark = pytest.mark.skipif(not has_node(), reason="needs Node 20.10 or newer")


@asynccontextmanager
async def node(role: str, url: str, password: str = PASSWORD) -> AsyncIterator[list[dict[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        *("node", FLAG, "--no-warnings", str(SCRIPT), role, url, "app", password), stdout=asyncio.subprocess.PIPE
    )
    told: list[dict[str, Any]] = []

    async def listen() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            told.append(json.loads(line))  # noqa: PERF401 - one by one, as they come

    listening = asyncio.create_task(listen())
    try:
        yield told
    finally:
        with suppress(ProcessLookupError):  # who is not let in may have ended by itself
            process.kill()
        await process.wait()
        await listening


async def test_the_vendors_example_reads_our_pretend_pbx() -> None:
    pbx = Pbx(accounts=20, app="app", password=PASSWORD)
    async with serve(pbx) as served, node("service", served.url) as told:
        await until(lambda: len(told) >= 21)
    assert told[0] == {"loggedIn": True}
    assert {line["account"] for line in told[1:]} == set(pbx.truth())


async def test_a_pbx_made_of_the_vendors_page_dials_our_door_and_is_read_to_its_end() -> None:
    async with Door().open() as door, node("pbx", door.url) as told:
        await until(lambda: {"readTo": "3"} in told)
        assert {"loggedIn": True} in told
        assert {"appInfo": "acct"} in told
        assert door.accounts(Identity("example.com", "node")) == ["account-1", "account-2", "account-3"]


async def test_and_not_with_another_password() -> None:
    async with Door().open() as door, node("pbx", door.url, "another") as told:
        await until(lambda: told)
        assert told == [{"loggedIn": False}]
        assert not door.sources
