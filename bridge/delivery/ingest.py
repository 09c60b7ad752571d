"""Batches become durable: cursor, mirror and outbox rows in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bridge.errors import CursorMoved
from bridge.events import cloudevents
from bridge.events.diff import Diff, compare, compare_missing, compare_renamed, compare_repair, compare_retired
from bridge.events.normalize import Rules, account_key
from bridge.model import AccountChange, Batch, Cursor, Mirrored, NewEvent, Row, SourceName
from bridge.store.contract import SourceStore, Transaction
from bridge.store.records import SourceState


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch."""

    place: SourceState
    changes: Sequence[AccountChange]
    """The changes that are now on their way, in order."""


def ingest(store: SourceStore, batch: Batch, *, rules: Rules, now: datetime) -> Ingested:
    """Make *batch* durable. Every row counts as seen by the walk under way, changed or not.

    Raises:
        CursorMoved: the durable cursor is not where the batch begins; another bridge moved it.
        StoreUnusable: from the store; nothing of the batch is durable then.

    """
    with store.transaction() as transaction:
        posting = Posting(transaction, batch.source, rules)
        posting.take(batch.rows)
        return posting.finish(now, since=batch.since, until=batch.until)


def moved(source: SourceName) -> str:
    """Return what it means that the cursor of *source* is not where it was left."""
    return f"another bridge moved the cursor of {source}: it works on the same store. Stop one of the two"


class Posting:
    """One transaction's worth of judged rows; later ones see the effect of earlier ones.

    The store is asked about many rows at once: measured, that takes a third of the time of asking about each.
    """

    def __init__(self, transaction: Transaction, source: SourceName, rules: Rules) -> None:
        self._transaction = transaction
        self._source = source
        self._rules = rules
        self._place = transaction.place(source)
        self._known: dict[str, Mirrored] = {}
        """What was looked up, and what became of it here."""
        self._changed: dict[str, None] = {}
        """What of it is to be written."""
        self._seen: dict[str, None] = {}
        self._changes: list[AccountChange] = []
        self._keys: list[str] = []
        """Of the accounts of the changes."""

    def take(self, rows: Sequence[Row]) -> None:
        """Judge rows that the live cursor delivered, in order."""
        keys = [account_key(row.account_guid) for row in rows]
        self.known(keys)
        for key, row in zip(keys, rows, strict=True):
            known, is_initial = self._known.get(key), self._place.is_initial
            diff = compare(row, known, source=self._source, rules=self._rules, is_initial=is_initial)
            self._post(key, known, diff)
        self._seen |= dict.fromkeys(keys)

    def repair(self, row: Row) -> None:
        """Judge a row that a full walk found and the live cursor does not explain."""
        key = account_key(row.account_guid)
        before, is_initial = self.known([key]).get(key), self._place.is_initial
        diff = compare_repair(row, before, source=self._source, rules=self._rules, is_initial=is_initial)
        self._post(key, before, diff)

    def delete(self, key: str, known: Mirrored) -> None:
        """Post the deletion of an account that proven full walks did not find."""
        self._post(key, known, compare_missing(known, source=self._source))

    def retire(self, accounts: Mapping[str, Mirrored]) -> None:
        """Post the deletion of present accounts, by key, since their PBX is followed no more under this name."""
        for key, known in accounts.items():
            self._post(key, known, compare_retired(known, source=self._source))

    def tell_anew(self, accounts: Mapping[str, Mirrored]) -> None:
        """Post present accounts, by key, as they are known, for the first time under this name."""
        for key, known in accounts.items():
            self._post(key, known, compare_renamed(known, source=self._source))

    def see(self, keys: Sequence[str]) -> None:
        """Record accounts that a full walk found just as they are known."""
        self._seen |= dict.fromkeys(keys)

    def known(self, keys: Sequence[str]) -> Mapping[str, Mirrored]:
        """Return what is known of accounts at this point of the transaction, by key."""
        if asked := [key for key in keys if key not in self._known]:
            self._known |= self._transaction.mirrored(self._source, asked)
        return self._known

    def finish(self, now: datetime, *, since: Cursor | None = None, until: Cursor | None = None) -> Ingested:
        """Write everything, and move the cursor from *since* to *until* where those are given.

        Raises:
            CursorMoved: the durable cursor is not at *since*.

        """
        known = self._place.cursor
        place = replace(
            self._place, cursor=known if until is None else until, sequence=self._place.sequence + len(self._changes)
        )
        if not self._transaction.move(self._source, known if since is None else since, place):
            raise CursorMoved(moved(self._source))
        self._transaction.remember(self._source, {key: self._known[key] for key in self._changed}, place.walk)
        self._transaction.mark_seen(self._source, [key for key in self._seen if key not in self._changed], place.walk)
        self._transaction.add_events(self._source, self._encode(now))  # made while a database writes the mirror
        return Ingested(place, self._changes)

    def _encode(self, now: datetime) -> Sequence[NewEvent]:
        """Return the changes as events, numbered on from where the source stands."""
        sequence, lineage, events = self._place.sequence, self._place.lineage, []
        for account, change in zip(self._keys, self._changes, strict=True):
            sequence += 1
            identity = cloudevents.event_id(lineage, self._source, sequence)
            body = cloudevents.encode(change, identity=identity, sequence=sequence, lineage=lineage, time=now)
            key = cloudevents.routing_key(change)
            events.append(NewEvent(sequence, identity, cloudevents.ACCOUNT_CHANGED, account, key, body, now))
        return events

    def _post(self, key: str, before: Mirrored | None, diff: Diff) -> None:
        if diff.change is not None:
            self._changes.append(diff.change)
            self._keys.append(key)
        if diff.remember is not before:
            self._known[key] = diff.remember
            self._changed[key] = None
