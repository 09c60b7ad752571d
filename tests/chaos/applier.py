"""A consumer that uses the library, as a process of its own that is killed now and then.

It keeps two rules side by side, each with a state of its own: the inbox of the library, and a table of ids. The effect
of the inbox is also a row appended to a table, in its transaction: an effect that came twice would show. Told by the
environment what to read (``CHAOS_AMQP_URL``, ``CHAOS_QUEUE``) and which SQLite file to keep (``CHAOS_EFFECTS``).
"""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bridge.consumer import AccountChanged, SourceVerified, SqliteInbox, Subscriber
from bridge.model import ChangeKind
from tests.chaos.readers import comparable

TABLES = """
CREATE TABLE IF NOT EXISTS effect (
  position INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT, source TEXT, sequence INTEGER, account TEXT,
  revision INTEGER, lineage TEXT);
CREATE TABLE IF NOT EXISTS state (
  rule TEXT, source TEXT, account TEXT, lineage TEXT, content BLOB, PRIMARY KEY (rule, source, account));
CREATE TABLE IF NOT EXISTS seen (event_id TEXT PRIMARY KEY);
"""


class Rule(Protocol):
    """What decides whether a change is applied, and who is gone."""

    def accept(self, event: AccountChanged) -> bool: ...
    def gone(self, certificate: SourceVerified) -> Sequence[str]: ...


class IdTable:
    """An id is applied once. Who is gone is seen by the lineage in the state."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def accept(self, event: AccountChanged) -> bool:
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event.event_id,)).rowcount == 1

    def gone(self, certificate: SourceVerified) -> Sequence[str]:
        if not certificate.completes_lineage:
            return []
        found = self._database.execute(
            "SELECT account FROM state WHERE rule = 'ids' AND source = ? AND lineage < ?",
            (certificate.source, certificate.lineage),
        )
        return [account for (account,) in found]


def opened(path: Path) -> sqlite3.Connection:
    """Return the file, made ready; what is committed outlives the process, which is all that is killed here."""
    database = sqlite3.connect(path, timeout=30)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.executescript(TABLES)
    SqliteInbox(database).create_tables()
    database.commit()
    return database


class Crm:
    """What both rules lead to, in one file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._rules: dict[str, Rule] = {"inbox": SqliteInbox(database), "ids": IdTable(database)}

    async def apply(self, event: AccountChanged) -> None:
        """Apply a change by each of the rules."""
        with self._database:
            for name, rule in self._rules.items():
                if not rule.accept(event):
                    continue
                self._remove(name, event.source, event.account_guid)
                if event.kind is not ChangeKind.DELETED:
                    row = (name, event.source, event.account_guid, event.lineage, comparable(event.account))
                    self._database.execute("INSERT INTO state VALUES (?, ?, ?, ?, ?)", row)
                if name == "inbox":
                    self._database.execute(
                        "INSERT INTO effect (event_id, source, sequence, account, revision, lineage) "
                        "VALUES (?, ?, ?, ?, ?, ?)",
                        (
                            event.event_id,
                            event.source,
                            event.sequence,
                            event.account_guid,
                            event.revision,
                            event.lineage,
                        ),
                    )

    async def verified(self, certificate: SourceVerified) -> None:
        """Remove who is gone by each of the rules."""
        with self._database:
            for name, rule in self._rules.items():
                for account in rule.gone(certificate):
                    self._remove(name, certificate.source, account)

    def _remove(self, rule: str, source: str, account: str) -> None:
        self._database.execute(
            "DELETE FROM state WHERE rule = ? AND source = ? AND account = ?", (rule, source, account)
        )


async def apply_all(url: str, queue: str, database: sqlite3.Connection) -> None:
    """Apply everything in *queue* until SIGTERM."""
    subscriber = Subscriber(url, queue=queue, declare=False, longest_pause_seconds=0.5)
    crm = Crm(database)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, subscriber.stop)
    await subscriber.run(crm.apply, crm.verified)


def main() -> None:
    database = opened(Path(os.environ["CHAOS_EFFECTS"]))
    asyncio.run(apply_all(os.environ["CHAOS_AMQP_URL"], os.environ["CHAOS_QUEUE"], database))


if __name__ == "__main__":
    main()
