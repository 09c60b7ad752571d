"""Outbox rows to the exchange; answers with what the broker confirmed.

A session is one plain connection and one confirm channel, used until the first failure of any kind and then thrown away
whole: nothing is retried inside it. Rows go out in order, persistent and mandatory; what becomes of each is told as the
broker tells it. That no queue takes one, or that one refuses it, is no failure of the session. While the broker blocks
us (memory or disk alarm) we wait on the same connection: measured, that gives no duplicate, and reconnecting gives
every message twice.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiormq.abc
from aio_pika.abc import AbstractConnection
from aiormq.channel import Channel
from pamqp import commands as spec
from pamqp.header import ContentHeader

from bridge.broker.connection import (
    CLOSE_SECONDS,
    DEADLINE_SECONDS,
    HEARTBEAT_SECONDS,
    connect,
    in_time,
    permission_command,
)
from bridge.broker.errors import max_message_size_in, translated, translation
from bridge.broker.fence import FormerFences, LateFences, Sharing
from bridge.broker.frames import publish_frames
from bridge.broker.queue_watch import QueueWatch
from bridge.broker.session import ConfirmSession
from bridge.broker.topology import Topology
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerRefusedEvent, EventUnroutable
from bridge.events.cloudevents import APP_ID
from bridge.model import OutboxRow, SourceName

CLAIMED_FIRST: Final = 128
"""Fences that are taken before anything is sent. Those of more sources are taken beside that, or with their first
event: a thousand would hold up the first event for seconds."""

Provide = Callable[[AbstractConnection], Awaitable[None]]
"""Has everything at the broker that the bridge wants there, or raises why not."""


class ExchangePublisher:
    """Makes sessions. *urls* is asked for each of them, so that a changed password is used.

    *provide* has the topology there at the start of each; without it everything is declared, or with
    ``is_declaring=False`` looked for.

    *name_fence* names the fence of a source, which is held while publishing, so that no second bridge publishes for the
    same one: those of *sources*, as they are when a session begins, and each before its first event is sent.
    With *sharing* other bridges publish for other sources, and there is one fence for the whole connection instead.
    *is_traced* adds the trace context of each event to its message, and a *label* goes with every message. *on_state*
    is told ``connecting``, ``connected``, and ``blocked: <reason>``; *on_progress* is called with every step on the way
    into a session, and while a session waits for the broker. *deadline_seconds* is for each of these steps,
    *confirm_deadline_seconds* for the oldest row without an outcome, *close_seconds* for the farewell.
    """

    def __init__(  # noqa: PLR0913 - what an operator may say about a broker
        self,
        urls: Callable[[], Sequence[str]],
        *,
        topology: Topology,
        is_declaring: bool = True,
        sources: Collection[SourceName] = (),
        provide: Provide | None = None,
        name_fence: Callable[[SourceName], str] | None = None,
        confirm_deadline_seconds: float = 30.0,
        deadline_seconds: float = DEADLINE_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
        ssl_context: ssl.SSLContext | None = None,
        is_traced: bool = False,
        on_state: Callable[[str], None] = lambda _state: None,
        on_progress: Callable[[], None] = lambda: None,
        label: str = "",
        sharing: Sharing | None = None,
        heartbeat_seconds: int = HEARTBEAT_SECONDS,
    ) -> None:
        self._sharing = sharing
        self._heartbeat_seconds = heartbeat_seconds
        self._label = label
        self._urls = urls
        self._topology = topology
        self._provide = provide or QueueWatch(topology, is_declaring=is_declaring).provide
        self._sources = sources
        self._name_fence = name_fence
        self._confirm_deadline_seconds = confirm_deadline_seconds
        self._ssl_context = ssl_context
        self._is_traced = is_traced
        self._deadline_seconds = deadline_seconds
        self._close_seconds = close_seconds
        self._on_state = on_state
        self._on_progress = on_progress
        self._size_limit = SizeLimit()

    def __repr__(self) -> str:
        return f"<ExchangePublisher to {self._topology.exchange}>"

    def reconsider(self) -> None:
        """Forget what is known of the broker's limits: somebody may have raised them."""
        self._size_limit.reconsider()

    @asynccontextmanager
    async def session(self) -> AsyncIterator["ExchangeSession"]:
        """Connect, check or declare the topology, take the fences, and publish while inside.

        Raises:
            BrokerUnreachable: no connection.
            BrokerRefusedLogin: user, password or virtual host are wrong.
            TopologyMismatch: exchange or queues are not as they should be.
            BridgeError: from *urls*.

        """
        self._on_state("connecting")
        async with connect(
            self._urls(),
            client_name=APP_ID,
            deadline_seconds=self._deadline_seconds,
            close_seconds=self._close_seconds,
            heartbeat_seconds=self._heartbeat_seconds,
            ssl_context=self._ssl_context,
            on_progress=self._on_progress,
        ) as connection:
            await self._provide(connection)
            session = ExchangeSession(
                connection,
                self._topology,
                self._on_state,
                self._label,
                self._size_limit,
                is_traced=self._is_traced,
                on_progress=self._on_progress,
            )
            sources = list(self._sources)
            if self._sharing is None:
                session.fences = LateFences(connection, self._topology, self._name_fence)
            else:
                session.fences = former = FormerFences(connection, self._topology, self._sharing)
                await former.hold()
            await session.claim(sources[:CLAIMED_FIRST])
            await session.open()
            self._on_state("connected")
            async with session.watched(self._confirm_deadline_seconds), session.claiming(sources[CLAIMED_FIRST:]):
                yield session


