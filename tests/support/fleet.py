"""Many pretend PBXs, and a bridge of them whose configuration is changed while it runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bridge.config.loading import load_settings
from bridge.model import SourceName
from bridge.runtime.bridge import Bridge
from bridge.runtime.reloaded import Reloaded
from bridge.runtime.wiring import build_bridge, build_reloader
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import Served, serve
from tests.support.rabbit import PrivateBroker
from tests.support.settings import load
from tests.support.witness import Witness, bind, read

if TYPE_CHECKING:
    from bridge.runtime.reload import Reloader

PASSWORD = "pl4nted-s3cret"


class Fleet:
    """Pretend PBXs, and the configuration of a bridge that follows them."""

    def __init__(self, folder: Path, broker: PrivateBroker, served: Sequence[Served]) -> None:
        self.folder = folder
        self.broker = broker
        self.broker_url = broker.url
        self.served = served
        self.reloader: Reloader
        self.exchange = f"fleet.{uuid4().hex[:8]}"
        self.has_log = False

    @staticmethod
    def table(name: str, url: str) -> str:
        return (
            f'[[pbx]]\nname = "{name}"\nurl = "{url}"\napp = "app"\npassword = "{PASSWORD}"\n'
            "poll_interval_seconds = 0.2"
        )

    def text(self, names: Sequence[int], *, walk: str = "") -> str:
        tables = (self.table(f"p{number}", self.served[number].url) for number in names)
        head = (
            f'[rabbitmq]\nurl = "{self.broker_url}"\nexchange = "{self.exchange}"\n'
            f"log_stream = {str(self.has_log).lower()}\n"
            f'[store]\nurl = "sqlite:///{self.folder / "bridge.db"}"\n[status]\nenabled = false\n'
            f'[walk]\nnightly_at = "never"\n{walk}'
        )
        return "\n\n".join([head, *tables])

    @asynccontextmanager
    async def running(self, names: Sequence[int], **more: Any) -> AsyncIterator[Bridge]:
        stop = asyncio.Event()
        await bind(self.broker, self.exchange, f"{self.exchange}.q")
        with build_bridge(load({}, self.text(names, **more), self.folder)) as bridge:
            self.reloader = build_reloader(
                load({}, self.text(names, **more), self.folder), bridge, lambda: load_settings(self.file, {})
            )
            task = asyncio.create_task(bridge.run(stop))
            try:
                async with asyncio.timeout(120):
                    yield bridge
            finally:
                stop.set()
                async with asyncio.timeout(60):
                    await task

    @property
    def file(self) -> Path:
        return self.folder / "bridge.toml"

    async def reload(self, text: str) -> Reloaded:
        self.file.write_text(text)
        return await self.reloader.reload()

    async def witness(self, until: int) -> Witness:
        return await read(self.broker, f"{self.exchange}.q", until=until)


@asynccontextmanager
async def fleet(folder: Path, broker: PrivateBroker, *, pbxs: int, accounts: int) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        made = [Pbx(accounts=accounts, seed=number, app="app", password=PASSWORD) for number in range(pbxs)]
        yield Fleet(folder, broker, [await stack.enter_async_context(serve(pbx)) for pbx in made])


async def until(is_so: Callable[[], object]) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


async def until_read(bridge: Bridge, served: Sequence[Served]) -> None:
    """Wait until everything that the PBXs have to tell now is durable and sent: their cursors are at the newest."""
    for number, each in enumerate(served):
        newest = each.pbx.accounts.newest
        assert newest is not None
        part = bridge.board.sources[SourceName(f"p{number}")]
        usn = f'"{newest.usn}"'
        await until(lambda: part.cursor.usn == usn and not part.unsent)  # noqa: B023 - called at once


def assert_told_once(witness: Witness, served: Sequence[Served]) -> None:
    """Every account is as its PBX has it, and each event came once and in order, whatever was changed meanwhile."""
    assert len(witness.ids) == len(set(witness.ids))
    by_source: dict[str, list[dict[str, Any]]] = {}
    for event in witness.deliveries:
        by_source.setdefault(event["source"].removeprefix("/pbx/"), []).append(event)
    for number, each in enumerate(served):
        told = by_source[f"p{number}"]
        sequences = [int(event["sequence"]) for event in told]
        assert sequences == sorted(sequences)
        latest = {event["subject"]: event for event in told}
        present = {guid for guid, event in latest.items() if event["data"]["change"] != "deleted"}
        truth = each.pbx.truth()
        assert present == truth.keys(), f"p{number}: {present ^ truth.keys()}"
        assert {guid: latest[guid]["data"]["account"]["h323"] for guid in present} == {
            guid: record.h323 for guid, record in truth.items()
        }
