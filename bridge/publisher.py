"""Outbox rows to the exchange; answers with what the broker confirmed.

A session is one plain connection and one confirm channel, used until the first failure of any kind and then thrown away
whole: nothing is retried inside it. Rows go out in order, persistent and mandatory; progress is the unbroken
confirmed prefix, and what is confirmed while the session dies still counts. While the broker blocks us (memory or disk
alarm) we wait on the same connection: measured, that gives no duplicate, and reconnecting gives every message twice.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aio_pika.abc import AbstractConnection
from aiormq.abc import ChannelFrame
from pamqp import commands as spec

from bridge.broker import Topology, connect, declare, hold_fence, translated, translation, verify
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerUnreachable
from bridge.frames import APP_ID, publish_frames
from bridge.model import OutboxRow

WATCH_SECONDS: Final = 0.5
"""How often a session looks whether it is blocked or overdue."""

LATE_CONFIRMS_SECONDS: Final = 2.0
"""After a refusal: how long to wait for the confirms of what was sent before it."""


class Publisher:
    """Makes sessions. *urls* is asked for each of them, so that a changed password is used.

    *fences* are held while publishing, one for every source, so that no second bridge publishes for the same one.
    *on_state* is told ``connecting``, ``connected``, and ``blocked: <reason>``.
    """

    def __init__(  # noqa: PLR0913 - what an operator may say about a broker
        self,
        urls: Callable[[], Sequence[str]],
        *,
        topology: Topology,
        is_declaring: bool = True,
        fences: Sequence[str] = (),
        confirm_deadline_seconds: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
        on_state: Callable[[str], None] = lambda _state: None,
    ) -> None:
        self._urls = urls
        self._topology = topology
        self._is_declaring = is_declaring
        self._fences = fences
        self._confirm_deadline_seconds = confirm_deadline_seconds
        self._ssl_context = ssl_context
        self._on_state = on_state

    def __repr__(self) -> str:
        return f"<Publisher to {self._topology.exchange}>"

    @asynccontextmanager
    async def session(self) -> AsyncIterator["PublisherSession"]:
        """Connect, check or declare the topology, take the fences, and publish while inside.

        Raises:
            BrokerUnreachable: no connection, or another one still publishes for the same source.
            BrokerRefusedLogin: user, password or virtual host are wrong.
            TopologyMismatch: exchange or queues are not as they should be.

        """
        self._on_state("connecting")
        async with connect(self._urls(), client_name=APP_ID, ssl_context=self._ssl_context) as connection:
            await (declare if self._is_declaring else verify)(connection, self._topology)
            for fence in self._fences:
                await hold_fence(connection, fence)
            session = PublisherSession(connection, self._topology.exchange, self._on_state)
            await session.open()
            self._on_state("connected")
            watching = asyncio.create_task(session.watch(self._confirm_deadline_seconds))
            try:
                yield session
            finally:
                session.end(BrokerUnreachable("this session is over"))
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching


class PublisherSession:
    """The ``Session`` of ``delivery``."""

    def __init__(self, connection: AbstractConnection, exchange: str, on_state: Callable[[str], None]) -> None:
        self._connection = connection
        self._exchange = exchange
        self._on_state = on_state
        self._channel: Any = None
        self._sent: list[str] = []
        """Ids of unconfirmed rows, in order; the first one has the delivery tag behind ``_confirmed``."""
        self._confirmed = 0
        self._told = 0
        self._beyond: set[int] = set()
        """Delivery tags confirmed out of order."""
        self._refused_tag: int | None = None
        self._refusal = BrokerDidNotConfirm("")
        self._failure: BridgeError | None = None
        self._last_progress = 0.0
        self._news = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<PublisherSession {self._confirmed} confirmed, {len(self._sent)} unconfirmed>"

    async def open(self) -> None:
        """Open the confirm channel, and take over its confirms and returns."""
        with translated(None, "a channel"):
            channel = await self._connection.channel(publisher_confirms=True)
            self._channel = await channel.get_underlay_channel()
        # The one place that knows private names of the client library (aiormq 6.8 to 7.2): its own bookkeeping creates
        # a future for every message. ``test_publisher`` fails loudly when they go away.
        self._channel._on_confirm_frame = self._on_confirm  # noqa: SLF001
        self._channel._on_return_frame = self._on_return  # noqa: SLF001
        self._channel.closing.add_done_callback(self._on_closed)
        self._last_progress = asyncio.get_running_loop().time()

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Write *rows* in order; returns when they are on their way, not when they are confirmed.

        Raises:
            BridgeError: what ended the session.

        """
        self._check()
        frame_max = self._channel.connection.connection_tune.frame_max
        payload = b"".join(
            publish_frames(row, channel=self._channel.number, exchange=self._exchange, frame_max=frame_max)
            for row in rows
        )
        if not self._sent:
            self._last_progress = asyncio.get_running_loop().time()
        self._sent += [row.event_id for row in rows]
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        frame = ChannelFrame(payload=payload, should_close=False, drain_future=written)
        # Both waits end with the session at the latest, which the watchdog ends if nothing else does.
        await self._unless_ended(asyncio.ensure_future(self._channel.write_queue.put(frame)))
        await self._unless_ended(written)

    async def confirmed(self) -> int:
        """Wait until the confirmed prefix grows, and return how many rows of this session it has.

        Raises:
            BridgeError: what ended the session, after every confirm that came was told.

        """
        while self._confirmed == self._told:
            self._check()
            self._news.clear()
            await self._news.wait()
        self._told = self._confirmed
        return self._told

    def end(self, failure: BridgeError) -> None:
        """End the session; the first reason given is the one that counts."""
        if self._failure is None:
            self._failure = failure
            self._ended.set_result(None)
        self._news.set()

    async def watch(self, deadline_seconds: float) -> None:
        """Keep an eye on alarms and on confirms that stay out, until cancelled."""
        now = asyncio.get_running_loop().time
        was_blocked = False
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if is_blocked := self._is_blocked():
                self._last_progress = now()
            if is_blocked != was_blocked:
                was_blocked = is_blocked
                self._on_state("blocked: the broker has a memory or disk alarm" if is_blocked else "connected")
            waited = now() - self._last_progress
            if self._refused_tag is not None and waited > LATE_CONFIRMS_SECONDS:
                self.end(self._refusal)
            elif self._sent and waited > deadline_seconds:
                self.end(BrokerDidNotConfirm(f"the broker confirmed nothing for {deadline_seconds:g} s"))

    def _is_blocked(self) -> bool:
        # Private in aiormq, see ``open``.
        return not self._channel.connection._Connection__connection_unblocked.is_set()  # noqa: SLF001

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _unless_ended(self, wanted: "asyncio.Future[Any]") -> None:
        await asyncio.wait((wanted, self._ended), return_when=asyncio.FIRST_COMPLETED)
        wanted.cancel()
        self._check()

    async def _on_confirm(self, frame: spec.Basic.Ack | spec.Basic.Nack) -> None:
        if self._failure is not None:
            return
        if isinstance(frame, spec.Basic.Nack):
            self._refuse(
                frame.delivery_tag or 0,
                BrokerDidNotConfirm("the broker refused a message (nack): is a queue full, or its node down?"),
            )
            return
        tag = frame.delivery_tag or 0
        if frame.multiple:
            self._beyond.update(range(self._confirmed + 1, tag + 1))
        else:
            self._beyond.add(tag)
        self._advance()

    def _advance(self) -> None:
        before = self._confirmed
        while self._confirmed + 1 in self._beyond and self._confirmed + 1 != self._refused_tag:
            self._confirmed += 1
            self._beyond.discard(self._confirmed)
        if self._confirmed != before:
            del self._sent[: self._confirmed - before]
            self._last_progress = asyncio.get_running_loop().time()
            self._news.set()
        if self._confirmed + 1 == self._refused_tag:
            self.end(self._refusal)

    def _refuse(self, tag: int, refusal: BrokerDidNotConfirm) -> None:
        """Let the prefix grow up to the refused message, and end there."""
        if self._refused_tag is None or tag < self._refused_tag:
            self._refused_tag, self._refusal = tag, refusal
        self._advance()

    async def _on_return(self, frame: spec.Basic.Return) -> None:
        header = await self._channel._Channel__get_content_header()  # noqa: SLF001 - see ``open``
        await self._channel._read_content(frame, header)  # noqa: SLF001 - see ``open``
        if self._failure is not None or header.properties.message_id not in self._sent:
            return
        self._refuse(
            self._confirmed + 1 + self._sent.index(header.properties.message_id),
            BrokerDidNotConfirm(
                f"no queue takes events with the routing key {frame.routing_key!r}, so they are held back. Bind a "
                f"queue to the exchange {self._exchange}, or set rabbitmq.log_stream = true"
            ),
        )

    def _on_closed(self, closing: "asyncio.Future[Any]") -> None:
        problem = None if closing.cancelled() else closing.exception()
        self.end(translation(problem or ConnectionError("closed"), None, f"the exchange {self._exchange}"))
