"""Which changes were applied already: kept in the caller's own transaction, together with the effect.

RabbitMQ delivers at least once. What makes that exactly once is one row: the id of the event, inserted into a table
with a unique key in the transaction that holds the effect. Both become durable or neither does, so a delivery that
comes again finds the id.

Beside the ids, the inbox keeps where each account stands, to recognise a change that is older than what was applied
(put back from a dead-letter queue, say), and to notice that one is missing.

In doubt a change is applied, since it tells the whole account, and one that is wrongly ignored is lost. Two things make
numbers restart. The bridge may lose its store: then a new *lineage* begins, and revisions count from 1. Or its store
may be put back from a backup: then revisions count on from an earlier number in the same lineage. So a change is
outdated only where the numbers *and* the clock of the bridge say so. Lineages have no order of their own; they rank by
when they first came to this inbox.
"""

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from bridge.cloudevents import AccountChanged

PRUNE_ROWS: Final = 10_000
"""At once, so that no pruning holds its locks for long."""

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

OnGap = Callable[[AccountChanged, int], None]
"""Called with a change, and the revision that should have come instead."""


class Verdict(StrEnum):
    """What the inbox knows about a change."""

    NEW = "new"
    """Apply it."""
    SEEN = "seen"
    """It was applied, or outdated, before."""
    OUTDATED = "outdated"
    """A later change of this account was applied before it; applying this one would bring an old state back."""


class Inbox(Protocol):
    """What a subscriber needs of an inbox, whichever database keeps it."""

    def receive(self, event: AccountChanged) -> Verdict:
        """Record *event* in the caller's open transaction, and return what to do about it."""

    def prune(self, older_than: timedelta, at_most: int = PRUNE_ROWS) -> int:
        """Forget ids that came longer ago than *older_than*, and return how many; *at_most* so many at once."""


class Standing(NamedTuple):
    """Where an account stands."""

    lineage: str
    place: int
    """Of the lineage, among those of its source."""
    revision: int
    changed_at: int
    """Microseconds since 1970, by the clock of the bridge."""

    def is_behind(self, other: "Standing") -> bool:
        """Return whether the numbers and the clock agree that *other* is at least as late."""
        return (self.place, self.revision) <= (other.place, other.revision) and self.changed_at <= other.changed_at

    def gap_after(self, known: "Standing") -> int | None:
        """Return the revision that should have come instead of this one; ``None`` where nothing is missing."""
        if not known.lineage:
            return None  # a subscriber that begins late has missed nothing
        expected = known.revision + 1 if self.lineage == known.lineage else 1
        return expected if self.revision > expected else None


@dataclass(frozen=True, slots=True)
class Ruling:
    """A verdict, and the revision that is missing before it, if one is."""

    verdict: Verdict
    missing_revision: int | None


class Query(NamedTuple):
    """One statement to be run in the caller's transaction."""

    sql: str
    parameters: Mapping[str, Any]


class Answer(NamedTuple):
    """What came of it."""

    rows: Sequence[tuple[Any, ...]]
    changed: int
    """How many rows it inserted, updated or deleted."""


