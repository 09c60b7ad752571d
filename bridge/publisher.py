"""Outbox rows to the exchange; answers with what the broker confirmed.

A session is one plain connection and one confirm channel, used until the first failure of any kind and then thrown away
whole: nothing is retried inside it. Rows go out in order, persistent and mandatory; progress is the unbroken
confirmed prefix, and what is confirmed while the session dies still counts. While the broker blocks us (memory or disk
alarm) we wait on the same connection: measured, that gives no duplicate, and reconnecting gives every message twice.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiormq.abc
from aio_pika.abc import AbstractConnection
from aiormq.channel import Channel
from pamqp import commands as spec
from pamqp.header import ContentHeader

from bridge.broker import (
    DEADLINE_SECONDS,
    Topology,
    connect,
    declare,
    hold_fence,
    permission_command,
    translated,
    translation,
    verify,
)
from bridge.confirms import Ledger
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerUnreachable, EventUnroutable
from bridge.frames import APP_ID, publish_frames
from bridge.model import OutboxRow

WATCH_SECONDS: Final = 0.5
"""How often a session looks whether it is blocked or overdue."""

LATE_CONFIRMS_SECONDS: Final = 2.0
"""After a refusal: how long to wait for the confirms of what was sent before it."""


class Publisher:
    """Makes sessions. *urls* is asked for each of them, so that a changed password is used.

    *fences* are held while publishing, one for every source, so that no second bridge publishes for the same one.
    *is_traced* adds the trace context of each event to its message, and a *label* goes with every message. *on_state*
    is told ``connecting``, ``connected``, and ``blocked: <reason>``.
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
        is_traced: bool = False,
        on_state: Callable[[str], None] = lambda _state: None,
        label: str = "",
    ) -> None:
        self._label = label
        self._urls = urls
        self._topology = topology
        self._is_declaring = is_declaring
        self._fences = fences
        self._confirm_deadline_seconds = confirm_deadline_seconds
        self._ssl_context = ssl_context
        self._is_traced = is_traced
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
                await hold_fence(connection, fence, self._topology)
            session = PublisherSession(
                connection, self._topology, self._on_state, self._label, is_traced=self._is_traced
            )
            await session.open()
            self._on_state("connected")
            over = BrokerUnreachable("this session is over")
            watching = asyncio.create_task(session.watch(self._confirm_deadline_seconds))
            watching.add_done_callback(lambda _: session.end(over))  # nobody waits for a session that is not watched
            try:
                yield session
            finally:
                session.end(over)
                watching.cancel()
                await asyncio.wait([watching])
                if not watching.cancelled():
                    watching.result()  # raises: only a mistake of ours ends watching before it is cancelled


