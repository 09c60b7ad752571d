"""Personal data taken out of a store, for good: what stays are numbers, digests and ids, so that nothing becomes news.

SQLite leaves what was deleted in the file until the place is used again; here it is overwritten at once. Events that
were pruned before are not covered by that, nor are backups, the log at the broker, and what subscribers keep.
"""

import sqlite3
from datetime import datetime

import orjson

from bridge.cloudevents import without_person
from bridge.model import Forgotten, SourceName
from bridge.store.sql import queries
from bridge.store.transaction import as_text


def forget(db: sqlite3.Connection, key: str, at: datetime, *, discard_unsent: bool) -> Forgotten:
    """Take what is known of the person out of the account with this key, at every PBX, and out of its events.

    An account that a PBX still has keeps its entry, or else its next change could not be told from no change. Where
    events are to be sent yet, nothing happens, unless *discard_unsent*: then they are never sent.
    """
    accounts = db.execute(queries()["account_everywhere"], {"key": key}).fetchall()
    events = [
        event
        for account in accounts
        for event in db.execute(queries()["events_with_person"], {"source_id": account["source_id"], "key": key})
    ]
    unsent = sum(event["published_at"] is None for event in events)
    present_at = [SourceName(account["source"]) for account in accounts if not account["is_deleted"]]
    if unsent and not discard_unsent:
        return Forgotten(0, 0, present_at, unsent)
    gone = [account for account in accounts if account["is_deleted"]]
    before = db.execute("PRAGMA secure_delete").fetchone()[0]
    db.execute("PRAGMA secure_delete=ON")
    try:
        db.execute("BEGIN IMMEDIATE")
        with db:
            for account in gone:
                content = orjson.dumps({"guid": account["account_guid"]})
                db.execute(queries()["forget_account"], {"id": account["id"], "content": content})
            for event in events:
                numbers = {"position": event["position"], "at": as_text(at)}
                db.execute(queries()["forget_event"], {**numbers, "body": without_person(event["body"])})
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        db.execute(f"PRAGMA secure_delete={before}")
    return Forgotten(len(gone), len(events), present_at, unsent)
