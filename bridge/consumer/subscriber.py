"""Account changes from a queue: subscribe, decode, hand over, acknowledge once they are dealt with."""

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import Final, Literal
from uuid import uuid4

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import ChannelNotFoundEntity
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from bridge.broker.connection import DEADLINE_SECONDS, connect
from bridge.broker.errors import translated
from bridge.broker.topology import Subscription, Topology
from bridge.consumer.away import is_away
from bridge.consumer.connection import LONGEST_PAUSE_SECONDS, Inflow, Link, log
from bridge.consumer.queues import Wanted, provide, provide_temporary
from bridge.errors import BadEvent, BrokerUnreachable, Fatal
from bridge.events.cloudevents import (
    ACCOUNT_CHANGED,
    DOUBT_HEADER,
    SOURCE_VERIFIED,
    AccountChanged,
    SourceVerified,
    decode,
    decode_certificate,
    read_type,
)

ACCOUNT_KEYS: Final = ("*.account.*",)
"""Binds to every account change of every source, and to nothing else."""

CERTIFICATE_KEYS: Final = ("*.source.verified",)
"""Binds to the certificates of every source, and to nothing else."""

FIRST_RETRY_SECONDS: Final = 0.1

DELIVERY_LIMIT: Final = Subscription("").delivery_limit
"""The bridge's own, so that a queue that it made and one that a subscriber made are the same."""

Start = Literal["first", "last", "next"] | datetime | int
"""Where in the log to begin; a number is an offset."""

