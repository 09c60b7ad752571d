"""Many PBXs in one bridge: who is read when, and what becomes of those that are added, removed and changed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from bridge.runtime.bridge import Bridge
from bridge.runtime.wiring import build_bridge
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import Served, serve
from tests.support.rabbit import PrivateBroker
from tests.support.settings import load
from tests.support.witness import Witness, bind, read

PASSWORD = "pl4nted-s3cret"


class Fleet:
    """Pretend PBXs, and the configuration of a bridge that follows them."""

    def __init__(self, folder: Path, broker: PrivateBroker, served: Sequence[Served]) -> None:
        self.folder = folder
        self.broker = broker
        self.served = served
        self.exchange = f"fleet.{uuid4().hex[:8]}"

    def text(self, names: Sequence[int], *, walk: str = "") -> str:
        tables = (
            f'[[pbx]]\nname = "p{number}"\nurl = "{self.served[number].url}"\napp = "app"\npassword = "{PASSWORD}"\n'
            "poll_interval_seconds = 0.2"
            for number in names
        )
        head = (
            f'[rabbitmq]\nurl = "{self.broker.url}"\nexchange = "{self.exchange}"\nlog_stream = false\n'
            f'[store]\nurl = "sqlite:///{self.folder / "bridge.db"}"\n[status]\nenabled = false\n'
            f'[walk]\nnightly_at = "never"\n{walk}'
        )
        return "\n\n".join([head, *tables])

    @asynccontextmanager
    async def running(self, names: Sequence[int], **more: Any) -> AsyncIterator[Bridge]:
        stop = asyncio.Event()
        await bind(self.broker, self.exchange, f"{self.exchange}.q")
        with build_bridge(load({}, self.text(names, **more), self.folder)) as bridge:
            task = asyncio.create_task(bridge.run(stop))
            try:
                async with asyncio.timeout(60):
                    yield bridge
            finally:
                stop.set()
                await task

    async def witness(self, until: int) -> Witness:
        return await read(self.broker, f"{self.exchange}.q", until=until)


@asynccontextmanager
async def fleet(folder: Path, broker: PrivateBroker, *, pbxs: int, accounts: int) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        made = [Pbx(accounts=accounts, seed=number, app="app", password=PASSWORD) for number in range(pbxs)]
        yield Fleet(folder, broker, [await stack.enter_async_context(serve(pbx)) for pbx in made])


async def until(is_so: Any) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


def note_order(served: Sequence[Served]) -> list[int]:
    """Return a list to which the number of a PBX is put whenever that begins to hand accounts out after another did."""
    order: list[int] = []

    def note(number: int) -> None:
        if order[-1:] != [number]:
            order.append(number)

    for number, each in enumerate(served):
        each.pbx.on_rows.append(partial(note, number))
    return order


async def test_one_after_the_other_is_read(tmp_path: Path, broker: PrivateBroker) -> None:
    async with fleet(tmp_path, broker, pbxs=8, accounts=30) as place:
        order = note_order(place.served)
        async with place.running(range(8), walk="max_at_once = 1") as bridge:
            await until(lambda: all(part.verified_at for part in bridge.board.sources.values()))
        assert sorted(order) == list(range(8)), "nobody had to wait in the midst"
        witness = await place.witness(8 * 30)
        assert len(witness.ids) == len(set(witness.ids)) == 8 * 30


async def test_one_that_hangs_in_its_first_reading_holds_nobody_up(tmp_path: Path, broker: PrivateBroker) -> None:
    async with fleet(tmp_path, broker, pbxs=4, accounts=30) as place:
        hanging, pbx = place.served[0], place.served[0].pbx
        pbx.on_rows.append(lambda: hanging.stop_answering() if len(pbx.oracle.deliveries) == 10 else None)
        async with place.running(range(4), walk="max_at_once = 1") as bridge:
            parts = bridge.board.sources
            await until(lambda: all(part.verified_at for name, part in parts.items() if name != "p0"))
            assert not parts["p0"].verified_at
            hanging.start_answering()
            hanging.drop_connections()
            await until(lambda: parts["p0"].caught_up_at)
        witness = await place.witness(4 * 30)
        assert len(witness.ids) == len(set(witness.ids)) == 4 * 30


async def test_a_change_of_who_was_read_does_not_wait_for_those_that_are_not(
    tmp_path: Path, broker: PrivateBroker
) -> None:
    async with fleet(tmp_path, broker, pbxs=6, accounts=300) as place:
        for served in place.served[1:]:
            served.round_trip_seconds = 0.02
        async with place.running(range(6), walk="max_at_once = 2") as bridge:
            parts = bridge.board.sources
            await until(lambda: parts["p0"].verified_at)
            changes, pbx = parts["p0"].changes, place.served[0].pbx
            pbx.rename(pbx.pick())
            await until(lambda: parts["p0"].changes > changes and not parts["p0"].unsent)
            assert sum(part.verified_at is None for part in parts.values()) > 2
            assert any(part.waits_for_turn for part in parts.values())