class Statements:
    """The SQL of an inbox, and the order in which it is run. Runs nothing itself, so that any driver can.

    Args:
        table: what the names of its tables begin with; two subscribers in one database need two.
        locking: what makes a ``SELECT`` lock its row, in a database with more than one writer.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(self, table: str, *, locking: str = "") -> None:
        if not _NAME.fullmatch(table):
            raise ValueError(f"{table!r} cannot begin the name of a table: use a-z, 0-9 and _, at most 40")
        self._table = table
        self._locking = locking

    @property
    def tables(self) -> Sequence[str]:
        """What creates the tables where they are missing."""
        t = self._table
        account = (
            "source TEXT NOT NULL, account_guid TEXT NOT NULL, lineage TEXT NOT NULL, revision BIGINT NOT NULL, "
            "changed_at BIGINT NOT NULL, PRIMARY KEY (source, account_guid)"
        )
        lineage = "source TEXT NOT NULL, lineage TEXT NOT NULL, place BIGINT NOT NULL, PRIMARY KEY (source, lineage)"
        return (
            f"CREATE TABLE IF NOT EXISTS {t}_event (event_id TEXT PRIMARY KEY, received_at BIGINT NOT NULL)",
            f"CREATE INDEX IF NOT EXISTS {t}_event_received_at ON {t}_event (received_at)",
            f"CREATE TABLE IF NOT EXISTS {t}_account ({account})",
            f"CREATE TABLE IF NOT EXISTS {t}_lineage ({lineage})",
        )

    def receiving(self, event: AccountChanged, received_at: datetime) -> Generator[Query, Answer, Ruling]:
        """Yield each statement, want its answer sent back, and return the ruling on *event*."""
        t = self._table
        told: dict[str, Any] = {
            "event_id": event.event_id,
            "source": event.source,
            "account_guid": event.account_guid,
            "lineage": event.lineage,
            "revision": event.revision,
            "changed_at": _microseconds(event.time),
            "received_at": _microseconds(received_at),
        }
        # Written before it is read: changes of one account wait for each other here, and SQLite takes its write lock
        # while a busy database can still be waited for.
        yield Query(
            f"INSERT INTO {t}_account (source, account_guid, lineage, revision, changed_at) "  # noqa: S608 - see _NAME
            "VALUES (:source, :account_guid, '', 0, 0) ON CONFLICT DO NOTHING",
            told,
        )
        found = yield Query(
            f"SELECT lineage, revision, changed_at FROM {t}_account "  # noqa: S608 - see _NAME
            f"WHERE source = :source AND account_guid = :account_guid {self._locking}",
            told,
        )
        lineage, revision, changed_at = found.rows[0]
        places = yield from self._places(told, lineage)
        known = Standing(lineage, places.get(lineage, 0), revision, changed_at)
        present = Standing(event.lineage, places.get(event.lineage, 0), event.revision, told["changed_at"])
        remembered = yield Query(
            f"INSERT INTO {t}_event (event_id, received_at) "  # noqa: S608 - see _NAME
            "VALUES (:event_id, :received_at) ON CONFLICT DO NOTHING",
            told,
        )
        is_behind = present.is_behind(known)
        verdict = Verdict.SEEN if not remembered.changed else Verdict.OUTDATED if is_behind else Verdict.NEW
        if is_behind:
            return Ruling(verdict, None)
        # Also for a change that was seen: told again by a bridge that lost its store, it carries new numbers.
        yield Query(
            f"UPDATE {t}_account SET lineage = :lineage, revision = :revision, "  # noqa: S608 - see _NAME
            "changed_at = :changed_at WHERE source = :source AND account_guid = :account_guid",
            told,
        )
        return Ruling(verdict, present.gap_after(known))

    def pruning(self, older_than: timedelta, now: datetime, at_most: int) -> Query:
        """Return what forgets ids; where accounts stand is kept, so that nothing old comes back to life."""
        t = self._table
        return Query(
            f"DELETE FROM {t}_event WHERE event_id IN (SELECT event_id FROM {t}_event "  # noqa: S608 - see _NAME
            "WHERE received_at < :before ORDER BY received_at LIMIT :at_most)",
            {"before": _microseconds(now - older_than), "at_most": at_most},
        )

    def _places(self, told: Mapping[str, Any], known_lineage: str) -> Generator[Query, Answer, dict[str, int]]:
        if told["lineage"] == known_lineage:
            return {}
        t = self._table
        yield Query(
            f"INSERT INTO {t}_lineage (source, lineage, place) "  # noqa: S608 - see _NAME
            f"SELECT :source, :lineage, COALESCE(MAX(place), 0) + 1 FROM {t}_lineage WHERE source = :source "
            "ON CONFLICT DO NOTHING",
            told,
        )
        found = yield Query(
            f"SELECT lineage, place FROM {t}_lineage WHERE source = :source AND lineage IN (:lineage, :known)",  # noqa: S608 - see _NAME
            {**told, "known": known_lineage},
        )
        return dict(found.rows)


def utc_now() -> datetime:
    """Return the time now."""
    return datetime.now(UTC)


def _microseconds(time: datetime) -> int:
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)
