"""What a board shows of the time before its process began."""

from datetime import UTC, datetime, timedelta

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.observability.source_status import LastChange, SourceStatus
from bridge.runtime.source_worker import recall
from bridge.store.tables.store import TableStore
from tests.support.engines import Engine
from tests.support.outbox import send_all
from tests.support.rows import HQ, batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LATER = NOW + timedelta(seconds=3)
RULES = Rules(key=b"k")


def test_the_last_change_and_confirm_come_from_the_store(store: TableStore, engine: Engine) -> None:
    part = SourceStatus(since=NOW)
    recall(part, store.past.last_heard(HQ))
    assert (part.last_change_at, part.last_change, part.last_confirm_at) == (None, None, None)
    assert store.past.last_confirmed_at() is None
    ingest(store, batch(row("anna", 1), row("bert", 2, dn="Bert B.")), rules=RULES, now=NOW)
    send_all(store.exchange, LATER)
    recall(part, store.past.last_heard(HQ))
    assert part.last_change == LastChange(NOW, "Bert B.", "there at the first reading")
    assert (part.last_change_at, part.last_confirm_at) == (NOW, LATER)
    assert store.past.last_confirmed_at() == LATER
    with engine.reader() as reader:
        assert reader.flow("pbx.account.changed", 10) == [(NOW, LATER), (NOW, LATER)]


def test_who_was_forgotten_is_not_the_last_one_heard_of(store: TableStore) -> None:
    rows = [row("anna", 1), row("anna", 2, is_deleted=True)]
    ingest(store, batch(*rows), rules=RULES, now=NOW)
    send_all(store.exchange, LATER)
    store.forget("anna", LATER, discard_unsent=False)
    part = SourceStatus(since=NOW)
    recall(part, store.past.last_heard(HQ))
    assert (part.last_change_at, part.last_change) == (NOW, None)
