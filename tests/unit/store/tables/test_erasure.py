from datetime import UTC, datetime

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.model import Batch
from bridge.ops.replay import is_replayable
from bridge.store.tables.store import TableStore
from tests.support.engines import Engine
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
WORDS = (b"Planted Person", b"4711-0815", b"planted@example.com")


def planted(store: TableStore, *, is_gone: bool) -> None:
    """Have a person come, change and perhaps go, among others."""
    person = {"cn": WORDS[0].decode(), "e164": WORDS[1].decode(), "emails": [{"email": WORDS[2].decode()}]}
    rows = [row(f"a{number}", number) for number in range(200)]
    rows.insert(50, row("gone", 1000, info=person, dn="x" * 900))
    rows.append(row("gone", 1001, info=person, dn="y" * 900))
    if is_gone:
        rows.append(row("gone", 1002, info=person, is_deleted=True))
    ingest(store, batch(*rows), rules=RULES, now=NOW)


def test_what_is_not_sent_yet_is_kept_unless_it_shall_not_be_sent(engine: Engine) -> None:
    with engine.store() as store:
        planted(store, is_gone=True)
        done = store.forget("gone", NOW, discard_unsent=False)
        assert (done.events, done.unsent) == (0, 3)
        assert store.backlog.rows == 203
        done = store.forget("gone", NOW, discard_unsent=True)
        assert (done.events, done.unsent) == (3, 3)
        assert store.backlog.rows == 200
        assert not [found for found in unsent(store.exchange) if WORDS[0] in found.body]


def test_what_waited_behind_a_discarded_event_goes_out(engine: Engine) -> None:
    with engine.store() as store:
        planted(store, is_gone=True)
        store.exchange.park(unsent(store.exchange)[50], "too large", NOW)
        store.forget("gone", NOW, discard_unsent=True)
        assert (store.backlog.parked, store.backlog.held_rows, store.backlog.rows) == (0, 0, 200)


def test_an_account_that_is_there_keeps_its_entry_and_its_next_change_is_told(engine: Engine) -> None:
    with engine.store() as store:
        planted(store, is_gone=False)
        send_all(store.exchange, NOW)
        done = store.forget("gone", NOW, discard_unsent=False)
        assert (done.accounts, done.events, done.present_at) == (0, 2, [HQ])
        changed = row("gone", 2000, cn="Other")
        told = ingest(store, Batch(HQ, cursor(1001), changed.cursor, [changed]), rules=RULES, now=NOW)
        assert "common_name" in told.changes[0].changed


def test_nothing_becomes_news_and_a_return_goes_on_counting(engine: Engine) -> None:
    with engine.store() as store:
        planted(store, is_gone=True)
        send_all(store.exchange, NOW)
        store.forget("gone", NOW, discard_unsent=False)
        again = row("gone", 1002, is_deleted=True)
        assert not ingest(store, Batch(HQ, cursor(1002), again.cursor, [again]), rules=RULES, now=NOW).changes
        back = row("gone", 3000)
        (told,) = ingest(store, Batch(HQ, cursor(1002), back.cursor, [back]), rules=RULES, now=NOW).changes
        assert (told.reason, told.revision) == ("restored", 4)


def test_a_forgotten_event_is_never_replayed(engine: Engine) -> None:
    with engine.store() as store:
        planted(store, is_gone=True)
        send_all(store.exchange, NOW)
        store.forget("gone", NOW, discard_unsent=False)
    with engine.reader() as reader:
        events = reader.list_events(HQ, "gone")
        assert len(events) == 3
        assert not [event for event in events if is_replayable(event)]
        assert all(event.forgotten_at == NOW for event in events)
