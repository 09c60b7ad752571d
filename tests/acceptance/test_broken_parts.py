"""Every part is really broken: page, status, readiness, metrics and alerts say the right thing, in time and in words.

What they said, and after how long, is kept in ``artifacts/broken-parts.md``.
"""

import asyncio
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.simulator.pbx import Pbx
from bridge.simulator.server import Served, serve
from tests.support.awkward import AWKWARD
from tests.support.browser import look
from tests.support.process import Command, run
from tests.support.promtool import fires
from tests.support.rabbit import PrivateBroker, free_port
from tests.support.witness import bind

PASSWORD = "pl4nted-s3cret"
QUEUE = "pbx.accounts.q"
RECORD = Path(__file__).parents[2] / "artifacts" / "broken-parts.md"
PATIENCE_SECONDS = 30
LONGEST_FOR = "6m30s"
"""By then every alert fires that has a reason to, but for those that wait for an hour."""


@pytest.fixture(scope="module")
def broker() -> Iterator[PrivateBroker]:
    with PrivateBroker("max_message_size = 4096") as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def record() -> None:
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text("| broken | after | page | /readyz | metrics | alerts |\n| --- | --- | --- | --- | --- | --- |\n")


class Watched:
    """A bridge that is well, until something of it is broken."""

    def __init__(
        self, command: Command, environment: Mapping[str, str], port: int, http: aiohttp.ClientSession
    ) -> None:
        self.command = command
        self.environment = environment
        self.url = f"http://127.0.0.1:{port}"
        self._http = http

    async def get(self, path: str) -> tuple[int, str]:
        async with self._http.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def status(self) -> tuple[int, str]:
        """What the command says."""
        code, command = await asyncio.to_thread(run, "status", environment=self.environment)
        return code, command.printed

    async def metrics(self) -> dict[str, float]:
        """What Prometheus would scrape, moments as if now were the beginning of time."""
        _, text = await self.get("/metrics")
        now = time.time()
        found = {'up{job="account-bridge"}': 1.0}
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                told = ",".join(f'{label}="{content}"' for label, content in sorted(labels.items()))
                series = f"{name}{{{told}}}" if told else name
                found[series] = value - now if name.endswith("_timestamp_seconds") else value
        return found

    async def until(self, is_so: Callable[[dict[str, float]], bool]) -> float:
        """Return how long it took until the metrics were so."""
        begun = time.monotonic()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not is_so(await self.metrics()):
                await asyncio.sleep(0.1)
        return time.monotonic() - begun

    async def is_well(self) -> None:
        await self.until(
            lambda found: found["account_bridge_ready"] == 1 and found["account_bridge_outbox_events"] == 0
        )
        assert (await self.status())[0] == 0

    async def says(  # noqa: PLR0913 - everything that says something
        self,
        what: str,
        cause: tuple[str, str],
        words: str,
        *,
        within: float,
        alerts: Mapping[str, Mapping[str, str]],
        folder: Path,
        is_ready: bool = False,
        level: str = "warn",
    ) -> None:
        """Check that everything tells of *cause* in *words*, and write down how long it took."""
        where, why = cause
        problem = f'account_bridge_problem{{cause="{why}",where="{where}"}}'
        begun = time.monotonic()
        await self.until(lambda found: problem in found)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while words not in (await self.get("/readyz"))[1]:
                await asyncio.sleep(0.1)
        seconds = time.monotonic() - begun
        assert seconds < within, self.command.printed[-3000:]
        await self.until(lambda found: found["account_bridge_ready"] == is_ready)
        ready, told = await self.get("/readyz")
        assert ready == (200 if is_ready else 503)
        code, printed = await self.status()
        assert code == (0 if is_ready else 1)
        assert words in printed
        assert "Traceback" not in self.command.printed
        assert PASSWORD not in printed + told
        assert (await self.get("/livez"))[0] == 200, "a part that is away is no reason to restart the bridge"
        metrics = await self.metrics()
        assert metrics[problem] == 1
        assert metrics[f'account_bridge_level{{level="{level}"}}'] == 1
        fires(folder, metrics, {name: dict(labels) for name, labels in alerts.items()}, LONGEST_FOR)
        async with look(self.url) as seen:
            await seen.says(words, "#problems")
            lead = await seen.page.locator("#lead").text_content()
            await seen.shoot(f"broken-{what.replace(' ', '-')}")
        line = f"| {what} | {seconds:.1f} s | {lead} … {words} | {ready} | {problem} | {', '.join(alerts)} |\n"
        with RECORD.open("a") as file:
            file.write(line)


