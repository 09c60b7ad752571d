"""A bridge that PBXs dial, as a process of its own, with a real broker behind it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import trustme

from bridge.security.tls import Trust, client_context
from bridge.simulator.pbx import Pbx
from tests.support.certificates import authority_file, written
from tests.support.process import Command
from tests.support.rabbit import PrivateBroker
from tests.support.witness import Witness, bind, read

PASSWORD = "pl4nted-s3cret"


class DialledSite:
    """The settings of a bridge that listens by TLS, and what is needed to dial it."""

    def __init__(self, folder: Path, broker: PrivateBroker) -> None:
        self.broker = broker
        self.exchange = f"pbx.accounts.{uuid4().hex[:8]}"
        self.queue = f"{self.exchange}.q"
        self.authority = trustme.CA()
        self.certificate, self.key = written(self.authority, folder, "127.0.0.1")
        self.ca_file = authority_file(self.authority, folder)
        self.port = 0
        self.environment = {
            "BRIDGE_LISTEN_HOST": "0.0.0.0",  # noqa: S104 - the strangers of a test have addresses of their own
            "BRIDGE_LISTEN_PORT": "0",
            "BRIDGE_LISTEN_CERTIFICATE_FILE": str(self.certificate),
            "BRIDGE_LISTEN_KEY_FILE": str(self.key),
            "BRIDGE_LISTEN_APP_NAME": "app",
            "BRIDGE_LISTEN_APP_PASSWORD": PASSWORD,
            "BRIDGE_LISTEN_POLL_INTERVAL_SECONDS": "0.2",
            "BRIDGE_RABBITMQ_URL": broker.url,
            "BRIDGE_RABBITMQ_EXCHANGE": self.exchange,
            "BRIDGE_RABBITMQ_LOG_STREAM": "false",
            "BRIDGE_STORE_URL": f"sqlite:///{folder / 'bridge.db'}",
            "BRIDGE_STATUS_PORT": "0",
        }

    @property
    def url(self) -> str:
        return f"{'wss' if 'BRIDGE_LISTEN_KEY_FILE' in self.environment else 'ws'}://127.0.0.1:{self.port}/pbx/app"

    @property
    def context(self) -> ssl.SSLContext:
        return client_context(Trust(ca_file=self.ca_file))

    async def witness(self, until: int) -> Witness:
        return await read(self.broker, self.queue, until=until)

    @asynccontextmanager
    async def bridge(self) -> AsyncIterator[Command]:
        """Run it, and yield once it can be dialled."""
        with Command("run", environment=self.environment) as command:
            self.port = int((await asyncio.to_thread(command.wait_for_log, "listen.listening"))["port"])
            yield command


def pbx_called(name: str, accounts: int, **more: Any) -> Pbx:
    return Pbx(accounts=accounts, app="app", password=PASSWORD, name=name, domain="example.com", **more)


@asynccontextmanager
async def dialled_site(folder: Path, broker: PrivateBroker) -> AsyncIterator[DialledSite]:
    place = DialledSite(folder, broker)
    await bind(broker, place.exchange, place.queue)
    try:
        yield place
    finally:
        # Other tests look at what a broker holds.
        await asyncio.to_thread(broker.ctl, "delete_queue", place.queue)
