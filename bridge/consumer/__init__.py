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

``client`` receives from a queue, ``log`` from the log of everything, ``inbox_sqlite`` and ``inbox_postgres`` remember
where each account stands, ``position_sqlite`` and ``position_postgres`` where a reader of the log does. What this page
names is public. What is for PostgreSQL is imported from its own module, since it needs ``psycopg``.
"""

from bridge.consumer.inbox.rule import Inbox
from bridge.consumer.inbox.sqlite import SqliteInbox
from bridge.consumer.log.position import LogOffset
from bridge.consumer.log.position_sqlite import SqlitePosition
from bridge.consumer.log.reader import LogCertificate, LogEntry, LogReader
from bridge.consumer.subscriber import CertificateDelivery, Delivery, Subscriber, subscribe
from bridge.events.cloudevents import Account, AccountChanged, Device, Group, Previous, SourceVerified

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