class PublisherSession:
    """The ``Session`` of ``delivery``."""

    def __init__(
        self,
        connection: AbstractConnection,
        topology: Topology,
        on_state: Callable[[str], None],
        label: str,
        *,
        is_traced: bool = False,
    ) -> None:
        self._label = label
        self._is_traced = is_traced
        self._connection = connection
        self._topology = topology
        self._on_state = on_state
        self._channel: Any = None
        self._unblocked: asyncio.Event
        self._ledger = Ledger()
        self._told = 0
        self._failure: BridgeError | None = None
        self._last_progress = 0.0
        self._refused_at: float | None = None
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<PublisherSession {self._ledger.confirmed} confirmed, {self._ledger.outstanding} unconfirmed>"

    async def open(self) -> None:
        """Open the confirm channel.

        Raises:
            BrokerUnreachable: the connection broke, or there was no answer in time.

        """
        transport: Any = self._connection.transport
        with translated(None, "a channel"):
            if transport is None:
                raise ConnectionError("closed")
            async with asyncio.timeout(DEADLINE_SECONDS):
                self._unblocked = unblocked_event(transport.connection)
                self._channel = await _ConfirmChannel.opened(transport.connection, self)
        self._channel.closing.add_done_callback(self._on_closed)
        self._last_progress = self._loop.time()

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Write *rows* in order; returns when they are on their way, not when they are confirmed.

        Cancelling it ends the session, since nobody could say any more which message a confirm is for.

        Raises:
            BridgeError: what ended the session, or is about to: nothing is sent behind a refused row.

        """
        self._check()
        if self._ledger.refusal is not None:
            raise self._ledger.refusal
        frame_max = self._channel.connection.connection_tune.frame_max
        exchange = self._topology.exchange
        number, label = self._channel.number, self._label
        payload = b"".join(
            publish_frames(
                row,
                channel=number,
                exchange=exchange,
                frame_max=frame_max,
                label=label,
                is_traced=self._is_traced,
            )
            for row in rows
        )
        if not self._ledger.outstanding:
            self._last_progress = self._loop.time()
        self._ledger.sent([row.event_id for row in rows])
        written: asyncio.Future[None] = self._loop.create_future()
        frame = aiormq.abc.ChannelFrame(payload=payload, should_close=False, drain_future=written)
        try:
            # Both waits end with the session at the latest, which the watchdog ends if nothing else does.
            await self._unless_ended(asyncio.ensure_future(self._channel.write_queue.put(frame)))
            await self._unless_ended(written)
        except asyncio.CancelledError:
            self.end(BrokerUnreachable("sending was interrupted"))
            raise

    async def confirmed(self) -> int:
        """Wait until the confirmed prefix grows, and return how many rows of this session it has.

        Raises:
            BridgeError: what ended the session, after every confirm that came was told.

        """
        while self._ledger.confirmed == self._told:
            self._check()
            self._news.clear()
            await self._news.wait()
        self._told = self._ledger.confirmed
        return self._told

    def end(self, failure: BridgeError) -> None:
        """End the session; the first reason given is the one that counts, and no confirm counts any more."""
        if self._failure is None:
            self._failure = failure
            self._ended.set_result(None)
        self._news.set()

    async def watch(self, deadline_seconds: float) -> None:
        """Keep an eye on alarms and on confirms that stay out, until cancelled."""
        was_blocked = False
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = self._loop.time()
            if is_blocked := not self._unblocked.is_set():
                self._last_progress = now
            if is_blocked != was_blocked:
                was_blocked = is_blocked
                self._on_state("blocked: the broker has a memory or disk alarm" if is_blocked else "connected")
            if self._refused_at is not None and self._ledger.refusal is not None:
                if now - self._refused_at > LATE_CONFIRMS_SECONDS:
                    self.end(self._ledger.refusal)
            elif self._ledger.outstanding and now - self._last_progress > deadline_seconds:
                self.end(BrokerDidNotConfirm(f"the broker confirmed nothing for {deadline_seconds:g} s"))

    def on_confirm(self, frame: spec.Basic.Ack | spec.Basic.Nack) -> None:
        """Take a confirm or a refusal of the broker."""
        if self._failure is not None:
            return
        tag, multiple = frame.delivery_tag or 0, bool(frame.multiple)
        if isinstance(frame, spec.Basic.Nack):
            self._ledger.nack(tag, multiple=multiple)
        elif self._ledger.ack(tag, multiple=multiple):
            self._last_progress = self._loop.time()
            self._news.set()
        self._look_for_refusal()

    def on_return(self, frame: spec.Basic.Return, event_id: str | None) -> None:
        """Take the news that no queue takes a message."""
        if self._failure is None:
            self._ledger.returned(
                event_id,
                EventUnroutable(
                    f"no queue takes events with the routing key {frame.routing_key!r}, so they are held back. Bind a "
                    f"queue to the exchange {self._topology.exchange}, or set rabbitmq.log_stream = true"
                ),
            )
            self._look_for_refusal()

    def _look_for_refusal(self) -> None:
        """End the session at a refused message, once all before it are confirmed or had their time."""
        if self._ledger.refusal is None:
            return
        if self._refused_at is None:
            self._refused_at = self._loop.time()
        if self._ledger.is_over:
            self.end(self._ledger.refusal)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _unless_ended(self, wanted: "asyncio.Future[Any]") -> None:
        try:
            await asyncio.wait((wanted, self._ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
        self._check()

    def _on_closed(self, closing: "asyncio.Future[Any]") -> None:
        problem = asyncio.CancelledError() if closing.cancelled() else closing.exception()
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
    ``tests/unit/test_publisher.py`` fails when one goes away.
    """

    def __init__(self, connection: aiormq.abc.AbstractConnection, number: int, session: PublisherSession) -> None:
        super().__init__(connection, number, publisher_confirms=True)
        self._session = session

    @classmethod
    async def opened(cls, connection: aiormq.abc.AbstractConnection, session: PublisherSession) -> "_ConfirmChannel":
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
