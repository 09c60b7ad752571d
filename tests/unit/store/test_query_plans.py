"""The cost of a query must not grow with what the store has ever held."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.delivery.ingest import ingest
from bridge.normalize import Rules
from bridge.store.sql import queries
from bridge.store.sqlite import SqliteStore
from tests.support.rows import batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)

HOT = [
    "accounts",
    "add_event",
    "bodies_of_events",
    "count_held",
    "hold",
    "log_add",
    "log_done",
    "log_rows",
    "mark_first_in_doubt",
    "mark_in_doubt",
    "mark_published",
    "mark_seen",
    "move_cursor",
    "newest_where_parked",
    "oldest_unpublished",
    "prune_published",
    "save_account",
    "set_numbers",
    "source",
    "unpublished_rows",
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


def with_parameters(name: str) -> tuple[str, dict[str, int] | list[int]]:
    query = queries()[name]
    named = dict.fromkeys(re.findall(r":(\w+)", query), 1)
    return query, named or [1] * query.count("?")


def plan_of(connection: sqlite3.Connection, name: str) -> list[str]:
    query, parameters = with_parameters(name)
    return [str(step[3]) for step in connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]


def steps_of(connection: sqlite3.Connection, name: str) -> int:
    """Return how many steps of SQLite's machine a query takes."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    query, parameters = with_parameters(name)
    connection.set_progress_handler(count, 1)
    connection.execute(query, parameters).fetchall()
    connection.set_progress_handler(None, 0)
    connection.rollback()
    return steps


@contextmanager
def with_history(path: Path, events: int) -> Iterator[sqlite3.Connection]:
    """Make a store that has sent so many events and knows as many accounts."""
    with SqliteStore(path) as store:
        rows = [row(f"account {number}", number + 2) for number in range(events)]
        ingest(store, batch(*rows), rules=Rules(key=store.key), now=NOW)
        store.mark_published(store.unpublished(0, events), NOW)
    with closing(sqlite3.connect(path)) as connection:
        yield connection


@pytest.mark.parametrize("name", HOT)
def test_what_was_sent_and_is_known_makes_no_query_longer(tmp_path: Path, name: str) -> None:
    """Not every scan shows in a plan: a maximum over nothing looks at every row."""
    with with_history(tmp_path / "few.db", 10) as few, with_history(tmp_path / "many.db", 1000) as many:
        assert steps_of(many, name) <= steps_of(few, name) + 20


@pytest.mark.parametrize("name", HOT)
def test_what_runs_for_a_change_searches_and_never_scans(connection: sqlite3.Connection, name: str) -> None:
    """Json_each is the list that a query was given; the partial indexes hold what is unsent or held, nothing else."""
    scans = [
        step
        for step in plan_of(connection, name)
        if step.startswith("SCAN") and not re.match(r"SCAN (json_each|CONSTANT ROW)", step)
    ]
    bounded = (
        r"SCAN (outbox|parked|refused) USING (COVERING )?INDEX (outbox_(unpublished|held|parked)|log_queue_parked)"
    )
    assert not [step for step in scans if not re.match(bounded, step)], plan_of(connection, name)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("unpublished_rows", "outbox_unpublished"),
        ("oldest_unpublished", "outbox_unpublished"),
        ("mark_first_in_doubt", "outbox_unpublished"),
        ("prune_published", "outbox_published"),
        ("newest_where_parked", "outbox_parked"),
        ("hold", "outbox_unpublished"),
        ("log_add", "log_queue_parked"),
        ("bodies_of_events", "sqlite_autoindex_outbox_1"),
        ("accounts", "sqlite_autoindex_account_1"),
        ("mark_seen", "sqlite_autoindex_account_1"),
        ("mark_published", "INTEGER PRIMARY KEY"),
        ("source", "sqlite_autoindex_source_1"),
        ("move_cursor", "INTEGER PRIMARY KEY"),
    ],
)
def test_a_hot_query_uses_the_index_that_was_made_for_it(connection: sqlite3.Connection, name: str, index: str) -> None:
    assert index in " ".join(plan_of(connection, name))


def test_a_page_of_the_outbox_is_read_and_no_more(connection: sqlite3.Connection) -> None:
    """Without an order of its own the index gives positions in order, so that a limit ends the reading."""
    assert not [step for step in plan_of(connection, "unpublished_rows") if "TEMP B-TREE" in step]
