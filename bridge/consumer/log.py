"""The log of everything, from any point in it, and on into what happens now without a seam."""

import ssl
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from bridge.cloudevents import ACCOUNT_CHANGED, AccountChanged, decode
from bridge.consumer.client import Start, log_bad_event, settle
from bridge.consumer.session import LONGEST_PAUSE_SECONDS, Inflow, Link, log
from bridge.errors import BadEvent

CLOCK_MARGIN: Final = timedelta(minutes=1)
"""How far the broker's clock may be behind ours without a reader that waits for its first event missing one."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One change and its place in the log."""

    offset: int
    """Starting again with ``start=offset + 1`` continues behind this entry."""
    event: AccountChanged
    body: bytes


class LogReader:
    """Reads the stream that the bridge binds to its exchange; reading takes nothing away from anybody.

    Across restarts of the broker it goes on behind the last entry that it handed over. The broker keeps the log by age
    and size only; where entries are gone before they were read, that is logged as ``log.truncated``.

    Args:
        urls: where the broker is; of several, the first that answers is taken.
        stream: name of the log.
        start: ``"first"``; ``"next"`` for what is published from now on; an offset; a time with its zone, or
            ``"last"``, both of which begin with the whole chunk that holds it, so that some earlier entries may come.
        prefetch: how many entries may be under way to this reader.
        longest_pause_seconds: between two attempts to connect.
        heartbeat_seconds: a broker that is silent for three times as long counts as gone.
        ssl_context: for ``amqps``.

    Raises:
        ValueError: a time without a zone.

    """

    def __init__(  # noqa: PLR0913 - what a reader may say, by name
        self,
        urls: str | Sequence[str],
        *,
        stream: str = "pbx.accounts.log",
        start: Start = "first",
        prefetch: int = 256,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        heartbeat_seconds: int = 10,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if isinstance(start, datetime) and start.tzinfo is None:
            raise ValueError("the time to start from needs a zone, for example datetime.now(UTC)")
        self._stream = stream
        self._start: Start = start
        self._expected: int | None = start if isinstance(start, int) else None
        self._prefetch = prefetch
        self._link = Link(
            urls,
            name=f"reader of {stream}",
            longest_pause_seconds=longest_pause_seconds,
            heartbeat_seconds=heartbeat_seconds,
            ssl_context=ssl_context,
        )

    def __repr__(self) -> str:
        return f"<LogReader {self._stream}, from {self._start}, {self._link}>"

    def stop(self) -> None:
        """End the iteration behind the entry at hand. To be called within the event loop."""
        self._link.stop()

    async def __aiter__(self) -> AsyncGenerator[LogEntry, None]:
        """Iterate over the changes in the log, and on over what is published.

        Raises:
            BrokerRefusedLogin, TopologyMismatch: before it worked for the first time; there is no such stream, for
                example, because the bridge has not made it yet.

        """
        while not self._link.is_stopped:
            async with self._link.session(self._begin) as inflow:
                unsettled = 0
                while inflow is not None and (message := await inflow.next()) is not None:
                    offset = self._advance(message)
                    entry = None if offset is None else _entry(message, offset)
                    if entry is not None:
                        yield entry
                    unsettled += 1
                    # An acknowledgement is only a licence to send more. One for many is cheaper, but the last must
                    # not wait: RabbitMQ closes channels on which something stays unacknowledged for half an hour.
                    if inflow.is_drained or unsettled * 2 >= self._prefetch:
                        await settle(message, "ack", multiple=True)
                        unsettled = 0

    async def _begin(self, connection: AbstractConnection) -> Inflow:
        inflow = await Inflow.begin(
            connection, self._stream, prefetch=self._prefetch, arguments={"x-stream-offset": self._start}
        )
        if self._start == "next":
            # Should the connection break before anything came, "next" would leave out what was published meanwhile.
            self._start = datetime.now(UTC) - CLOCK_MARGIN
        return inflow

    def _advance(self, message: AbstractIncomingMessage) -> int | None:
        """Return the offset of *message*, and begin behind it from now on; ``None`` where it was wanted no more."""
        offset = cast("int", message.headers["x-stream-offset"])
        if self._expected is not None:
            if offset < self._expected:
                return None
            if offset > self._expected:
                log.warning(
                    "log.truncated",
                    extra={"stream": self._stream, "expected_offset": self._expected, "first_offset": offset},
                )
        self._start = self._expected = offset + 1
        return offset


def _entry(message: AbstractIncomingMessage, offset: int) -> LogEntry | None:
    if message.type not in {None, ACCOUNT_CHANGED}:
        return None
    try:
        return LogEntry(offset, decode(message.body), message.body)
    except BadEvent as problem:
        log_bad_event(message, problem)
        return None
