"""Plain readers: no library of ours, no inbox. They write down every delivery, in the order in which it came."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

from bridge.broker.errors import translated
from bridge.errors import BridgeError
from tests.chaos.counting import Arrival

ACCOUNT_CHANGED = "pbx.account.changed"
SOURCE_VERIFIED = "pbx.source.verified"
SOURCE_PREFIX = "/pbx/"
PREFETCH = 500
DEADLINE_SECONDS = 10.0
PAUSE_SECONDS = 0.1


class Reader(Protocol):
    """What a run needs of whoever reads: a queue here, a log elsewhere."""

    name: str
    distinct: int
    """How many different changes came."""
    may_repeat: bool
    """False where nothing may ever come twice."""

    @property
    def deliveries(self) -> Sequence[Arrival]:
        """Everything that came, in order."""

    @property
    def states(self) -> Mapping[str, Hashable]:
        """Each account that is there, by guid, as it was last told."""

    @property
    def revisions(self) -> Mapping[str, int]:
        """The last revision of each account, those included that are gone."""

    def begin_anew(self) -> None:
        """Take note that the broker has forgotten everything."""

    async def run(self) -> None:
        """Read until cancelled, however often the broker goes away."""


class Notes:
    """What a reader writes down of each event; *fault* tells how many faults there have been so far."""

    def __init__(self, fault: Callable[[], int]) -> None:
        self.deliveries: list[Arrival] = []
        self.states: dict[str, Hashable] = {}
        self.revisions: dict[str, int] = {}
        self.distinct = 0
        self._fault = fault
        self._seen: set[str] = set()
        self._lineages: dict[str, tuple[str, str]] = {}
        """Source and lineage of each account, as it was last told."""

    def take(self, body: bytes, *, is_redelivered: bool, is_marked: bool) -> None:
        """Write down one delivery; what is no account change is none of our business."""
        event = orjson.loads(body)
        if event["type"] == SOURCE_VERIFIED and event["data"]["completes_lineage"]:
            self._complete(event["source"], event["lineage"])
        if event["type"] != ACCOUNT_CHANGED:
            return
        data, identity, account = event["data"], event["id"], event["subject"]
        self.deliveries.append(
            Arrival(
                identity,
                event["source"].removeprefix(SOURCE_PREFIX),
                int(event["sequence"]),
                account,
                data["revision"],
                self._fault(),
                is_redelivered,
                is_marked,
                event["lineage"],
            )
        )
        if identity in self._seen:
            return
        self._seen.add(identity)
        self.distinct += 1
        self.revisions[account] = data["revision"]
        self._lineages[account] = (event["source"], event["lineage"])
        if data["change"] == "deleted":
            self.states.pop(account, None)
        else:
            self.states[account] = comparable(data["account"])

    def _complete(self, source: str, lineage: str) -> None:
        """Take out whoever was not told again in this lineage."""
        for account, (of, known) in self._lineages.items():
            if of == source and known < lineage:
                self.states.pop(account, None)


def comparable(account: Mapping[str, Any]) -> bytes:
    """Return what two equal accounts have in common and two others do not."""
    return orjson.dumps(dict(account), option=orjson.OPT_SORT_KEYS)


class QueueReader(Notes):
    """Reads a queue with aio-pika and acknowledges each message once it is written down."""

    may_repeat = True

    def __init__(self, name: str, url: str, queue: str, fault: Callable[[], int]) -> None:
        super().__init__(fault)
        self.name = name
        self._url = url
        self._queue = queue

    async def run(self) -> None:
        """Read until cancelled, however often the broker goes away."""
        while True:
            with suppress(BridgeError), translated(None):
                await self._read()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            connection = await aio_pika.connect(self._url, timeout=DEADLINE_SECONDS)
        ended = asyncio.Event()
        connection.close_callbacks.add(lambda *_: ended.set())
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                channel = await connection.channel()
                channel.close_callbacks.add(lambda *_: ended.set())
                await channel.set_qos(prefetch_count=PREFETCH)
                queue = await channel.get_queue(self._queue)
                await queue.consume(self._take, arguments=self._arguments())
            await ended.wait()
        finally:
            with suppress(BridgeError), translated(None):
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await connection.close()

    def begin_anew(self) -> None:
        """Take note that the broker has forgotten everything."""

    def _arguments(self) -> dict[str, Any]:
        """Return what the broker is told with the wish to consume."""
        return {}

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.take(
            message.body,
            is_redelivered=bool(message.redelivered),
            is_marked=bool(message.headers.get("x-redelivered-by-bridge")),
        )
        await message.ack()


class LogReader(QueueReader):
    """Reads a log and keeps nothing but its offset: whatever the log has twice comes twice."""

    may_repeat = False
    _next = 0

    def begin_anew(self) -> None:
        self._next = 0

    def _arguments(self) -> dict[str, Any]:
        return {"x-stream-offset": self._next}

    async def _take(self, message: AbstractIncomingMessage) -> None:
        offset = int(str(message.headers["x-stream-offset"]))
        if offset >= self._next:  # the broker begins with a whole chunk
            self._next = offset + 1
            self.take(message.body, is_redelivered=False, is_marked=False)
        await message.ack()
