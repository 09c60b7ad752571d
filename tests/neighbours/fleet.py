"""A quarter of a fleet is bad at the same time, and the others must not feel it.

``python -m tests.neighbours.fleet``: of a thousand PBXs a hundred lose their connection again and again, a hundred
refuse the login, and fifty answer garbage. Measured is the time from a change at one of the others until a consumer has
its event, during that and in the quiet before and behind it. At the end every change of theirs must have arrived
exactly once and in order. Exit codes: 0 nobody felt it, 1 somebody did.
"""

import asyncio
import logging
import random
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aio_pika
import click
from websockets.asyncio.server import ServerConnection, serve

from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import Served
from bridge.simulator.session import Connection
from tests.benchmark.figures import percentile
from tests.neighbours.__main__ import LIMIT, WARM_SECONDS, arrival, say
from tests.neighbours.bad import APP, PASSWORD
from tests.neighbours.site import EXCHANGE, Site, StandstillError
from tests.support.process import Command
from tests.support.rabbit import PrivateBroker

ACCOUNTS: Final = 20
START_SECONDS: Final = 600.0
RECOVERY_SECONDS: Final = 180.0
FLAP_SECONDS: Final = 3.0
"""Between two cuts of one connection, about."""

SHARES: Final = {"flapping": 0.1, "refusing": 0.1, "garbage": 0.05}


class Member:
    """One PBX of the fleet, which may answer garbage."""

    def __init__(self, number: int) -> None:
        modes = Modes.parse(["push-row"])
        name = f"p{number:04}"
        self.pbx = Pbx(accounts=ACCOUNTS, seed=number, modes=modes, app=APP, password=PASSWORD, name=name, remember=500)
        self.served = Served(self.pbx, round_trip_seconds=0.0)
        self.is_garbled = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with serve(self._answer, "127.0.0.1", 0, compression=None, ping_interval=None, close_timeout=1) as server:
            self.served.host, self.served.port = server.sockets[0].getsockname()[:2]
            yield
            self.pbx.drop_connections()

    async def _answer(self, socket: ServerConnection) -> None:
        if self.is_garbled:
            async for _ in socket:
                await socket.send(f'{{"mt": "AppChallengeResult", {random.random()}')  # noqa: S311 - garbage
        else:
            await self.served.talk(socket, Connection(self.pbx))


class FleetSite(Site):
    """A fleet, of which some turn bad."""

    def __init__(self, folder: Path, broker: PrivateBroker, members: Sequence[Member]) -> None:
        count = len(members)
        self.members = members
        self.bad: dict[str, Sequence[Member]] = {}
        begin = 0
        for way, share in SHARES.items():
            self.bad[way] = members[begin : begin + int(share * count)]
            begin += int(share * count)
        super().__init__(folder, broker, [member.pbx for member in members[begin:]])

    async def start_bridge(self) -> None:
        """Start it, and wait until every PBX was read to its end."""
        self.bridge = Command("run", "--config", str(self.folder / "bridge.toml"), cwd=self.folder)
        await asyncio.to_thread(self.bridge.wait_for_log, "source.starting")
        await self.until("not all PBXs are read", _all_read, START_SECONDS)

    @asynccontextmanager
    async def trouble(self) -> AsyncIterator[None]:
        """Have all of them be bad while inside."""
        for member in self.bad["refusing"]:
            member.pbx.password_change("another one")
        for member in self.bad["garbage"]:
            member.is_garbled = True
        for member in (*self.bad["refusing"], *self.bad["garbage"]):
            member.served.drop_connections()
        flapping = [asyncio.create_task(_flap(member)) for member in self.bad["flapping"]]
        try:
            yield
        finally:
            for task in flapping:
                task.cancel()
            await asyncio.wait(flapping)
            for member in self.bad["refusing"]:
                member.pbx.password_change(PASSWORD)
            for member in self.bad["garbage"]:
                member.is_garbled = False
                member.served.drop_connections()


async def _flap(member: Member) -> None:
    chance = random.Random(member.pbx.name)  # noqa: S311 - reproducible, not secret
    while True:
        await asyncio.sleep(FLAP_SECONDS * chance.uniform(0.5, 1.5))
        member.served.drop_connections()


def _all_read(status: dict[str, Any]) -> bool:
    return all(part["verified_at"] and part["is_usable"] for part in status["sources"].values())


def _are_all_usable(status: dict[str, Any]) -> bool:
    return all(part["is_usable"] for part in status["sources"].values())


