"""A cluster of three brokers under several bridges: whichever nodes end or freeze, nothing is lost or out of order."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError

from tests.support.cluster import Cluster, cluster
from tests.support.postgres import PrivatePostgres
from tests.support.rabbit import PrivateBroker
from tests.support.site import stopped

ACCOUNTS = 10
CHANGED = 5
NAMES = ("hq", "branch", "depot")
HEARTBEAT_SECONDS = 3
PATIENCE_SECONDS = 120
READ_SECONDS = 10


@pytest.fixture
def nodes() -> Iterator[Sequence[PrivateBroker]]:
    with ExitStack() as stack:
        minority = "cluster_partition_handling = pause_minority"
        first = stack.enter_context(PrivateBroker(minority))
        others = [stack.enter_context(PrivateBroker(minority, first=first)) for _ in range(2)]
        yield [first, *others]


class Watched:
    """The queue, read from whichever node is there; what is not acknowledged in time is read again."""

    def __init__(self, place: Cluster) -> None:
        self._place = place
        self._told: list[dict[str, Any]] = []
        self._made = 0

    async def has(self, changes: int, *, at: PrivateBroker) -> None:
        """Wait until so many changes more have come."""
        self._made += changes
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len({event["id"] for event in self._told}) < self._made:
                with suppress(TimeoutError, AMQPError, ConnectionError):
                    async with asyncio.timeout(READ_SECONDS), await aio_pika.connect(at.url) as connection:
                        await self._read(await connection.channel())

    async def _read(self, channel: AbstractChannel) -> None:
        queue = await channel.declare_queue(self._place.queue, passive=True)
        while (message := await queue.get(fail=False)) is not None:
            self._told.append(json.loads(message.body))
            await message.ack()

    def judge(self) -> None:
        """Nothing is missing, and each came first in the order of its PBX."""
        for name in NAMES:
            told = [event["sequence"] for event in self._told if event["source"] == f"/pbx/{name}"]
            assert list(map(int, dict.fromkeys(told))) == list(range(1, self._made // len(NAMES) + 1))


def node_of_queue(node: PrivateBroker, queue: str) -> str:
    """Return the name of the node that leads *queue*."""
    told = dict(line.split("\t")[:2] for line in node.ctl("list_queues", "name", "leader").splitlines() if "\t" in line)
    return told[queue]


def busiest(node: PrivateBroker) -> str:
    """Return the name of the node to which most connections of bridges lead."""
    told = node.ctl("list_connections", "pid").splitlines()
    return Counter(line.split(".")[0].removeprefix("<") for line in told if line.startswith("<")).most_common(1)[0][0]


def named(nodes: Sequence[PrivateBroker], name: str) -> PrivateBroker:
    return next(node for node in nodes if node.node == name)


async def test_a_leader_that_dies_a_node_that_freezes_and_a_majority_that_is_away_lose_and_reorder_nothing(
    server: PrivatePostgres, tmp_path: Path, nodes: Sequence[PrivateBroker]
) -> None:
    async with cluster(tmp_path, nodes[0], server, names=NAMES, accounts=ACCOUNTS) as place:
        place.settings["BRIDGE_RABBITMQ_URL"] = ",".join(f"{node.url}?heartbeat={HEARTBEAT_SECONDS}" for node in nodes)
        watched = Watched(place)
        for number in (1, 2):
            place.start(number)
        await place.all_held()
        await watched.has(ACCOUNTS * len(NAMES), at=nodes[0])

        leader = named(nodes, await asyncio.to_thread(node_of_queue, nodes[0], place.queue))
        await asyncio.to_thread(leader.kill)
        await watched.has(place.change(CHANGED), at=next(node for node in nodes if node is not leader))
        await asyncio.to_thread(leader.start)

        frozen = named(nodes, await asyncio.to_thread(busiest, nodes[0]))
        frozen.pause()
        try:
            await watched.has(place.change(CHANGED), at=next(node for node in nodes if node is not frozen))
        finally:
            frozen.go_on()

        for node in nodes[1:]:
            await asyncio.to_thread(node.kill)
        changes = place.change(CHANGED)
        await asyncio.sleep(2 * HEARTBEAT_SECONDS)
        await asyncio.gather(*[asyncio.to_thread(node.start) for node in nodes[1:]])
        await watched.has(changes, at=nodes[1])

        assert [await stopped(bridge) for bridge in place.bridges.values()] == [0, 0]
        watched.judge()
