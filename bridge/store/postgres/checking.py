"""What is to be said about how a database is set up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psycopg

from bridge.store.postgres.connecting import Database
from bridge.store.postgres.errors import as_ours
from bridge.store.postgres.rows import Row
from bridge.store.postgres.sql import queries

OLDEST_VERSION: Final = 130_000
LONG_SECONDS: Final = 600.0
"""For which a snapshot may be held: behind an older one, what was updated often gets slower and slower."""
MANY_TRANSACTIONS: Final = 20_000
"""The same in what a user may know of the sessions of others."""


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that is not as it should be."""

    words: str
    is_fatal: bool = False
    """True where the bridge cannot run, or breaks its promise."""


def check_database(database: Database, *, loses_nothing: bool) -> tuple[str, list[Remark]]:
    """Return which server *database* is on, and what is to be said about it.

    Raises:
        StoreUnreachable: it cannot be reached.
        StoreRefusedLogin: it does not let us in.

    """
    try:
        with database.connect(to_write=True) as connection:
            (facts,) = database.ask(connection, queries()["facts"]).fetchall()
    except psycopg.Error as problem:
        raise as_ours(database.place, problem) from problem
    return f"PostgreSQL {facts['version_name']}", list(_remarks(facts, loses_nothing=loses_nothing))


def _remarks(facts: Row, *, loses_nothing: bool) -> Iterator[Remark]:
    if facts["version"] < OLDEST_VERSION:
        yield Remark(f"version {facts['version_name']} is too old; 13 is the oldest that is tried", is_fatal=True)
    if not facts["may_create"]:
        yield Remark(
            "its user may make no tables: ALTER DATABASE … OWNER TO …, or GRANT CREATE ON SCHEMA …", is_fatal=True
        )
    if facts["fsync"] == "off":
        yield Remark("fsync is off: a crash of the machine loses what was committed, or all of it", is_fatal=True)
    if facts["synchronous_commit"] == "off":
        yield Remark("synchronous_commit is off, whatever the bridge says: a crash loses commits", is_fatal=True)
    if facts["autovacuum"] == "off":
        yield Remark("autovacuum is off: the tables of the store grow and get slow")
    is_synchronous = bool(facts["synchronous_standby_names"])  # each user sees that; not what a standby does at present
    if loses_nothing and not is_synchronous:
        yield Remark("failover_loses_nothing is true, but no standby is synchronous: take it back", is_fatal=True)
    elif facts["standbys"] and not is_synchronous:
        yield Remark("its standbys are asynchronous: after a failover that lost commits everything is told anew")
    seconds, transactions = facts["oldest_seconds"], facts["oldest_transactions"]
    if seconds > LONG_SECONDS or transactions > MANY_TRANSACTIONS:
        long = f"{seconds / 60:.0f} minutes" if seconds > LONG_SECONDS else f"{transactions} transactions"
        yield Remark(
            f"session {facts['oldest_pid']} has held a snapshot for {long}: until it ends, no dead row can go, and the "
            "store gets slower"
        )
