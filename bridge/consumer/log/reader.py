"""The log of everything, from any point in it, and on into what happens now without a seam."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, cast

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import ChannelLockedResource

from bridge.broker.connection import DEADLINE_SECONDS
from bridge.broker.errors import translated
from bridge.consumer.connection import LONGEST_PAUSE_SECONDS, Inflow, Link, log
from bridge.consumer.extras import from_extra
from bridge.consumer.log.position import LogOffset
from bridge.consumer.subscriber import Start, decode_event, log_bad_event, settle
from bridge.errors import BadEvent, BrokerUnreachable, LogReplaced, TopologyMismatch
from bridge.events.cloudevents import ACCOUNT_CHANGED, SOURCE_VERIFIED, AccountChanged, SourceVerified

CLOCK_MARGIN: Final = timedelta(minutes=1)
"""How far the broker's clock may be behind ours without a reader that waits for its first event missing one."""


TURN_SECONDS: Final = 1.0
"""How often a replica that stands by looks whether it is its turn."""

PLACE_SECONDS: Final = 10.0
"""How long the entry at a reader's place may take to come, before the broker is asked another question."""


class Looking(Enum):
    """What a reader asks after connecting, until it knows that the log is the one in which it stands.

    The broker gives what it has from an offset on and says nothing of what it does not have. So it takes up to three
    questions, and only an answer decides: that nothing comes may mean anything.
    """

    AT_PLACE = "at its place"
    """The entry there has to be the one that was read; where a later one comes first, it is gone."""
    AT_FIRST = "at the first entry"
    """Asked where it is gone: by age or size only if everything before it is gone as well."""
    AT_LAST = "at the last entry"
    """Asked where nothing came: the newest part of a log is never removed, so one that ends before our place is new.
    Asked twice, since of a part that comes slowly the end cannot be told from a pause."""
    NO_MORE = "no more"


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One change and its place in the log."""

    offset: int
    """Starting again with ``start=offset + 1`` continues behind this entry."""
    event: AccountChanged
    body: bytes


@dataclass(frozen=True, slots=True)
class LogCertificate:
    """One certificate and its place in the log."""

    offset: int
    event: SourceVerified
    body: bytes


class LogReader:
    """Reads the stream that is the log; reading takes nothing away from anybody.

    Across restarts of the broker it goes on behind the last entry that it handed over. The broker keeps the log by age
    and size only; where entries are gone before they were read, that is logged as ``log.truncated``.

    Exactly once, with nothing but a place kept in the transaction of the effect (where the bridge writes the log by the
    stream protocol, and so holds each event once)::

        position = SqlitePosition(letters)      # bridge.consumer.position_sqlite; or PostgresPosition
        position.create_tables()
        async for entry in LogReader(url, start=position.start()):
            with letters:  # one transaction
                if position.accept(entry):
                    letters.execute("INSERT INTO letter VALUES (?, ?)", (entry.event.account["display_name"], ...))

    Args:
        urls: where the broker is; of several, the first that answers is taken. ``amqp://`` reads by AMQP 0-9-1,
            ``rabbitmq-stream://`` by the stream protocol (needs the extra ``stream``).
        stream: name of the log; of a log in several partitions one of its streams, ``pbx.accounts.log-0`` for example.
        start: ``"first"``; ``"next"`` for what is published from now on; an offset; a place, to go on behind it; a time
            with its zone, or ``"last"``, both of which begin with the whole chunk that holds it, so that some earlier
            entries may come.
        replica_of: a name that several processes share, of which one reads at a time; when it ends, another one goes
            on. By AMQP they take turns by a queue that one connection can hold, at any broker; by the stream protocol
            by its single active consumer, from RabbitMQ 3.11 on. The two know nothing of each other: all replicas are
            to use the same protocol. Each of them has to ask its position for the start (give *start* a function).
        prefetch: how many entries may be under way to this reader.
        longest_pause_seconds: between two attempts to connect.
        heartbeat_seconds: a broker that is silent for three times as long counts as gone.
        ssl_context: for ``amqps`` and ``rabbitmq-stream+tls``.

    Raises:
        ValueError: a time without a zone.

    """

    def __init__(  # noqa: PLR0913 - what a reader may say, by name
        self,
        urls: str | Sequence[str],
        *,
        stream: str = "pbx.accounts.log",
        start: Start | LogOffset | Callable[[], Start | LogOffset | Awaitable[Start | LogOffset]] = "first",
        replica_of: str | None = None,
        prefetch: int = 256,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        heartbeat_seconds: int = 10,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        first = urls if isinstance(urls, str) else next(iter(urls), "")
        self._is_native = first.startswith("rabbitmq-stream")
        self._stream = stream
        self._wanted = start
        self._start: Start = "first"
        self._place: LogOffset | None = None
        """The last entry that was dealt with; the log is asked for it once more, to see that it is the same log."""
        self._next_look = Looking.AT_PLACE
        """What to ask over the next connection."""
        self._looking = Looking.NO_MORE
        self._earlier: int | None = None
        """The last entry before our place that came over this connection."""
        self._ends_at: int | None = None
        """That of the connection before, where it was the end of the log as far as could be seen."""
        self._is_first = True
        """True until the first entry came over a connection."""
        if not callable(start):
            self._begin_at(start)
        self._replica_of = replica_of
        self._prefetch = prefetch
        self._link = Link(
            urls,
            name=f"reader of {stream}",
            longest_pause_seconds=longest_pause_seconds,
            heartbeat_seconds=heartbeat_seconds,
            ssl_context=ssl_context,
            **({"connecting": _stream_connecting()} if self._is_native else {}),
        )

    def __repr__(self) -> str:
        return f"<LogReader {self._stream}, from {self._place or self._start}, {self._link}>"

    def stop(self) -> None:
        """End the iteration behind the entry at hand. To be called within the event loop."""
        self._link.stop()

    async def __aiter__(self) -> AsyncGenerator[LogEntry, None]:
        """Iterate over the changes in the log, and on over what is published.

        Raises:
            BrokerRefusedLogin, TopologyMismatch: before it worked for the first time; there is no such stream, for
                example, because the bridge has not made it yet.
            LogReplaced: the log is not the one in which this reader stands.

        """
        async with aclosing(self._entries({ACCOUNT_CHANGED})) as entries:
            async for entry in entries:
                if isinstance(entry, LogEntry):
                    yield entry

    async def events(self) -> AsyncGenerator[LogEntry | LogCertificate, None]:
        """Iterate over changes and certificates in their order. Raises what the iteration over the changes raises."""
        async with aclosing(self._entries({ACCOUNT_CHANGED, SOURCE_VERIFIED})) as entries:
            async for entry in entries:
                yield entry

    async def _entries(self, kinds: Collection[str]) -> AsyncGenerator[LogEntry | LogCertificate, None]:
        while not self._link.is_stopped:
            async with self._link.session(self._begin) as inflow:
                unsettled = 0
                while inflow is not None and (message := await self._next(inflow)) is not None:
                    offset = self._advance(message)
                    entry = None if offset is None else _entry(message, offset, kinds)
                    if entry is not None:
                        yield entry
                    unsettled += 1
                    # An acknowledgement is only a licence to send more. One for many is cheaper, but the last must
                    # not wait: RabbitMQ closes channels on which something stays unacknowledged for half an hour.
                    if inflow.is_drained or unsettled * 2 >= self._prefetch:
                        await settle(message, "ack", multiple=True)
                        unsettled = 0

    async def run(
        self,
        handler: Callable[[LogEntry], Awaitable[None]],
        on_verified: Callable[[LogCertificate], Awaitable[None]] | None = None,
    ) -> None:
        """Await *handler* with one entry after the other, until stopped; its first error ends the run.

        With *on_verified* certificates are handed to it, in order with the changes.

        Raises:
            BrokerRefusedLogin, TopologyMismatch, LogReplaced: see the iteration.

        """
        kinds = {ACCOUNT_CHANGED} if on_verified is None else {ACCOUNT_CHANGED, SOURCE_VERIFIED}
        async with aclosing(self._entries(kinds)) as entries:
            async for entry in entries:
                if isinstance(entry, LogEntry):
                    await handler(entry)
                elif on_verified is not None:
                    await on_verified(entry)

    def _begin_at(self, start: Start | LogOffset) -> None:
        if isinstance(start, datetime) and start.tzinfo is None:
            raise ValueError("the time to start from needs a zone, for example datetime.now(UTC)")
        if isinstance(start, LogOffset):
            self._place = start
        elif isinstance(start, int) and start > 0:
            self._place = LogOffset(start - 1, None)
            self._start = start
        else:
            self._start = start

    async def _begin(self, connection: Any) -> Inflow:
        begin_at = await self._take_turn(connection)
        if callable(self._wanted) and self._place is None:
            asked = self._wanted()
            self._begin_at(await asked if isinstance(asked, Awaitable) else asked)
        place = self._place
        is_known = place is not None and place.event_id is not None
        self._looking, self._next_look = (self._next_look if is_known else Looking.NO_MORE), Looking.AT_PLACE
        self._earlier, self._is_first = None, True
        start: Start
        if self._looking is Looking.AT_FIRST:
            start = "first"
        elif self._looking is Looking.AT_LAST:
            start = "last"
        else:
            start = self._start if place is None else place.offset if is_known else place.offset + 1
        inflow = await begin_at(start)
        if start == "next":
            # Should the connection break before anything came, "next" would leave out what was published meanwhile.
            self._start = datetime.now(UTC) - CLOCK_MARGIN
        return inflow

    async def _take_turn(self, connection: Any) -> Callable[[Start], Awaitable[Inflow]]:
        """Wait until no other replica reads, and return what begins to."""
        if self._is_native:
            with from_extra("stream"):
                from bridge.consumer.log.stream import StreamInflow  # noqa: PLC0415 - needs that

            if self._replica_of is not None:
                return (await StreamInflow.stand_by(connection, self._stream, self._replica_of)).begin_at
            return partial(StreamInflow.subscribe, connection, self._stream)
        if self._replica_of is not None:
            await _hold_turn(connection, f"{self._stream}.reader.{self._replica_of}")
        return lambda start: Inflow.begin(
            connection, self._stream, prefetch=self._prefetch, arguments={"x-stream-offset": start}
        )

    async def _next(self, inflow: Inflow) -> AbstractIncomingMessage | None:
        if self._looking is Looking.NO_MORE:
            return await inflow.next()
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                return await inflow.next()
        except TimeoutError as problem:
            is_end = self._looking is Looking.AT_LAST and self._earlier is not None
            if is_end and self._earlier == self._ends_at:
                raise self._replaced() from problem
            self._ends_at = self._earlier if is_end else None
            look = Looking.AT_LAST if is_end or self._looking is Looking.AT_PLACE else Looking.AT_PLACE
            raise self._asking(look, "the broker does not deliver the entry that was read last") from problem

    def _asking(self, look: Looking, why: str) -> BrokerUnreachable:
        """Return what ends this session, to *look* elsewhere over the next connection."""
        self._next_look = look
        return BrokerUnreachable(f"{why}: looking {look.value}")

    def _advance(self, message: AbstractIncomingMessage) -> int | None:
        """Return the offset of *message*, and begin behind it from now on; ``None`` where it was wanted no more.

        Raises:
            LogReplaced: it shows that the log is another one.
            BrokerUnreachable: the entry at our place is not there, and more is to be asked about it.

        """
        offset, event_id = cast("int", message.headers["x-stream-offset"]), message.message_id
        place = self._place
        if place is not None:
            if offset <= place.offset:
                self._look_at(offset, event_id, place)
                return None
            if self._looking is not Looking.NO_MORE:
                self._look_behind(place)
            # Only at the beginning: the broker's own notes take offsets too, and leave gaps where nothing is gone.
            if offset > place.offset + 1 and self._is_first:
                log.warning(
                    "log.truncated",
                    extra={"stream": self._stream, "expected_offset": place.offset + 1, "first_offset": offset},
                )
        self._is_first = False
        self._place = LogOffset(offset, event_id)
        return offset

    def _look_at(self, offset: int, event_id: str | None, place: LogOffset) -> None:
        """Take note of an entry at our place, or before it."""
        if self._looking is Looking.NO_MORE:
            return
        if offset < place.offset:
            if self._looking is Looking.AT_FIRST:
                raise self._replaced()
            self._earlier = offset
        elif event_id != place.event_id:
            raise self._replaced()
        else:
            self._looking, self._is_first = Looking.NO_MORE, False

    def _look_behind(self, place: LogOffset) -> None:
        """Judge that an entry behind our place came before the one at it: that one is not there.

        It was removed by age or size if everything before it was, too. Otherwise the log is another one, in which that
        offset has none of our entries, but a note of the broker's.
        """
        if self._earlier is not None:
            raise self._replaced()
        if self._looking is Looking.AT_PLACE:
            raise self._asking(Looking.AT_FIRST, f"the entry at offset {place.offset} is not there")
        if self._looking is Looking.AT_LAST:
            raise self._asking(Looking.AT_PLACE, "the log goes on behind the entry that was read last")
        self._looking = Looking.NO_MORE

    def _replaced(self) -> LogReplaced:
        place = self._place
        return LogReplaced(
            f"the log {self._stream} is not the one that was read: the event {place.event_id if place else ''} is not "
            f"at offset {place.offset if place else 0} any more. It was deleted and made anew, or its broker was put "
            "back from a backup. Begin with its first entry; events that were applied before may come again"
        )


def _stream_connecting() -> Callable[..., AbstractAsyncContextManager[Any]]:
    with from_extra("stream"):
        from bridge.broker.stream.connection import connect_stream  # noqa: PLC0415 - needs that
    return connect_stream


async def _hold_turn(connection: AbstractConnection, name: str) -> None:
    """Wait until no other replica reads, and hold an exclusive queue for as long as *connection* lives.

    A stream has no single active consumer in AMQP 0-9-1.

    Raises:
        BrokerUnreachable: the connection broke.
        TopologyMismatch: this user may not declare it.

    """
    is_standing_by = False
    while True:
        try:
            with translated(None, f"the queue {name}"):
                async with asyncio.timeout(DEADLINE_SECONDS):
                    channel = await connection.channel(publisher_confirms=False)
                    await channel.declare_queue(name, durable=False, exclusive=True)
        except TopologyMismatch as problem:
            if not isinstance(problem.__cause__, ChannelLockedResource):
                raise
        else:
            return
        if not is_standing_by:
            log.info("reader.stands_by", extra={"turn": name})
            is_standing_by = True
        await asyncio.sleep(TURN_SECONDS)


def _entry(message: AbstractIncomingMessage, offset: int, kinds: Collection[str]) -> LogEntry | LogCertificate | None:
    try:
        event = decode_event(message, kinds)
    except BadEvent as problem:
        log_bad_event(message, problem)
        return None
    if isinstance(event, AccountChanged):
        return LogEntry(offset, event, message.body)
    return None if event is None else LogCertificate(offset, event, message.body)
