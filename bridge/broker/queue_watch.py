"""Looks after the queues of subscribers and the log: one that is deleted is seen within a minute and made again.

What was published meanwhile a deleted queue never got, and what waited in it is gone, so that is told with its times.
A broker does not say whether it had what is declared, so one that is deleted in the milliseconds between a look and the
declaration behind it is made again and not told of. This has a connection of its own: that of the publisher is blocked
where the broker has an alarm.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import aiormq.exceptions as amqp
from aio_pika.abc import AbstractConnection

from bridge.broker.connection import connect, step
from bridge.broker.declare import declare, verify
from bridge.broker.topology import Topology
from bridge.clock import utc_now
from bridge.errors import BridgeError, TopologyMismatch
from bridge.events.cloudevents import APP_ID
from bridge.logs import get_logger

LOOK_SECONDS: Final = 20.0
"""Between two looks. A deleted queue is seen after this, and a bit."""

_DELETED: Final = "no queue '"
"""What RabbitMQ says of a queue that there is not. One whose node is away or that stopped is not found in other words
(``rabbit_amqqueue:with``), and not deleted.
"""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Missed:
    """A queue was deleted: when it was seen last, and since when it is there again."""

    queue: str
    since: datetime
    until: datetime | None
    """``None`` where nobody made it again."""
    is_log: bool = False
    dead_letters_of: str = ""
    """The queue whose dead letters it has, where it is one of those."""

    @property
    def words(self) -> str:
        """What happened, and what helps."""
        lost = "what was published meanwhile it does not have, and what waited in it is gone"
        seen = f"{self.since.astimezone():%Y-%m-%d %H:%M:%S}"
        if self.until is None:
            return (
                f"The queue {self.queue} was deleted, it was there at {seen}: {lost}. Make it and its bindings again; "
                "with rabbitmq.declare = false the bridge does not"
            )
        told = f"was deleted after {seen} and made again at {self.until.astimezone():%Y-%m-%d %H:%M:%S}"
        if self.is_log:
            return f"The log {self.queue} {told}: it has nothing from before that, and who reads it begins anew"
        if self.dead_letters_of:
            return (
                f"The queue {self.queue} {told}: what was put aside in it is gone, and what the subscriber of "
                f"{self.dead_letters_of} could not handle meanwhile was dropped. The present state of all accounts: "
                f"account-bridge snapshot --queue {self.dead_letters_of}"
            )
        return (
            f"The queue {self.queue} {told}: {lost}. What its subscriber misses: account-bridge replay --queue "
            f"{self.queue} --since {self.since.astimezone():%Y-%m-%dT%H:%M}, or the present state of all: "
            f"account-bridge snapshot --queue {self.queue}"
        )


class QueueWatch:
    """Declares everything in *topology*, or with ``is_declaring=False`` looks for it, and knows what was there before.

    *on_differences* is told what is there in another form, each time in full; *on_missed* of a queue that was deleted.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        is_declaring: bool = True,
        on_differences: Callable[[Sequence[str]], None] = lambda _sentences: None,
        on_missed: Callable[[Missed], None] = lambda _missed: None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._topology = topology
        self._is_declaring = is_declaring
        self._on_differences = on_differences
        self._on_missed = on_missed
        self._clock = clock
        self._seen: dict[str, datetime] = {}
        """When each queue was there last."""
        self._gone: set[str] = set()
        """Queues that were there, were deleted, and are not made again yet."""
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<QueueWatch of {self._topology.exchange}, {len(self._seen)} seen>"

    @property
    def _queues(self) -> Sequence[str]:
        # Where an operator declares everything, dead letters are his affair as well.
        dead_letters = self._topology.dead_letter_queues if self._is_declaring else ()
        return [self._topology.log] * self._topology.is_log_bound + [*self._topology.queues, *dead_letters]

    async def provide(self, connection: AbstractConnection) -> None:
        """Have everything there, and tell which queues that were there before had gone.

        Raises:
            TopologyMismatch: something is missing, or may not be made by this user.
            BrokerUnreachable: the connection broke, or the broker is still starting.

        """
        async with self._turn:
            for queue in self._queues:
                if queue in self._seen and queue not in self._gone and await self._is_gone(connection, queue):
                    self._gone.add(queue)
                    if not self._is_declaring:
                        self._tell(queue, None)
            still_gone: set[str] = set()
            if self._is_declaring:
                self._on_differences(await declare(connection, self._topology))
            else:  # one subscriber's queue that was deleted is told of, and keeps nobody else's events back
                still_gone = {queue for queue in self._gone if await self._is_gone(connection, queue)}
                await verify(connection, self._topology, without=still_gone)
            now = self._clock()
            for queue in self._gone - still_gone:
                self._tell(queue, now)
            self._gone = still_gone
            self._seen.update(dict.fromkeys(set(self._queues) - still_gone, now))

    async def keep_looking(
        self,
        urls: Callable[[], Sequence[str]],
        *,
        ssl_context: ssl.SSLContext | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """Provide everything time and again, for ever; what fails is the publisher's to tell, which needs the same."""
        while True:
            await asyncio.sleep(look_seconds)
            try:
                async with connect(urls(), client_name=f"{APP_ID} queues", ssl_context=ssl_context) as connection:
                    while True:
                        if self._seen:  # before that, whoever publishes declares first
                            await self.provide(connection)
                        await asyncio.sleep(look_seconds)
            except BridgeError as problem:
                log.info("queues.not_looked_after", problem=str(problem))
            except Exception:  # whatever it is, publishing goes on
                log.exception("queues.look_failed")

    def _tell(self, queue: str, now: datetime | None) -> None:
        dead_letters_of = self._topology.dead_letter_queues.get(queue, "")
        missed = Missed(queue, self._seen[queue], now, queue == self._topology.log, dead_letters_of)
        log.warning("queue.was_deleted", queue=queue, seen_at=missed.since, again_at=now, problem=missed.words)
        self._on_missed(missed)

    async def _is_gone(self, connection: AbstractConnection, queue: str) -> bool:
        try:
            async with step(connection, f"the queue {queue}", self._topology) as channel:
                await channel.declare_queue(queue, passive=True)
        except TopologyMismatch as problem:
            cause = problem.__cause__
            return isinstance(cause, amqp.ChannelNotFoundEntity) and _DELETED in str(cause)
        return False
