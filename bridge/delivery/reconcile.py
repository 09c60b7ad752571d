"""What a full walk proves: that the mirror is complete, what it missed, and what is no longer there.

A walk only looks. What it sees otherwise than the mirror knows may be news that the live cursor is about to tell, so it
is a *suspect* until the live cursor has caught up once more; what is suspect then is a repair. Accounts are
deleted only where full walks that were proven complete did not see them, and never too many at once.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from bridge.delivery.ingest import Ingested, Posting, moved
from bridge.errors import CursorMoved
from bridge.events import cloudevents
from bridge.events.checksum import checksum
from bridge.events.normalize import Rules, account_key, digest
from bridge.model import AccountChange, Certificate, Cursor, NewEvent, Row, SourceName
from bridge.store.contract import SourceStore

PAGE_ACCOUNTS: Final = 500
"""Deleted in one transaction."""


@dataclass(frozen=True, slots=True)
class DeletionLimit:
    """When absence is believed, and how many deletions at once need a human yes."""

    walks: int = 2
    """Proven full walks in a row that must not have seen an account."""
    max_accounts: int = 20
    max_share: float = 0.05

    def holds(self, missing: int, present: int) -> bool:
        """Tell whether deleting *missing* of *present* accounts is too much to do unasked."""
        return missing > self.max_accounts or missing > max(1, self.max_share * present)


@dataclass(slots=True)
class WalkRecord:
    """What is known of the full walk under way; in memory only, since an interrupted walk is void."""

    started_at: datetime
    suspects: dict[str, Row] = field(default_factory=dict)
    repaired: int = 0

    def heard_live(self, rows: list[Row]) -> None:
        """Forget suspects of which the live cursor told something newer."""
        for row in rows:
            self.suspects.pop(account_key(row.account_guid), None)


def begin_walk(store: SourceStore, source: SourceName, *, epoch: tuple[Cursor, Cursor] | None = None) -> None:
    """Give the walk that begins now a number of its own.

    With *epoch* the cursor moves from the first to the second place, the start of another list, in the same commit:
    what was certified of the former list means nothing in it.

    Raises:
        CursorMoved: the durable cursor is not at the first place; another bridge moved it.

    """
    with store.transaction() as transaction:
        place = transaction.place(source)
        if epoch is not None and not transaction.move(source, epoch[0], replace(place, cursor=epoch[1])):
            raise CursorMoved(moved(source))
        transaction.begin_walk(source, place.walk + 1, is_new_epoch=epoch is not None)


def caught_up(  # noqa: PLR0913 - a walk is recorded in memory, beside the store
    store: SourceStore, source: SourceName, walk: WalkRecord | None, *, ends_initial: bool, rules: Rules, now: datetime
) -> Ingested:
    """Repair what is suspect although the live cursor has caught up: it will not tell.

    With *ends_initial* what appears later is new.
    """
    suspects = walk.suspects if walk is not None else {}
    with store.transaction() as transaction:
        posting = Posting(transaction, source, rules)
        for row in suspects.values():
            posting.repair(row)
        posting.see(list(suspects))
        done = posting.finish(now)
        if ends_initial:
            transaction.end_initial(source)
    if walk is not None:
        walk.suspects.clear()
        walk.repaired += len(done.changes)
    return done


def observe(  # noqa: PLR0913 - a walk is recorded in memory, beside the store
    store: SourceStore, source: SourceName, rows: list[Row], walk: WalkRecord, *, rules: Rules, now: datetime
) -> Ingested:
    """Compare what a walk saw with the mirror; equal accounts are marked as seen, others become suspects.

    An equal account of which other things are told now, since the rules are new, is told so at once.
    """
    with store.transaction() as transaction:
        posting = Posting(transaction, source, rules)
        mirror = posting.known([account_key(row.account_guid) for row in rows])
        for row in rows:
            key = account_key(row.account_guid)
            known = mirror.get(key)
            is_as_known = (
                known is not None
                and not known.is_deleted
                and known.cursor == row.cursor
                and known.digest == digest(row, rules.key)
            )
            walk.suspects.pop(key, None)
            if row.is_deleted:  # for the live cursor to tell, or for walks that do not see it
                continue
            if is_as_known:
                posting.see([key])
                if rules.is_new:
                    posting.repair(row)
            else:
                walk.suspects[key] = row
        return posting.finish(now)


def delete_missing(  # noqa: PLR0913 - what a decision about deletions has to weigh
    store: SourceStore,
    source: SourceName,
    walk: WalkRecord,
    *,
    rules: Rules,
    now: datetime,
    deletion_limit: DeletionLimit,
    is_accepted: bool = False,
) -> tuple[Certificate, list[AccountChange]]:
    """End a proven walk: delete what it and enough walks before it did not see, and certify the rest.

    With *is_accepted* an operator has said yes to any number of deletions.
    """
    with store.transaction() as transaction:
        number = transaction.place(source).walk
        transaction.count_missed(source, number)
        missing = transaction.count_accounts(source, deletion_limit.walks)
        absent = transaction.count_accounts(source, 1)
        is_held = deletion_limit.holds(missing, transaction.count_accounts(source, 0)) and not is_accepted
    deleted = [] if is_held else _delete_absent(store, source, deletion_limit, rules=rules, now=now)
    with store.transaction() as transaction:
        place = transaction.place(source)
        certificate = Certificate(
            source=source,
            walk=number,
            started_at=walk.started_at,
            verified_at=now,
            accounts=transaction.count_accounts(source, 0),
            repaired=walk.repaired,
            deleted=len(deleted),
            held=missing if is_held else 0,
            absent=absent - len(deleted),
            sequence=place.sequence,
            completes_lineage=not place.is_complete,
            checksum=checksum((place.lineage, key, revision) for key, revision in transaction.revisions(source)),
        )
        transaction.certify(certificate)
        transaction.add_events(source, [certificate_event(certificate, place.lineage)])
    return certificate, deleted


def _delete_absent(
    store: SourceStore, source: SourceName, deletion_limit: DeletionLimit, *, rules: Rules, now: datetime
) -> list[AccountChange]:
    deleted: list[AccountChange] = []
    while True:
        with store.transaction() as transaction:
            missing = transaction.missing(source, deletion_limit.walks, PAGE_ACCOUNTS)
            posting = Posting(transaction, source, rules)
            for key, known in missing.items():
                posting.delete(key, known)
            deleted += posting.finish(now).changes
        if len(missing) < PAGE_ACCOUNTS:
            return deleted


def certificate_event(certificate: Certificate, lineage: str) -> NewEvent:
    """Return the event that tells *certificate*."""
    identity = cloudevents.certificate_id(certificate, lineage)
    return NewEvent(
        certificate.sequence,
        identity,
        cloudevents.SOURCE_VERIFIED,
        None,
        cloudevents.certificate_key(certificate),
        cloudevents.encode_certificate(certificate, identity=identity, lineage=lineage),
        certificate.verified_at,
    )
