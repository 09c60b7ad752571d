"""A PBX gets another name, or goes: with a real store, and an inbox at the other end."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bridge.broker.stream.message import stream_message
from bridge.consumer import SqliteInbox
from bridge.delivery.ingest import Posting, ingest
from bridge.delivery.leaving import rename, retire
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, begin_walk, delete_missing, observe
from bridge.errors import BridgeError
from bridge.events.cloudevents import ACCOUNT_CHANGED, AccountChanged, decode, decode_certificate
from bridge.events.normalize import Rules
from bridge.model import Batch, ChangeKind, Cursor, OutboxRow, SourceName
from bridge.store.records import LogContents, Pause
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
BERLIN = SourceName("berlin")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path) as opened:
        tell(opened)
        yield opened


def tell(store: TableStore) -> None:
    """Have a PBX with two accounts there, and one that is gone."""
    ingest(store, batch(row("a", 1), row("b", 2), row("c", 3)), rules=RULES, now=NOW)
    changes = batch(row("b", 4, dn="other"), row("c", 5, is_deleted=True), since=cursor(3))
    ingest(store, changes, rules=RULES, now=NOW)
    with store.transaction() as transaction:
        transaction.end_initial(HQ)


def events(rows: list[OutboxRow]) -> list[AccountChanged]:
    return [decode(found.body) for found in rows if found.event_type == ACCOUNT_CHANGED]


def renamed(store: SqliteStore, *, tells_deletions: bool = True) -> list[AccountChanged]:
    rename(store, HQ, BERLIN, now=NOW, tells_deletions=tells_deletions)
    return events(list(unsent(store.exchange)))


def test_a_renamed_pbx_ends_under_its_former_name_and_then_begins_under_the_new_one(store: SqliteStore) -> None:
    before = events(list(send_all(store.exchange, NOW)))
    told = renamed(store)
    assert [(event.source, event.kind, event.account_guid, event.revision) for event in told] == [
        ("hq", ChangeKind.DELETED, "a", 1),
        ("hq", ChangeKind.DELETED, "b", 1),
        ("berlin", ChangeKind.INITIAL, "a", 1),
        ("berlin", ChangeKind.INITIAL, "b", 1),
    ]
    assert [event.sequence for event in told] == [1, 2, 1, 2]
    former, ending, beginning = ({event.lineage for event in part} for part in (before, told[:2], told[2:]))
    assert [len(former), len(ending), len(beginning)] == [1, 1, 1]
    assert max(former) < max(ending) < max(beginning)
    assert len({event.event_id for event in before + told}) == len(before) + len(told)


def test_a_renamed_pbx_is_read_on_from_where_it_was(store: SqliteStore) -> None:
    send_all(store.exchange, NOW)
    renamed(store)
    place = store.place(BERLIN)
    assert (place.cursor, place.is_initial, place.is_complete) == (cursor(5), False, False)
    send_all(store.exchange, NOW)
    later = Batch(BERLIN, cursor(5), cursor(7), (row("a", 6, dn="newer"), row("d", 7)))
    ingest(store, later, rules=RULES, now=NOW)
    told = events(list(unsent(store.exchange)))
    assert [(event.kind, event.revision, event.sequence) for event in told] == [("updated", 2, 3), ("created", 1, 4)]


def test_what_went_before_the_rename_is_found_missing_after_it(store: SqliteStore) -> None:
    """The mirror is kept: a deletion that nobody told is not lost between two names."""
    send_all(store.exchange, NOW)
    renamed(store)
    for _ in range(2):
        begin_walk(store, BERLIN)
        walk = WalkRecord(NOW)
        observe(store, BERLIN, [row("a", 1)], walk, rules=RULES, now=NOW)
        certificate, deleted = delete_missing(
            store, BERLIN, walk, rules=RULES, now=NOW, deletion_limit=DeletionLimit(max_share=1.0)
        )
    assert [change.account["guid"] for change in deleted] == ["b"]
    assert (certificate.source, certificate.accounts) == (BERLIN, 1)


def test_a_subscriber_with_an_inbox_has_everybody_once_after_a_rename(store: SqliteStore) -> None:
    """Also one that was told nothing of the former name has nobody twice under the new one."""
    crm = sqlite3.connect(":memory:")
    inbox = SqliteInbox(crm)
    inbox.create_tables()
    people: set[tuple[str, str]] = set()

    def apply(rows: list[OutboxRow]) -> None:
        for event in events(rows):
            with crm:
                if inbox.accept(event):
                    (people.discard if event.kind == "deleted" else people.add)((event.source, event.account_guid))

    apply(list(send_all(store.exchange, NOW)))
    assert people == {("hq", "a"), ("hq", "b")}
    renamed(store)
    told = list(send_all(store.exchange, NOW))
    apply(told)
    apply(told)  # delivered twice
    assert people == {("berlin", "a"), ("berlin", "b")}
    begin_walk(store, BERLIN)
    walk = WalkRecord(NOW)
    observe(store, BERLIN, [row("a", 1), row("b", 4, dn="other")], walk, rules=RULES, now=NOW)
    delete_missing(store, BERLIN, walk, rules=RULES, now=NOW, deletion_limit=DeletionLimit())
    (proof,) = [found for found in unsent(store.exchange) if found.event_type != ACCOUNT_CHANGED]
    assert proof.routing_key == "berlin.source.verified"
    certificate = decode_certificate(proof.body)
    assert (certificate.completes_lineage, certificate.accounts) == (True, 2)
    assert list(inbox.gone(certificate)) == []


def test_without_deletions_the_former_name_is_told_nothing(store: SqliteStore) -> None:
    send_all(store.exchange, NOW)
    assert {event.source for event in renamed(store, tells_deletions=False)} == {"berlin"}


def test_what_is_told_of_the_former_name_says_so_everywhere(store: SqliteStore) -> None:
    send_all(store.exchange, NOW)
    renamed(store)
    first = unsent(store.exchange)[0]
    assert first.routing_key == "hq.account.deleted"
    message = stream_message(first, exchange="pbx.accounts")
    assert b"\xa1\x06source\xa1\x02hq" in message


def test_a_name_that_was_in_use_begins_behind_everything_it_ever_told(store: SqliteStore) -> None:
    """There and back again, and with a PBX that gets the name in between: no id is given twice."""
    told = events(list(send_all(store.exchange, NOW)))
    for before, after in ((HQ, BERLIN), (BERLIN, HQ), (HQ, BERLIN)):
        rename(store, before, after, now=NOW, tells_deletions=True)
        told += events(list(send_all(store.exchange, NOW)))
    ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)  # another PBX that is called hq
    told += events(list(send_all(store.exchange, NOW)))
    assert len({event.event_id for event in told}) == len(told)
    for source in ("hq", "berlin"):
        order = [(event.lineage, event.sequence) for event in told if event.source == source]
        assert order == sorted(order)
        assert len(set(order)) == len(order)


def test_a_rename_that_is_broken_off_has_not_happened(store: SqliteStore) -> None:
    send_all(store.exchange, NOW)

    class BrokenOff(Exception):  # noqa: N818 - what it is
        pass

    with pytest.raises(BrokenOff), store.transaction() as transaction:
        transaction.rename(HQ, BERLIN)
        raise BrokenOff
    assert store.place(HQ).cursor == cursor(5)
    assert not unsent(store.exchange)
    assert list(store.leavers.left(frozenset())) == [HQ]


def test_a_pause_goes_along(store: SqliteStore) -> None:
    send_all(store.exchange, NOW)
    store.pause(HQ, Pause(NOW, "firmware"))
    renamed(store)
    assert set(store.paused()) == {BERLIN}


def test_an_older_copy_from_before_a_rename_is_recognised_by_the_log(store: SqliteStore) -> None:
    """It knows the former name, and of that the log has the end."""
    send_all(store.exchange, NOW)
    known = store.given()
    (ended,) = {event.lineage for event in renamed(store) if event.source == "hq"}
    assert (ended, 2) > known[HQ][:2]


def test_a_name_ends_also_for_accounts_that_this_state_of_the_store_does_not_know(store: SqliteStore) -> None:
    """A machine that was set back and not compared with the log yet: nothing that is told collides with what was."""
    crm = sqlite3.connect(":memory:")
    inbox = SqliteInbox(crm)
    inbox.create_tables()
    known = events(list(send_all(store.exchange, NOW)))
    later = [
        replace(known[0], account={**known[0].account, "guid": "new"}, sequence=6, event_id="of what was set back")
    ]
    for event in known + later:
        assert inbox.accept(event)
    rename(store, HQ, BERLIN, now=NOW, tells_deletions=True)
    rows = list(send_all(store.exchange, NOW))
    for event in events(rows):
        assert inbox.accept(event)
    (proof,) = [found for found in rows if found.event_type != ACCOUNT_CHANGED]
    assert list(inbox.gone(decode_certificate(proof.body))) == ["new"]


# ---------------------------------------------------------------------------------------------- retired


def test_all_rows_of_a_retired_pbx_go_once_everything_is_sent(store: SqliteStore, path: Path) -> None:
    other = Batch(BERLIN, Cursor(), cursor(1), (row("z", 1),))
    ingest(store, other, rules=RULES, now=NOW)
    done = retire(store, HQ, [BERLIN], now=NOW, tells_deletions=True)
    assert (done.told, done.is_gone) == (2, False)
    assert store.leavers.remove_retired() == []
    assert store.leavers.left({BERLIN})[HQ].is_waiting
    assert store.leavers.sent({HQ, SourceName("nobody")}) == ["nobody"]
    told = events(list(send_all(store.exchange, NOW)))
    assert [event.account_guid for event in told if event.source == "hq" and event.kind == "deleted"] == ["c", "a", "b"]
    assert store.leavers.remove_retired() == [HQ]
    with StoreReader(path) as reader:
        assert [source.name for source in reader.sources()] == [BERLIN]
        assert {known.source for known in reader.accounts()} == {BERLIN}
        assert {event.source for page in reader.events() for event in page} == {BERLIN}
    assert store.backlog.rows == 0


def test_whoever_relays_may_ask_for_the_lane_of_a_pbx_that_is_gone(store: SqliteStore) -> None:
    """A running bridge keeps the lane, and wakes all of them at every decision of an operator."""
    send_all(store.exchange, NOW)
    ingest(store, Batch(BERLIN, Cursor(), cursor(1), (row("z", 1),)), rules=RULES, now=NOW)
    assert retire(store, HQ, [BERLIN], now=NOW, tells_deletions=False).is_gone
    rows = store.exchange.unpublished({HQ: 0, BERLIN: 0}, 100, 100)
    assert [found.source for found in rows] == [BERLIN]
    assert (list(store.exchange.lanes()), store.backlog.rows) == ([BERLIN], 1)
    store.exchange.mark_published(rows, NOW)
    assert store.prune(NOW + timedelta(days=30), 100) == 1


def test_a_pbx_that_gets_a_retired_name_begins_behind_it(store: SqliteStore, path: Path) -> None:
    """By number and by file: neither a reused row nor a new start gives anything twice."""
    told = events(list(send_all(store.exchange, NOW)))
    assert retire(store, HQ, [], now=NOW, tells_deletions=False).is_gone
    store.close()
    with SqliteStore(path, clock=lambda: NOW - timedelta(days=9999)) as again:
        again.compare(LogContents({HQ: (told[-1].lineage, 5, 0)}, 5, {}))
        ingest(again, batch(row("a", 1)), rules=RULES, now=NOW)
        (first,) = events(list(unsent(again.exchange)))
        assert first.lineage > told[-1].lineage
        assert unsent(again.exchange)[0].position == 6
    store.open()


def test_nothing_of_a_retired_pbx_goes_while_it_is_parked(store: SqliteStore) -> None:
    first = unsent(store.exchange)[0]
    store.exchange.park(first, "too large", NOW)
    send_all(store.exchange, NOW)
    store.leavers.retire(HQ, NOW, is_ended=False)
    assert store.leavers.remove_retired() == []
    assert store.discard(first.position, "gone", NOW)
    send_all(store.exchange, NOW)
    assert store.leavers.remove_retired() == [HQ]


def test_a_retired_pbx_that_is_followed_again_before_that_stays(store: SqliteStore) -> None:
    store.leavers.retire(HQ, NOW, is_ended=False)
    store.place(HQ)
    send_all(store.exchange, NOW)
    assert store.leavers.remove_retired() == []


def test_a_pbx_whose_end_was_told_is_read_anew_where_it_is_followed_after_all(store: SqliteStore) -> None:
    """Subscribers have nobody of it, so nothing that is known of it may count."""
    before = events(list(send_all(store.exchange, NOW)))[-1]
    retire(store, HQ, [], now=NOW, tells_deletions=True)
    ended = events(list(unsent(store.exchange)))[-1]
    place = store.place(HQ)
    assert (place.cursor, place.sequence, place.is_initial, place.is_complete) == (Cursor(), 0, True, False)
    assert before.lineage < ended.lineage < place.lineage
    assert (store.count_accounts(HQ), store.certificate(HQ)) == (0, None)
    ingest(store, batch(row("a", 1), row("b", 2)), rules=RULES, now=NOW)
    told = events(list(send_all(store.exchange, NOW)))
    assert [event.kind for event in told] == [ChangeKind.DELETED] * 2 + [ChangeKind.INITIAL] * 2
    assert store.leavers.remove_retired() == []


def test_a_retired_pbx_cannot_go_on_under_another_name(store: SqliteStore) -> None:
    store.exchange.park(unsent(store.exchange)[0], "too large", NOW)
    send_all(store.exchange, NOW)
    retire(store, HQ, [], now=NOW, tells_deletions=False)
    with pytest.raises(BridgeError, match="hq was retired"):
        rename(store, HQ, BERLIN, now=NOW, tells_deletions=True)


def test_what_is_put_off_for_the_log_keeps_a_pbx_from_going_or_being_renamed(store: SqliteStore) -> None:
    send_all(store.exchange, NOW)
    store.begin_log(1)
    ingest(store, batch(row("d", 6), since=cursor(5)), rules=RULES, now=NOW)
    send_all(store.exchange, NOW)
    assert store.log.put_off(HQ, 0, "another bridge sends for it", NOW)
    with pytest.raises(BridgeError, match="still wait to be sent"):
        rename(store, HQ, BERLIN, now=NOW, tells_deletions=True)
    assert not retire(store, HQ, [], now=NOW, tells_deletions=False).is_gone
    assert retire(store, HQ, [], now=NOW, tells_deletions=False, discards_unsent=True).is_gone
    assert store.log.backlog.held_rows == 0


def test_a_rename_that_is_killed_leaves_the_store_as_the_file_beside_it_expects(store: SqliteStore, path: Path) -> None:
    """What is given in the transaction is not durable yet, and may not be noted as if it were."""
    lock = path.with_name(f"{path.name}.lock")
    with pytest.raises(RuntimeError, match="killed"), store.transaction() as transaction:
        ending = Posting(transaction, HQ, RULES)
        ending.retire(transaction.missing(HQ, 0, -1))
        ending.finish(NOW)
        transaction.begin_lineage(HQ)
        noted = int(lock.read_text().rpartition("position:")[2])
        assert noted < store.exchange.last_given()
        raise RuntimeError("killed here")


def test_a_retirement_that_was_killed_goes_on_where_it_was(store: SqliteStore) -> None:
    assert [retire(store, HQ, [], now=NOW, tells_deletions=True).told for _ in range(2)] == [2, 0]


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        (HQ, BERLIN, "still wait to be sent"),
        (SourceName("hqq"), BERLIN, "Did you mean 'hq'"),
        (HQ, HQ, "hq is in the store already"),
    ],
)
def test_what_cannot_be_renamed_is_said_and_left_alone(
    store: SqliteStore, source: SourceName, name: SourceName, words: str
) -> None:
    with pytest.raises(BridgeError, match=words):
        rename(store, source, name, now=NOW, tells_deletions=True)
    assert store.place(HQ).sequence == 5


@pytest.mark.parametrize(("source", "words"), [(HQ, "hq is followed"), (BERLIN, "there is hq")])
def test_what_cannot_be_retired_is_said_and_left_alone(store: SqliteStore, source: SourceName, words: str) -> None:
    with pytest.raises(BridgeError, match=words):
        retire(store, source, [HQ], now=NOW, tells_deletions=True)
    assert store.place(HQ).sequence == 5
