"""Numbers that are never used twice: what happens when a store turns out to be an older copy of itself.

Between the copy and now, events were sent that the copy knows nothing of. If it counted on, their numbers would come
again with other content, and subscribers that look for gaps would be led astray. So a new *lineage* begins: sequences
and revisions count from 1. Ids stay the PBX's own, so that an inbox recognises what it had; what the copy had not sent
yet goes out as it is, marked as in doubt; and a full walk of every PBX finds what became different since.

Three things give a copy away: it says so itself (``account-bridge backup`` writes that into every copy); it does not
have the life that the lock file beside the store expects (a file put back by hand); the log at the broker has later
numbers of this very lineage (a whole machine set back). The last can be seen only once the broker is reached. Until
then a store is *unchecked*: it remembers where it stood, and what was made since is numbered anew before it is sent.
"""

import secrets
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from bridge.cloudevents import renumbered
from bridge.store.sql import queries

COPIED: Final = "copied"
"""Name of what a backup says about itself."""
RESTORED: Final = "restored"
"""Name of what is noted when a new lineage begins in an old store."""
_UNCHECKED: Final = "unchecked"


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a store stood when it was opened."""

    position: int
    """Of the last event in the outbox."""
    sequences: Mapping[str, int]
    """Of the last event of each source, by name."""


def new_lineage() -> str:
    """Return a lineage that no store had before; see ``cloudevents.LINEAGE``."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}Z-{secrets.token_hex(2)}"


def mark(db: sqlite3.Connection) -> Mark:
    """Return where the store stood when it was first opened without being checked; that is now, where it never was."""
    found = db.execute(queries()["meta_value"], {"name": _UNCHECKED}).fetchone()
    if found is not None:
        return Mark(**orjson.loads(found["value"]))
    sequences = {row["name"]: row["sequence"] for row in db.execute("SELECT name, sequence FROM source")}
    marked = Mark(db.execute(queries()["last_position"]).fetchone()[0], sequences)
    _set(db, _UNCHECKED, marked)
    return marked


def has_passed(marked: Mark, newest: Mapping[str, int]) -> str:
    """Return how far *newest*, the last numbers of this lineage in the log, is beyond the store; empty if it is not."""
    beyond = [
        f"{source} {sequence} instead of {marked.sequences.get(source, 0)}"
        for source, sequence in newest.items()
        if sequence > marked.sequences.get(source, 0)
    ]
    return ", ".join(beyond)


def settled(db: sqlite3.Connection) -> None:
    """Record that the store was checked."""
    db.execute(queries()["drop_meta_value"], {"name": _UNCHECKED})


def close_case(db: sqlite3.Connection) -> None:
    """Note that nothing is left to do about a restored copy, once every PBX was verified since."""
    noted = db.execute(queries()["meta_value"], {"name": RESTORED}).fetchone()
    if noted is not None and db.execute(queries()["unverified_source"]).fetchone() is None:
        _set(db, RESTORED, {**orjson.loads(noted["value"]), "is_over": True})


def begin(db: sqlite3.Connection, why: str, now: datetime, *, behind: int) -> str:
    """Begin a new lineage in an open transaction, and return it.

    Events behind position *behind* were never sent: they get numbers of the new lineage.
    """
    lineage = new_lineage()
    before = db.execute(queries()["meta_value"], {"name": "lineage"}).fetchone()["value"].decode()
    _set(db, RESTORED, {"at": now, "why": why, "lineage_before": before, "lineage": lineage})
    db.execute(queries()["set_meta_value"], {"name": "lineage", "value": lineage.encode()})
    db.execute(queries()["drop_meta_value"], {"name": COPIED})
    for query in ("doubt_unsent_until", "drop_unsent_certificates", "restart_sequences", "restart_revisions"):
        db.execute(queries()[query], {"position": behind})
    _number_anew(db, behind, lineage)
    settled(db)
    return lineage


def _number_anew(db: sqlite3.Connection, behind: int, lineage: str) -> None:
    sequences: Counter[int] = Counter()
    revisions: Counter[tuple[int, str]] = Counter()
    while rows := db.execute(queries()["unsent_behind"], {"position": behind}).fetchall():
        for row in rows:
            behind, source = row["position"], row["source_id"]
            account = (source, row["account"])
            sequences[source] += 1
            revisions[account] += 1
            numbers = {"position": behind, "source_id": source, "key": row["account"]}
            numbers |= {"sequence": sequences[source], "revision": revisions[account]}
            body = renumbered(row["body"], lineage=lineage, sequence=sequences[source], revision=revisions[account])
            for query in ("renumber_event", "renumber_account", "renumber_source"):
                db.execute(queries()[query], {**numbers, "body": body})


def _set(db: sqlite3.Connection, name: str, content: Any) -> None:
    value = orjson.dumps(content, option=orjson.OPT_UTC_Z)
    db.execute(queries()["set_meta_value"], {"name": name, "value": value})
