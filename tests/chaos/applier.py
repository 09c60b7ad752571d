"""A consumer that uses the library and its inbox, as a process of its own that is killed now and then.

Its effect is a row appended to a table, in the transaction of the inbox: an effect that came twice would show. Told by
the environment what to read (``CHAOS_AMQP_URL``, ``CHAOS_QUEUE``) and which SQLite file to keep (``CHAOS_EFFECTS``).
"""

import asyncio
import os
import signal
import sqlite3
from pathlib import Path

from bridge.cloudevents import AccountChanged
from bridge.consumer.client import Subscriber
from bridge.consumer.inbox_sqlite import SqliteInbox

TABLE = """
CREATE TABLE IF NOT EXISTS effect (
  position INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT, source TEXT, sequence INTEGER, account TEXT,
  revision INTEGER)
"""


def opened(path: Path) -> sqlite3.Connection:
    """Return the file, made ready; what is committed outlives the process, which is all that is killed here."""
    database = sqlite3.connect(path, timeout=30)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute(TABLE)
    return database


async def apply_all(url: str, queue: str, database: sqlite3.Connection) -> None:
    """Apply every change in *queue* until SIGTERM."""
    inbox = SqliteInbox(database)
    inbox.create_tables()
    database.commit()
    subscriber = Subscriber(url, queue=queue, declare=False, longest_pause_seconds=0.5)

    async def apply(event: AccountChanged) -> None:
        with database:
            if inbox.is_new(event):
                database.execute(
                    "INSERT INTO effect (event_id, source, sequence, account, revision) VALUES (?, ?, ?, ?, ?)",
                    (event.event_id, event.source, event.sequence, event.account_guid, event.revision),
                )

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, subscriber.stop)
    await subscriber.run(apply)


def main() -> None:
    database = opened(Path(os.environ["CHAOS_EFFECTS"]))
    asyncio.run(apply_all(os.environ["CHAOS_AMQP_URL"], os.environ["CHAOS_QUEUE"], database))


if __name__ == "__main__":
    main()