@asynccontextmanager
async def watched(
    folder: Path, broker: PrivateBroker, url: str, *, queue: bool = True, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Watched]:
    """A bridge with a store in *folder*, between the PBX at *url* and *broker*; *queue*: somebody takes its events."""
    await asyncio.to_thread(_clear, broker)
    if queue:
        await bind(broker, "pbx.accounts", QUEUE)
    port = free_port()
    environment = {
        "BRIDGE_PBX_NAME": "hq",
        "BRIDGE_PBX_URL": url,
        "BRIDGE_PBX_APP": "app",
        "BRIDGE_PBX_PASSWORD": PASSWORD,
        "BRIDGE_PBX_POLL_INTERVAL_SECONDS": "0.3",
        "BRIDGE_RABBITMQ_URL": broker.url,
        "BRIDGE_RABBITMQ_LOG_STREAM": "false",
        "BRIDGE_STORE_URL": f"sqlite:///{folder / 'bridge.db'}",
        "BRIDGE_STORE_MIN_FREE_BYTES": "0",
        "BRIDGE_STATUS_PORT": str(port),
        **(settings or {}),
    }
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as http:
        with Command("run", environment=environment) as command:
            await asyncio.to_thread(command.wait_for_log, "status.listening")
            yield Watched(command, environment, port, http)


def _clear(broker: PrivateBroker) -> None:
    for line in broker.ctl("list_queues", "name").splitlines():
        if line.startswith("pbx.accounts"):
            broker.ctl("delete_queue", line)


@asynccontextmanager
async def pbx_served(accounts: int = 5) -> AsyncIterator[tuple[Pbx, Served]]:
    pbx = Pbx(accounts=accounts, app="app", password=PASSWORD)
    async with serve(pbx) as served:
        yield pbx, served


async def test_a_pbx_that_is_away(tmp_path: Path, broker: PrivateBroker) -> None:
    async with AsyncExitStack() as stack:
        pbx, served = await stack.enter_async_context(pbx_served())
        async with watched(tmp_path, broker, served.url) as bridge:
            await bridge.is_well()
            await stack.aclose()
            await bridge.says(
                "PBX away",
                ("hq", "pbx_unreachable"),
                "Is the address right, and the PBX up?",
                within=5,
                alerts={"AccountBridgePbxAway": {"pbx": "hq"}},
                folder=tmp_path,
            )
            async with serve(pbx, port=served.port):
                await bridge.is_well()


async def test_a_login_that_is_refused(tmp_path: Path, broker: PrivateBroker) -> None:
    async with pbx_served() as (pbx, served), watched(tmp_path, broker, served.url) as bridge:
        await bridge.is_well()
        pbx.password_change("another")
        served.drop_connections()
        await bridge.says(
            "PBX refuses the login",
            ("hq", "pbx_refused_login"),
            "the Name or Password of the App object in the PBX differs from the configured one",
            within=10,
            alerts={"AccountBridgePbxNeedsAttention": {"pbx": "hq"}},
            folder=tmp_path,
            level="error",
        )


async def test_a_broker_that_is_away(tmp_path: Path, broker: PrivateBroker) -> None:
    async with pbx_served() as (pbx, served), watched(tmp_path, broker, served.url) as bridge:
        await bridge.is_well()
        await asyncio.to_thread(broker.kill)
        try:
            pbx.create()
            await bridge.says(
                "broker away",
                ("broker", "broker_unreachable"),
                "no connection to the broker at 127.0.0.1",
                within=5,
                alerts={"AccountBridgeBrokerAway": {}},
                folder=tmp_path,
            )
        finally:
            await asyncio.to_thread(broker.start)
        await bridge.is_well()


