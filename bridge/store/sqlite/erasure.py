"""Personal data taken out of a store, for good: what stays are numbers, digests and ids, so that nothing becomes news.

SQLite leaves what was deleted in the file until the place is used again; here it is overwritten at once, and then the
write-ahead log is to be emptied: it is done when the name is in no file. Events that were pruned before are not covered
by that, nor are backups, the log at the broker, and what subscribers keep.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Final, Protocol

import orjson

from bridge.errors import BridgeError
from bridge.events.cloudevents import without_person
from bridge.model import SourceName
from bridge.store.records import Forgotten
from bridge.store.sqlite.outbox import SqliteOutbox
from bridge.store.sqlite.sql import queries
from bridge.store.sqlite.transaction import as_text

AGAIN_SECONDS: Final = 0.05
READER_TRIES: Final = 200
"""For ten seconds: those who read the store at the moment keep the write-ahead log from being emptied."""

_REASON: Final = "its account was forgotten"


class Grouping(Protocol):
    """What makes changes durable together."""

    def together(self) -> AbstractContextManager[None]:
        """Return a context in which all changes become durable together, or none does."""


def forget(  # noqa: PLR0913 - the parts of a store
    db: sqlite3.Connection,
    key: str,
    at: datetime,
    sinks: Sequence[SqliteOutbox],
    store: Grouping,
    *,
    discard_unsent: bool,
) -> Forgotten:
    """Take what is known of the person out of the account with this key, at every PBX, and out of its events.

    An account that a PBX still has keeps its entry, or else its next change could not be told from no change. Where
    events are to be sent yet, nothing happens, unless *discard_unsent*: then they are never sent.

    """
    accounts = db.execute(queries()["account_everywhere"], {"key": key}).fetchall()
    events = db.execute(queries()["events_with_person"], {"key": key}).fetchall()
    states = {event["position"]: _states(db, event["position"]) for event in events}
    unsent = sum(
        any(event["sinks"] & sink.sink and sink.wants(at_, states[at_].get(sink.sink)) for sink in sinks)
        for event in events
        for at_ in [event["position"]]
    )
    present_at = [SourceName(account["source"]) for account in accounts if not account["is_deleted"]]
    if unsent and not discard_unsent:
        return Forgotten(0, 0, present_at, unsent)
    gone = [account for account in accounts if account["is_deleted"]]
    with overwriting(db), store.together():
        for account in gone:
            content = orjson.dumps({"guid": account["account_guid"]})
            db.execute(queries()["forget_account"], {"id": account["id"], "content": content})
        for event in events:
            position = event["position"]
            for sink in sinks:
                if event["sinks"] & sink.sink:
                    sink.forget(position, states[position].get(sink.sink), _REASON, at)
            told = {"position": position, "at": as_text(at), "body": without_person(event["body"])}
            db.execute(queries()["forget_event"], told)
        for source in {event["source_id"] for event in events}:
            for sink in sinks:
                sink.release(source, at)
    if unsent:
        for sink in sinks:
            sink.load([row["id"] for row in db.execute(queries()["source_ids"])])
    return Forgotten(len(gone), len(events), present_at, unsent)


@contextmanager
def overwriting(db: sqlite3.Connection) -> Iterator[None]:
    """Overwrite what is deleted inside, so that no later ``forget`` has to find what no table has any more."""
    before = db.execute("PRAGMA secure_delete").fetchone()[0]
    db.execute("PRAGMA secure_delete=ON")
    try:
        yield
    finally:
        db.execute(f"PRAGMA secure_delete={before}")


def _states(db: sqlite3.Connection, position: int) -> dict[int, str]:
    found = db.execute(queries()["aside_of_event"], {"position": position})
    return {row["sink"]: row["state"] for row in found}


def empty_write_ahead(db: sqlite3.Connection) -> bool:
    """Write everything into the file and empty the write-ahead log; False where somebody reads an older state.

    That is not waited for here: it is the thread of the store, and everybody would wait with it.
    """
    before = db.execute("PRAGMA busy_timeout").fetchone()[0]
    db.execute("PRAGMA busy_timeout=0")
    try:
        return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        db.execute(f"PRAGMA busy_timeout={before}")


def still_read() -> BridgeError:
    """Return what to say where it could not be emptied within ``READER_TRIES``."""
    return BridgeError(
        "everything is overwritten, but somebody reads the store all the time (a backup, a command, the page), "
        "and until that is over the name stays in its write-ahead log: forget it once more then"
    )
