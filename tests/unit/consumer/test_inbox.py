"""The judgement alone; what databases make of it is tested with real ones."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.consumer.inbox import Query, Standing, Statements, Verdict
from bridge.consumer.inbox_sqlite import SqliteInbox
from tests.support.events import BEGIN, event

STANDINGS = st.builds(Standing, st.sampled_from(["a", "b"]), st.integers(1, 3), st.integers(1, 5), st.integers(0, 5))


@given(STANDINGS, STANDINGS)
def test_of_two_standings_one_is_behind_only_where_numbers_and_clock_agree(one: Standing, other: Standing) -> None:
    """In doubt a change is applied: one that is wrongly ignored is lost."""
    numbers = (one.place, one.revision) <= (other.place, other.revision)
    assert one.is_behind(other) == (numbers and one.changed_at <= other.changed_at)
    if one.is_behind(other) and other.is_behind(one):
        assert one[1:] == other[1:]


@pytest.mark.parametrize(
    ("known", "present", "missing"),
    [
        (Standing("", 0, 0, 0), Standing("a", 1, 7, 1), None),
        (Standing("a", 1, 7, 1), Standing("a", 1, 8, 1), None),
        (Standing("a", 1, 7, 1), Standing("a", 1, 10, 1), 8),
        (Standing("a", 1, 7, 1), Standing("a", 1, 6, 2), None),
        (Standing("a", 1, 7, 1), Standing("b", 2, 1, 2), None),
        (Standing("a", 1, 7, 1), Standing("b", 2, 2, 2), 1),
    ],
)
def test_a_gap_is_what_lies_between_the_next_number_and_the_one_that_came(
    known: Standing, present: Standing, missing: int | None
) -> None:
    assert present.gap_after(known) == missing


def test_the_first_statement_writes() -> None:
    """A transaction that reads first and writes later can find its snapshot outdated, and then nothing helps."""
    first = next(Statements("inbox").receiving(event(), datetime.now(UTC)))
    assert isinstance(first, Query)
    assert first.sql.startswith("INSERT")


HISTORIES = st.lists(st.tuples(st.sampled_from(["lost", "restored", "changed"]), st.integers(0, 3)), max_size=12)


@given(HISTORIES)
def test_a_bridge_that_loses_or_restores_its_store_at_any_point_never_has_a_change_ignored(
    history: list[tuple[str, int]],
) -> None:
    """Whatever becomes of its numbers: as long as its clock goes on, each change that is in order is applied."""
    lineage, revision = 0, 0
    with closing(sqlite3.connect(":memory:")) as connection:
        inbox = SqliteInbox(connection)
        inbox.create_tables()
        for usn, (what, back) in enumerate(history, start=1):
            if what == "lost":
                lineage, revision = lineage + 1, 0
            elif what == "restored":
                revision = max(0, revision - back)
            revision += 1
            now = BEGIN + timedelta(minutes=usn)
            told = event("anna", revision, usn=usn, lineage=f"{lineage:08}", time=now)
            with connection:
                assert inbox.receive(told) is Verdict.NEW
            with connection:
                assert inbox.receive(told) is Verdict.SEEN
