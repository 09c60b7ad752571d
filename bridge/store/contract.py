"""What is asked of a store, whichever database keeps it: four contracts and their parts, matched by shape.

``SourceStore`` is for reading a PBX, ``Outbox`` for sending to one sink, ``OperatorStore`` is all that a running bridge
asks beside these, ``StoreReader`` what commands read, also beside a running bridge. Calls block, and come from one
thread at a time, unless one says otherwise.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

from bridge.model import Certificate, Cursor, Mirrored, NewEvent, Numbers, OutboxRow, SourceName
from bridge.store.records import (
    Admission,
    Backlog,
    Forgotten,
    InboundPbx,
    KnownAccount,
    LastHeard,
    Left,
    LogContents,
    Newcomers,
    Parked,
    Pause,
    RecordedEvent,
    SourceState,
    StoreFigures,
)

Result = TypeVar("Result")


class Offload(Protocol):
    """Runs a blocking store call elsewhere, one at a time and in order."""

    def __call__(self, call: Callable[..., Result], /, *args: Any) -> Awaitable[Result]:
        """Return what ``call(*args)`` returns."""


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

    def revisions(self, source: SourceName) -> Iterator[tuple[str, int]]:
        """Return key and revision of each present account, in any order; to be read before the transaction goes on."""

    def missing(self, source: SourceName, missed: int, limit: int) -> Mapping[str, Mirrored]:
        """Return present accounts, by key, that missed at least so many proven walks."""

    def certify(self, certificate: Certificate) -> None:
        """Record the certificate as the latest of its source."""

    def move(self, source: SourceName, since: Cursor, until: SourceState) -> bool:
        """Move the cursor if it stands at *since*, and return whether it did."""

    def begin_lineage(self, source: SourceName) -> None:
        """Begin a new lineage of *source*, in which nothing is told yet; cursor and mirror stay."""

    def rename(self, source: SourceName, name: SourceName) -> None:
        """Have *source* go on as *name*, with its cursor, its lineage and its present accounts."""


class SourceStore(Protocol):
    """What is asked of a store for reading PBXs: cursor and mirror, and what it remembers of each."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Return a transaction: committed when left normally, rolled back when left by an exception."""

    @property
    def past(self) -> "Past":
        """What happened before."""

    def place(self, source: SourceName) -> SourceState:
        """Return where *source* stands."""

    def paused(self) -> Mapping[SourceName, Pause]:
        """Return the PBXs that an operator wants not to be read."""

    def certificate(self, source: SourceName) -> Certificate | None:
        """Return what the last proven full walk of the present epoch found, if there was one."""


class Past(Protocol):
    """What happened before this process began."""

    def last_heard(self, source: SourceName) -> LastHeard:
        """Return what was heard of *source* last, and when the broker confirmed something."""

    def last_confirmed_at(self) -> datetime | None:
        """Return when the broker confirmed something last."""

    def published_otherwise(self, source: SourceName, publishes: str) -> bool:
        """Tell whether not all that is known of *source* was told as *publishes* says."""

    def note_published(self, source: SourceName, publishes: str) -> None:
        """Record that all that is known of *source* was told as *publishes* says."""


