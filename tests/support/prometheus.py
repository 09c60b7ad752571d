"""Prometheus itself, run on this machine only, with the configuration of this repository.

What has to differ from compose.yaml is in ``derived``: addresses, where files are, and how long everything takes.
"""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.process import Command
from tests.support.promtool import ALERTS
from tests.support.rabbit import free_port

CONFIGURATION = ALERTS.parent / "prometheus.yml"
PATIENCE_SECONDS = 60
OF_THE_MACHINE = "AccountBridgeDiskLow"
"""Looks ahead from a few seconds of what everybody writes to this machine's disk, without the hour it waits for."""


class Prometheus:
    """One that runs; it is asked over its HTTP API."""

    def __init__(self, command: Command, url: str, http: aiohttp.ClientSession) -> None:
        self.command = command
        self._url = url
        self._http = http

    async def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        async with self._http.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            told = await answer.json()
        assert told["status"] == "success", told
        return told["data"]

    async def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that *expression* gives now; fails where it is none."""
        return list((await self.get("query", query=expression))["result"])

    async def target(self) -> dict[str, Any]:
        """Return what it says of the one thing that it scrapes, once it has looked where that is."""
        await self.until(self._targets)
        (found,) = await self._targets()
        return dict(found)

    async def _targets(self) -> list[dict[str, Any]]:
        return list((await self.get("targets"))["activeTargets"])

    async def alerts(self) -> dict[str, str]:
        """Return the state of every alert that is pending or firing and may be laid to the bridge."""
        alerts = {each["labels"]["alertname"]: each["state"] for each in (await self.get("alerts"))["alerts"]}
        return {name: state for name, state in alerts.items() if name != OF_THE_MACHINE}

    async def rules(self) -> list[dict[str, Any]]:
        """Return its alert rules, with their health and last error."""
        return [rule for group in (await self.get("rules"))["groups"] for rule in group["rules"]]

    async def until(self, is_so: Callable[[], Awaitable[object]]) -> None:
        """Wait until *is_so*."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await is_so():
                await asyncio.sleep(0.1)


@asynccontextmanager
async def prometheus(folder: Path, target: str, token_file: Path) -> AsyncIterator[Prometheus]:
    """Run Prometheus on the *target*, an address and port; skip the test where it is not here."""
    program = shutil.which("prometheus")
    if program is None:
        # tests/run installs it where it may.
        pytest.skip("prometheus is not here; on Debian: apt-get install prometheus")
    configuration = derived(folder, target, token_file)
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
    ]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http:
        with Command(*arguments, program=[program]) as command:
            await _ready(command, f"http://{address}", http)
            yield Prometheus(command, f"http://{address}", http)


def derived(folder: Path, target: str, token_file: Path) -> Path:
    """Write copies of our configuration and rules that fit this machine and a short test; return the configuration."""
    rules = folder / "alerts.yml"
    rules.write_text(
        _changed(ALERTS.read_text("utf-8"), r"(?m)^        for: \d+[mh]$", "        for: 1s", times=_rules_in(ALERTS))
    )
    text = CONFIGURATION.read_text("utf-8")
    for pattern, ours, times in (
        (r"(scrape|evaluation)_interval: 15s", r"\1_interval: 1s", 2),
        (r"/etc/prometheus/alerts\.yml", str(rules), 1),
        (r"/run/scrape/token", str(token_file), 1),
        (r"bridge:8080", target, 1),
    ):
        text = _changed(text, pattern, ours, times=times)
    file = folder / "prometheus.yml"
    file.write_text(text)
    return file


def _changed(text: str, pattern: str, ours: str, *, times: int) -> str:
    changed, count = re.subn(pattern, ours, text)
    assert count == times, f"{pattern}: {count} times, not {times}"
    return changed


def _rules_in(file: Path) -> int:
    return file.read_text("utf-8").count("- alert:")


async def _ready(command: Command, url: str, http: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            assert command.is_running, command.printed
            try:
                async with http.get(f"{url}/-/ready") as answer:
                    if answer.ok:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
