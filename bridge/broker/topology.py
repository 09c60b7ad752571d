"""What the bridge wants to find at the broker: an exchange, a log of everything, and queues of subscribers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bridge.broker.differences import SINGLE_ACTIVE_CONSUMER

SEGMENT_BYTES: Final = 500_000_000
"""RabbitMQ's own default for the pieces of a stream."""


SEGMENTS: Final = 10
"""A log is kept in at least so many pieces, and loses one at a time."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A queue that is declared before its subscriber first connects."""

    queue: str
    keys: Sequence[str] = ("*.account.*",)
    delivery_limit: int = 100
    """After so many deliveries without an acknowledgement a change is put aside. Every end of a connection counts as
    one for whatever was under way, so a low limit puts aside sound changes of a subscriber that restarts often."""
    queue_type: str = "quorum"
    is_ordered: bool | None = None
    """A single active consumer: one at a time receives, so that changes stay in order, and the others stand by. With
    ``None`` either is right where the queue exists, and it is made without."""

    @property
    def dead_letter_queue(self) -> str:
        """Name of the queue of what the subscriber could not handle."""
        return f"{self.queue}.dead"

    def arguments(self, dead_letter_exchange: str) -> Mapping[str, Any]:
        """Return how it is declared, by whomever: the bridge, a subscriber in Python, one in any other language."""
        return {
            "x-queue-type": self.queue_type,
            "x-dead-letter-exchange": dead_letter_exchange,
            "x-dead-letter-routing-key": self.queue,
            **({"x-delivery-limit": self.delivery_limit} if self.queue_type == "quorum" else {}),
            **({SINGLE_ACTIVE_CONSUMER: True} if self.is_ordered else {}),
        }


@dataclass(frozen=True, slots=True)
class Topology:
    """What the bridge wants to find at the broker: a topic exchange, a log of everything, queues of subscribers."""

    exchange: str = "pbx.accounts"
    has_log: bool = True
    log_max_age: str = "30D"
    log_max_bytes: int = 5_000_000_000
    log_partitions: int = 0
    """How many streams the log is, where it is written by the stream protocol; 0: the exchange feeds it."""
    subscriptions: Sequence[Subscription] = ()

    @property
    def log(self) -> str:
        """Name of the stream that keeps everything."""
        return f"{self.exchange}.log"

    @property
    def log_streams(self) -> Sequence[str]:
        """Names of the streams that are the log."""
        if self.log_partitions <= 1:
            return [self.log]
        return [f"{self.log}-{number}" for number in range(self.log_partitions)]

    @property
    def log_arguments(self) -> Mapping[str, Any]:
        """How long the log keeps things."""
        segment = self.log_max_bytes // SEGMENTS
        # Whole segments are removed, and they are of 500 MB unless something else is said: too much for a small log.
        smaller = {"x-stream-max-segment-size-bytes": segment} if segment < SEGMENT_BYTES else {}
        return {
            "x-queue-type": "stream",
            "x-max-age": self.log_max_age,
            "x-max-length-bytes": self.log_max_bytes,
            **smaller,
        }

    @property
    def is_log_bound(self) -> bool:
        """Whether the exchange feeds the log."""
        return self.has_log and not self.log_partitions

    @property
    def dead_letter_exchange(self) -> str:
        """Where messages go that a subscriber could not handle."""
        return f"{self.exchange}.dead"

    @property
    def queues(self) -> Sequence[str]:
        """Names of the queues of the subscribers."""
        return [wanted.queue for wanted in self.subscriptions]

    @property
    def dead_letter_queues(self) -> Mapping[str, str]:
        """Names of the queues of what subscribers could not handle, and for each the queue that it came from."""
        return {wanted.dead_letter_queue: wanted.queue for wanted in self.subscriptions}
