"""Account changes from a queue: subscribe, decode, acknowledge once they are dealt with."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal
from uuid import uuid4

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from bridge.broker import DEADLINE_SECONDS, connect, translated
from bridge.cloudevents import ACCOUNT_CHANGED, AccountChanged, decode
from bridge.errors import BadEvent, BrokerUnreachable

ACCOUNT_KEYS: Final = ("*.account.*",)
"""Binds to every account change of every source, and to nothing else."""


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
async def subscribe(
    urls: Sequence[str],
    *,
    exchange: str = "pbx.accounts",
    queue: str | None = None,
    keys: Sequence[str] = ACCOUNT_KEYS,
    prefetch: int = 256,
) -> AsyncIterator[AsyncIterator[Delivery]]:
    """Receive the changes in *queue*, or without a name those from now on, in a queue that goes with the connection.

    What is no account change is dead-lettered and skipped. Inside, iterate; the iteration ends with the error that
    ended the connection.

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
                if queue is None:
                    name = f"{exchange}.subscriber.{uuid4().hex}"
                    declared = await channel.declare_queue(name, exclusive=True, auto_delete=True)
                else:
                    declared = await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
                for key in keys:
                    await declared.bind(exchange, key)
        closing = asyncio.ensure_future(connection.closed())
        try:
            yield _deliveries(declared, closing)
        finally:
            closing.cancel()


async def _deliveries(queue: AbstractQueue, closing: "asyncio.Future[Literal[True]]") -> AsyncIterator[Delivery]:
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    with translated(None, f"the queue {queue.name}"):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await queue.consume(arrived.put)
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
