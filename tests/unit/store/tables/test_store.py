from datetime import UTC, datetime, timedelta

import orjson
import pytest

from bridge.delivery.ingest import ingest
from bridge.events.cloudevents import decode
from bridge.events.normalize import Rules
from bridge.model import MAX_WINDOW_ROWS, Cursor, NewEvent, Token
from bridge.store.tables.store import TableStore
from tests.support.engines import Engine
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


def test_what_was_committed_is_there_after_opening_again(engine: Engine) -> None:
    with engine.store() as store:
        ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
        lineage, key = store.place(HQ).lineage, store.key
    with engine.store() as store:
        assert store.place(HQ).cursor == cursor(1)
        assert (store.place(HQ).lineage, store.key) == (lineage, key)
        assert [found.sequence for found in unsent(store.exchange)] == [1]


def test_a_cursor_comes_back_exactly_as_the_pbx_wrote_it(engine: Engine) -> None:
    odd = Cursor(Token('"007"'), Token("123456789012345678901234567890"), None)
    with engine.store() as store, store.transaction() as transaction:
        place = transaction.place(HQ)
        assert transaction.move(HQ, Cursor(), type(place)(odd, 0, 0))
    with engine.store() as store:
        assert store.place(HQ).cursor == odd


def test_published_rows_stay_until_they_are_pruned(engine: Engine) -> None:
    with engine.store() as store:
        ingest(store, batch(row("a", 1), row("b", 2), row("c", 3)), rules=RULES, now=NOW)
        store.exchange.mark_published(unsent(store.exchange)[:2], NOW)
        assert (store.backlog.rows, store.exchange.oldest_unpublished_at()) == (1, NOW)
        assert store.prune(NOW + timedelta(days=1), 1) == 1
        assert store.prune(NOW + timedelta(days=1), 10) == 1
        assert store.prune(NOW + timedelta(days=1), 10) == 0
        assert [found.sequence for found in unsent(store.exchange)] == [3]


def test_after_an_unclean_stop_the_oldest_unsent_rows_are_in_doubt(engine: Engine) -> None:
    store = engine.store()
    store.open()
    ingest(store, batch(row("a", 1)), rules=RULES, now=NOW)
    store.close()
    with engine.store() as stopped_cleanly:
        assert [found.is_in_doubt for found in unsent(stopped_cleanly.exchange)] == [False]
    store.open()
    engine.kill(store)
    with engine.store() as again:
        assert [found.is_in_doubt for found in unsent(again.exchange)] == [True]


def test_what_is_parked_holds_later_events_of_its_account_and_certificates_behind_it(engine: Engine) -> None:
    with engine.store() as store:
        ingest(store, batch(row("a", 1), row("b", 2), row("a", 3, dn="new")), rules=RULES, now=NOW)
        store.exchange.park(unsent(store.exchange)[0], "too large", NOW)
        ingest(store, batch(row("a", 4, dn="newer"), row("c", 5), since=cursor(3)), rules=RULES, now=NOW)
        certify(store)
        assert [found.sequence for found in unsent(store.exchange)] == [2, 5]
        assert (store.backlog.rows, store.backlog.held_rows, store.backlog.parked) == (2, 4, 1)
        (parked,) = store.parked()
        assert (parked.sequence, parked.reason, parked.waiting) == (1, "too large", 2)
    with engine.store() as again:
        assert (again.backlog.rows, again.backlog.held_rows, again.backlog.parked) == (2, 4, 1)


@pytest.mark.parametrize("is_discarded", [False, True])
def test_a_decision_about_a_parked_event_lets_go_what_waited_behind_it(engine: Engine, is_discarded: bool) -> None:  # noqa: FBT001 - a case
    with engine.store() as store:
        ingest(store, batch(row("a", 1), row("b", 2), row("a", 3, dn="new")), rules=RULES, now=NOW)
        certify(store)
        store.exchange.park(unsent(store.exchange)[0], "too large", NOW)
        assert not store.unpark(2), "only what is parked"
        assert not store.discard(2, "wrong number", NOW), "only what is parked"
        assert store.discard(1, "not wanted", NOW) if is_discarded else store.unpark(1)
        expected = [2, 3, 3] if is_discarded else [2, 1, 3, 3]  # copies, at the end
        assert [found.sequence for found in unsent(store.exchange)] == expected
        assert (store.backlog.rows, store.backlog.held_rows, store.backlog.parked) == (len(expected), 0, 0)
        assert store.parked() == []


def certify(store: TableStore) -> None:
    with store.transaction() as transaction:
        body = orjson.dumps({"lineage": transaction.place(HQ).lineage})
        transaction.add_events(
            HQ, [NewEvent(3, "certificate", "pbx.source.verified", None, "hq.source.verified", body, NOW)]
        )


def test_with_a_store_goes_what_one_sink_had_and_the_other_not_however_much_and_its_outcome_is_told(
    engine: Engine,
) -> None:
    told = [row(f"account {number}", number) for number in range(MAX_WINDOW_ROWS + 50)]
    with engine.store(NOW) as store:
        store.begin_log(1)
        ingest(store, batch(*told), rules=RULES, now=NOW)
        of_exchange = send_all(store.exchange, NOW)
        store.log.mark_published(unsent(store.log)[:3], NOW)
    with engine.emptied().store(NOW + timedelta(days=1)) as store:
        store.begin_log(1)
        ingest(store, batch(*told[1:]), rules=RULES, now=NOW)  # the first account is gone meanwhile
        again = unsent(store.log)
        assert not {found.event_id for found in again} & {found.event_id for found in of_exchange}
        assert [found.account for found in again] == [found.account for found in of_exchange[1:]]
        assert {orjson.loads(found.body)["data"]["change"] for found in again} == {"initial"}
        lineages = [orjson.loads(found.body)["lineage"] for found in (of_exchange[-1], again[0])]
        assert lineages[0] < lineages[1], (
            "with the certificate that completes it, subscribers see that the first is gone"
        )


def test_however_many_accounts_a_group_has_each_is_written_and_their_events_are_in_order(engine: Engine) -> None:
    known: list[str] = []
    with engine.store(NOW) as store:
        for size in (1, 2, 3, 7, 8, 9, 23, 40):
            names = [f"account {number}" for number in range(len(known), len(known) + size)]
            told = [row(name, number) for number, name in enumerate(names, len(known) + 1)]
            ingest(store, batch(*told, since=store.place(HQ).cursor), rules=RULES, now=NOW)
            known += names
        events = unsent(store.exchange)
        assert [event.sequence for event in events] == list(range(1, len(known) + 1))
        assert [decode(event.body).account_guid for event in events] == known
        with store.transaction() as transaction:
            mirrored = transaction.mirrored(HQ, [event.account or "" for event in events])
        assert sorted(found.account_guid for found in mirrored.values()) == sorted(known)
