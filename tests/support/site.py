"""A pretend PBX, a real broker, and a bridge between them that runs as a process of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from bridge.simulator.pbx import Pbx
from bridge.simulator.server import Served, serve
from tests.support.process import Command, run
from tests.support.rabbit import PrivateBroker
from tests.support.witness import Witness, bind, read

PASSWORD = "pl4nted-s3cret"


class Site:
    """A pretend PBX, a broker, and the settings of a bridge between them."""

    def __init__(self, folder: Path, broker: PrivateBroker, pbx: Pbx, served: Served) -> None:
        self.broker = broker
        self.pbx = pbx
        self.served = served
        self.exchange = f"pbx.accounts.{uuid4().hex[:8]}"
        self.queue = f"{self.exchange}.q"
        self.environment = {
            "BRIDGE_PBX_NAME": "hq",
            "BRIDGE_PBX_URL": served.url,
            "BRIDGE_PBX_APP": "app",
            "BRIDGE_PBX_PASSWORD": PASSWORD,
            "BRIDGE_PBX_POLL_INTERVAL_SECONDS": "0.2",
            "BRIDGE_RABBITMQ_URL": broker.url,
            "BRIDGE_RABBITMQ_EXCHANGE": self.exchange,
            "BRIDGE_STORE_URL": f"sqlite:///{folder / 'bridge.db'}",
            "BRIDGE_STATUS_PORT": "0",
        }

    def bridge(self) -> Command:
        return Command("run", environment=self.environment)

    async def witness(self, until: int) -> Witness:
        return await read(self.broker, self.queue, until=until)

    @property
    def rows_handed_out(self) -> int:
        return len(self.pbx.oracle.deliveries)


@asynccontextmanager
async def site(
    folder: Path, broker: PrivateBroker, *, accounts: int, round_trip_seconds: float = 0.0
) -> AsyncIterator[Site]:
    pbx = Pbx(accounts=accounts, app="app", password=PASSWORD)
    async with serve(pbx, round_trip_seconds=round_trip_seconds) as served:
        place = Site(folder, broker, pbx, served)
        await bind(broker, place.exchange, place.queue)
        yield place
        assert not pbx.oracle.mistakes


async def rows_are_handed_out(place: Site, count: int) -> None:
    async with asyncio.timeout(60):
        while place.rows_handed_out < count:
            await asyncio.sleep(0.005)


async def stopped(bridge: Command) -> int:
    return await asyncio.to_thread(bridge.terminate)


async def asked(place: Site, *arguments: str) -> tuple[int, str]:
    code, command = await asyncio.to_thread(run, *arguments, environment=place.environment)
    return code, command.printed
