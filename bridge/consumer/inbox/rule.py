"""Which changes were applied already: kept in the caller's own transaction, together with the effect.

RabbitMQ delivers at least once, and what is put back from a dead-letter queue or replayed may be old. What makes that
exactly once, and never backwards, is one row for each account: the lineage and the revision that were applied last. A
change is applied where its own are greater, and skipped otherwise; the row and the effect become durable together, or
neither does. No clock is asked, and nothing has to be pruned.

A lineage is a generation of what the bridge knows of a source; a new one tells everything once more, and the
certificate of its first proven walk ends that. Accounts of an older lineage are gone then: ``gone`` names them, and
from then on nothing of an older lineage is applied, of accounts that were never seen either.

A certificate also says what is there: how many accounts, and a checksum of their revisions. ``difference`` compares.

The table has a name that no earlier form of the inbox used; tables called ``…_event``, ``…_account`` and ``…_lineage``
are of such a form, are not read, and may be dropped.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from bridge.events.checksum import MODULUS, checksum
from bridge.events.cloudevents import AccountChanged, SourceVerified
from bridge.events.normalize import account_key
from bridge.model import AccountGuid, ChangeKind

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,39}")

_SOURCE: Final = "-"
"""In place of an account, in the row of a source as a whole; the key of an account has no dash."""

PAGE_ACCOUNTS: Final = 5000
"""Compared at once."""

COMMITS_AT_ONCE: Final = (
    "the connection of the inbox commits each statement at once: begin a transaction before asking the inbox, write "
    "the effect, and commit both together"
)
NO_TABLES: Final = "the table of the inbox is missing: call its create_tables() once, at the start"


Answer = TypeVar("Answer")


class Inbox(Protocol):
    """What a subscriber needs of an inbox, whichever database keeps it."""

    def accept(self, event: AccountChanged) -> bool:
        """Record *event* in the caller's open transaction, and return whether to apply it."""

    def gone(self, certificate: SourceVerified) -> Sequence[AccountGuid]:
        """Return the accounts that are gone by *certificate*, and record that they are."""

    def difference(self, certificate: SourceVerified) -> str:
        """Return how the present accounts differ from what *certificate* says, as a sentence; empty: they do not."""


class Query(NamedTuple):
    """One statement to be run in the caller's transaction."""

    sql: str
    parameters: Mapping[str, Any]


class QueryResult(NamedTuple):
    """What came of it."""

    rows: Sequence[tuple[Any, ...]]
    changed: int
    """How many rows it inserted, updated or deleted."""


class InboxStatements:
    """The SQL of an inbox, and the order in which it is run. Runs nothing itself, so that any driver can.

    Args:
        table: the name of its table; two subscribers in one database need two.
        collation: the one that compares text by its bytes.
        locking: what keeps others from writing to the table until the transaction ends, in a database with more than
            one writer.

    Raises:
        ValueError: *table* is no plain lower-case name.

    """

    def __init__(self, table: str, *, collation: str, locking: str = "") -> None:
        if not _NAME.fullmatch(table):
            raise ValueError(f"{table!r} cannot be the name of a table: use a-z, 0-9 and _, at most 40")
        self._table = table
        self._collation = collation
        self._locking = locking

    @property
    def creating(self) -> Query:
        """Create the table where it is missing."""
        text = f"TEXT COLLATE {self._collation} NOT NULL"
        columns = (
            f"source {text}, account {text}, guid {text}, lineage {text}, revision BIGINT NOT NULL, "
            "is_deleted INTEGER NOT NULL, PRIMARY KEY (source, account)"
        )
        return Query(f"CREATE TABLE IF NOT EXISTS {self._table} ({columns})", {})

    def accepting(self, event: AccountChanged) -> Query:
        """Record *event*; tells by the number of rows changed whether it is to be applied."""
        t = self._table
        return Query(
            f"INSERT INTO {t} (source, account, guid, lineage, revision, is_deleted) "  # noqa: S608 - see _NAME
            "SELECT :source, :account, :guid, :lineage, :revision, :is_deleted "
            f"WHERE NOT EXISTS (SELECT 1 FROM {t} WHERE source = :source AND account = :whole AND lineage > :lineage) "
            "ON CONFLICT (source, account) DO UPDATE SET guid = excluded.guid, lineage = excluded.lineage, "
            "revision = excluded.revision, is_deleted = excluded.is_deleted "
            f"WHERE (excluded.lineage, excluded.revision) > ({t}.lineage, {t}.revision)",
            {
                "source": event.source,
                "account": account_key(event.account_guid),
                "guid": event.account_guid,
                "lineage": event.lineage,
                "revision": event.revision,
                "is_deleted": int(event.kind is ChangeKind.DELETED),
                "whole": _SOURCE,
            },
        )

    def completing(self, certificate: SourceVerified) -> Generator[Query, QueryResult, Sequence[AccountGuid]]:
        """Yield each statement, want its answer sent back, and return the accounts that are gone."""
        if not certificate.completes_lineage:
            return []
        t = self._table
        told = {"source": certificate.source, "lineage": certificate.lineage, "whole": _SOURCE}
        if self._locking:
            yield Query(self._locking.format(table=t), {})
        # Written before it is read: SQLite takes its write lock while a busy database can still be waited for.
        noted = yield Query(
            f"INSERT INTO {t} (source, account, guid, lineage, revision, is_deleted) "  # noqa: S608 - see _NAME
            "VALUES (:source, :whole, :whole, :lineage, 0, 0) "
            "ON CONFLICT (source, account) DO UPDATE SET lineage = excluded.lineage "
            f"WHERE excluded.lineage > {t}.lineage",
            told,
        )
        if not noted.changed:
            return []
        older = "source = :source AND account <> :whole AND lineage < :lineage"
        found = yield Query(f"SELECT guid FROM {t} WHERE {older} AND is_deleted = 0 ORDER BY guid", told)  # noqa: S608 - see _NAME
        # Whatever is told of them in an older lineage is refused by the row of the source.
        yield Query(f"DELETE FROM {t} WHERE {older}", told)  # noqa: S608 - see _NAME
        return [AccountGuid(guid) for (guid,) in found.rows]

    def comparing(self, certificate: SourceVerified) -> Generator[Query, QueryResult, str]:
        """Yield each statement, want its answer sent back, and return the difference as a sentence, if there is one."""
        accounts = found = 0
        last = ""
        while True:
            page = yield Query(
                f"SELECT lineage, account, revision FROM {self._table} WHERE source = :source "  # noqa: S608 - see _NAME
                "AND account > :last AND account <> :whole AND is_deleted = 0 ORDER BY account LIMIT :limit",
                {"source": certificate.source, "last": last, "whole": _SOURCE, "limit": PAGE_ACCOUNTS},
            )
            accounts += len(page.rows)
            found = (found + checksum((row[0], row[1], row[2]) for row in page.rows)) % MODULUS
            if len(page.rows) < PAGE_ACCOUNTS:
                return _difference(certificate, accounts, found)
            last = page.rows[-1][1]


def _difference(certificate: SourceVerified, accounts: int, found: int) -> str:
    whose = f"the inbox differs from the certificate of {certificate.source}, walk {certificate.walk}"
    if accounts != certificate.accounts:
        return f"{whose}: accounts {accounts} instead of {certificate.accounts}"
    if certificate.checksum not in {None, found}:
        return f"{whose}: as many accounts, not all of them the same or at the same revision"
    return ""