async def test_a_broker_that_is_blocked(tmp_path: Path, broker: PrivateBroker) -> None:
    async with pbx_served() as (pbx, served), watched(tmp_path, broker, served.url) as bridge:
        await bridge.is_well()
        await asyncio.to_thread(broker.alarm)
        try:
            pbx.create()
            await bridge.says(
                "broker blocked",
                ("broker", "broker_blocked"),
                "The broker has a memory or disk alarm and takes nothing",
                within=5,
                alerts={"AccountBridgeBrokerBlocked": {}},
                folder=tmp_path,
            )
        finally:
            await asyncio.to_thread(broker.end_alarm)
        await bridge.is_well()


async def test_events_that_no_queue_takes(tmp_path: Path, broker: PrivateBroker) -> None:
    async with pbx_served() as (_, served), watched(tmp_path, broker, served.url, queue=False) as bridge:
        await bridge.says(
            "nobody takes the events",
            ("hq", "event_unroutable"),
            "Bind a queue to the exchange pbx.accounts",
            within=10,
            alerts={"AccountBridgeUnroutable": {}},
            folder=tmp_path,
        )
        for _ in range(20):  # it goes on trying, and is never well in between
            assert (await bridge.get("/readyz"))[0] == 503
            await asyncio.sleep(0.1)
        await bind(broker, "pbx.accounts", QUEUE)
        await bridge.is_well()


async def test_an_event_that_the_broker_refuses_for_good(tmp_path: Path, broker: PrivateBroker) -> None:
    async with pbx_served() as (pbx, served), watched(tmp_path, broker, served.url) as bridge:
        await bridge.is_well()
        large, other = sorted(pbx.truth())[:2]
        pbx.change_display_name(large, "🎉" * 1024)
        await bridge.until(lambda found: found["account_bridge_outbox_parked_events"] == 1)
        pbx.change_display_name(other, "Erika")
        await bridge.says(
            "event refused for good",
            ("outbox", "events_parked"),
            "The broker refused 1 event for good",
            within=10,
            alerts={"AccountBridgeEventsParked": {}},
            folder=tmp_path,
            is_ready=True,
        )
        found = await bridge.metrics()
        assert found['account_bridge_pbx_parked_events{pbx="hq"}'] == 1
        assert found["account_bridge_outbox_events"] == 0, "the others flow"


async def test_events_that_wait_too_long(tmp_path: Path, broker: PrivateBroker) -> None:
    settings = {"BRIDGE_STATUS_MAX_UNSENT_AGE_SECONDS": "2"}
    async with pbx_served() as (pbx, served), watched(tmp_path, broker, served.url, settings=settings) as bridge:
        await bridge.is_well()
        await asyncio.to_thread(broker.alarm)
        try:
            for _ in range(50):
                pbx.create()
            await bridge.says(
                "outbox growing",
                ("outbox", "events_late"),
                "more than 2 s is too long",
                within=8,
                alerts={"AccountBridgeBrokerBlocked": {}, "AccountBridgeEventsLate": {}},
                folder=tmp_path,
                level="error",
            )
        finally:
            await asyncio.to_thread(broker.end_alarm)
        await bridge.is_well()


async def test_an_outbox_that_is_full(tmp_path: Path, broker: PrivateBroker) -> None:
    settings = {"BRIDGE_STORE_MAX_UNSENT_EVENTS": "20"}
    async with pbx_served() as (pbx, served), watched(tmp_path, broker, served.url, settings=settings) as bridge:
        await bridge.is_well()
        await asyncio.to_thread(broker.alarm)
        try:
            for _ in range(50):
                pbx.create()
            await bridge.says(
                "outbox full",
                ("outbox", "outbox_full"),
                "the outbox is full: ",
                within=8,
                alerts={"AccountBridgeBrokerBlocked": {}, "AccountBridgeOutboxFull": {}},
                folder=tmp_path,
                level="paused",
            )
            status = await bridge.metrics()
            assert status['account_bridge_pbx_level{level="paused",pbx="hq"}'] == 1
        finally:
            await asyncio.to_thread(broker.end_alarm)
        await bridge.is_well()


