"""The cost of a query must not grow with what the store has ever held."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.store.sqlite.sql import queries
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import unsent
from tests.support.rows import batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)

HOT = [
    "accounts",
    "add_event",
    "bytes_waiting",
    "aside_by_source",
    "confirm",
    "count_aside",
    "copy_again",
    "count_again",
    "count_doubtful",
    "count_to_hold",
    "count_unsent_of_all",
    "count_unsent_of_source",
    "doubt",
    "doubt_first",
    "end_initial",
    "first_unsent",
    "free_held",
    "hold",
    "mark_moved",
    "mark_seen",
    "move_cursor",
    "positions_given",
    "put_off",
    "save_account",
    "set_aside",
    "source",
    "source_of_position",
    "unsent_of_all",
    "unsent_of_source",
]
"""What runs for every change, every row of a walk, every confirm, or again and again."""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return an empty store; the planner decides by the tables alone, since nobody ever runs ANALYZE on one."""
    with SqliteStore(tmp_path / "bridge.db"):
        pass
    connection = sqlite3.connect(tmp_path / "bridge.db")
    yield connection
    connection.close()


def with_parameters(name: str, **known: int) -> tuple[str, dict[str, int] | list[int]]:
    query = queries()[name]
    named = {found: known.get(found, 1) for found in re.findall(r":(\w+)", query)}
    return query, named or [1] * query.count("?")


def plan_of(connection: sqlite3.Connection, name: str) -> list[str]:
    query, parameters = with_parameters(name)
    return [str(step[3]) for step in connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]


def steps_of(connection: sqlite3.Connection, name: str) -> int:
    """Return how many steps of SQLite's machine a query takes that goes on behind what is confirmed."""
    confirmed = connection.execute("SELECT max(through) FROM confirmed").fetchone()[0]
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    query, parameters = with_parameters(name, after=confirmed)
    connection.set_progress_handler(count, 1)
    connection.execute(query, parameters).fetchall()
    connection.set_progress_handler(None, 0)
    connection.rollback()
    return steps


@contextmanager
def with_history(path: Path, events: int) -> Iterator[sqlite3.Connection]:
    """Make a store that has sent so many events and knows as many accounts."""
    with SqliteStore(path) as store:
        store.begin_log(1)
        rows = [row(f"account {number}", number + 2) for number in range(events)]
        ingest(store, batch(*rows), rules=Rules(key=store.key), now=NOW)
        for outbox in (store.exchange, store.log):
            waiting = unsent(outbox)
            for start in range(0, events, 10):
                outbox.mark_published(waiting[start : start + 10], NOW)
    with closing(sqlite3.connect(path)) as connection:
        yield connection


@pytest.mark.parametrize("name", HOT)
def test_what_was_sent_and_is_known_makes_no_query_longer(tmp_path: Path, name: str) -> None:
    """Not every scan shows in a plan: a maximum over nothing looks at every row."""
    with with_history(tmp_path / "few.db", 10) as few, with_history(tmp_path / "many.db", 1000) as many:
        assert steps_of(many, name) <= steps_of(few, name) + 20


@pytest.mark.parametrize("name", HOT)
def test_what_runs_for_a_change_searches_and_never_scans(connection: sqlite3.Connection, name: str) -> None:
    """Json_each is the list that a query was given; ``sqlite_sequence`` has one row."""
    allowed = r"SCAN (json_each|CONSTANT ROW|sqlite_sequence|\(subquery)"
    scans = [step for step in plan_of(connection, name) if step.startswith("SCAN") and not re.match(allowed, step)]
    assert not scans, plan_of(connection, name)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("unsent_of_source", "outbox_of_source (source_id=? AND position>?)"),
        ("unsent_of_all", "outbox USING INTEGER PRIMARY KEY (rowid>?)"),
        ("count_unsent_of_source", "outbox_of_source (source_id=? AND position>?)"),
        ("doubt_first", "outbox_of_source (source_id=? AND position>?)"),
        ("count_to_hold", "outbox_of_source (source_id=? AND position>?)"),
        ("hold", "outbox_of_source (source_id=? AND position>?)"),
        ("free_held", "parked USING INDEX aside_state (sink=? AND source_id=? AND state=?)"),
        ("count_again", "INDEX aside_state (sink=? AND source_id=? AND state=?)"),
        ("copy_again", "INDEX aside_state (sink=? AND source_id=? AND state=?)"),
        ("mark_moved", "INDEX aside_state (sink=? AND source_id=? AND state=?)"),
        ("set_aside", "outbox USING INTEGER PRIMARY KEY (rowid=?)"),
        ("confirmed_before", "confirmed USING PRIMARY KEY (sink=? AND lane=? AND through<?)"),
        ("prune_confirmed", "confirmed USING PRIMARY KEY (sink=? AND lane=? AND through<?)"),
        ("prune_events", "outbox_of_source (source_id=? AND position<?)"),
        ("accounts", "sqlite_autoindex_account_1"),
        ("mark_seen", "sqlite_autoindex_account_1"),
        ("revisions", "sqlite_autoindex_account_1"),
        ("source", "sqlite_autoindex_source_1"),
        ("move_cursor", "INTEGER PRIMARY KEY"),
    ],
)
def test_a_hot_query_uses_the_index_that_was_made_for_it(connection: sqlite3.Connection, name: str, index: str) -> None:
    assert index in " ".join(plan_of(connection, name))


@pytest.mark.parametrize("name", ["unsent_of_source", "unsent_of_all", "unsent_ids", "prune_events"])
def test_a_page_of_the_outbox_is_read_and_no_more(connection: sqlite3.Connection, name: str) -> None:
    """Without an order of its own the index gives positions in order, so that a limit ends the reading."""
    assert not [step for step in plan_of(connection, name) if "TEMP B-TREE" in step]


def test_an_event_costs_one_index_beside_its_row(connection: sqlite3.Connection) -> None:
    """Every change pays for each of them, in what is written and in what is flushed."""
    found = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'outbox'")
    assert [name for (name,) in found] == ["outbox_of_source"]


def test_an_event_is_never_updated_but_when_its_person_is_forgotten() -> None:
    updating = [name for name, query in queries().items() if re.match(r"UPDATE outbox\b", query)]
    assert updating == ["forget_event"]
