"""The other end: receive account changes, and apply each of them exactly once.

A whole subscriber. What is known of an account and the effect of a change become durable in one transaction, or neither
does::

    import asyncio
    import sqlite3
    from bridge.consumer import SqliteInbox, Subscriber

    letters = sqlite3.connect("letters.db")
    letters.execute("CREATE TABLE IF NOT EXISTS letter (account TEXT, what TEXT)")
    inbox = SqliteInbox(letters)
    inbox.create_tables()

    async def apply(event):
        with letters:  # one transaction
            if inbox.accept(event):
                letters.execute("INSERT INTO letter VALUES (?, ?)", (event.account["display_name"], event.kind))

    async def verified(certificate):
        with letters:
            for guid in inbox.gone(certificate):  # the bridge began anew, and these accounts are not there any more
                letters.execute("INSERT INTO letter VALUES (?, ?)", (guid, "gone"))

    asyncio.run(Subscriber("amqp://guest:guest@localhost/", queue="letters").run(apply, verified))

``subscriber`` receives from a queue, ``log`` from the log of everything; an inbox remembers where each account
stands, and says at a certificate whether anything is missing (``difference``); a position remembers where a reader of
the log stands. Both are kept in SQLite or PostgreSQL. What this page names is public, and changes only with a sentence
in the CHANGELOG; everything else in the package may change at any time. What is for PostgreSQL needs ``psycopg`` (the
extra ``postgres``), and is loaded when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from bridge.consumer.inbox.rule import Inbox
from bridge.consumer.inbox.sqlite import SqliteInbox
from bridge.consumer.log.position import LogOffset
from bridge.consumer.log.position_sqlite import SqlitePosition
from bridge.consumer.log.reader import LogCertificate, LogEntry, LogReader
from bridge.consumer.subscriber import CertificateDelivery, Delivery, Subscriber, subscribe
from bridge.events.cloudevents import Account, AccountChanged, Device, Group, Previous, SourceVerified

if TYPE_CHECKING:  # not in __all__: a star would load them
    from bridge.consumer.inbox.postgres import AsyncPostgresInbox as AsyncPostgresInbox
    from bridge.consumer.inbox.postgres import PostgresInbox as PostgresInbox
    from bridge.consumer.log.position_postgres import AsyncPostgresPosition as AsyncPostgresPosition
    from bridge.consumer.log.position_postgres import PostgresPosition as PostgresPosition

__all__ = [
    "Account",
    "AccountChanged",
    "CertificateDelivery",
    "Delivery",
    "Device",
    "Group",
    "Inbox",
    "LogCertificate",
    "LogEntry",
    "LogOffset",
    "LogReader",
    "Previous",
    "SourceVerified",
    "SqliteInbox",
    "SqlitePosition",
    "Subscriber",
    "subscribe",
]

_OF_POSTGRES: Final = {
    "AsyncPostgresInbox": "inbox.postgres",
    "AsyncPostgresPosition": "log.position_postgres",
    "PostgresInbox": "inbox.postgres",
    "PostgresPosition": "log.position_postgres",
}


def __getattr__(name: str) -> Any:
    """Load what needs ``psycopg`` when it is asked for.

    Raises:
        AttributeError: there is nothing of that name.
        ImportError: ``psycopg`` is missing.

    """
    if name not in _OF_POSTGRES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OF_POSTGRES[name]}"), name)
