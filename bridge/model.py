"""The words everything else is written in. Values only: nothing here does anything.

What is made for every change is a ``value``: it costs half of a frozen dataclass, and two thirds of a named tuple.

A *row* is what a PBX delivers, an *account* is what we publish of it, a *change* is the difference between
two accounts, an *outbox row* is a change on its way to the broker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, Final, NewType, TypeVar, dataclass_transform

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


_Value = TypeVar("_Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[_Value]) -> type[_Value]:
    """Make *cls* a dataclass that never changes, as the type checker sees to; for what is made for every row.

    Python does not watch over it: with ``frozen=True`` it sets every field by a call, which took 18 000 of the
    instructions of an account.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@value
class Cursor:  # noqa: PLW1641 - ``value`` makes its hash
    """A place in the change list of one PBX. A member the PBX did not send is ``None`` and is not sent back."""

    guid: Token | None = None
    usn: Token | None = None
    ausn: Token | None = None

    def __eq__(self, other: object) -> bool:
        # What differs first is asked first: the one that comes with ``dataclass`` takes twice as many instructions.
        return isinstance(other, Cursor) and (
            self.usn == other.usn and self.ausn == other.ausn and self.guid == other.guid
        )

    @property
    def is_start(self) -> bool:
        """True where asking with this cursor returns the first account of the list."""
        return self.usn is None and self.ausn is None

    @property
    def members(self) -> str:
        """What there is of it as further members of a JSON object: ``,"guid":…,"usn":…,"ausn":…``, each as it came.

        As text, since questions and events need it for every account; by way of a dict that took 8 000 instructions.
        """
        guid, usn, ausn = self.guid, self.usn, self.ausn
        if guid is None or usn is None or ausn is None:
            told = (("guid", guid), ("usn", usn), ("ausn", ausn))
            return "".join(f',"{name}":{token}' for name, token in told if token is not None)
        return f',"guid":{guid},"usn":{usn},"ausn":{ausn}'  # usual: a third of the instructions


WINDOW_ROWS: Final = 256
"""Events on their way to the broker at once, by default; also rows of a PBX that are read and not yet committed."""

MAX_WINDOW_ROWS: Final = 1024


@value
class Row:
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
    size: int = 0
    """Of the message that told it, in bytes or letters."""

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


@value
class AccountChange:
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


@value
class Mirrored:
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


@value
class OutboxRow:
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
    checksum: int = 0
    """Of the present accounts and their revisions; see ``events.checksum``. Zero is that of nobody."""


class Sink(IntEnum):
    """Who gets the events of the outbox; the numbers stand in the tables, as bits."""

    EXCHANGE = 1
    LOG = 2
    """Where the bridge writes the log itself, by the stream protocol."""


Numbers = tuple[str, int, int]
"""A lineage, the highest sequence in it, and the walk of the last certificate behind that; 0 where there is none."""


@value
class NewEvent:
    """An event that has no place in the outbox yet."""

    sequence: int
    event_id: str
    event_type: str
    account: str | None
    """Key of the account it tells of; ``None`` where it tells of the source as a whole."""
    routing_key: str
    body: bytes
    created_at: datetime
