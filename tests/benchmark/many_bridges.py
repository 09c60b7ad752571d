"""Many PBXs over several bridges on one PostgreSQL: a first start, a rest, and one of the bridges killed under load."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import aio_pika

from bridge.events.cloudevents import decode
from tests.benchmark import sides, site
from tests.benchmark.bare import APP, PASSWORD
from tests.benchmark.figures import Figure, percentile
from tests.benchmark.fleet import CHANGES_PER_SECOND, MARK, keep_changing, serve_all
from tests.benchmark.running import Benchmark, Run
from tests.support.postgres import PrivatePostgres, is_installed
from tests.support.process import Command

LEASE_SECONDS: Final = 5.0
REST_SECONDS: Final = 30.0
"""How long changes are watched while nothing happens, and as long again behind the kill."""
LOOK_SECONDS: Final = 0.1
"""How often it is looked who is connected."""
PATIENCE_SECONDS: Final = 900.0


def served(*, pbxs: int, accounts: int) -> dict[str, Any]:
    """Serve so many pretend PBXs until stdin is closed; return when each was connected last and was not before.

    Their ports are the line that is printed first.
    """
    return asyncio.run(_serve(pbxs, accounts))


async def _serve(pbxs: int, accounts: int) -> dict[str, Any]:
    connected: dict[int, float] = {}
    async with AsyncExitStack() as stack:
        made = await serve_all(stack, pbxs, accounts)

        async def look() -> None:
            away = set(range(pbxs))
            while True:
                now = time.monotonic()
                for number, pbx in enumerate(made):
                    if not pbx.connections:
                        away.add(number)
                    elif number in away:
                        away.discard(number)
                        connected[number] = now
                await asyncio.sleep(LOOK_SECONDS)

        tasks = [asyncio.create_task(work) for work in (keep_changing(made, CHANGES_PER_SECOND), look())]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return {"connected": connected}


def consumed(*, broker: str, queue: str, accounts: int) -> dict[str, Any]:
    """Take everything from *queue* until stdin is closed, and return when each change was made and how long it took.

    The line that is printed says that so many accounts were told.
    """
    return asyncio.run(_consume(broker, queue, accounts))


async def _consume(broker: str, queue: str, accounts: int) -> dict[str, Any]:
    waits: list[tuple[str, float, float]] = []
    told: set[tuple[str, str]] = set()
    seen: set[str] = set()
    twice = 0

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal twice
        now = time.monotonic()
        event = decode(message.body)
        twice += event.event_id in seen
        seen.add(event.event_id)
        if len(told) < accounts:
            told.add((event.source, str(event.account_guid)))
            if len(told) == accounts:
                print("read", flush=True)  # noqa: T201 - what the other side waits for
        name = event.account.get("display_name") or ""
        if name.startswith(MARK):
            made_at = float(name.removeprefix(MARK))
            waits.append((event.source, made_at, now - made_at))

    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        await (await channel.get_queue(queue, ensure=False)).consume(take, no_ack=True)
        await asyncio.to_thread(sys.stdin.read)
    return {"waits": waits, "twice": twice}


@contextmanager
def _bridges(folder: Path, count: int, urls: Sequence[str], **addresses: str) -> Iterator[list[Command]]:
    """Run so many bridges, each with all PBXs in its configuration."""
    with ExitStack() as stack:
        started = []
        for number in range(count):
            own = folder / f"bridge-{number}"
            own.mkdir()
            file = own / "bridge.toml"
            file.write_text(
                f'[rabbitmq]\nurl = "{addresses["broker"]}"\nexchange = "{addresses["exchange"]}"\n'
                f'log_stream = false\n[[subscriber]]\nqueue = "{addresses["queue"]}"\n'
                f'[store]\nurl = "{addresses["store"]}"\nshared = true\nlease_seconds = {LEASE_SECONDS:g}\n'
                "[status]\nenabled = false\n"
                + "".join(
                    f'[[pbx]]\nname = "p{pbx}"\nurl = "{url}"\napp = "{APP}"\npassword = "{PASSWORD}"\n'
                    for pbx, url in enumerate(urls)
                )
            )
            environment = {"XDG_RUNTIME_DIR": str(own)}
            started.append(stack.enter_context(Command("run", "--config", str(file), environment=environment)))
        yield started


def _measure(run: Run, name: str, bridges: int, pbxs: int, accounts: int) -> list[Figure]:
    size = f"{pbxs} PBXs with {accounts} accounts each over {bridges} bridges"
    figures = {
        key: Figure(f"{name}_{key}", f"{size}: {what}", unit, side_unit=side, note=note)
        for key, what, unit, side, note in (
            ("first_s", "first start, until all accounts are delivered", "s", "", "ours: accounts a second"),
            ("again_s", f"one killed, until all are read again (lease {LEASE_SECONDS:g} s)", "s", "", ""),
            ("live_p99", "a change of a PBX that did not move, p99 behind the kill, against before", "", "ms", ""),
        )
    }
    if not is_installed():
        for figure in figures.values():
            figure.missing = "PostgreSQL is not installed here (Debian: postgresql)"
        return list(figures.values())
    folder = run.folder / name
    folder.mkdir()
    exchange = site.new_exchange()
    queue = f"{exchange}.q"
    site.declare(run.broker.url, exchange, queue)
    with (
        PrivatePostgres() as server,
        sides.running("many_bridges", "served", pbxs=pbxs, accounts=accounts) as pretended,
    ):
        urls = [f"ws://127.0.0.1:{port}" for port in json.loads(pretended.ready())]
        addresses = {"broker": run.broker.url, "exchange": exchange, "queue": queue, "store": server.url()}
        with sides.running(
            "many_bridges", "consumed", broker=run.broker.url, queue=queue, accounts=pbxs * accounts
        ) as consumer:
            run.say(f"{size}: first start")
            began_at = time.monotonic()
            with _bridges(folder, bridges, urls, **addresses) as started:
                consumer.ready()
                first = time.monotonic() - began_at
                run.say(f"{size}: all read after {first:.1f} s; at rest")
                time.sleep(REST_SECONDS)
                run.say(f"{size}: one is killed")
                killed_at = time.monotonic()
                started[-1].kill()
                time.sleep(REST_SECONDS)
                measured = consumer.result()
                moved = {int(number): at for number, at in pretended.result()["connected"].items() if at >= killed_at}
    run.say(f"{len(moved)} PBXs moved, {measured['twice']} changes came twice")
    figures["first_s"].add(pbxs * accounts / first, pbxs * accounts / first, first)
    if not moved:
        figures["again_s"].missing = "the one that was killed had no PBX"
        return list(figures.values())
    again = max(moved.values()) - killed_at
    figures["again_s"].add(again, again, again)
    figures["again_s"].note = f"{len(moved)} PBXs moved, {measured['twice']} changes came twice"
    stayed = [each for each in measured["waits"] if int(each[0].removeprefix("p")) not in moved]
    behind = [wait for _, made_at, wait in stayed if made_at >= killed_at]
    before = [wait for _, made_at, wait in stayed if killed_at - REST_SECONDS + 1 <= made_at < killed_at]
    if not behind or not before:
        figures["live_p99"].missing = "every PBX moved"
        return list(figures.values())
    live, idle = percentile(behind, 0.99) * 1000, percentile(before, 0.99) * 1000
    figures["live_p99"].add(live, idle, live / idle)
    figures["live_p99"].note = f"{len(behind)} changes against {len(before)}"
    return list(figures.values())


KEYS = ("first_s", "again_s", "live_p99")


def _two(run: Run) -> list[Figure]:
    return _measure(run, "many_bridges", 2, *((40, 50) if run.is_quick else (200, 100)))


def _three(run: Run) -> list[Figure]:
    return _measure(run, "many_bridges_1000", 3, 1000, 50)


BENCHMARKS = (
    Benchmark("many_bridges", [f"many_bridges_{key}" for key in KEYS], _two, is_extra=True),
    Benchmark("many_bridges_1000", [f"many_bridges_1000_{key}" for key in KEYS], _three, is_long=True),
)
