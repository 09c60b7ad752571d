"""Account changes from a queue: subscribe, decode, acknowledge once they are dealt with."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import uuid4

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import ChannelNotFoundEntity

from bridge.broker import DEADLINE_SECONDS, connect, translated
from bridge.cloudevents import ACCOUNT_CHANGED, AccountChanged, decode
from bridge.errors import BadEvent, BrokerUnreachable

ACCOUNT_KEYS: Final = ("*.account.*",)
"""Binds to every account change of every source, and to nothing else."""


Start = Literal["first", "last", "next"] | datetime | int
"""Where in the log to begin; a number is an offset."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One change, not yet acknowledged; RabbitMQ delivers it again where it never is."""

    event: AccountChanged
    body: bytes
    _message: AbstractIncomingMessage

    @property
    def is_redelivered(self) -> bool:
        """True where RabbitMQ, or the bridge, may have delivered it before."""
        return bool(self._message.redelivered or self._message.headers.get("x-redelivered-by-bridge"))

    async def ack(self) -> None:
        """Say that the change is dealt with.

        Raises:
            BrokerUnreachable: the connection broke; the change will come again.

        """
        with translated(None, "an acknowledgement"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._message.ack()


@asynccontextmanager
async def subscribe(  # noqa: PLR0913 - what a subscriber may say
    urls: Sequence[str],
    *,
    exchange: str = "pbx.accounts",
    queue: str | None = None,
    keys: Sequence[str] = ACCOUNT_KEYS,
    start: Start | None = None,
    prefetch: int = 256,
) -> AsyncIterator[AsyncIterator[Delivery]]:
    """Receive the changes in *queue*, or without a name those from now on, in a queue that goes with the connection.

    A named queue is made where there is none. With *start* the log of the exchange is read instead, from its first
    change, from a time, or from an offset, and then on with what comes. What is no account change is skipped, and
    dead-lettered where it is broken. Inside, iterate; the iteration ends with the error that ended the connection.

    Raises:
        BrokerUnreachable: no connection, or it broke.
        BrokerRefusedLogin: user, password or virtual host are wrong.
        TopologyMismatch: there is no such exchange, or the queue exists in another form.

    """
    async with connect(urls, client_name="account-bridge subscriber") as connection:
        with translated(None, f"the queue {queue or 'of this subscriber'} on the exchange {exchange}"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=prefetch)
                if start is not None:
                    declared = await channel.declare_queue(f"{exchange}.log", passive=True)
                elif queue is not None:
                    declared = await _found_or_made(connection, channel, queue)
                else:
                    name = f"{exchange}.subscriber.{uuid4().hex}"
                    declared = await channel.declare_queue(name, exclusive=True, auto_delete=True)
                if start is None:
                    for key in keys:
                        await declared.bind(exchange, key)
        closing = asyncio.ensure_future(connection.closed())
        try:
            yield _deliveries(declared, closing, {} if start is None else {"x-stream-offset": start})
        finally:
            closing.cancel()


async def _found_or_made(connection: AbstractConnection, channel: AbstractChannel, name: str) -> AbstractQueue:
    # Looked for first: it may have been made with arguments of somebody else's choice. A miss closes its channel.
    looking = await connection.channel()
    try:
        await looking.declare_queue(name, passive=True)
    except ChannelNotFoundEntity:
        return await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
    await looking.close()
    return await channel.declare_queue(name, passive=True)


async def _deliveries(
    queue: AbstractQueue, closing: "asyncio.Future[Literal[True]]", arguments: dict[str, Start]
) -> AsyncIterator[Delivery]:
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    with translated(None, f"the queue {queue.name}"):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await queue.consume(arrived.put, arguments=dict(arguments))
    while True:
        getting = asyncio.ensure_future(arrived.get())
        try:
            await asyncio.wait((getting, closing), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                raise BrokerUnreachable("the connection to the broker broke")
        finally:
            getting.cancel()
        message = getting.result()
        if message.type not in (None, ACCOUNT_CHANGED):
            await message.ack()
            continue
        try:
            event = decode(message.body)
        except BadEvent:
            await message.reject(requeue=False)
            continue
        yield Delivery(event, message.body, message)
