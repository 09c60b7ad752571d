"""Full walks against a real SQLite file; what they see is given by the test."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, begin_walk, caught_up, delete_missing, observe
from bridge.events import cloudevents
from bridge.events.checksum import checksum
from bridge.events.normalize import Rules
from bridge.model import AccountGuid, Certificate, ChangeKind, Cursor, Reason, Row
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import HQ, batch, cursor, row

RULES = Rules(key=b"k" * 32)
NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        yield opened


def absent(store: SqliteStore) -> int:
    """Return how many accounts the last proven walk did not see, held ones excepted."""
    certificate = store.certificate(HQ)
    return 0 if certificate is None else certificate.absent - certificate.held


def know(store: SqliteStore, *rows: Row, since: Cursor | None = None) -> None:
    ingest(store, batch(*rows, since=since), rules=RULES, now=NOW)


def walked(
    store: SqliteStore, *seen: Row, deletion_limit: DeletionLimit | None = None, is_accepted: bool = False
) -> tuple[Certificate, list[str]]:
    """A proven full walk that sees these rows; returns its certificate and who was deleted."""
    begin_walk(store, HQ)
    record = WalkRecord(NOW)
    observe(store, HQ, list(seen), record, rules=RULES, now=NOW)
    caught_up(store, HQ, record, ends_initial=True, rules=RULES, now=NOW)
    certificate, deleted = delete_missing(
        store,
        HQ,
        record,
        rules=RULES,
        now=NOW,
        deletion_limit=deletion_limit or DeletionLimit(),
        is_accepted=is_accepted,
    )
    return certificate, [change.account["guid"] for change in deleted]


def events(store: SqliteStore) -> list[cloudevents.AccountChanged]:
    rows = unsent(store.exchange)
    return [cloudevents.decode(found.body) for found in rows if found.event_type == cloudevents.ACCOUNT_CHANGED]


def crowd(count: int) -> list[Row]:
    return [row(f"account-{number:03}", number) for number in range(1, count + 1)]


def test_a_walk_that_sees_what_is_known_certifies_it_and_tells_no_change(store: SqliteStore) -> None:
    know(store, row("a", 1), row("b", 2))
    certificate, deleted = walked(store, row("a", 1), row("b", 2))
    assert (certificate.accounts, certificate.repaired, certificate.absent, deleted) == (2, 0, 0, [])
    assert len(events(store)) == 2
    told = [found for found in unsent(store.exchange) if found.event_type == cloudevents.SOURCE_VERIFIED]
    assert [(found.routing_key, found.sequence) for found in told] == [("hq.source.verified", 2)]
    assert store.verified_at(HQ) == NOW
    assert absent(store) == 0


def test_a_certificate_has_the_checksum_of_who_is_present_seen_or_not(store: SqliteStore) -> None:
    know(store, row("a", 1), row("b", 2), row("b", 3, dn="new"), row("c", 4), row("c", 5, is_deleted=True))
    certificate, _ = walked(store, row("a", 1))
    lineage = store.place(HQ).lineage
    assert (certificate.accounts, certificate.absent) == (2, 1)
    assert certificate.checksum == checksum([(lineage, "a", 1), (lineage, "b", 2)])
    (told,) = (found for found in unsent(store.exchange) if found.event_type == cloudevents.SOURCE_VERIFIED)
    assert cloudevents.decode_certificate(told.body).checksum == certificate.checksum
    assert store.certificate(HQ) == certificate


def test_an_event_that_is_never_sent_is_counted_all_the_same(store: SqliteStore) -> None:
    """The certificate says what should be there, so that it shows what somebody discarded."""
    know(store, row("a", 1))
    (told,) = unsent(store.exchange)
    store.exchange.park(told, "refused", NOW)
    store.discard(told.position, "nobody wants it", NOW)
    certificate, _ = walked(store, row("a", 1))
    assert [found.event_type for found in unsent(store.exchange)] == [cloudevents.SOURCE_VERIFIED]
    assert certificate.checksum == checksum([(store.place(HQ).lineage, "a", 1)])


def test_what_the_pbx_changed_behind_our_back_is_repaired_with_an_id_of_its_own(store: SqliteStore) -> None:
    know(store, row("a", 9, dn="old"))
    certificate, _ = walked(store, row("a", 3, dn="new"))
    assert certificate.repaired == 1
    assert [(event.kind, event.changed) for event in events(store)][1] == (ChangeKind.UPDATED, ("display_name",))
    assert len({event.event_id for event in events(store)}) == 2


def test_other_numbers_for_the_same_content_are_remembered_silently(store: SqliteStore) -> None:
    """A standby that took over counts in its own way; nothing changed for that."""
    know(store, row("a", 9))
    assert walked(store, row("a", 3))[0].repaired == 0
    know(store, row("a", 3), since=cursor(9))
    assert len(events(store)) == 1


def test_what_the_live_cursor_told_meanwhile_is_no_repair(store: SqliteStore) -> None:
    know(store, row("a", 1, dn="old"))
    begin_walk(store, HQ)
    record = WalkRecord(NOW)
    observe(store, HQ, [row("a", 1, dn="stale")], record, rules=RULES, now=NOW)
    live = row("a", 2, dn="new")
    know(store, live, since=cursor(1))
    record.heard_live([live])
    assert not caught_up(store, HQ, record, ends_initial=True, rules=RULES, now=NOW).changes
    assert [event.account["display_name"] for event in events(store)] == ["old", "new"]


@pytest.mark.parametrize("is_known", [False, True], ids=["never there", "deleted"])
def test_what_is_left_of_an_account_in_the_list_is_no_account(store: SqliteStore, *, is_known: bool) -> None:
    """Some PBXs may leave nothing but a guid there of an account that is gone."""
    if is_known:
        know(store, row("a", 1), row("a", 2, is_deleted=True))
    before = len(events(store))
    certificate, _ = walked(store, Row(cursor(2), AccountGuid("a"), None, None))
    assert (certificate.accounts, certificate.repaired) == (0, 0)
    assert len(events(store)) == before


def test_an_account_of_which_a_walk_finds_that_it_is_deleted_is_not_seen(store: SqliteStore) -> None:
    """Under the numbers that are known, or behind another row of it in the same walk."""
    know(store, row("a", 1), row("b", 2))
    seen = [row("a", 1, is_deleted=True), row("b", 3, dn="new"), row("b", 4, is_deleted=True)]
    certificate, _ = walked(store, *seen)
    assert (certificate.absent, certificate.repaired) == (2, 0)
    _, deleted = walked(store, *seen, deletion_limit=DeletionLimit(max_share=1))
    assert sorted(deleted) == ["a", "b"]


def test_an_account_is_deleted_when_two_proven_walks_did_not_see_it(store: SqliteStore) -> None:
    know(store, row("a", 1), row("b", 2, dn="Last Known"))
    first, deleted = walked(store, row("a", 1))
    assert (first.absent, absent(store), deleted) == (1, 1, [])
    second, deleted = walked(store, row("a", 1))
    assert (second.accounts, second.deleted, second.absent, deleted) == (1, 1, 0, ["b"])
    last = events(store)[-1]
    assert (last.kind, last.reason, last.account["display_name"]) == (ChangeKind.DELETED, Reason.MISSING, "Last Known")


def test_what_an_earlier_epoch_did_not_see_means_nothing(store: SqliteStore) -> None:
    assert absent(store) == 0, "not even the source is known"
    know(store, row("a", 1), row("b", 2))
    walked(store, row("a", 1))
    begin_walk(store, HQ, epoch=(store.place(HQ).cursor, Cursor()))
    assert absent(store) == 0


def test_an_account_seen_in_between_counts_from_the_start(store: SqliteStore) -> None:
    know(store, row("a", 1), row("b", 2))
    walked(store, row("a", 1))
    walked(store, row("a", 1), row("b", 2))
    assert walked(store, row("a", 1))[1] == []


@pytest.mark.parametrize(("accounts", "gone", "is_held"), [
    (20, 1, False), (1, 1, False), (100, 5, False), (100, 6, True), (1000, 20, False), (1000, 21, True),
])  # fmt: skip
def test_too_many_deletions_at_once_wait_for_a_human_yes(
    store: SqliteStore, accounts: int, gone: int, *, is_held: bool
) -> None:
    everybody = crowd(accounts)
    know(store, *everybody)
    walked(store, *everybody[gone:])
    certificate, deleted = walked(store, *everybody[gone:])
    assert (certificate.held, len(deleted)) == ((gone, 0) if is_held else (0, gone))
    assert absent(store) == 0, "nothing that another walk could confirm"
    if is_held:
        certificate, deleted = walked(store, *everybody[gone:], is_accepted=True)
        assert (certificate.held, len(deleted), certificate.accounts) == (0, gone, accounts - gone)


def test_more_deletions_than_fit_into_one_transaction_are_all_told(store: SqliteStore) -> None:
    everybody = crowd(1200)
    know(store, *everybody)
    walked(store)
    certificate, deleted = walked(store, is_accepted=True)
    assert (certificate.accounts, len(deleted)) == (0, 1200)
    assert [event.sequence for event in events(store)] == list(range(1, 2401))


def test_a_deleted_account_that_returns_with_its_old_numbers_is_a_new_event(store: SqliteStore) -> None:
    know(store, row("a", 1))
    walked(store)
    walked(store)
    walked(store, row("a", 1))
    told = events(store)
    assert [(event.kind, event.reason) for event in told] == [
        (ChangeKind.INITIAL, None),
        (ChangeKind.DELETED, Reason.MISSING),
        (ChangeKind.CREATED, Reason.RESTORED),
    ]
    assert len({event.event_id for event in told}) == 3


def test_a_new_epoch_is_not_verified_until_it_was_walked(store: SqliteStore) -> None:
    know(store, row("a", 1))
    walked(store, row("a", 1))
    begin_walk(store, HQ, epoch=(store.place(HQ).cursor, Cursor()))
    assert store.verified_at(HQ) is None