@asynccontextmanager
async def fleet(folder: Path, pbxs: int, changes_per_second: float) -> AsyncIterator[FleetSite]:
    members = [Member(number) for number in range(pbxs)]
    async with AsyncExitStack() as stack:
        broker = PrivateBroker()
        await asyncio.to_thread(broker.__enter__)
        stack.push(broker)
        for member in members:
            await stack.enter_async_context(member.listening())
        place = FleetSite(folder, broker, members)
        connection = await stack.enter_async_context(await aio_pika.connect(broker.url))
        channel = place.channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE, "topic", durable=True)
        queue = await channel.declare_queue("fleet.q", durable=True)
        await queue.bind(exchange, "#")
        await queue.consume(place.consume, no_ack=True)
        tables = (
            f'[[pbx]]\nname = "{member.pbx.name}"\nurl = "{member.served.url}"\napp = "{APP}"\npassword = "{PASSWORD}"'
            for member in members
        )
        head = (
            f'[rabbitmq]\nurl = "{broker.url}"\nexchange = "{EXCHANGE}"\nlog_stream = false\n[store]\n'
            f'url = "sqlite:///{folder / "bridge.db"}"\n[status]\nenabled = false\n[walk]\nnightly_at = "never"'
        )
        (folder / "bridge.toml").write_text("\n\n".join([head, *tables]))
        stack.push_async_callback(place.stop_bridge)
        await place.start_bridge()
        pause = len(place.pbxs) / changes_per_second
        changing = [asyncio.create_task(_change(place, pbx, pause)) for pbx in place.pbxs]
        try:
            yield place
        finally:
            for task in changing:
                task.cancel()
            await asyncio.gather(*changing, return_exceptions=True)


async def _change(place: FleetSite, pbx: Pbx, pause_seconds: float) -> None:
    await asyncio.sleep(random.uniform(0, pause_seconds))  # noqa: S311 - so that they do not all change at once
    await place.keep_changing(pbx, pause_seconds)


async def calm(place: FleetSite, seconds: float) -> list[float]:
    await place.until("not all are read again", _are_all_usable, RECOVERY_SECONDS)
    await asyncio.sleep(WARM_SECONDS)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    ended = time.monotonic()
    await arrival(place)
    return place.waits(began, ended)


async def run(folder: Path, *, pbxs: int, seconds: float, changes_per_second: float) -> int:
    """Play it, print what was measured, and return how many rules were broken."""
    async with fleet(folder, pbxs, changes_per_second) as place:
        say(f"{pbxs} PBXs are read; quiet …")
        before = await calm(place, seconds)
        bad = {way: len(members) for way, members in place.bad.items()}
        say(f"{', '.join(f'{count} {way}' for way, count in bad.items())} …")
        async with place.trouble():
            await asyncio.sleep(WARM_SECONDS)
            began = time.monotonic()
            await asyncio.sleep(seconds)
            ended = time.monotonic()
            status = await place.status()
        during = place.waits(began, ended)
        say("quiet again …")
        around = [*before, *await calm(place, seconds)]
        place.may_change.clear()
        await arrival(place)
        ratio = percentile(during, 0.99) / percentile(around, 0.99)
        figures = [percentile(of, at) for of in (around, during) for at in (0.5, 0.99)]
        click.echo(f"{len(place.pbxs)} sound PBXs, milliseconds from a change to its delivery, p50 and p99:")
        click.echo("quiet {:.0f} {:.0f}, in trouble {:.0f} {:.0f}".format(*figures) + f"; ratio {ratio:.2f}")
        for box in status["boxes"]:
            click.echo(f"status: {box['words'][:150]}")
        click.echo(f"ready: {status['ready']}; {len(place.made)} changes, {place.again} delivered again and marked so")
        broken = place.mistakes()
        if ratio > LIMIT:
            broken.append(f"the others felt it, {ratio:.2f}")
        for sentence in broken:
            say(sentence)
        return len(broken)


@click.command(help="Make a quarter of a fleet bad at the same time, and measure what the others feel.")
@click.option("--pbxs", default=1000, show_default=True)
@click.option("--seconds", default=30.0, show_default=True, help="Of each phase.")
@click.option("--changes-per-second", default=40.0, show_default=True, help="Of all sound PBXs together.")
def main(*, pbxs: int, seconds: float, changes_per_second: float) -> None:
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        playing = run(Path(folder), pbxs=pbxs, seconds=seconds, changes_per_second=changes_per_second)
        try:
            broken = asyncio.run(playing)
        except StandstillError as problem:
            say(str(problem))
            broken = 1
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