async def test_a_walk_that_is_stuck(tmp_path: Path, broker: PrivateBroker) -> None:
    settings = {"BRIDGE_STATUS_MAX_WALK_STALL_SECONDS": "2"}
    pbx = Pbx(accounts=2000, app="app", password=PASSWORD)
    async with (
        serve(pbx, round_trip_seconds=0.005) as served,
        watched(tmp_path, broker, served.url, settings=settings) as bridge,
    ):
        await bridge.until(lambda found: found.get('account_bridge_pbx_walk_accounts{pbx="hq"}', 0) > 100)
        served.stop_answering()
        await bridge.until(lambda found: found["account_bridge_outbox_events"] == 0)
        await bridge.says(
            "walk stuck",
            ("hq", "walk_stalled"),
            "The full walk is stuck: ",
            within=6,
            alerts={"AccountBridgeWalkStuck": {"pbx": "hq"}},
            folder=tmp_path,
            is_ready=True,
        )
        served.start_answering()
        await bridge.until(lambda found: found['account_bridge_pbx_walk_stalled{pbx="hq"}'] == 0)


@pytest.fixture
def freeze(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """What makes every write to the store fail from now on, as on a file system that has become read-only."""
    files: list[Path] = []

    def immutable(*, is_on: bool) -> bool:
        command = ["chattr", "+i" if is_on else "-i", *map(str, files)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def now() -> None:
        files.extend((tmp_path / "bridge.db", tmp_path / "bridge.db-wal"))
        if not immutable(is_on=True):
            # Nothing else makes an open store read-only to root; where this is refused, nothing can be shown.
            pytest.skip("this user, or this file system, cannot make a file immutable")
        try:
            with (tmp_path / "bridge.db").open("r+b"):
                # Some file systems take the flag and write all the same.
                pytest.skip("this file system does not heed it that a file is immutable")
        except PermissionError:
            return

    yield now
    immutable(is_on=False)


async def test_a_store_that_cannot_be_written_any_more(
    tmp_path: Path, broker: PrivateBroker, freeze: Callable[[], None]
) -> None:
    async with pbx_served() as (pbx, served), watched(tmp_path, broker, served.url) as bridge:
        await bridge.is_well()
        async with look(bridge.url) as seen:
            await seen.says("Everything sent.", "#lead")
            await asyncio.to_thread(freeze)
            begun = time.monotonic()
            pbx.create()
            assert await asyncio.to_thread(bridge.command.wait) == 1
            await seen.says("No answer from the bridge since", "#gone")
            seconds = time.monotonic() - begun
            assert seconds < 15
            await seen.shoot("broken-store-read-only")
        last = bridge.command.err[-1]
        assert re.search(r"the store .* cannot be (read or )?written", last)
        assert re.search(r"start the bridge again|Let the bridge's user write", last)
        assert "Traceback" not in bridge.command.printed
        code, told = await bridge.status()
        assert (code, "no bridge answers" in told) == (1, True)
        with pytest.raises(aiohttp.ClientConnectionError):
            await bridge.get("/metrics")
        fires(tmp_path, {'up{job="account-bridge"}': 0}, {"AccountBridgeDown": {}}, LONGEST_FOR)
        with RECORD.open("a") as file:
            file.write(
                f"| store read-only | {seconds:.1f} s | No answer from the bridge since … | no answer | up is 0 | "
                "AccountBridgeDown |\n"
            )


async def test_ten_thousand_accounts_some_with_awkward_names(tmp_path: Path, broker: PrivateBroker) -> None:
    pbx = Pbx(accounts=10_000, app="app", password=PASSWORD)
    async with serve(pbx) as served, watched(tmp_path, broker, served.url) as bridge:
        async with asyncio.timeout(240):
            while bridge.command.logs("source.verified") == []:
                await asyncio.sleep(0.5)
        await bridge.is_well()
        guids = sorted(pbx.truth())
        for guid, name in zip(guids, AWKWARD, strict=False):
            if len(name) < 300:  # what the broker of these tests takes
                pbx.change_display_name(guid, name)
        async with look(bridge.url, "phone") as seen:
            await seen.says("<b>Erika</b>", "#changes")
            await seen.says("10,000", "#cards")
            await seen.shoot("ten-thousand-phone")
            assert await seen.page.locator("main img, main b, main script").count() == 0
            assert not await seen.overflows()
            assert not seen.complaints
        for path in ("/status", "/changes", "/history", "/metrics"):
            status, text = await bridge.get(path)
            assert (status, len(text) < 100_000) == (200, True)