@dataclass(slots=True)
class SizeLimit:
    """The largest body that the broker takes, as far as it is known: the broker tells only by refusing a larger one."""

    body_bytes: int | None = None
    is_doubtful: bool = False
    """True while the next refusal counts for nothing: a channel keeps the limit that there was when it was opened."""

    def learn(self, problem: BaseException | None) -> None:
        """Take note of what ended a session."""
        if (found := max_message_size_in(problem)) is not None:
            self.body_bytes, self.is_doubtful = None if self.is_doubtful else found, False

    def reconsider(self) -> None:
        """Forget the limit: it may have been raised."""
        self.body_bytes, self.is_doubtful = None, True

    def explain_refusal(self, row: OutboxRow) -> BridgeError | None:
        """Return why *row* is too large; ``None`` where it is not, or where the limit is unknown."""
        if self.body_bytes is None or len(row.body) <= self.body_bytes:
            return None
        return BrokerRefusedEvent(
            f"the broker does not take an event as large as this one: {len(row.body)} bytes, and max_message_size is "
            f"{self.body_bytes}. Raise that in its rabbitmq.conf and start it anew, then try the event once more"
        )


class ExchangeSession(ConfirmSession):
    """The ``Session`` of ``delivery``."""

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        connection: AbstractConnection,
        topology: Topology,
        on_state: Callable[[str], None],
        label: str,
        size_limit: SizeLimit,
        *,
        is_traced: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(on_state, on_progress)
        self._label = label
        self._is_traced = is_traced
        self._connection = connection
        self._topology = topology
        self._size_limit = size_limit
        self._nacked = BrokerDidNotConfirm(
            f"the broker refused the event (nack). Either a queue bound to the exchange {topology.exchange} is full "
            "and refuses more (x-overflow = reject-publish): let its subscriber catch up, raise its max-length, or "
            "delete it; or its node is down. See which: rabbitmqctl list_queues name state messages policy arguments"
        )
        self._channel: Any = None
        self._unblocked: asyncio.Event

    @property
    def is_blocked(self) -> bool:
        """True while the broker has an alarm."""
        return not self._unblocked.is_set()

    async def open(self) -> None:
        """Open the confirm channel.

        Raises:
            BrokerUnreachable: the connection broke, or there was no answer in time.

        """
        transport: Any = self._connection.transport
        with translated(None, "a channel"):
            if transport is None:
                raise ConnectionError("closed")
            async with in_time(self._connection):
                self._unblocked = unblocked_event(transport.connection)
                self._channel = await _ConfirmChannel.opened(transport.connection, self)
        self._channel.closing.add_done_callback(self._on_closed)

    def explain_refusal(self, row: OutboxRow) -> BridgeError | None:
        """Return why *row* would be refused for good: it is larger than the broker is known to take."""
        return self._size_limit.explain_refusal(row)

    async def _write(self, rows: Sequence[OutboxRow]) -> None:
        self._goes_out(rows)
        frame_max = self._channel.connection.connection_tune.frame_max
        exchange = self._topology.exchange
        # A change that nobody takes is held back until somebody does, unless the log has it anyway.
        mandatory = not self._topology.log_partitions
        number, label = self._channel.number, self._label
        payload = b"".join(
            publish_frames(
                row,
                channel=number,
                exchange=exchange,
                frame_max=frame_max,
                label=label,
                is_traced=self._is_traced,
                mandatory=mandatory,
            )
            for row in rows
        )
        written: asyncio.Future[None] = self._loop.create_future()
        frame = aiormq.abc.ChannelFrame(payload=payload, should_close=False, drain_future=written)
        # Both waits end with the session at the latest, which the watchdog ends if nothing else does.
        await self._unless_ended(self._channel.write_queue.put(frame))
        await self._unless_ended(written)

    def on_confirm(self, frame: spec.Basic.Ack | spec.Basic.Nack) -> None:
        """Take a confirm or a refusal of the broker."""
        tag, multiple = frame.delivery_tag or 0, bool(frame.multiple)
        if isinstance(frame, spec.Basic.Nack):
            self._tell(lambda: self._ledger.nack(tag, self._nacked, multiple=multiple))
        else:
            self._tell(lambda: self._ledger.ack(tag, multiple=multiple))

    def on_return(self, frame: spec.Basic.Return, event_id: str | None) -> None:
        """Take the news that no queue takes a message."""
        unroutable = EventUnroutable(
            f"no queue takes events with the routing key {frame.routing_key!r}, so they are held back. Bind a "
            f"queue to the exchange {self._topology.exchange}, or set rabbitmq.log_stream = true"
        )
        self._tell(lambda: self._ledger.returned(event_id, unroutable))

    def _on_closed(self, closing: "asyncio.Future[Any]") -> None:
        problem = asyncio.CancelledError() if closing.cancelled() else closing.exception()
        # The refusal names no message. With the limit known, the next session can tell which.
        self._size_limit.learn(problem)
        what, command = f"the exchange {self._topology.exchange}", permission_command(self._connection, self._topology)
        self.end(translation(problem or ConnectionError("closed"), None, what, command))


