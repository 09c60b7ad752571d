"""What ingesting and relaying need of a store and of a publisher. Both match by shape and import nothing of this."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from bridge.broker.confirms import Outcomes
from bridge.errors import BridgeError, FenceHeld
from bridge.model import Certificate, Cursor, Mirrored, NewEvent, OutboxRow, SourceName, SourceState


class Transaction(Protocol):
    """Everything inside becomes durable together, or not at all."""

    def place(self, source: SourceName) -> SourceState:
        """Return where *source* stands; a source never seen before stands at the start."""

    def mirrored(self, source: SourceName, keys: Sequence[str]) -> Mapping[str, Mirrored]:
        """Return what the mirror knows of accounts, by key; it does not know all of them."""

    def remember(self, source: SourceName, accounts: Mapping[str, Mirrored], walk: int) -> None:
        """Put accounts, by key, into the mirror, as seen during this walk."""

    def mark_seen(self, source: SourceName, keys: Sequence[str], walk: int) -> None:
        """Record that these accounts were seen during this walk, unchanged."""

    def add_events(self, source: SourceName, events: Sequence[NewEvent]) -> None:
        """Append events to the outbox, in order."""

    def begin_walk(self, source: SourceName, walk: int, *, is_new_epoch: bool) -> None:
        """Record the number of the full walk that begins now; a new epoch is not verified."""

    def end_initial(self, source: SourceName) -> None:
        """Record that its reader was caught up: what appears from now on is new."""

    def count_missed(self, source: SourceName, walk: int) -> None:
        """Add one to the missed walks of every present account that this walk did not see."""

    def count_accounts(self, source: SourceName, missed: int) -> int:
        """Return how many present accounts missed at least so many proven walks."""

    def missing(self, source: SourceName, missed: int, limit: int) -> Mapping[str, Mirrored]:
        """Return present accounts, by key, that missed at least so many proven walks."""

    def certify(self, certificate: Certificate) -> None:
        """Record the certificate as the latest of its source."""

    def move(self, source: SourceName, since: Cursor, until: SourceState) -> bool:
        """Move the cursor if it stands at *since*, and return whether it did."""


class Outbox(Protocol):
    """What relaying needs of a store: events with ascending positions, in lanes that do not wait for each other.

    Calls block and come from one thread at a time.
    """

    def lanes(self) -> Sequence[SourceName]:
        """Return the lanes in which something may wait."""

    def find_lane(self, source: SourceName) -> SourceName:
        """Return in which lane the events of a source are; may be asked from any thread."""

    def unpublished(self, after: Mapping[SourceName, int], limit: int, share: int) -> Sequence[OutboxRow]:
        """Return the next events of these lanes behind the positions given (0: the confirmed end), lane after lane.

        No more than *limit* in all and *share* of each. A lane of which fewer come than would have fitted has no more.
        """

    def mark_published(self, rows: Sequence[OutboxRow], at: datetime) -> None:
        """Record that the sink confirmed *rows*, the next ones of their lanes."""

    def mark_in_doubt(self, rows: Sequence[OutboxRow]) -> None:
        """Record that *rows* may have reached the sink although no confirm came."""

    def park(self, row: OutboxRow, reason: str, at: datetime) -> None:
        """Put *row* aside, and hold whatever comes behind it and is about the same account."""

    def put_off(self, source: SourceName, sent_through: int | None, reason: str, at: datetime) -> bool:
        """Put aside what waits of *source*, so that its lane goes on without it; nothing where it has one of its own.

        False, and nothing is done, where some of it has a position up to *sent_through*, or was there when the store
        was opened: it may have been sent. ``None``: nothing of it is on its way any more.
        """

    def put_off_sources(self) -> Sequence[SourceName]:
        """Return the sources of which something is put off."""

    def let_go(self, source: SourceName, at: datetime) -> None:
        """Have what was put off of *source* sent, as copies behind everything else, and in order."""


class Store(Protocol):
    """What ingesting needs of a store."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Return a transaction: committed when left normally, rolled back when left by an exception."""


class Session(Protocol):
    """A connection to the broker, used until its first failure and then thrown away.

    It ends at once with the first failure, wherever that is raised: in ``send``, in a fence taken late, by a confirm
    for what was never sent, by a closed channel, a lost connection or a deadline, by cancellation of ``send``. Whoever
    waits in ``send`` or ``outcomes`` is woken with the reason, and so is whoever calls them later. No wait outlives its
    session, and every wait has a deadline. What the broker says about a single row is no failure of the session.
    """

    def explain_refusal(self, row: OutboxRow) -> BridgeError | None:
        """Return why *row* would be refused for good whatever happens (too large, say).

        ``None`` where nothing is known against it. Decides before sending; no I/O. ``send`` may rely on having been
        asked.
        """

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources that another connection publishes for, as far as they were asked about, and why they wait.

        Those that are configured are asked about when a session begins.
        """

    async def claim(self, sources: Collection[SourceName]) -> None:
        """Take the fences of *sources* that are not taken; those that another connection holds are ``fenced`` then.

        Raises what ended the session.
        """

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Hand *rows* to the broker in order; waits while the broker blocks us, not for outcomes.

        Raises what ended the session; a row of a source that is ``fenced`` does. How many of *rows* the broker has
        then, nobody knows.
        """

    async def outcomes(self) -> Outcomes:
        """Wait for news of rows sent in this session, in any order, each tag told once.

        Raises what ended the session, after everything that came before its end was told.
        """


class Publisher(Protocol):
    """Makes sessions."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Return a new session; raises what keeps it from starting."""

    def reconsider(self) -> None:
        """Take the news that what was refused for good may be taken now."""


Result = TypeVar("Result")


class Offload(Protocol):
    """Runs a blocking store call elsewhere, one at a time and in order."""

    def __call__(self, call: Callable[..., Result], /, *args: Any) -> Awaitable[Result]:
        """Return what ``call(*args)`` returns."""
