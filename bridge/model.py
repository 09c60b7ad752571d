"""The words everything else is written in. Values only: nothing here does anything.

What is made for every change is a named tuple, which costs half of a frozen dataclass.

A *row* is what a PBX delivers, an *account* is what we publish of it, a *change* is the difference between
two accounts, an *outbox row* is a change on its way to the broker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, NewType

SourceName = NewType("SourceName", str)
"""Which PBX, by the name the operator gave it: ``hq``. Part of events and routing keys."""

Token = NewType("Token", str)
"""A value the PBX minted, as its JSON text: ``"42"``, ``42`` and ``42.0`` are three tokens.

Guid, usn and ausn are opaque (their type and order are documented nowhere): they are echoed exactly as they
came and compared for equality only. Their JSON text survives all of that, numbers beyond 2^53 included.
"""

AccountGuid = NewType("AccountGuid", str)
"""The guid of an account as the PBX writes it."""

Published = Mapping[str, Any]
"""The published fields of an account, by name; ``normalize`` decides which those are."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the change list of one PBX. A member the PBX did not send is ``None`` and is not sent back."""

    guid: Token | None = None
    usn: Token | None = None
    ausn: Token | None = None

    @property
    def is_start(self) -> bool:
        """True where asking with this cursor returns the first account of the list."""
        return self.usn is None and self.ausn is None


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


class Row(NamedTuple):
    """One account as the PBX delivered it: what it is now, and the cursor that leads behind it."""

    cursor: Cursor
    account_guid: AccountGuid
    h323: str | None
    """The user name. ``None`` where the PBX left it out, which says nothing about the account."""
    info: Mapping[str, Any] | None
    """Everything else the PBX tells about the account, secrets included; ``None`` where it told nothing."""
    is_deleted: bool = False
    """True only where the PBX said so in words."""
    unread: str = ""
    """What form ``info`` came in, where it is one that nobody can read; ``info`` is ``None`` then."""

    def __repr__(self) -> str:
        return f"<Row of {self.account_guid} at {self.cursor}{', deleted' if self.is_deleted else ''}>"


class ChangeKind(StrEnum):
    """What happened to an account."""

    INITIAL = "initial"
    """It was there when its source was read for the first time in this lineage; ``snapshot`` says so, too."""
    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


class Reason(StrEnum):
    """Why a change is told where its kind alone does not say it."""

    REPORTED = "reported"
    """Deleted: the PBX said so in words."""
    MISSING = "missing"
    """Deleted: absent from full walks that were proven complete."""
    RESTORED = "restored"
    """Created: it had been deleted before and is back."""


class AccountChange(NamedTuple):
    """An account before and after: what an event tells."""

    source: SourceName
    kind: ChangeKind
    account: Published
    """The account now; for a deletion the last that was known of it."""
    changed: Sequence[str]
    """Names of the published fields that differ from before, in the order of the account's fields."""
    previous: Published
    """The former values of just those fields."""
    revision: int
    """Counts the changes of this account from 1, without gaps."""
    cursor: Cursor
    reason: Reason | None = None


class Mirrored(NamedTuple):
    """What the mirror remembers of one account."""

    account_guid: AccountGuid
    cursor: Cursor
    digest: bytes
    """Keyed digest of everything the PBX said, so that a repetition is recognised without keeping secrets."""
    account: Published
    revision: int
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one source that are to become durable together."""

    source: SourceName
    since: Cursor
    """Where the durable cursor stands; the batch is refused if it does not."""
    until: Cursor
    """Where the cursor will stand."""
    rows: Sequence[Row]


class OutboxRow(NamedTuple):
    """One event on its way to the broker: its bytes and its id never change again."""

    position: int
    """Place in the outbox; the order in which rows are published."""
    source: SourceName
    sequence: int
    """Place among the events of its source, from 1, without gaps."""
    event_id: str
    event_type: str
    routing_key: str
    body: bytes
    created_at: datetime
    is_in_doubt: bool = False
    """True where an earlier attempt may have reached the broker although no confirm came back."""
    account: str | None = None
    """Key of the account it tells of, which decides about its partition of the log; not told to the exchange."""


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
class Certificate:
    """Nothing is missing: what a proven full walk found."""

    source: SourceName
    walk: int
    started_at: datetime
    verified_at: datetime
    accounts: int
    """Present now, all of them as published."""
    repaired: int
    """Accounts that had changed without the PBX telling."""
    deleted: int
    """Accounts deleted because walks did not see them."""
    held: int
    """Accounts that would have been deleted, had they not been too many to do so unasked."""
    absent: int
    """Accounts that this walk did not see and that are not deleted (yet)."""
    sequence: int
    """Of the last account event the certificate covers."""
    completes_lineage: bool = False
    """True for the first one of a lineage: what a subscriber has from before it is gone."""


class Sink(IntEnum):
    """Who gets the events of the outbox; the numbers stand in the tables, as bits."""

    EXCHANGE = 1
    LOG = 2
    """Where the bridge writes the log itself, by the stream protocol."""


Numbers = tuple[str, int, int]
"""A lineage, the highest sequence in it, and the walk of the last certificate behind that; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class LogContents:
    """What was found in the log, read to its end."""

    newest: Mapping[SourceName, Numbers]
    """The highest of each source, in events and in what marks tell."""
    last_position: int = 0
    """The highest publishing id that its broker has of this store; 0 where the exchange feeds the log."""
    places: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """By stream: the offset of the mark at its end, and the mark. The next reading goes on from there."""


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
class Waiting:
    """What of one source is in the outbox and not done."""

    rows: int
    """Events that are to be sent, held ones among them."""
    parked: int
    """Of those, how many the broker refused for good."""


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


class NewEvent(NamedTuple):
    """An event that has no place in the outbox yet."""

    sequence: int
    event_id: str
    event_type: str
    account: str | None
    """Key of the account it tells of; ``None`` where it tells of the source as a whole."""
    routing_key: str
    body: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account of the mirror, as an operator looks it up."""

    number: int
    """Its place in the mirror; pages go on behind it."""
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
class Left:
    """What the store still has of a source that is followed no more."""

    accounts: int
    """Present ones, as they were last heard of."""
    is_waiting: bool
    """True while something of it is to be sent yet, or parked."""
    is_retired: bool
    """True once somebody said that it may go."""


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
