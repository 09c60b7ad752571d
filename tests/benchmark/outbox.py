"""A full outbox: how fast it gets to the broker, how soon it begins to, and how much memory that takes."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.config.store_table import is_postgres
from bridge.events import cloudevents
from bridge.model import NewEvent, OutboxRow, SourceName
from tests.benchmark import node, sides, site
from tests.benchmark.bare import EVENT_BYTES
from tests.benchmark.figures import Figure
from tests.benchmark.running import Benchmark, Run
from tests.support.events import LINEAGE, change

NOBODY = "ws://127.0.0.1:9"
"""A PBX that is not there: the outbox alone is looked at."""
SOURCE = SourceName("p0")
PAGE = 5000


def event_of(number: int) -> NewEvent:
    """Return an event of exactly 1 KB."""
    told = change(f"account-{number:08}", 1, source=SOURCE)
    identity = cloudevents.event_id(LINEAGE, SOURCE, number)
    now = datetime.now(UTC).replace(microsecond=1)

    def body(name: str) -> bytes:
        longer = replace(told, account={**told.account, "display_name": name})
        return cloudevents.encode(longer, identity=identity, sequence=number, lineage=LINEAGE, time=now)

    whole = body("x" * (EVENT_BYTES - len(body(""))))
    return NewEvent(
        number, identity, cloudevents.ACCOUNT_CHANGED, told.account["guid"], cloudevents.routing_key(told), whole, now
    )


def fill(url: str, count: int, *, partitions: int = 0) -> None:
    """Put *count* unsent events into a new store; with *partitions* they are for the log, too."""
    with site.store_at(url) as store:
        if partitions:
            store.begin_log(partitions)
        for start in range(1, count + 1, PAGE):
            with store.transaction() as transaction:
                transaction.place(SOURCE)
                events = [event_of(number) for number in range(start, min(start + PAGE, count + 1))]
                transaction.add_events(SOURCE, events)


def drained(*, template: str, broker: str, exchange: str, queue: str, rows: int) -> dict[str, Any]:
    """Start a bridge on a copy of the file *template*, or on the database with that URL.

    Over when all of its *rows* are confirmed and recorded.
    """
    confirmed, first_at, last_at = 0, 0.0, 0.0
    stop = asyncio.Event()

    def published(done: Sequence[OutboxRow]) -> None:
        nonlocal confirmed, first_at, last_at
        last_at = time.time()
        first_at = first_at or last_at
        confirmed += len(done)
        if confirmed >= rows:
            stop.set()

    with tempfile.TemporaryDirectory() as folder:
        store = template
        if not is_postgres(template):
            store = site.in_file(Path(shutil.copy(template, Path(folder) / "bridge.db")))
        wanted = site.settings(Path(folder), pbxs=[NOBODY], broker=broker, exchange=exchange, queue=queue, store=store)
        with site.bridge_of(wanted, on_published=published) as bridge:
            before = sides.rss_bytes()
            began_at, busy = time.time(), time.process_time()
            asyncio.run(bridge.run(stop))
            cpu = time.process_time() - busy
            connected_at = bridge.board.broker.since.timestamp()
    return {
        "seconds": last_at - connected_at,
        "first_confirm_seconds": first_at - began_at,
        "cpu_seconds": cpu,
        "grown_bytes": sides.peak_rss_bytes() - before,
    }


def _publish(run: Run) -> list[Figure]:
    count = run.pick(40_000, 8000)
    figure = Figure(
        "publish", "publishing a full outbox, against amqplib fed from memory", side_unit="events per second"
    )
    cpu = Figure("publish_cpu_us", "publishing: CPU per event", "µs", note="reference: of amqplib")
    try:
        node.prepare(node.AMQPLIB)
    except node.NodeMissingError as problem:
        figure.missing = cpu.missing = str(problem)
        return [figure, cpu]
    template = run.folder / "publish.db"
    fill(site.in_file(template), count)
    body = event_of(1).body.decode()
    for number in run.rounds(6):
        exchange = site.new_exchange()
        if number % 2:  # who goes first changes
            ours = sent(run, str(template), exchange, count)
            theirs = _theirs(run, exchange, count, body)
        else:
            theirs = _theirs(run, exchange, count, body)
            ours = sent(run, str(template), exchange, count)
        rates = count / ours["seconds"], count / theirs["seconds"]
        figure.add(*rates, rates[0] / rates[1])
        costs = ours["cpu_seconds"] / count * 1e6, theirs["cpu_seconds"] / count * 1e6
        cpu.add(*costs, costs[0])
    return [figure, cpu]


def sent(run: Run, template: str, exchange: str, count: int) -> dict[str, Any]:
    """Return what sending the *count* events of a store took, see ``drained``."""
    queue = f"{exchange}.ours"
    wanted = {"template": template, "broker": run.broker.url, "exchange": exchange, "queue": queue}
    measured = sides.run("outbox", "drained", **wanted, rows=count)
    site.remove(run.broker.url, queue)
    return measured


def _theirs(run: Run, exchange: str, count: int, body: str) -> dict[str, Any]:
    queue = f"{exchange}.theirs"
    wanted = {"url": run.broker.url, "exchange": exchange, "queue": queue, "routingKey": "p0.account.created"}
    measured = node.run("amqplib.mjs", **wanted, messages=count, window=256, body=body)
    site.remove(run.broker.url, queue)
    return measured


def _start(run: Run) -> list[Figure]:
    count, few = run.pick(100_000, 15_000), 100
    first = Figure(
        "outbox_first_confirm_s",
        f"start with {count} events in the outbox: from dialling the broker to the first confirm",
        "s",
        side_unit="s",
        note=f"reference: with {few} events",
    )
    memory = Figure(
        "outbox_memory_mb",
        f"memory that sending {count} events adds",
        "MB",
        side_unit="MB",
        note=f"reference: {few} events",
    )
    templates = {size: run.folder / f"outbox-{size}.db" for size in (count, few)}
    for size, template in templates.items():
        fill(site.in_file(template), size)
    for _ in run.rounds(3):
        exchange = site.new_exchange()
        much, little = (sent(run, str(templates[size]), exchange, size) for size in (count, few))
        first.add(much["first_confirm_seconds"], little["first_confirm_seconds"], much["first_confirm_seconds"])
        memory.add(much["grown_bytes"] / 1e6, little["grown_bytes"] / 1e6, much["grown_bytes"] / 1e6)
    return [first, memory]


BENCHMARKS = (
    Benchmark("publish", ("publish", "publish_cpu_us"), _publish),
    Benchmark("outbox", ("outbox_first_confirm_s", "outbox_memory_mb"), _start),
)
