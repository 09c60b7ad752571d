"""Several bridges on one store in PostgreSQL, and the PBXs that they share."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import psycopg

from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.postgres import PrivatePostgres
from tests.support.process import Command
from tests.support.rabbit import PrivateBroker
from tests.support.witness import bind

PASSWORD = "sh4red-s3cret"
LEASE_SECONDS = 5.0
PATIENCE_SECONDS = 60.0


class Cluster:
    """Bridges by number, each with a folder of its own for what stands on its machine."""

    def __init__(self, folder: Path, broker: PrivateBroker, server: PrivatePostgres, pbxs: dict[str, Pbx]) -> None:
        self.broker = broker
        self.server = server
        self.pbxs = pbxs
        self.exchange = f"pbx.accounts.{uuid4().hex[:8]}"
        self.queue = f"{self.exchange}.q"
        self.database = f"shared_{uuid4().hex[:8]}"
        self.store_url = server.create_database(self.database)
        self.folder = folder
        self.bridges: dict[int, Command] = {}
        self.settings: dict[str, str] = {}
        """More of them, for all bridges."""

    def environment(self, number: int) -> dict[str, str]:
        runtime = self.server.runtime / f"{self.database[-4:]}{number}"
        runtime.mkdir(exist_ok=True)
        return {
            "BRIDGE_FLEET_PBX_DIR": str(self.folder / "pbxs"),
            "BRIDGE_RABBITMQ_URL": self.broker.url,
            "BRIDGE_RABBITMQ_EXCHANGE": self.exchange,
            "BRIDGE_STORE_URL": self.store_url,
            "BRIDGE_STORE_SHARED": "true",
            "BRIDGE_STORE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "BRIDGE_STATUS_PORT": "0",
            "BRIDGE_LOG_FORMAT": "json",
            "XDG_RUNTIME_DIR": str(runtime),
            **self.settings,
        }

    def start(self, number: int) -> Command:
        """Start a bridge, or one of that number again."""
        self.bridges[number] = Command("run", environment=self.environment(number))
        return self.bridges[number]

    def kill_all(self) -> None:
        for bridge in self.bridges.values():
            bridge.go_on()
            bridge.kill()

    def holders(self) -> dict[str, int]:
        """Return the number of the bridge that has each source, by its process; 0 where none has it."""
        try:
            rows = self.server.run(
                "SELECT source.name, coalesce(bridge.name, '') FROM source LEFT JOIN bridge ON bridge.id = holder "
                "AND NOT is_over",
                self.database,
            )
        except psycopg.errors.UndefinedTable:  # the first one makes them
            return {}
        processes = {f"process {bridge.number}": number for number, bridge in self.bridges.items()}
        return {
            str(source): next((number for words, number in processes.items() if str(name).endswith(words)), 0)
            for source, name in rows
        }

    async def until(self, what: Callable[[dict[str, int]], bool], *, seconds: float = PATIENCE_SECONDS) -> float:
        """Wait until the holders are so, and return after how many seconds that was."""
        began = time.monotonic()
        while not what(await asyncio.to_thread(self.holders)):
            assert time.monotonic() - began < seconds, self.told()
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def all_held(self) -> float:
        return await self.until(lambda holders: len(holders) == len(self.pbxs) and all(holders.values()))

    def told(self) -> str:
        """Return what all bridges said last, for a test that failed."""
        return "\n\n".join("\n".join(bridge.printed.splitlines()[-40:]) for bridge in self.bridges.values())

    def change(self, count: int) -> int:
        """Change so many accounts of each PBX, and return how many changes that makes."""
        for pbx in self.pbxs.values():
            for guid in list(pbx.truth())[:count]:
                pbx.change_display_name(guid)
        return count * len(self.pbxs)


@asynccontextmanager
async def cluster(
    folder: Path, broker: PrivateBroker, server: PrivatePostgres, *, names: Sequence[str], accounts: int
) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        pbxs = {
            name: Pbx(accounts=accounts, app="app", password=PASSWORD, name=name, seed=number)
            for number, name in enumerate(names)
        }
        (folder / "pbxs").mkdir()
        for name, pbx in pbxs.items():
            served = await stack.enter_async_context(serve(pbx))
            (folder / "pbxs" / f"{name}.toml").write_text(
                f'url = "{served.url}"\napp = "app"\npassword = "{PASSWORD}"\npoll_interval_seconds = 0.2\n'
            )
        place = Cluster(folder, broker, server, pbxs)
        await bind(broker, place.exchange, place.queue)
        try:
            yield place
        finally:
            await asyncio.to_thread(place.kill_all)
