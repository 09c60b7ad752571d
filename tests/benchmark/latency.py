"""How long a change takes from the moment we see it until a consumer has it, at a steady pace."""

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bridge.events.cloudevents import ACCOUNT_CHANGED, decode
from bridge.model import OutboxRow
from bridge.pbx.wire import messages
from bridge.pbx.wire.protocol import Answer, Conversation, Event
from bridge.runtime.committer import Committed
from tests.benchmark import sides, site
from tests.benchmark.bare import PER_SECOND
from tests.benchmark.figures import Figure, percentile
from tests.benchmark.running import Benchmark, Run


def queue_of(exchange: str) -> str:
    """Return the name of the one queue behind *exchange*."""
    return f"{exchange}.q"


def whole(*, url: str, broker: str, exchange: str, count: int) -> dict[str, Any]:
    """Run the bridge until *count* changes are confirmed; when each one was read from the socket, by event id."""
    seen: dict[tuple[str, str | None, str | None], float] = {}
    changes: list[Any] = []
    sent: list[OutboxRow] = []
    receive = Conversation.receive

    def noted(conversation: Conversation, data: bytes | str) -> Event:
        now = time.monotonic()
        event = receive(conversation, data)
        if isinstance(event, Answer) and isinstance(event.reply, messages.AccountRow):
            row = event.reply.row
            seen[row.account_guid, row.cursor.usn, row.cursor.ausn] = now
        return event

    Conversation.receive = noted  # type: ignore[method-assign, assignment]  # the earliest that a change is known to us
    stop = asyncio.Event()

    def told(news: Committed) -> None:
        changes.extend(news.changes)

    def published(rows: Sequence[OutboxRow]) -> None:
        sent.extend(row for row in rows if row.event_type == ACCOUNT_CHANGED)
        if len(changes) >= count:
            stop.set()

    with tempfile.TemporaryDirectory() as folder:
        wanted = site.settings(Path(folder), pbxs=[url], broker=broker, exchange=exchange, queue=queue_of(exchange))
        with site.bridge_of(wanted, on_committed=told, on_published=published) as bridge:
            asyncio.run(bridge.run(stop))
    events = [decode(row.body) for row in sent]
    tokens = [[json.dumps(event.cursor[name]) for name in ("usn", "ausn")] for event in events]
    return {
        event.event_id: seen[event.account_guid, usn, ausn] for event, (usn, ausn) in zip(events, tokens, strict=True)
    }


def _round(run: Run, side: tuple[str, str], count: int, **arguments: Any) -> list[float]:
    """Return the seconds that messages of one side took; what came while it warmed up does not count."""
    exchange = site.new_exchange()
    queue = queue_of(exchange)
    site.declare(run.broker.url, exchange, queue)
    with sides.running("bare", "taken", broker=run.broker.url, queue=queue) as consumer:
        consumer.ready()
        sent = sides.run(*side, broker=run.broker.url, exchange=exchange, count=count, **arguments)
        # Everything sent is confirmed; the last ones may still be on their way to the consumer.
        time.sleep(0.5)
        came = consumer.result()
    site.remove(run.broker.url, queue)
    warm = sorted((at, identity) for identity, at in sent.items())[2 * PER_SECOND :]
    return [came[identity] - at for at, identity in warm if identity in came]


def _whole_round(run: Run, count: int) -> list[float]:
    with site.pretend_pbx(accounts=100, changes_per_second=PER_SECOND, modes=["idle-hold"]) as url:
        return _round(run, ("latency", "whole"), count, url=url)


def _latency(run: Run) -> list[Figure]:
    count = run.pick(2000, 400)
    p99 = Figure(
        "latency_p99",
        f"change seen until delivered, {PER_SECOND} a second, p99, against bare aio-pika publish until delivered",
        side_unit="ms",
    )
    half = Figure("latency_p50", "the same, median", side_unit="ms")
    for _ in run.rounds(3):
        theirs = _round(run, ("bare", "plain"), count)
        ours = _whole_round(run, count)
        for figure, of in ((p99, lambda values: percentile(values, 0.99)), (half, median)):
            figure.add(of(ours) * 1000, of(theirs) * 1000, of(ours) / of(theirs))
    return [p99, half]


BENCHMARKS = (Benchmark("latency_p99", ("latency_p99", "latency_p50"), _latency),)
