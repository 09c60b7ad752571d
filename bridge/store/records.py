"""What the store keeps beside the mirror, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from bridge.model import Cursor, Numbers, Published, SourceName


@dataclass(frozen=True, slots=True)
class InboundPbx:
    """A PBX that dials us, and the name of the source that was made of who it is."""

    source: SourceName
    domain: str
    """System Name."""
    pbx: str
    """PBX name."""
    address: str = ""
    """From where it dials; of IPv6 the network."""
    guid: str = ""
    """Of its App object."""
    oddity: str = ""
    """What is unlike before, as a sentence, until somebody says that it is right."""


class Admission(StrEnum):
    """What becomes of a PBX that has logged in."""

    KNOWN = "known from before"
    NEW = "never here before, and let in"
    NAME_TAKEN = "its name belongs to another PBX"
    WAITS = "a new PBX, which waits for your yes (account-bridge admit, listen.new_pbxs)"
    TOO_MANY_NEW = "too many new PBXs within an hour (listen.max_new_pbxs_per_hour)"
    TOO_MANY = "too many PBXs (listen.max_pbxs)"


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Which PBXs are let in that never dialled before."""

    per_hour: int = 100
    total: int = 1000
    remembered: timedelta = timedelta(days=30)
    """A PBX that has not dialled for so long counts for the total no more."""
    is_asking: bool = False
    """None, until somebody says yes."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """Where one source stands in the store."""

    cursor: Cursor
    sequence: int
    """Of the last event made."""
    walk: int = 0
    """Number of the full walk under way, or of the last one."""
    lineage: str = ""
    """Which generation of what is known of the source this is; sequence and revisions count within it."""
    is_initial: bool = False
    """True until its reader was caught up for the first time in this lineage: what appears was there already."""
    is_complete: bool = False
    """True once a proven walk has told everything in this lineage."""


@dataclass(frozen=True, slots=True)
class LogContents:
    """What was found in the log, read to its end."""

    newest: Mapping[SourceName, Numbers]
    """The highest of each source, in events and in what marks tell."""
    last_position: int = 0
    """The highest publishing id that its broker has of this store; 0 where the exchange feeds the log."""
    places: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """By stream: the offset of the mark at its end, and the mark. The next reading goes on from there."""
    others: Mapping[SourceName, Numbers] = field(default_factory=dict)
    """As ``newest``, of sources that are not followed here: perhaps another bridge follows them."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is in the outbox and not done."""

    rows: int = 0
    """Events that are to be sent."""
    bytes: int = 0
    """Of their bodies."""
    held_rows: int = 0
    """Events that wait for an operator: parked ones, and those behind them."""
    held_bytes: int = 0
    parked: int = 0
    """Of those, how many the broker refused for good."""


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """How a store is doing."""

    free_bytes: int | None = None
    """Left on its disk; ``None`` where nobody here can see that."""
    commit_seconds: float = 0.0
    """How long the last commit took."""
    repeats: Mapping[str, int] = field(default_factory=dict)
    """How often something had to be repeated since it was opened, by the database's code for the reason."""


@dataclass(frozen=True, slots=True)
class Parked:
    """An event that the broker refused for good, as an operator sees it."""

    position: int
    """What it is called in commands."""
    source: SourceName
    sequence: int
    event_id: str
    routing_key: str
    body: bytes = field(repr=False)
    created_at: datetime
    parked_at: datetime
    reason: str
    waiting: int
    """Later events of the same account, which wait for this one."""
    refused_by: str = "exchange"
    """Or ``log``."""


@dataclass(frozen=True, slots=True)
class KeptEvent:
    """An event that the outbox keeps, as a person sees it."""

    position: int
    source: SourceName
    body: bytes | None = field(repr=False)
    """``None`` where it is too large to be read just to be shown."""
    created_at: datetime
    published_at: datetime | None
    state: str
    """``sent``, ``waiting``, ``in doubt``, ``held``, ``parked`` or ``discarded``."""


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account of the mirror, as an operator looks it up."""

    source: SourceName
    key: str
    cursor: Cursor
    account: Published = field(repr=False)
    revision: int
    is_deleted: bool
    last_walk: int
    """Number of the last full walk that saw it, or during which the PBX told of it."""
    missed: int
    """Proven full walks since then that did not see it."""
    lineage: str
    """Of its source, when it was read: what its revision counts in."""
    sequence: int
    """Of the last event of its source then."""


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event of the outbox, sent or not, as an operator looks it up."""

    position: int
    source: SourceName
    sequence: int
    event_id: str
    event_type: str
    account_key: str | None
    routing_key: str
    body: bytes = field(repr=False)
    created_at: datetime
    published_at: datetime | None
    """When the broker confirmed it."""
    is_in_doubt: bool
    """True where it may have reached the broker although no confirm came."""
    is_held: bool
    parked_reason: str | None
    discarded_reason: str | None
    forgotten_at: datetime | None
    """When its personal data was taken out."""


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator's wish that a PBX is not read for the time being."""

    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What the store keeps of one PBX, as an operator looks it up."""

    name: SourceName
    cursor: Cursor
    sequence: int
    lineage: str
    walk: int
    verified_at: datetime | None
    accounts: int
    """Present ones."""
    deleted: int
    """Deleted ones, kept so that their revisions go on."""
    paused: Pause | None
    is_complete: bool = True
    """False as long as no walk has told everything in its present lineage."""
    dials: bool = False
    """True for a PBX that has dialled us."""


@dataclass(frozen=True, slots=True)
class LastHeard:
    """What was heard of a source last, before this process began."""

    at: datetime | None
    body: bytes | None = field(repr=False)
    """The event; ``None`` where there is none, or its account was forgotten."""
    confirmed_at: datetime | None
    """When the broker confirmed something of it last."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What came of the wish that an account's personal data be forgotten."""

    accounts: int
    """Entries of the mirror that keep nothing but numbers now."""
    events: int
    """Events of which nothing but numbers is kept now."""
    present_at: Sequence[SourceName]
    """PBXs that still have the account, whose entry is therefore left as it is."""
    unsent: int
    """Events that are to be sent yet; where there are any, nothing was done unless asked for."""


@dataclass(frozen=True, slots=True)
class Left:
    """What the store still has of a source that is followed no more."""

    accounts: int
    """Present ones, as they were last heard of."""
    is_waiting: bool
    """True while something of it is to be sent yet, or parked."""
    is_retired: bool
    """True once somebody said that it may go."""