class Outbox(Protocol):
    """The outbox as one sink sees it: events with ascending positions, in lanes that do not wait for each other."""

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

    @property
    def backlog(self) -> Backlog:
        """What is not done; may be asked from any thread."""

    def waiting(self, source: SourceName) -> int:
        """Return how many rows of a source are not done; may be asked from any thread, and costs nothing."""

    def doubtful(self) -> Mapping[SourceName, int]:
        """Return how many rows may have reached the broker although no confirm came, by source."""

    def last_given(self) -> int:
        """Return the highest position that was ever given."""

    def unsent_through(self, position: int, *, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return the next that is to be sent behind *after* and up to *position*."""

    def newest_confirmed(self, limit: int) -> Sequence[OutboxRow]:
        """Return the newest rows that the log has confirmed, without their bodies."""

    def mark_sent(self, positions: Sequence[int], at: datetime) -> None:
        """Record that the log had what is at *positions* before, wherever that is in its order."""


class OperatorStore(SourceStore, Protocol):
    """What a running bridge asks beside that, for itself and for its operator."""

    @property
    def restored(self) -> str:
        """Why a new lineage began for all sources, as long as not all of them are told anew."""

    def incomplete(self) -> AbstractSet[SourceName]:
        """Return the sources of which no walk has told everything in their present lineage."""

    def parked(self) -> Sequence[Parked]:
        """Return the parked rows, the oldest first."""

    def unpark(self, position: int) -> bool:
        """Have a parked row tried once more, and return whether there was one at *position*.

        Raises:
            BridgeError: what came before it is parked, too, and has to go first.

        """

    def discard(self, position: int, reason: str, at: datetime) -> bool:
        """Never send a parked row, let go what waits behind it, and return whether there was one at *position*."""

    def pause(self, source: SourceName, pause: Pause) -> None:
        """Record that *source* is not to be read."""

    def resume(self, source: SourceName) -> bool:
        """Record that *source* may be read again, and return whether it was paused."""

    def forget(self, key: str, at: datetime, *, discard_unsent: bool) -> Forgotten:
        """Take the personal data of an account out of mirror and events."""

    def empty_write_ahead(self) -> bool:
        """Empty the write-ahead log; False where somebody reads an older state at the moment."""

    @property
    def book(self) -> "InboundRegister":
        """The PBXs that dial."""

    def prune(self, before: datetime, limit: int) -> int:
        """Forget up to *limit* rows published before that time, and return how many that were."""

    @property
    def exchange(self) -> Outbox:
        """The outbox for the exchange."""

    @property
    def backlog(self) -> Backlog:
        """What the outbox has that is not done; may be asked from any thread."""

    def figures(self) -> StoreFigures:
        """Return how it is doing."""

    def parked_by_source(self) -> Mapping[SourceName, int]:
        """Return how many rows are parked, by source."""

    def note_looked_for(self, after: int) -> int:
        """Note the next events behind *after* (0: begin) that an earlier generation may have written to the log.

        Returns how far that is, and 0 behind the last.
        """

    def found_in_log(self, ids: Sequence[str]) -> None:
        """Take the news that the log has the events with these ids: what is noted of them is not written again."""

    def log_places(self) -> Mapping[str, tuple[int, str]]:
        """Return where the log was read to its end last, by stream."""

    def given(self) -> Mapping[SourceName, Numbers]:
        """Return the highest numbers that were given, by source."""

    @property
    def is_proven(self) -> bool:
        """True once it is known to be the newest state of itself: only then may it give numbers."""

    def compare(self, log: LogContents | None, doubt: str = "") -> bool:
        """Compare with what the log has, and return whether everything is told anew; ``None``: nobody can tell.

        Raises:
            StoreOutdated: the log is ahead of a store that has given numbers already.

        """

    @property
    def key(self) -> bytes:
        """Secret of this store, for digests and masks."""

    @property
    def leavers(self) -> "Leavers":
        """The sources that are followed no more."""


class InboundRegister(Protocol):
    """What is known of PBXs that dial."""

    def register_inbound(self, caller: InboundPbx, at: datetime, newcomers: Newcomers) -> Admission:
        """Take note that a PBX has logged in, and return whether it may be let in."""

    def admit(self, caller: InboundPbx, at: datetime) -> bool:
        """Let a PBX in from now on; False where its name is another's."""

    def acknowledge(self, source: SourceName) -> bool:
        """Take what was odd about a PBX for right; False where no PBX of that name has dialled."""

    def known(self, since: datetime) -> Sequence[InboundPbx]:
        """Return the PBXs that have dialled *since* then."""

    def oddity(self, source: SourceName) -> str:
        """Return what is odd about a PBX, as a sentence."""


class Leavers(Protocol):
    """The part of a store that is about sources which are followed no more."""

    def left(self, followed: AbstractSet[SourceName]) -> Mapping[SourceName, Left]:
        """Return what is kept of each source that is not *followed*."""

    def sent(self, sources: AbstractSet[SourceName]) -> Sequence[SourceName]:
        """Return those of *sources* of which every sink has everything, and nothing waits for an operator."""

    def retire(self, source: SourceName, at: datetime, *, is_ended: bool) -> None:
        """Have all rows of *source* go as soon as nothing of it waits; *is_ended*: subscribers are told that it is."""

    def remove_retired(self, *, at_once: SourceName | None = None) -> Sequence[SourceName]:
        """Remove the retired sources of which nothing waits any more, and return them.

        *at_once* one of which something may wait, which is never sent then; not while anybody sends it.
        """


class StoreReader(Protocol):
    """A look into a store, whether a bridge has it open or not."""

    def accounts(self) -> Iterator[KnownAccount]:
        """Yield the whole mirror."""

    def account(self, source: SourceName, key: str) -> KnownAccount | None:
        """Return one account of the mirror."""

    def events(self, *, after: int) -> Iterator[list[RecordedEvent]]:
        """Yield pages of events behind position *after*, until there are no more when the next one is asked for."""

    def last_position(self) -> int:
        """Return the position of the newest event."""
