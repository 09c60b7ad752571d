"""A store moved from one engine to another, both closed to bridges meanwhile.

Whole tables are copied in pages, each page in one transaction with the note how far that is: so what was interrupted
goes on where it was, unless a bridge was at work on the old store since. Ids, sequences, positions, lineages, the key
and what operators decided stay as they are, so subscribers notice nothing. In the end both are compared row by row, the
old one is marked as moved, and only then is the new one free.
"""

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from bridge.errors import BridgeError
from bridge.store.places import StorePlace
from bridge.store.tables.moments import as_text
from bridge.store.tables.notes import ARRIVING, MOVED, MOVING
from bridge.store.tables.store import TableStore

PAGE_ROWS: Final = 1000

_KEYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "source": {"id": -1},
    "caller": {"source_id": -1},
    "account": {"source_id": -1, "key": ""},
    "outbox": {"position": -1},
    "confirmed": {"sink": -1, "lane": -1, "through": -1},
    "aside": {"sink": -1, "position": -1},
}
"""The tables in their order, and by what they are paged: the names of the keys, and what is before all of them."""

_OWN: Final = frozenset({"life", "checked", MOVED, MOVING, ARRIVING})
"""Notes that an engine makes for itself, and those of the move."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved."""

    rows: Mapping[str, int]
    """By table."""
    went_on: bool
    """True where an earlier try had been interrupted."""


def migrate_store(source: StorePlace, target: StorePlace) -> Moved:
    """Move the store at *source* into *target*, which has to be empty, and mark the old one as moved.

    Raises:
        BridgeError: a bridge has one of them open, there is none, the new one is not empty, or they differ in the end.

    """
    if not source.exists():
        raise BridgeError(f"there is no store {source}")
    with ExitStack() as stack:
        old, new = _opened(source, stack), _opened(target, stack)
        moved_to = old.note(MOVED)
        if moved_to and (moved_to != str(target) or not new.note(ARRIVING)):
            raise BridgeError(f"{source} was moved to {moved_to} already")
        went_on = bool(new.note(ARRIVING)) and _word(new) == old.note(MOVING)
        if not went_on:
            _begin(old, new, target)
        rows = {table: _copy(table, old, new) for table in _KEYS}
        _copy_notes(old, new)
        for table in _KEYS:
            if _digest(table, old) != _digest(table, new):
                raise BridgeError(f"the table {table} differs in {target} from what {source} has. Nothing was marked")
        old.set_note(MOVED, str(target))
        new.set_note(ARRIVING, "")
        new.reload()
        return Moved(rows, went_on)


def _opened(place: StorePlace, stack: ExitStack) -> TableStore:
    store = place.store()
    store.is_moving = True
    return stack.enter_context(store)


def _begin(old: TableStore, new: TableStore, target: StorePlace) -> None:
    """Give both the same word, and leave nothing in the new one that an earlier try brought."""
    if not new.note(ARRIVING) and new.query("source_ids"):
        raise BridgeError(f"{target} has PBXs already. Give the store a place of its own")
    word = secrets.token_hex(8)
    with new.together():
        for table in _KEYS:
            new.change(f"empty_{table}")
        new.set_note(ARRIVING, orjson.dumps({"word": word}).decode())
    old.set_note(MOVING, word)


def _word(new: TableStore) -> str:
    return str(orjson.loads(new.note(ARRIVING))["word"])


def _copy(table: str, old: TableStore, new: TableStore) -> int:
    """Copy what of a table is not there yet, and return how many rows it has."""
    noted = orjson.loads(new.note(ARRIVING))
    reached = noted.get(table, {"after": _KEYS[table], "rows": 0})
    rows = int(reached["rows"])
    for page in _pages(table, old, reached["after"]):
        rows += len(page)
        noted[table] = {"after": {key: page[-1][key] for key in _KEYS[table]}, "rows": rows}
        with new.together():
            for row in page:
                new.change(f"put_{table}", **row)
            new.set_note(ARRIVING, orjson.dumps(noted).decode())
    return rows


def _copy_notes(old: TableStore, new: TableStore) -> None:
    """Copy what is noted about the store as a whole: key, pauses, generation, and how far the log was read."""
    with new.together():
        for name in new.notes().keys() - old.notes().keys() - _OWN:
            new.set_note(name, "")
        for name, value in old.notes().items():
            if name not in _OWN:
                new.change("set_meta_value", name=name, value=value)
        new.change("forget_position")
        new.change("set_position", position=old.exchange.last_given())


def _pages(table: str, store: TableStore, after: Mapping[str, Any]) -> Iterator[Sequence[Mapping[str, Any]]]:
    keys = _KEYS[table]
    while True:
        told = {f"after_{key}": after[key] for key in keys}
        page = [_plain(dict(row)) for row in store.query(f"page_of_{table}", **told, limit=PAGE_ROWS)]
        if not page:
            return
        yield page
        after = page[-1]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as both engines have it: times as texts."""
    return {name: as_text(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _digest(table: str, store: TableStore) -> int:
    """Return the sum of what rows hash to, since engines may have another order of texts."""
    rows = (repr(sorted(row.items())).encode() for page in _pages(table, store, _KEYS[table]) for row in page)
    return sum(int.from_bytes(hashlib.sha256(row).digest()) for row in rows)
