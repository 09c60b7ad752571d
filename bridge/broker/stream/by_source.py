"""The log where several bridges write it: a producer for each source, so that another bridge can go on with one.

Whoever holds a source writes it under the same name, ``account-bridge.<generation>.<source>``, and its numbers are the
positions of its events. So who takes over asks the broker what it has, counts that as done, and goes on behind it; what
a former holder still has on its way is dropped by number, or is what would have come next anyway. No fence is needed.
All of a source is in one partition. A broker remembers the 255 producers of a stream that wrote last, and a connection
has 256 at most: hence the limits.
"""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from aio_pika.abc import AbstractConnection

from bridge.broker.stream.connection import StreamConnection
from bridge.broker.stream.partitions import choose_partition_of_source
from bridge.broker.stream.publisher import StreamPublisher, StreamSession, name_producer
from bridge.errors import BrokerUnreachable, FenceHeld
from bridge.model import OutboxRow, SourceName

MAX_PRODUCERS: Final = 250
"""Of one connection; the protocol has 256."""


class Written(Protocol):
    """What is known of the sources that are written."""

    @property
    def generation(self) -> str:
        """Changes whenever positions may be given twice."""

    def epoch_of(self, source: SourceName) -> int:
        """Return under which epoch a source is held now; a negative one where it is not."""

    def count_written(self, source: SourceName, last: int) -> Awaitable[None]:
        """Count as done all of a source up to the position *last*, which the log has."""


class SourceStreamPublisher(StreamPublisher):
    """Makes sessions in which each source has a producer of its own; *written* knows the sources."""

    def __init__(self, *args: Any, written: Written, **named: Any) -> None:
        super().__init__(*args, producer=lambda: name_producer(written.generation), **named)
        self._written = written

    async def _begin(self, amqp: AbstractConnection, streams: StreamConnection) -> StreamSession:
        session = SourceStreamSession(amqp, streams, self._topology, self._on_state, self._on_progress)
        session.fences = Producers(session, streams, self._written, self._topology.log_streams)
        await session.open(self._producer())
        return session


class SourceStreamSession(StreamSession):
    """The ``Session`` of ``delivery``, in which each source has a producer."""

    async def open(self, producer: str) -> None:  # noqa: ARG002 - each source has its own, declared before its first event
        """Begin to listen; nothing is known to be in the log before a source is claimed."""
        self._listen()

    def choose_stream(self, row: OutboxRow) -> int:
        """Return the number of the stream that *row* belongs to."""
        return choose_partition_of_source(row.source, len(self._topology.log_streams))

    def _choose_producer(self, row: OutboxRow) -> int:
        assert isinstance(self.fences, Producers)  # noqa: S101 - made in one place
        return self.fences.number_of(row.source)

    def _name_stream(self, producer: int) -> str:
        assert isinstance(self.fences, Producers)  # noqa: S101 - the same
        return self.fences.stream_of(producer)


class Producers:
    """The ``Fences`` of a session: not one event of a source is sent before its producer is declared and asked."""

    def __init__(
        self, session: SourceStreamSession, streams: StreamConnection, written: Written, names: Sequence[str]
    ) -> None:
        self._session = session
        self._streams = streams
        self._written = written
        self._names = names
        self._generation = written.generation
        self._numbers: dict[SourceName, int] = {}
        self._epochs: dict[SourceName, int] = {}
        """Under which each was asked about last: another bridge may have written since."""
        self._fenced: dict[SourceName, FenceHeld] = {}

    def __repr__(self) -> str:
        return f"<Producers {len(self._numbers)}>"

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources for which there is no producer left."""
        return self._fenced

    def number_of(self, source: SourceName) -> int:
        """Return the number of its producer."""
        return self._numbers[source]

    def stream_of(self, producer: int) -> str:
        """Return the stream that a producer writes to."""
        source = next(source for source, number in self._numbers.items() if number == producer)
        return self._names[choose_partition_of_source(source, len(self._names))]

    def missing(self, sources: Iterable[SourceName]) -> Sequence[SourceName]:
        """Return those of *sources* that were not asked about since they are held."""
        return [source for source in sources if self._epochs.get(source) != self._written.epoch_of(source)]

    async def take(self, sources: Sequence[SourceName]) -> None:
        """Become the producer of *sources*, and count as done what the log has of them.

        Raises:
            BrokerUnreachable: positions may be given twice since this session began, under the name that it writes.
            BridgeError: what the broker refused, or it broke; or a source is not ours any more.

        """
        if self._written.generation != self._generation:
            raise BrokerUnreachable("this session writes under the name of a store that has begun anew since")
        for source in sources:
            epoch = self._written.epoch_of(source)
            name = f"{name_producer(self._generation)}.{source}"
            stream = self._names[choose_partition_of_source(source, len(self._names))]
            if source in self._numbers:
                last = await self._streams.query_last(name, stream)
            elif (number := await self._free_number()) is not None:
                last = await self._streams.declare_publisher(number, name, stream)
                self._numbers[source] = number
            else:
                self._fenced[source] = _too_many()
                continue
            self._fenced.pop(source, None)
            await self._written.count_written(source, last)
            self._epochs[source] = epoch

    async def _free_number(self) -> int | None:
        """Return a number for one more producer, which may have been that of a source that another bridge has now."""
        if len(self._numbers) < MAX_PRODUCERS:
            return len(self._numbers)
        gone = next((source for source in self._numbers if self._written.epoch_of(source) < 0), None)
        if gone is None:
            return None
        self._epochs.pop(gone, None)
        number = self._numbers.pop(gone)
        await self._streams.delete_publisher(number)
        return number

    async def release(self, sources: Sequence[SourceName]) -> None:
        """Ask anew about *sources* before their next events."""
        for source in sources:
            self._epochs.pop(source, None)
            self._fenced.pop(source, None)


def _too_many() -> FenceHeld:
    return FenceHeld(
        f"one bridge writes the log for {MAX_PRODUCERS} PBXs at most: start more bridges that share the store, or have "
        "the exchange feed the log"
    )