def unblocked_event(connection: aiormq.abc.AbstractConnection) -> asyncio.Event:
    """Return what is set while the broker has no alarm; private in the client library, which tells nobody else."""
    event: asyncio.Event = connection._Connection__connection_unblocked  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    return event


class _ConfirmChannel(Channel):
    """A channel of the client library that hands confirms and returns to a session.

    The library's own bookkeeping creates a future for every message, and looks for the tag of every confirm among them.
    This class and ``unblocked_event`` are the only users of its private names (the same from aiormq 6.9 to 7.2);
    ``tests/unit/broker/test_publisher.py`` fails when one goes away.
    """

    def __init__(self, connection: aiormq.abc.AbstractConnection, number: int, session: ExchangeSession) -> None:
        super().__init__(connection, number, publisher_confirms=True)
        self._session = session

    @classmethod
    async def opened(cls, connection: aiormq.abc.AbstractConnection, session: ExchangeSession) -> "_ConfirmChannel":
        """Open one, as ``connection.channel()`` would."""
        number = max(connection.channels, default=0) + 1
        channel = connection.channels[number] = cls(connection, number, session)
        await channel.open()
        return channel

    async def _on_confirm_frame(self, frame: spec.Basic.Ack | spec.Basic.Nack) -> None:  # type: ignore[override]  # no Reject comes here
        self._session.on_confirm(frame)

    async def _on_return_frame(self, frame: spec.Basic.Return) -> None:
        header = await self._get_frame()
        if not isinstance(header, ContentHeader):
            raise aiormq.exceptions.InvalidFrameError("a returned message without its header")
        await self._read_content(frame, header)
        self._session.on_return(frame, header.properties.message_id)
