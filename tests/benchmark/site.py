"""What the benchmarks run against: a pretend PBX in another process, and a bridge made as ``run`` makes it."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import aio_pika

from bridge import logs
from bridge.broker.connection import connect
from bridge.broker.declare import declare as declare_topology
from bridge.broker.topology import Subscription, Topology
from bridge.config.loading import load_settings
from bridge.config.settings import Settings
from bridge.config.store_table import StoreTable
from bridge.model import OutboxRow
from bridge.runtime.bridge import Bridge, Hooks
from bridge.runtime.committer import Committed
from bridge.runtime.from_settings import build_store_place
from bridge.runtime.wiring import build_bridge
from bridge.store.tables.store import TableStore
from tests.benchmark.bare import APP, PASSWORD
from tests.support.process import PATIENCE_SECONDS, Command


@contextmanager
def pretend_pbx(
    *, accounts: int, round_trip_ms: float = 0.0, changes_per_second: float = 0.0, modes: Sequence[str] = ()
) -> Iterator[str]:
    """Serve a pretend PBX from a process of its own, and yield its URL."""
    options = {
        "--port": 0,
        "--accounts": accounts,
        "--round-trip-ms": round_trip_ms,
        "--changes-per-second": changes_per_second,
        "--app": APP,
        "--password": PASSWORD,
    }
    words = [str(word) for option in options.items() for word in option]
    with Command("simulate", *words, *(word for mode in modes for word in ("--mode", mode))) as serving:
        yield _url_of(serving)


def _url_of(serving: Command) -> str:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := re.search(r"listens on (ws://\S+)", serving.printed):
            return found[1]
        time.sleep(0.02)
    raise RuntimeError(f"the pretend PBX did not start:\n{serving.printed}")


def new_exchange() -> str:
    """Return the name of an exchange that nobody else uses."""
    return f"bench.{uuid4().hex[:8]}"


def settings(  # noqa: PLR0913 - by name
    folder: Path, *, pbxs: Sequence[str], broker: str, exchange: str, queue: str = "", store: str = "", **more: str
) -> Settings:
    """Return settings as an operator would give them; *queue* asks for a subscriber's quorum queue, and for no log.

    *store* is its URL; without one it is a file in *folder*.
    """
    lines = [
        f'[rabbitmq]\nurl = "{broker}"\nexchange = "{exchange}"\nlog_stream = {"false" if queue else "true"}',
        f'[store]\nurl = "{store or in_file(folder / "bridge.db")}"',
        *(
            f'[[pbx]]\nname = "p{number}"\nurl = "{url}"\napp = "{APP}"\npassword = "{PASSWORD}"'
            + "".join(f"\n{key} = {value}" for key, value in more.items())
            for number, url in enumerate(pbxs)
        ),
        *([f'[[subscriber]]\nqueue = "{queue}"'] if queue else []),
    ]
    file = folder / "bridge.toml"
    file.write_text("\n\n".join(lines))
    return load_settings(file, {})


def in_file(path: Path) -> str:
    """Return the URL of a store in a file."""
    return f"sqlite:///{path}"


def store_at(url: str) -> TableStore:
    """Return the store with this URL, closed."""
    return build_store_place(StoreTable(url=url)).store()


@contextmanager
def bridge_of(
    wanted: Settings,
    *,
    on_committed: Callable[[Committed], None] = lambda _told: None,
    on_published: Callable[[Sequence[OutboxRow]], None] = lambda _rows: None,
) -> Iterator[Bridge]:
    """Build the bridge, with the logs that an operator has by default."""
    logs.configure("info")
    with build_bridge(wanted, hooks=Hooks(on_committed, on_published)) as bridge:
        yield bridge


def remove(broker: str, *queues: str) -> None:
    """Delete queues, so that what one round left does not slow the next one down."""

    async def removing() -> None:
        async with await aio_pika.connect(broker) as connection:
            channel = await connection.channel()
            for queue in queues:
                await channel.queue_delete(queue)

    asyncio.run(removing())


def arrived(broker: str, queue: str, count: int) -> None:
    """Wait until *queue* has so many messages."""

    async def waiting() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), await aio_pika.connect(broker) as connection:
            channel = await connection.channel()
            while ((await channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0) < count:
                await asyncio.sleep(0.1)

    asyncio.run(waiting())


def declare(broker: str, exchange: str, queue: str) -> None:
    """Declare an exchange and a subscriber's queue, just as the bridge would."""

    async def declaring() -> None:
        async with connect([broker], client_name="benchmark") as connection:
            await declare_topology(
                connection, Topology(exchange=exchange, has_log=False, subscriptions=[Subscription(queue)])
            )

    asyncio.run(declaring())
