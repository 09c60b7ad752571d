"""What is published is changed in the configuration: the next walk tells the difference, once."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.compare import agrees
from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import WalkRecord, begin_walk, observe
from bridge.events.cloudevents import AccountChanged, decode
from bridge.events.normalize import Projection, Rules
from bridge.model import Row
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, batch, cursor, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
BEFORE = Rules(key=b"k")
ROWS = [row("anna", 1, e164="1001"), row("bert", 2, e164="1002", emails=[{"email": "bert@example.com"}])]


def after(*, is_new: bool = True, **publish: list[str]) -> Rules:
    return Rules(key=b"k", projection=Projection.of(**publish), skip_unchanged=True, is_new=is_new)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        ingest(opened, batch(*ROWS), rules=BEFORE, now=NOW)
        send_all(opened.exchange, NOW)
        yield opened


def walked(store: SqliteStore, rules: Rules, rows: list[Row] | None = None) -> list[AccountChanged]:
    """Return what a walk tells at once, and what is waiting after it."""
    begin_walk(store, HQ)
    observe(store, HQ, rows or ROWS, WalkRecord(NOW), rules=rules, now=NOW)
    return [decode(found.body) for found in send_all(store.exchange, NOW)]


def test_who_is_told_otherwise_from_now_on_is_told_once_by_the_next_walk(store: SqliteStore) -> None:
    rules = after(exclude=["emails"])
    (told,) = [event for event in walked(store, rules) if event.account_guid == "bert"]
    assert (told.kind, told.revision, list(told.changed), dict(told.previous)) == ("updated", 2, [], {})
    assert "emails" not in dict(told.account)
    assert walked(store, rules) == []


def test_a_field_that_is_kept_back_from_now_on_is_not_told_for_a_last_time(store: SqliteStore) -> None:
    walked_ = walked(store, after(mask=["numbers"]))
    assert len(walked_) == 2
    told = " ".join(str(event).replace(event.lineage, "") for event in walked_)  # a lineage has the time of its birth
    assert "1001" not in told
    assert "1002" not in told


def test_nothing_is_told_anew_where_nothing_differs(store: SqliteStore) -> None:
    assert walked(store, after()) == []
    assert walked(store, after(is_new=False, exclude=["emails"])) == [], "only while the rules are new"


def test_what_really_changed_meanwhile_waits_for_the_live_cursor_as_ever(store: SqliteStore) -> None:
    record = WalkRecord(NOW)
    begin_walk(store, HQ)
    changed = row("anna", 3, e164="2001")
    observe(store, HQ, [changed], record, rules=after(exclude=["emails"]), now=NOW)
    assert list(record.suspects) == ["anna"]
    assert not unsent(store.exchange)


def test_a_pbx_is_not_doubted_because_of_the_configuration(store: SqliteStore) -> None:
    assert agrees(store, HQ, ROWS[0], is_news=False, rules=after(exclude=["emails"]))
    assert not agrees(store, HQ, row("anna", 9), is_news=False, rules=after(exclude=["emails"]))


def test_a_change_of_the_configuration_is_known_until_a_walk_has_told_it(tmp_path: Path) -> None:
    """Also across restarts, and when it is taken back in the middle of a walk: some were told the other way then."""
    first, second = after().publishes, after(exclude=["emails"]).publishes
    assert first != second
    path = tmp_path / "other.db"
    with SqliteStore(path) as store:
        assert not store.past.published_otherwise(HQ, first), "nothing was told yet"
        ingest(store, batch(*ROWS), rules=BEFORE, now=NOW)
        assert not store.past.published_otherwise(HQ, first)
    for publishes in (second, second, first):
        with SqliteStore(path) as store:
            assert store.past.published_otherwise(HQ, publishes)
    with SqliteStore(path) as store:
        store.past.note_published(HQ, second)
        assert not store.past.published_otherwise(HQ, second)
        assert store.place(HQ).cursor == cursor(2)
