"""The other end: receive account changes, and apply each of them exactly once.

A whole subscriber. The id of a change and its effect become durable in one transaction, or neither does::

    import asyncio
    import sqlite3
    from bridge.consumer.client import Subscriber
    from bridge.consumer.inbox_sqlite import SqliteInbox

    letters = sqlite3.connect("letters.db")
    letters.execute("CREATE TABLE IF NOT EXISTS letter (account TEXT, what TEXT)")
    inbox = SqliteInbox(letters)
    inbox.create_tables()

    async def apply(event):
        with letters:  # one transaction
            if inbox.is_new(event):
                letters.execute("INSERT INTO letter VALUES (?, ?)", (event.account["display_name"], event.kind))

    asyncio.run(Subscriber("amqp://guest:guest@localhost/", queue="letters").run(apply))

``client`` receives from a queue, ``log`` from the log of everything, ``inbox_sqlite`` and ``inbox_postgres`` remember
what was applied.
"""
