"""One bridge with 49 sound PBXs and one that is played by ``bad``, a broker, and a consumer of the sound ones."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import aio_pika
import trustme

from bridge.errors import BridgeError
from bridge.events.cloudevents import DOUBT_HEADER
from bridge.ops import control_socket
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from bridge.store.places import SqlitePlace
from tests.neighbours.bad import APP, PASSWORD, WELL
from tests.support.certificates import authority_file, written
from tests.support.process import Command
from tests.support.rabbit import PrivateBroker

EXCHANGE: Final = "pbx.accounts"
BAD: Final = "bad"
FENCE: Final = f"{EXCHANGE}.writer.{BAD}"
SOUND: Final = 49
ACCOUNTS: Final = 40
MAX_EVENT_BYTES: Final = 50_000
"""The broker's limit, so that an event can be too large for it; sound ones are far below."""

BAD_WAITS: Final = f"{BAD}.q"
"""The queue of whoever wants the events of the bad one; it forgets what is too much."""


class StandstillError(Exception):
    """Something did not happen in time."""


class BadProcess:
    """The program that is ``bad``, and the port at which it is."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    def become(self, way: str) -> None:
        """Let it be bad in this way; its connections are cut."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{way}\n".encode())


class Site:
    """Everything that runs."""

    def __init__(
        self,
        folder: Path,
        broker: PrivateBroker,
        pbxs: list[Pbx],
        bad: BadProcess | None = None,
        elsewhere: BadProcess | None = None,
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.pbxs = pbxs
        self.bridge: Command | None = None
        self._bad = bad
        self._elsewhere = elsewhere
        self._numbers = count()
        self.may_change = asyncio.Event()
        self.may_change.set()
        self.made: dict[str, float] = {}
        """When each change was made, by what the account is called since."""
        self.order: dict[str, list[str]] = defaultdict(list)
        """The same by PBX, in order."""
        self.arrived: dict[str, list[tuple[float, str]]] = defaultdict(list)
        """When it was delivered, and the id of the event."""
        self.came: dict[str, list[str]] = defaultdict(list)
        """What came, by PBX, in order."""
        self.again = 0
        """How many were in doubt when a session ended, and came once more: with the same id, and marked as such."""
        self.channel: aio_pika.abc.AbstractChannel

    @property
    def elsewhere(self) -> BadProcess:
        """The same as the bad one, for a bridge of its own, of which nobody here hears."""
        assert self._elsewhere is not None
        return self._elsewhere

    @property
    def password_file(self) -> Path:
        return self.folder / "bad.secret"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def store(self) -> Path:
        return self.folder / "bridge.db"

    async def start_bridge(self) -> None:
        """Start it, and wait until every PBX is read."""
        self.bridge = Command("run", "--config", str(self.folder / "bridge.toml"), cwd=self.folder)
        await asyncio.to_thread(self.bridge.wait_for_log, "source.starting", SOUND + 1)
        self.become(WELL)
        await self.until("not all PBXs are read", all_well, 120)

    async def stop_bridge(self) -> None:
        """Stop it as an operator would, where it runs, and keep its last words."""
        if (bridge := self.bridge) is not None:
            if bridge.is_running and (code := await asyncio.to_thread(bridge.terminate)):
                raise StandstillError(f"the bridge ended with {code}: {bridge.err[-3:]}")
            with (self.folder / "bridge.log").open("a", encoding="utf-8") as log:
                log.write(bridge.printed + "\n")
        self.bridge = None

    def become(self, way: str) -> None:
        """Let the bad one be bad in this way; its connections are cut."""
        assert self._bad is not None
        self._bad.become(way)

    async def status(self) -> dict[str, Any]:
        try:
            return dict(json.loads(await control_socket.ask(SqlitePlace(self.store).socket, "GET", "/status")))
        except BridgeError as problem:
            if self.bridge is None or not self.bridge.is_running:
                raise StandstillError("the bridge ended by itself") from problem
            raise

    async def until(self, what: str, is_so: Any, seconds: float) -> None:
        """Wait until *is_so* of the status."""
        until = time.monotonic() + seconds
        while not is_so(status := await self.status()):
            if time.monotonic() > until:
                raise StandstillError(
                    f"{what} within {seconds:g} s: {status['sources'].get(BAD) or status['sentences'][:5]}"
                )
            await asyncio.sleep(0.5)

    async def keep_changing(self, pbx: Pbx, pause_seconds: float) -> None:
        """Rename one after another, so that no change is overtaken by the next of the same account."""
        guids = sorted(pbx.truth())
        for turn in count():
            await self.may_change.wait()
            name = f"{pbx.name} {next(self._numbers)}"
            self.made[name] = time.monotonic()
            self.order[pbx.name].append(name)
            pbx.change_display_name(guids[turn % len(guids)], name)
            await asyncio.sleep(pause_seconds)

    async def consume(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        now = time.monotonic()
        name = json.loads(message.body)["data"].get("account", {}).get("display_name", "")
        is_again = bool((message.headers or {}).get(DOUBT_HEADER))
        if is_again and message.message_id in {identity for _, identity in self.arrived.get(name, ())}:
            self.again += 1
        elif name in self.made:
            self.arrived[name].append((now, message.message_id or ""))
            self.came[name.partition(" ")[0]].append(name)

    def outstanding(self) -> int:
        return len(self.made) - len(self.arrived)

    def waits(self, since: float, until: float) -> list[float]:
        """Return how long changes of a time took, in milliseconds; one that did not arrive takes until now."""
        now = time.monotonic()
        return [
            1000 * ((self.arrived[name][0][0] if name in self.arrived else now) - at)
            for name, at in self.made.items()
            if since <= at < until
        ]

    def mistakes(self) -> list[str]:
        """Return what did not arrive exactly once and in order, of the sound ones."""
        found = []
        for pbx, names in self.order.items():
            if self.came[pbx] != names:
                twice = sum(len(self.arrived.get(name, ())) > 1 for name in names)
                lost = sum(name not in self.arrived for name in names)
                found.append(f"{pbx}: {len(names)} changes, {lost} lost, {twice} more than once, or not in order")
        return found


def settings(folder: Path, urls: list[str], bad_port: int, broker: str, exchange: str) -> str:
    """Return the configuration of a bridge."""
    tables = [
        f'[rabbitmq]\nurl = "{broker}"\nexchange = "{exchange}"\nlog_stream = false',
        f'[store]\nurl = "sqlite:///{folder / "bridge.db"}"',
        "[status]\nenabled = false",
        '[walk]\nnightly_at = "never"',
        *(
            f'[[pbx]]\nname = "p{number:02}"\nurl = "{url}"\napp = "{APP}"\npassword = "{PASSWORD}"'
            for number, url in enumerate(urls)
        ),
        (
            f'[[pbx]]\nname = "{BAD}"\nurl = "wss://localhost:{bad_port}"\napp = "{APP}"\n'
            f'password_file = "{folder / "bad.secret"}"\nca_file = "{folder / "ca.pem"}"\n'
            "answer_timeout_seconds = 3\nconnect_timeout_seconds = 3\npoll_interval_seconds = 1"
        ),
    ]
    return "\n\n".join(tables)


@asynccontextmanager
async def site(folder: Path, *, changes_per_second: float) -> AsyncIterator[Site]:
    """Start everything; what runs is ended behind the caller."""
    authority = trustme.CA()
    certificate, key = written(authority, folder, "localhost")
    authority_file(authority, folder)
    (folder / "bad.secret").write_text(PASSWORD)
    (folder / "bad.secret").chmod(0o600)
    modes = Modes.parse(["idle-hold"])
    pbxs = [
        Pbx(accounts=ACCOUNTS, seed=number, modes=modes, app=APP, password=PASSWORD, name=f"p{number:02}", remember=500)
        for number in range(SOUND)
    ]
    async with AsyncExitStack() as stack:
        broker = PrivateBroker(f"max_message_size = {MAX_EVENT_BYTES}")
        await asyncio.to_thread(broker.__enter__)
        stack.push(broker)
        served = [await stack.enter_async_context(serve(pbx)) for pbx in pbxs]
        bad, elsewhere = [await stack.enter_async_context(_bad_process(certificate, key)) for _ in range(2)]
        place = Site(folder, broker, pbxs, bad, elsewhere)
        connection = await stack.enter_async_context(await aio_pika.connect(broker.url))
        channel = place.channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE, "topic", durable=True)
        queue = await channel.declare_queue("sound.q", durable=True)
        for pbx in pbxs:
            await queue.bind(exchange, f"{pbx.name}.#")
        await (await channel.declare_queue(BAD_WAITS, durable=True, arguments={"x-max-length": 1000})).bind(
            exchange, f"{BAD}.#"
        )
        await queue.consume(place.consume, no_ack=True)
        file = folder / "bridge.toml"
        file.write_text(settings(folder, [each.url for each in served], bad.port, broker.url, EXCHANGE))
        stack.push_async_callback(place.stop_bridge)
        await place.start_bridge()
        await stack.enter_async_context(_another_bridge(place))
        await place.until("not all is told", lambda status: status["published"] >= SOUND * ACCOUNTS, 120)
        changing = [asyncio.create_task(place.keep_changing(pbx, 1 / changes_per_second)) for pbx in pbxs]
        try:
            yield place
        finally:
            for task in changing:
                task.cancel()
            await asyncio.gather(*changing, return_exceptions=True)


@asynccontextmanager
async def _another_bridge(place: Site) -> AsyncIterator[None]:
    """Run one that reads the other bad PBX and nobody else, with an exchange and a store of its own."""
    folder = place.folder / "elsewhere"
    folder.mkdir()
    for name in ("bad.secret", "ca.pem"):
        shutil.copy(place.folder / name, folder)
    file = folder / "bridge.toml"
    file.write_text(settings(folder, [], place.elsewhere.port, place.broker.url, f"{EXCHANGE}.elsewhere"))
    bridge = Command("run", "--config", str(file), cwd=folder)
    try:
        await asyncio.to_thread(bridge.wait_for_log, "source.starting", 1)
        yield
    finally:
        await asyncio.to_thread(bridge.terminate)


@asynccontextmanager
async def _bad_process(certificate: Path, key: Path) -> AsyncIterator[BadProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.neighbours.bad", str(certificate), str(key)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield BadProcess(process, int(await process.stdout.readline()))
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def all_well(status: dict[str, Any]) -> bool:
    """Tell whether every PBX is read."""
    return all(part["is_usable"] and part["last_progress_at"] for part in status["sources"].values())


def is_read(status: dict[str, Any]) -> bool:
    """Tell whether the bad one is read."""
    return bool(status["sources"][BAD]["is_usable"])
