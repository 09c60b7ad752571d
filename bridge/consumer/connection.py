"""One consumer after another: each is used until its first failure, and another one begun behind it.

Nothing restores itself. A connection that is half alive (connected, but without its channel or its consumer) is the
commonest way for a subscriber to stand still without a sound, so any doubt about a part throws away the whole.
"""

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final, NamedTuple, Self, TypeVar

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from bridge.broker.connection import DEADLINE_SECONDS, connect
from bridge.broker.errors import connection_broke, consumer_ended, translated
from bridge.errors import BrokerUnreachable, Misconfigured, Transient

FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0

Result = TypeVar("Result")

log = logging.getLogger("bridge.consumer")


class _Source(NamedTuple):
    channel: AbstractChannel
    queue: AbstractQueue


class Inflow:
    """What one consumer receives, in order, until it is stopped or itself, its channel or its connection ends."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._arrived: deque[AbstractIncomingMessage] = deque()
        self._news = asyncio.Event()
        self._over = asyncio.Event()
        self._problem: str | None = None
        self._source: _Source | None = None  # held: without a reference a channel closes

    def __repr__(self) -> str:
        return f"<Inflow {self._queue}, {self._problem or ('stopped' if self.is_over else 'open')}>"

    @classmethod
    async def begin(
        cls,
        connection: AbstractConnection,
        queue: str,
        *,
        prefetch: int,
        arguments: Mapping[str, Any] | None = None,
    ) -> Self:
        """Consume *queue*, with at most *prefetch* messages that are not acknowledged.

        Raises:
            BrokerUnreachable: the connection broke.
            TopologyMismatch: there is no such queue, or this user may not read it.

        """
        inflow = cls(queue)
        with translated(None, f"the queue {queue}"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                channel = await connection.channel(publisher_confirms=False)
                await channel.set_qos(prefetch_count=prefetch)
                underlay = await channel.get_underlay_channel()
                underlay.closing.add_done_callback(inflow._channel_closed)
                underlay.on_consumer_cancel_callbacks.add(inflow._consumer_cancelled)
                found = await channel.get_queue(queue, ensure=False)
                inflow._source = _Source(channel, found)
                await found.consume(inflow._take, arguments=dict(arguments or {}))
        return inflow

    @property
    def is_over(self) -> bool:
        """True once nothing will be received any more, and nothing acknowledged unless it was only stopped."""
        return self._over.is_set()

    @property
    def is_drained(self) -> bool:
        """True where nothing waits that has arrived already."""
        return not self._arrived

    def stop(self) -> None:
        """Receive no more; what was received can still be acknowledged."""
        self._over.set()
        self._news.set()

    async def finish(self) -> None:
        """Make the broker take notice of all acknowledgements, before the connection is closed behind them.

        A quorum queue takes them in the background, and those that its channel still holds back when it closes (up
        to 32; seen with RabbitMQ 3.10 at every eighth close) are forgotten. Whatever is answered by the queue itself
        is answered behind them. Cancelling the consumer would be, too, but would let a consumer that stands by have
        later messages before those that this one gives back. So another consumer is begun: one more that stands by.

        Raises:
            BrokerUnreachable: the connection broke.

        """
        self.stop()
        if self._problem is not None or self._source is None:
            return
        with translated(None, f"the queue {self._queue}"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._source.channel.set_qos(prefetch_count=1)
                await self._source.queue.consume(self._take)

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until it is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def next(self) -> AbstractIncomingMessage | None:
        """Return the next message once there is one, ``None`` when stopped.

        Raises:
            BrokerUnreachable: consumer, channel or connection ended. What arrived and was not returned is forgotten
                here, since the broker delivers it again.

        """
        while not self.is_over:
            if self._arrived:
                return self._arrived.popleft()
            self._news.clear()
            await self._news.wait()
        if self._problem is not None:
            raise BrokerUnreachable(self._problem)
        return None

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._arrived.append(message)
        self._news.set()

    def _consumer_cancelled(self, _: object) -> None:
        self._lose(consumer_ended(self._queue))

    def _channel_closed(self, closing: "asyncio.Future[Any]") -> None:
        self._lose(connection_broke(closing))

    def _lose(self, problem: str) -> None:
        if self._problem is None:
            self._problem = problem
        self.stop()


Begin = Callable[[Any], Awaitable[Inflow]]
"""Begins to consume on a new connection, of whichever protocol."""


class Link:
    """Keeps a consumer: connects, and after each failure again, patiently, until stopped."""

    def __init__(  # noqa: PLR0913 - what a subscriber may say, by name
        self,
        urls: str | Sequence[str],
        *,
        name: str,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        heartbeat_seconds: int = 10,
        ssl_context: ssl.SSLContext | None = None,
        connecting: Callable[..., AbstractAsyncContextManager[Any]] = connect,
    ) -> None:
        self._connecting = connecting
        self._urls = [urls] if isinstance(urls, str) else list(urls)
        self._name = name
        self._longest_pause_seconds = longest_pause_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._ssl_context = ssl_context
        self._inflow: Inflow | None = None
        self._opening: asyncio.Timeout | None = None
        self._has_worked = False
        self.is_stopped = False

    def __repr__(self) -> str:
        return f"<Link {self._name}, {self._inflow or ('stopped' if self.is_stopped else 'not connected')}>"

    @property
    def is_over(self) -> bool:
        """True where the present inflow was stopped or broke: what it delivered and is not settled comes again."""
        return self._inflow is None or self._inflow.is_over

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the present inflow is over."""
        if self._inflow is not None:
            await self._inflow.pause(seconds)

    def stop(self) -> None:
        """End the present inflow, or the attempt to begin one, and begin none again."""
        self.is_stopped = True
        if self._inflow is not None:
            self._inflow.stop()
        if self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def session(self, begin: Begin) -> AsyncIterator[Inflow | None]:
        """Connect, however long it takes, and consume while inside; ``None`` once stopped.

        An inflow that breaks inside ends the session without an error: the next one goes on.

        Raises:
            BrokerRefusedLogin, TopologyMismatch: it has never worked yet, so somebody has to change something first.
                Later on these are logged as errors and tried again.

        """
        opened = await self._open(begin)
        if opened is None:
            yield None
            return
        connection, self._inflow = opened
        self._has_worked = True
        log.info("consumer.began", extra={"consumer": self._name})
        async with connection:
            try:
                yield self._inflow
            except BrokerUnreachable as problem:
                log.warning("consumer.lost", extra={"consumer": self._name, "problem": str(problem)})
        if not self.is_stopped:
            # All subscribers lose a broker that restarts at the same moment; they should not come back at one.
            await self._unless_stopped(asyncio.sleep(random.uniform(0, FIRST_PAUSE_SECONDS)))  # noqa: S311 - jitter

    async def _open(self, begin: Begin) -> tuple[AsyncExitStack, Inflow] | None:
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._is_worth_repeating),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=self._longest_pause_seconds),
            before_sleep=self._say,
            reraise=True,
        )
        return await self._unless_stopped(retrying(self._attempt, begin))

    async def _unless_stopped(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Return what *work* returns, or ``None`` as soon as stopped."""
        if self.is_stopped:
            work.close()
            return None
        try:
            async with asyncio.timeout(None) as self._opening:
                return await work
        except TimeoutError:
            if self._opening is None or not self._opening.expired():
                raise
            return None
        finally:
            self._opening = None

    async def _attempt(self, begin: Begin) -> tuple[AsyncExitStack, Inflow]:
        async with AsyncExitStack() as stack:
            connecting = self._connecting(
                self._urls,
                client_name=self._name,
                heartbeat_seconds=self._heartbeat_seconds,
                ssl_context=self._ssl_context,
            )
            inflow = await begin(await stack.enter_async_context(connecting))
            return stack.pop_all(), inflow

    def _is_worth_repeating(self, problem: BaseException) -> bool:
        return isinstance(problem, Transient) or (self._has_worked and isinstance(problem, Misconfigured))

    def _say(self, state: RetryCallState) -> None:
        problem = state.outcome.exception() if state.outcome is not None else None
        log.log(
            logging.ERROR if isinstance(problem, Misconfigured) else logging.WARNING,
            "consumer.waiting",
            extra={
                "consumer": self._name,
                "problem": str(problem),
                "again_in_seconds": round(state.next_action.sleep, 1) if state.next_action is not None else 0.0,
            },
        )
