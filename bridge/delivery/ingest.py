"""Batches become durable: cursor, mirror and outbox rows in one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bridge import cloudevents
from bridge.delivery.contracts import Store, Transaction
from bridge.errors import CursorMoved
from bridge.model import (
    AccountChange,
    AccountGuid,
    Batch,
    ChangeKind,
    Cursor,
    Mirrored,
    NewEvent,
    Place,
    Row,
    SourceName,
)
from bridge.normalize import Judgement, Rules, account_key, judge, judge_missing, judge_repair, publish_anew


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch."""

    place: Place
    changes: Sequence[AccountChange]
    """The changes that are now on their way, in order."""


def ingest(store: Store, batch: Batch, *, rules: Rules, now: datetime) -> Ingested:
    """Make *batch* durable. Every row counts as seen by the walk under way, changed or not.

    Raises:
        CursorMoved: the durable cursor is not where the batch begins; another bridge moved it.
        StoreUnusable: from the store; nothing of the batch is durable then.

    """
    with store.transaction() as transaction:
        posting = Posting(transaction, batch.source, rules)
        for row in batch.rows:
            posting.take(row)
        return posting.finish(store.lineage, now, since=batch.since, until=batch.until)


class Posting:
    """One transaction's worth of judged rows; later ones see the effect of earlier ones."""

    def __init__(self, transaction: Transaction, source: SourceName, rules: Rules) -> None:
        self._transaction = transaction
        self._source = source
        self._rules = rules
        self._place = transaction.place(source)
        self._accounts: dict[str, Mirrored] = {}
        self._seen: dict[str, None] = {}
        self._changes: dict[str, AccountChange] = {}

    def take(self, row: Row) -> None:
        """Judge a row that the live cursor delivered."""
        key = account_key(row.account_guid)
        before = self.known(key)
        self._seen[key] = None
        judgement = judge(row, before, source=self._source, rules=self._rules)
        if judgement.change is None or not self._is_repetition(judgement.change, before):
            self._post(key, before, judgement)

    def repair(self, row: Row) -> None:
        """Judge a row that a full walk found and the live cursor does not explain."""
        key = account_key(row.account_guid)
        before = self.known(key)
        self._post(key, before, judge_repair(row, before, source=self._source, rules=self._rules))

    def delete(self, key: str, known: Mirrored) -> None:
        """Post the deletion of an account that proven full walks did not find."""
        self._post(key, known, judge_missing(known, source=self._source))

    def see(self, keys: Sequence[str]) -> None:
        """Record accounts that a full walk found just as they are known."""
        self._seen |= dict.fromkeys(keys)

    def known(self, key: str) -> Mirrored | None:
        """Return what is known of an account at this point of the transaction."""
        return self._accounts.get(key) or self._transaction.mirrored(self._source, key)

    def finish(
        self, lineage: str, now: datetime, *, since: Cursor | None = None, until: Cursor | None = None
    ) -> Ingested:
        """Write everything, and move the cursor from *since* to *until* where those are given.

        Raises:
            CursorMoved: the durable cursor is not at *since*.

        """
        sequence, events = self._place.sequence, []
        for identity, change in self._changes.items():
            sequence += 1
            body = cloudevents.encode(change, identity=identity, sequence=sequence, lineage=lineage, time=now)
            account, key = account_key(AccountGuid(change.account["guid"])), cloudevents.routing_key(change)
            events.append(NewEvent(sequence, identity, cloudevents.ACCOUNT_CHANGED, account, key, body, now))
        known = self._place.cursor
        place = replace(self._place, cursor=known if until is None else until, sequence=sequence)
        if not self._transaction.move(self._source, known if since is None else since, place):
            raise CursorMoved(
                f"the cursor of {self._source} was moved by somebody else: another bridge works on the same store. "
                "Stop one of the two"
            )
        self._transaction.remember(self._source, self._accounts, place.walk)
        self._transaction.mark_seen(self._source, [key for key in self._seen if key not in self._accounts], place.walk)
        self._transaction.add_events(self._source, events)
        return Ingested(place, list(self._changes.values()))

    def _post(self, key: str, before: Mirrored | None, judgement: Judgement) -> None:
        judgement = self._with_free_id(judgement)
        change = judgement.change
        if change is not None:
            self._changes[cloudevents.event_id(change)] = change
            reused = change.reuse - (before.reuse if before is not None else 0)
            self._place = replace(self._place, rewinds=self._place.rewinds + reused)
        if judgement.remember is not before:
            self._accounts[key] = judgement.remember

    def _is_repetition(self, change: AccountChange, before: Mirrored | None) -> bool:
        """Tell whether *change* is an older version that was told already: a PBX that starts its list again."""
        if before is None or change.cursor == before.cursor:
            return False
        kinds = (ChangeKind.CREATED, ChangeKind.UPDATED) if change.kind is not ChangeKind.DELETED else (change.kind,)
        return any(self._account_told(replace(change, kind=kind)) == change.account for kind in kinds)

    def _with_free_id(self, judgement: Judgement) -> Judgement:
        while judgement.change is not None and self._account_told(judgement.change) is not None:
            judgement = publish_anew(judgement)
        return judgement

    def _account_told(self, change: AccountChange) -> Any:
        identity = cloudevents.event_id(change)
        if (told := self._changes.get(identity)) is not None:
            return told.account
        body = self._transaction.body_of_event(identity)
        return None if body is None else cloudevents.decode(body).account
