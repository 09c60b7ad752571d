"""How one PBX is doing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from bridge.model import Certificate, Cursor
from bridge.observability.component_status import ComponentStatus, Level, shifted

OWN_CONNECTION: Final = timedelta(minutes=1)
"""So long the broker may take our own last connection to be alive; who holds a fence for longer is a second bridge."""


@dataclass(frozen=True, slots=True)
class LastChange:
    """The change of which was heard last."""

    at: datetime
    account: str
    """What people call it; whatever it is, it is only a text."""
    what: str


@dataclass(slots=True)
class WalkProgress:
    """A full walk under way."""

    started_at: datetime
    progress_at: datetime
    """When it last read an account."""
    accounts: int = 0
    """Read so far."""
    expected: int | None = None
    """As many as the last proven walk found."""


@dataclass(slots=True)
class SourceStatus(ComponentStatus):
    """A PBX as the bridge sees it."""

    rows: int = 0
    """Delivered since the start of the bridge."""
    changes: int = 0
    """Of those, published."""
    accounts: int | None = None
    """Present at the last proven full walk."""
    verified_at: datetime | None = None
    """End of the last proven full walk."""
    deletions: str = "unknown"
    """``known``: what a full walk did not see is gone. ``unknown``: no end of a walk could be proven. Otherwise, of how
    many accounts they are ``held`` or ``not decided``."""
    deletions_held: int = 0
    """Accounts that are gone, too many to delete unasked."""
    absent: int = 0
    """Accounts that the last proven walk did not see and that are not deleted, held ones included."""
    second_look_at: datetime | None = None
    """When a walk is to tell whether those that are not held are gone, if there are any."""
    warning: str = ""
    """What somebody should look at although changes flow; stands until the next proven full walk."""
    waits_for_turn: bool = False
    """True while nothing of it is read yet, since so many others are."""
    is_paused: bool = False
    """An operator wants it not to be read: no fault, and no reason to be not ready."""
    retelling: str = ""
    """That other things are published of it than before, until a full walk has told the difference."""
    oddity: str = ""
    """What is unlike before about a PBX that dialled; stands until somebody says that it is right."""
    note: str = ""
    """What a PBX that dialled says about itself and looks wrong."""
    unread: str = ""
    """What it tells of accounts and nobody can read; stands until a proven full walk has none of it."""
    unobserved: str = ""
    """What it does that no observation has shown; stands until the next start, or until it is configured anew."""
    unreadable_messages: int = 0
    """Messages that could not be read."""
    last_change_at: datetime | None = None
    last_change: LastChange | None = None
    recording: Callable[[], Iterable[str]] | None = None
    """Returns the lines of a recording of what passed last; ``None`` where nothing is kept."""
    last_confirm_at: datetime | None = None
    """When the broker last confirmed an event of this PBX."""
    caught_up_at: datetime | None = None
    """When the end of the list was last reached and proven."""
    cursor: Cursor = field(default_factory=Cursor)
    """As far as it is durably read."""
    walk: WalkProgress | None = None
    unsent: int = 0
    """Its events that are not done: waiting, held or parked."""
    parked: int = 0
    held_back: str = ""
    """Why the exchange does not take its next event, so that those behind it wait; empty while it does."""
    held_cause: str = ""
    """The same in one word, for machines."""
    held_since: datetime | None = None
    fenced: dict[str, str] = field(default_factory=dict)
    """Why its events wait that somebody else sends for it, by the way out: ``broker``, ``log``."""
    fenced_since: datetime | None = None
    in_doubt: int = 0
    """Its events that may have reached the broker although no confirm came; they are sent again."""

    @property
    def doubt(self) -> str:
        """The remark, as long as no full walk has shown that it makes no difference."""
        return "" if self.verified_at is not None else self.note

    @property
    def seen(self) -> int | None:
        """How many accounts the last proven walk saw, all of which are as they were published."""
        return None if self.accounts is None else self.accounts - self.absent

    @property
    def unseen(self) -> int:
        """How many accounts wait for another walk to tell whether they are gone."""
        return self.absent - self.deletions_held

    def is_held_back(self, why: str, cause: str, now: datetime) -> None:
        """Record that the exchange did not take its next event, once more or for the first time."""
        self.held_back, self.held_cause = why, cause
        self.held_since = self.held_since or now

    def goes_out(self) -> None:
        """Record that the exchange took its next event."""
        self.held_back = self.held_cause = ""
        self.held_since = None

    def is_fenced(self, way: str, why: str, now: datetime) -> None:
        """Record that somebody else sends for it, once more or for the first time."""
        self.fenced[way] = why
        self.fenced_since = self.fenced_since or now

    def is_unfenced(self, way: str) -> None:
        """Record that nobody else sends for it that way any more."""
        self.fenced.pop(way, None)
        self.fenced_since = self.fenced_since if self.fenced else None

    def fence_level(self, now: datetime) -> Level:
        """Return how bad it is that somebody else sends for it: our own last connection is over within a minute."""
        if self.fenced_since is None:
            return Level.OK
        return Level.ERROR if now - self.fenced_since > OWN_CONNECTION else Level.WARN

    def certified(self, certificate: Certificate) -> None:
        """Record what a proven walk found."""
        self.verified_at = certificate.verified_at
        self.accounts = certificate.accounts
        self.absent = certificate.absent
        self.deletions_held = certificate.held
        self.deletions = "known"
        if self.absent:
            self.deletions = f"{certificate.held} held" if certificate.held else f"{self.unseen} not decided"

    def read(self, rows: int) -> None:
        """Record that rows were read and are durable."""
        self.rows += rows

    def moved(self, cursor: Cursor) -> None:
        """Record how far it is durably read."""
        self.cursor = cursor

    def changed(self, count: int, last: LastChange) -> None:
        """Record changes that are published, *last* the last of them."""
        self.changes += count
        self.last_change_at, self.last_change = last.at, last

    def remembered(self, changed_at: datetime | None, confirmed_at: datetime | None, last: LastChange | None) -> None:
        """Record what was heard of it before this process began; what this one heard stays."""
        if self.last_change_at is None:
            self.last_change_at, self.last_change = changed_at, last
            self.last_confirm_at = self.last_confirm_at or confirmed_at

    def walk_began(self, now: datetime) -> None:
        """Record that a full walk is under way."""
        self.walk = WalkProgress(now, now, expected=self.accounts)

    def walk_proceeded(self, accounts: int, now: datetime) -> None:
        """Record that the full walk under way, if there is one, saw so many more accounts."""
        if self.walk is not None:
            self.walk.accounts += accounts
            self.walk.progress_at = now

    def walk_ended(self) -> None:
        """Record that no full walk is under way any more."""
        self.walk = None

    def walk_ended_unproven(self) -> None:
        """Record that the last full walk could not tell what is gone."""
        self.deletions = "unknown"

    def caught_up(self, now: datetime) -> None:
        """Record that the end of the list was reached, and proven."""
        self.caught_up_at = now

    def looks_again(self, at: datetime | None) -> None:
        """Record when a walk is to tell whether accounts are gone."""
        self.second_look_at = at

    def retold(self, why: str = "") -> None:
        """Record why a full walk has to tell a difference, or that it has."""
        self.retelling = why

    def warned(self, warning: str) -> None:
        """Record what somebody should look at, until the next proven full walk."""
        self.warning = warning

    def has_unread(self, words: str) -> None:
        """Record what it tells of accounts and nobody can read; empty: nothing of it any more."""
        self.unread = words

    def does_unobserved(self, words: str) -> None:
        """Record that it does something that no observation has shown; what was first stands."""
        self.unobserved = self.unobserved or words

    def has_waiting(self, rows: int) -> None:
        """Record how many of its events are not done."""
        self.unsent = rows

    def confirmed(self, now: datetime) -> None:
        """Record that the broker confirmed events of it."""
        self.last_confirm_at = now
        self.goes_out()

    def counted(self, *, in_doubt: int, parked: int) -> None:
        """Record how many of its events are in doubt, and how many parked."""
        self.in_doubt, self.parked = in_doubt, parked

    def paused(self, doing: str, since: datetime, now: datetime) -> None:
        """Record that an operator wants it not to be read."""
        self.is_paused = True
        self.problem = self.cause = ""
        self.set_doing(doing, Level.PAUSED, now)
        self.since = since

    def begins_anew(self) -> None:
        """Record that what was certified is void, since the PBX's list is another one."""
        self.verified_at = self.second_look_at = None
        self.absent = self.deletions_held = 0
        self.deletions = "unknown"

    def shift(self, by: timedelta) -> None:
        """Move what began in the past along with a clock that was set by so much."""
        ComponentStatus.shift(self, by)
        self.last_change_at = shifted(self.last_change_at, by)
        self.last_confirm_at = shifted(self.last_confirm_at, by)
        self.caught_up_at = shifted(self.caught_up_at, by)
        self.second_look_at = shifted(self.second_look_at, by)
        self.held_since = shifted(self.held_since, by)
        self.fenced_since = shifted(self.fenced_since, by)
        if self.walk is not None:
            self.walk.started_at += by
            self.walk.progress_at += by