Handler = Callable[[AccountChanged], Awaitable[None]]
OnVerified = Callable[[SourceVerified], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """A message that is not acknowledged yet; RabbitMQ delivers it again where it never is."""

    body: bytes
    _message: AbstractIncomingMessage

    @property
    def is_redelivered(self) -> bool:
        """True where RabbitMQ, or the bridge, may have delivered it before."""
        return bool(self._message.redelivered or self._message.headers.get(DOUBT_HEADER))

    @property
    def offset(self) -> int | None:
        """Where in the log it is; ``None`` for what comes from a queue."""
        offset = self._message.headers.get("x-stream-offset")
        return offset if isinstance(offset, int) else None

    async def ack(self) -> None:
        """Say that it is dealt with. Where the connection is gone that is logged, and it will come again."""
        await settle(self._message, "ack")

    async def reject(self) -> None:
        """Put it aside for good: into the dead-letter queue, where the queue has one."""
        await settle(self._message, "reject")


@dataclass(frozen=True, slots=True)
class Delivery(Received):
    """One change."""

    event: AccountChanged


@dataclass(frozen=True, slots=True)
class CertificateDelivery(Received):
    """One certificate; what it says is true once every change before it is dealt with."""

    event: SourceVerified


async def settle(message: AbstractIncomingMessage, how: Literal["ack", "reject"], *, multiple: bool = False) -> None:
    """Acknowledge *message*, with *multiple* all before it too, or dead-letter it.

    The broker confirms neither, so nobody could tell one that was lost on the way from one that could not be sent:
    both mean that the message comes again, and neither is an error.
    """
    try:
        with translated(None, f"the {how} of a message"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await (message.ack(multiple=multiple) if how == "ack" else message.reject(requeue=False))
    except BrokerUnreachable as problem:
        log.info("delivery.comes_again", extra={"message_id": message.message_id, "problem": str(problem)})


async def decode_delivery(message: AbstractIncomingMessage, *, is_of_log: bool = False) -> Delivery | None:
    """Return the change in *message*; ``None`` for other kinds of events, and for what is none, which is put aside.

    Of the log nothing can be put aside: the broker ends the connection of whoever rejects an entry of a stream.
    """
    delivery = await _decode_delivery(message, {ACCOUNT_CHANGED}, aside="ack" if is_of_log else "reject")
    return delivery if isinstance(delivery, Delivery) else None


async def _decode_delivery(
    message: AbstractIncomingMessage, kinds: Collection[str], *, aside: Literal["ack", "reject"] = "reject"
) -> Delivery | CertificateDelivery | None:
    try:
        event = decode_event(message, kinds)
    except BadEvent as problem:
        log_bad_event(message, problem)
        await settle(message, aside)
        return None
    if isinstance(event, AccountChanged):
        return Delivery(message.body, message, event)
    if isinstance(event, SourceVerified):
        return CertificateDelivery(message.body, message, event)
    await settle(message, "ack")
    return None


def decode_event(message: AbstractIncomingMessage, kinds: Collection[str]) -> AccountChanged | SourceVerified | None:
    """Return the event in *message*, or ``None`` where its type is none of *kinds*.

    Raises:
        BadEvent: it is of one of *kinds* by its type, and not by what is in it.

    """
    kind = message.type or read_type(message.body)
    if kind not in kinds:
        return None
    return decode_certificate(message.body) if kind == SOURCE_VERIFIED else decode(message.body)


def log_bad_event(message: AbstractIncomingMessage, problem: BadEvent) -> None:
    """Log that *message* is no event, without a word of what is in it: it may be anything, secrets included."""
    log.error(
        "delivery.not_an_event",
        extra={
            "message_id": message.message_id,
            "routing_key": message.routing_key,
            "bytes": len(message.body),
            "problem": type(problem.__cause__ or problem).__name__,
        },
    )


class Subscriber:
    """Receives the account changes in a queue, across restarts of the broker, until stopped.

    The queue is made where it is missing: a quorum queue with a dead-letter queue ``<queue>.dead``. With *ordered*
    any number of processes may subscribe and one of them receives, so that changes stay in order; without, they
    share the queue. One that exists in another form is used as it is. With ``declare=False`` nothing is made and
    the user needs permission to read the queue only. With *exclusive* the queue is a temporary one of this
    connection: whatever is published while the connection is away is never received.

    Args:
        urls: where the broker is; of several, the first that answers is taken.
        queue: its name; an exclusive one needs none.
        exchange: to which the bridge publishes.
        keys: which changes; ``#.account.deleted`` is all deletions.
        prefetch: how many changes may be under way to this subscriber.
        ordered: whether one subscriber at a time receives.
        declare: whether to make what is missing.
        exclusive: whether the queue goes with the connection.
        delivery_limit: after so many deliveries without an acknowledgement RabbitMQ puts a change aside. Up to 3.x
            (seen with 3.10) the end of a connection, even a stop in good order, counts as one for everything that was
            under way: a subscriber that is restarted more often than this while it makes no headway sends up to
            *prefetch* sound changes to the dead letters.
        attempts: how often a handler may fail with one change before it is put aside.
        longest_pause_seconds: between two attempts, of the handler or to connect.
        heartbeat_seconds: a broker that is silent for three times as long counts as gone.
        ssl_context: for ``amqps``.

    Raises:
        ValueError: there is no queue name, and the queue is not exclusive.

    """

    def __init__(  # noqa: PLR0913 - what a subscriber may say, by name
        self,
        urls: str | Sequence[str],
        *,
        queue: str | None = None,
        exchange: str = "pbx.accounts",
        keys: Sequence[str] = ACCOUNT_KEYS,
        prefetch: int = 64,
        ordered: bool = True,
        declare: bool = True,
        exclusive: bool = False,
        delivery_limit: int = DELIVERY_LIMIT,
        attempts: int = 5,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        heartbeat_seconds: int = 10,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if not queue and not exclusive:
            raise ValueError("a subscriber needs the name of its queue, unless the queue is exclusive")
        self._queue = queue or f"{exchange}.subscriber.{uuid4().hex}"
        self._wanted = Wanted(self._queue, exchange, tuple(keys), ordered, delivery_limit)
        self._prefetch = prefetch
        self._makes_queue = declare
        self._is_exclusive = exclusive
        self._attempts = attempts
        self._longest_pause_seconds = longest_pause_seconds
        self._link = Link(
            urls, name=f"subscriber {self._queue}", heartbeat_seconds=heartbeat_seconds, ssl_context=ssl_context
        )

    def __repr__(self) -> str:
        return f"<Subscriber {self._queue}, {self._link}>"

    def stop(self) -> None:
        """Hand over no further change; what is being handled is finished and acknowledged first.

        To be called within the event loop, for example by a signal handler of it.
        """
        self._link.stop()

    async def __aiter__(self) -> AsyncGenerator[Delivery, None]:
        """Iterate over the changes; each stays unacknowledged until its ``ack`` or ``reject``.

        Raises:
            BrokerRefusedLogin, TopologyMismatch: before it worked for the first time; later they are logged and
                tried again, like everything that passes.

        """
        async with aclosing(self._received({ACCOUNT_CHANGED})) as deliveries:
            async for delivery in deliveries:
                if isinstance(delivery, Delivery):
                    yield delivery

    async def events(self) -> AsyncGenerator[Delivery | CertificateDelivery, None]:
        """Iterate over changes and certificates in their order; each stays unacknowledged as above.

        Certificates are bound to, too. Raises what the iteration over the changes raises.
        """
        async with aclosing(self._received({ACCOUNT_CHANGED, SOURCE_VERIFIED})) as deliveries:
            async for delivery in deliveries:
                yield delivery

    async def _received(self, kinds: Collection[str]) -> AsyncGenerator[Delivery | CertificateDelivery, None]:
        begin = partial(self._begin, keys=CERTIFICATE_KEYS if SOURCE_VERIFIED in kinds else ())
        while not self._link.is_stopped:
            async with self._link.session(begin) as inflow:
                while inflow is not None and (message := await inflow.next()) is not None:
                    delivery = await _decode_delivery(message, kinds)
                    if delivery is not None:
                        yield delivery
                if inflow is not None:
                    await inflow.finish()

    async def run(self, handler: Handler, on_verified: OnVerified | None = None) -> None:
        """Await *handler* with one change after the other, and acknowledge each once it returns.

        With *on_verified* certificates are bound to as well, and handed to it in order with the changes. (With
        ``declare=False`` the queue has to be bound to ``*.source.verified`` already.)

        A handler that raises is tried again after a pause, *attempts* times, and then the change is dead-lettered.
        Some errors say more. That its database is away (locked, full, refused, restarted; see ``away``) is tried
        again for as long as it takes, as is any ``Transient``; a handler that keeps a connection has to replace one
        that broke. ``BadEvent`` dead-letters at once, and ``Fatal`` ends the run with nothing acknowledged. Returns
        when stopped. A cancelled run cancels its handler, and the change is delivered again.

        Raises:
            BrokerRefusedLogin, TopologyMismatch: before it worked for the first time.
            Fatal: from the handler.

        """
        kinds = {ACCOUNT_CHANGED} if on_verified is None else {ACCOUNT_CHANGED, SOURCE_VERIFIED}
        async with aclosing(self._received(kinds)) as deliveries:
            async for delivery in deliveries:
                if isinstance(delivery, Delivery):
                    await self._handle(delivery, partial(handler, delivery.event))
                elif on_verified is not None:
                    await self._handle(delivery, partial(on_verified, delivery.event))

    async def _begin(self, connection: AbstractConnection, *, keys: Sequence[str]) -> Inflow:
        wanted = replace(self._wanted, keys=(*self._wanted.keys, *keys))
        if self._is_exclusive:
            await provide_temporary(connection, self._queue, wanted.exchange, wanted.keys)
        elif self._makes_queue:
            await provide(connection, wanted)
        return await Inflow.begin(connection, self._queue, prefetch=self._prefetch)

    async def _handle(self, delivery: Delivery | CertificateDelivery, handle: Callable[[], Awaitable[None]]) -> None:
        link, failures = self._link, count(1)

        def is_enough(state: RetryCallState) -> bool:
            waits = state.outcome is not None and is_away(state.outcome.exception())
            return link.is_over or (not waits and next(failures) >= self._attempts)

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_worth_repeating),
            wait=wait_random_exponential(multiplier=FIRST_RETRY_SECONDS, max=self._longest_pause_seconds),
            stop=is_enough,
            sleep=link.pause,
            before_sleep=lambda state: _log_failure(logging.WARNING, "handler.tries_again", delivery, state),
            reraise=True,
        )
        try:
            await retrying(_called, handle)
        except Fatal:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever a handler raises
            if link.is_over and _is_worth_repeating(problem):
                return  # stopped or lost between two attempts: the change comes again
            _log_failure(logging.ERROR, "handler.gave_up", delivery, problem)
            await delivery.reject()
        else:
            await delivery.ack()


def _is_worth_repeating(problem: BaseException) -> bool:
    return isinstance(problem, Exception) and not isinstance(problem, (BadEvent, Fatal))


async def _called(handle: Callable[[], Awaitable[None]]) -> None:
    try:
        await handle()
    except asyncio.CancelledError as problem:
        # Something the handler waited for was cancelled, for example by a client library that lost its connection.
        # Only where this task itself is asked to end may that end the run.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise HandlerCancelledError("something that the handler waited for was cancelled") from problem


class HandlerCancelledError(RuntimeError):
    """A handler ended by a cancellation that nobody asked this subscriber for."""


def _log_failure(
    level: int, what: str, delivery: Delivery | CertificateDelivery, how: RetryCallState | Exception
) -> None:
    problem = how if isinstance(how, Exception) else how.outcome.exception() if how.outcome is not None else None
    event = delivery.event
    whose = {"account": event.account_guid} if isinstance(event, AccountChanged) else {"source": event.source}
    log.log(level, what, exc_info=problem, extra={"event_id": event.event_id, **whose})


@asynccontextmanager
async def subscribe(  # noqa: PLR0913 - what a subscriber may say
    urls: Sequence[str],
    *,
    exchange: str = "pbx.accounts",
    queue: str | None = None,
    keys: Sequence[str] = ACCOUNT_KEYS,
    start: Start | None = None,
    partitions: int = 1,
    prefetch: int = 256,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[AsyncIterator[Delivery]]:
    """Receive the changes in *queue*, or without a name those from now on, in a queue that goes with the connection.

    For one connection only; ``Subscriber`` outlives it. A named queue is made where there is none, as ``Subscriber``
    makes it, and used as it is where it exists. With *start* the log of the exchange is read instead, from its first
    change, from a time, or from an offset, and then on with what comes; of a log in several *partitions* all at once,
    in order for each account. What is no account change is skipped, and in a queue dead-lettered where it is broken.
    Inside, iterate; the iteration ends with the error that ended the connection.

    Raises:
        BrokerUnreachable: no connection, or it broke.
        BrokerRefusedLogin: user, password or virtual host are wrong.
        TopologyMismatch: there is no such exchange, or the queue exists in another form.

    """
    async with connect(urls, client_name="account-bridge subscriber", ssl_context=ssl_context) as connection:
        arguments: dict[str, Start] = {}
        names: Sequence[str] = ()
        if start is not None:
            arguments = {"x-stream-offset": start}
            names = Topology(exchange, log_partitions=partitions).log_streams
        elif queue is not None:
            names = [queue]
            await _find_or_make(connection, queue, exchange, keys)
        else:
            names = [f"{exchange}.subscriber.{uuid4().hex}"]
            await provide_temporary(connection, names[0], exchange, keys)
        inflows = [await Inflow.begin(connection, name, prefetch=prefetch, arguments=arguments) for name in names]
        async with aclosing(_deliveries(inflows, is_of_log=start is not None)) as deliveries:
            yield deliveries


async def _deliveries(inflows: Sequence[Inflow], *, is_of_log: bool) -> AsyncGenerator[Delivery, None]:
    """Yield what any of *inflows* receives, until one of them ends."""
    if len(inflows) == 1:
        while (message := await inflows[0].next()) is not None:
            delivery = await decode_delivery(message, is_of_log=is_of_log)
            if delivery is not None:
                yield delivery
        return
    waiting = {asyncio.ensure_future(inflow.next()): inflow for inflow in inflows}
    try:
        while True:
            arrived, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in arrived:
                inflow = waiting.pop(task)
                message = task.result()
                if message is None:
                    return
                waiting[asyncio.ensure_future(inflow.next())] = inflow
                delivery = await decode_delivery(message, is_of_log=is_of_log)
                if delivery is not None:
                    yield delivery
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _find_or_make(connection: AbstractConnection, name: str, exchange: str, keys: Sequence[str]) -> None:
    # Looked for first: it may have been made with arguments of somebody else's choice. A miss closes its channel.
    with translated(None, f"the queue {name} on the exchange {exchange}"):
        async with asyncio.timeout(DEADLINE_SECONDS):
            channel, is_missing = await connection.channel(), False
            try:
                queue = await channel.declare_queue(name, passive=True)
            except ChannelNotFoundEntity:
                is_missing = True
            else:
                for key in keys:
                    await queue.bind(exchange, key)
                await channel.close()
    if is_missing:
        await provide(connection, Wanted(name, exchange, tuple(keys), is_ordered=False, delivery_limit=DELIVERY_LIMIT))
