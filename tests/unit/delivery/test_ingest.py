"""On a real SQLite file."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.ingest import ingest
from bridge.errors import CursorMoved
from bridge.events import cloudevents
from bridge.events.normalize import Rules
from bridge.model import Batch, ChangeKind, Row
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import HQ, batch, chain, cursor, row

RULES = Rules(key=b"k" * 32)
NOW = datetime(2026, 11, 23, 20, 31, 7, 123456, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path / "bridge.db") as opened:
        yield opened


def events(store: SqliteStore) -> list[cloudevents.AccountChanged]:
    return [cloudevents.decode(found.body) for found in unsent(store.exchange)]


def take(store: SqliteStore, *batches: Batch) -> None:
    for each in batches:
        ingest(store, each, rules=RULES, now=NOW)


def test_a_batch_moves_the_cursor_fills_the_mirror_and_makes_events_in_order(store: SqliteStore) -> None:
    take(store, batch(row("a", 1), row("b", 2)))
    assert store.place(HQ).cursor == cursor(2)
    assert [(event.account_guid, event.sequence, event.lineage) for event in events(store)] == [
        ("a", 1, store.place(HQ).lineage),
        ("b", 2, store.place(HQ).lineage),
    ]
    assert store.count_accounts(HQ) == 2


def test_an_id_names_the_place_of_its_event_and_nothing_else(store: SqliteStore) -> None:
    take(store, batch(row("a", 1), row("b", 1)))
    lineage = store.place(HQ).lineage
    assert [event.event_id for event in events(store)] == [cloudevents.event_id(lineage, HQ, n) for n in (1, 2)]


def test_later_rows_of_a_batch_see_the_effect_of_earlier_ones(store: SqliteStore) -> None:
    take(store, batch(row("a", 1), row("a", 2, dn="new"), row("a", 3, is_deleted=True)))
    assert [(event.kind, event.revision) for event in events(store)] == [
        (ChangeKind.INITIAL, 1),
        (ChangeKind.UPDATED, 2),
        (ChangeKind.DELETED, 3),
    ]


def test_a_batch_that_does_not_begin_where_the_cursor_stands_leaves_no_trace(store: SqliteStore) -> None:
    """Two bridges on one store: the second one finds the cursor gone and stops."""
    take(store, batch(row("a", 1)))
    with pytest.raises(CursorMoved, match="another bridge"):
        take(store, batch(row("b", 2), since=cursor(7)))
    assert store.place(HQ).cursor == cursor(1)
    assert len(events(store)) == 1
    assert store.count_accounts(HQ) == 1


def test_hearing_everything_again_publishes_nothing(store: SqliteStore) -> None:
    rows = [row("a", 1), row("b", 2), row("a", 3, dn="new")]
    take(store, batch(*rows))
    take(store, Batch(HQ, cursor(3), cursor(2), [rows[1], rows[2]]), Batch(HQ, cursor(2), cursor(3), [rows[2]]))
    assert len(events(store)) == 3


def test_a_pbx_that_tells_old_versions_again_is_followed_through_them_to_where_it_ends(store: SqliteStore) -> None:
    """Whether it replays its list or was set back and did it all again cannot be told apart: the mirror decides."""
    rows = [row("a", 1, dn="one"), row("a", 2, dn="two"), row("a", 3, is_deleted=True)]
    take(store, batch(*rows), batch(*rows, since=cursor(3)))
    told = events(store)
    assert [event.kind for event in told] == [
        *(ChangeKind.INITIAL, ChangeKind.UPDATED, ChangeKind.DELETED),
        *(ChangeKind.CREATED, ChangeKind.UPDATED, ChangeKind.DELETED),
    ]
    assert [event.revision for event in told] == [1, 2, 3, 4, 5, 6]


def test_numbers_used_again_for_other_content_get_an_id_of_their_own(store: SqliteStore) -> None:
    take(store, batch(row("a", 1, dn="one"), row("a", 2, dn="two")), batch(row("a", 2, dn="three"), since=cursor(2)))
    told = events(store)
    assert len({event.event_id for event in told}) == len(told) == 3


def test_an_older_number_with_content_never_told_is_a_change(store: SqliteStore) -> None:
    take(store, batch(row("a", 1, dn="one"), row("a", 2, dn="two")), batch(row("a", 1, dn="other"), since=cursor(2)))
    assert [event.account["display_name"] for event in events(store)] == ["one", "two", "other"]


rows_of_a_pbx = st.lists(
    st.builds(
        row,
        st.sampled_from("abc"),
        st.integers(1, 6),
        dn=st.sampled_from(["x", "y"]),
        is_deleted=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@given(st.lists(rows_of_a_pbx, min_size=1, max_size=4))
def test_whatever_comes_ids_are_unique_and_nothing_has_gaps(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[Row]]
) -> None:
    with SqliteStore(tmp_path_factory.mktemp("store") / "bridge.db") as store:
        take(store, *chain(rows))
        told = events(store)
        assert len({event.event_id for event in told}) == len(told)
        assert [event.sequence for event in told] == list(range(1, len(told) + 1))
        for account in "abc":
            revisions = [event.revision for event in told if event.account_guid == account]
            assert revisions == list(range(1, len(revisions) + 1))
        take(store, Batch(HQ, rows[-1][-1].cursor, rows[-1][-1].cursor, rows[-1][-1:]))
        assert len(events(store)) == len(told), "the last row again must be silent"
