"""Batches become durable: cursor, mirror and outbox rows in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bridge import cloudevents
from bridge.delivery.contracts import Store, Transaction
from bridge.errors import CursorMoved
from bridge.judgement import Judgement, judge, judge_missing, judge_repair, publish_anew
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
from bridge.normalize import Rules, account_key


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
        posting.take(batch.rows)
        return posting.finish(store.lineage, now, since=batch.since, until=batch.until)


class Posting:
    """One transaction's worth of judged rows; later ones see the effect of earlier ones.

    The store is asked about many rows at once: measured, that takes a third of the time of asking about each.
    """

    def __init__(self, transaction: Transaction, source: SourceName, rules: Rules) -> None:
        self._transaction = transaction
        self._source = source
        self._rules = rules
        self._place = transaction.place(source)
        self._accounts: dict[str, Mirrored] = {}
        self._seen: dict[str, None] = {}
        self._changes: dict[str, AccountChange] = {}
        self._told: dict[str, bytes | None] = {}
        """Bodies of events made before, by id, as far as they were asked for."""

    def take(self, rows: Sequence[Row]) -> None:
        """Judge rows that the live cursor delivered, in order."""
        for apart in _apart(rows):
            self._take(apart)

    def _take(self, rows: Mapping[str, Row]) -> None:
        known = self.known(list(rows))
        judgements = {
            key: judge(row, known.get(key), source=self._source, rules=self._rules) for key, row in rows.items()
        }
        versions = {
            key: _versions(judgement.change, known.get(key))
            for key, judgement in judgements.items()
            if judgement.change is not None
        }
        self._look_up([identity for identities in versions.values() for identity in identities])
        self._seen |= dict.fromkeys(rows)
        for key, judgement in judgements.items():
            change = judgement.change
            # An older version that was told already: a PBX that starts its list again.
            is_repetition = change is not None and any(
                self._account_told(identity) == change.account for identity in versions[key][1:]
            )
            if not is_repetition:
                self._post(key, known.get(key), judgement, *versions.get(key, ())[:1])

    def repair(self, row: Row) -> None:
        """Judge a row that a full walk found and the live cursor does not explain."""
        key = account_key(row.account_guid)
        before = self.known([key]).get(key)
        self._post(key, before, judge_repair(row, before, source=self._source, rules=self._rules))

    def delete(self, key: str, known: Mirrored) -> None:
        """Post the deletion of an account that proven full walks did not find."""
        self._post(key, known, judge_missing(known, source=self._source))

    def see(self, keys: Sequence[str]) -> None:
        """Record accounts that a full walk found just as they are known."""
        self._seen |= dict.fromkeys(keys)

    def known(self, keys: Sequence[str]) -> Mapping[str, Mirrored]:
        """Return what is known of accounts at this point of the transaction."""
        fresh = {key: self._accounts[key] for key in keys if key in self._accounts}
        asked = [key for key in keys if key not in fresh]
        return {**self._transaction.mirrored(self._source, asked), **fresh} if asked else fresh

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

    def _post(self, key: str, before: Mirrored | None, judgement: Judgement, identity: str = "") -> None:
        change = judgement.change
        if change is not None:
            identity = identity or cloudevents.former_event_id(change)
            while self._account_told(identity) is not None:
                judgement = publish_anew(judgement)
                change = judgement.change or change
                identity = cloudevents.former_event_id(change)
            self._changes[identity] = change
            reused = change.reuse - (before.reuse if before is not None else 0)
            if reused:
                self._place = replace(self._place, rewinds=self._place.rewinds + reused)
        if judgement.remember is not before:
            self._accounts[key] = judgement.remember

    def _account_told(self, identity: str) -> Any:
        """Return the account as the event of this id tells it, if there is one."""
        if (change := self._changes.get(identity)) is not None:
            return change.account
        if identity not in self._told:
            self._look_up([identity])
        body = self._told[identity]
        return None if body is None else cloudevents.decode(body).account

    def _look_up(self, identities: Sequence[str]) -> None:
        self._told |= dict.fromkeys(identities)
        self._told |= self._transaction.bodies_of_events(identities)


def _apart(rows: Sequence[Row]) -> Iterator[Mapping[str, Row]]:
    """Cut *rows* into stretches, by key, in which no account comes twice."""
    stretch: dict[str, Row] = {}
    for row in rows:
        key = account_key(row.account_guid)
        if key in stretch:
            yield stretch
            stretch = {}
        stretch[key] = row
    yield stretch


def _versions(change: AccountChange, before: Mirrored | None) -> Sequence[str]:
    """Return the id of *change*, and the ids under which it may have been told before if it is an old version."""
    own = cloudevents.former_event_id(change)
    if before is None or change.cursor == before.cursor:
        return (own,)
    if change.kind is ChangeKind.DELETED:
        return (own, own)
    other = ChangeKind.CREATED if change.kind is ChangeKind.UPDATED else ChangeKind.UPDATED
    return (own, own, cloudevents.former_event_id(change._replace(kind=other)))
