"""The cost of a query must not grow with what the store has ever held: each that runs often uses its index."""

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import psycopg
import pytest

from bridge.store.postgres.sql import queries
from bridge.store.sqlite.sql import queries as of_sqlite
from tests.support.engines import PostgresEngine
from tests.support.postgres import PrivatePostgres

HISTORY = (
    "INSERT INTO source (name, lineage) SELECT 'source ' || n, 'x' FROM generate_series(1, 500) n",
    """INSERT INTO account SELECT n % 500 + 1, 'a' || n, 'a' || n, '1', '2', '3', 'digest', '{}', 1, false, 1, 0
        FROM generate_series(1, 50000) n""",
    """INSERT INTO outbox (source_id, sequence, event_id, event_type, account, routing_key, body, created_at)
        SELECT n % 500 + 1, n, 'e' || n, 'pbx.account.changed', 'a' || n, 'k', '{}', '2026-11-23'
        FROM generate_series(1, 50000) n""",
    """INSERT INTO outbox (source_id, sequence, event_id, event_type, account, routing_key, body, created_at)
        SELECT 7, n, 'f' || n, 'pbx.account.changed', 'a' || n, 'k', '{}', '2026-11-23'
        FROM generate_series(1, 10000) n""",
    """INSERT INTO confirmed SELECT s, n % 500 + 1, n, '2026-11-23'
        FROM generate_series(1, 2) s, generate_series(1, 50000) n""",
    """INSERT INTO aside SELECT 1, n, n % 500 + 1, 'a' || n, 'discarded', NULL, '2026-11-23'
        FROM generate_series(1, 50000, 11) n""",
    "ANALYZE",
)

PARAMETERS: Mapping[str, Any] = {
    "source_id": 7,
    "lane": 7,
    "sink": 1,
    "position": 12_345,
    "through": 49_900,
    "before": "2026-11-24T00:00:00Z",
    "now": "2026-11-25T00:00:00Z",
    "at": "2026-11-24T00:00:00Z",
    "after": 100,
    "limit": 256,
    "keys": '["a1", "a2", "a3"]',
    "name": "source 7",
    "walk": 3,
    "state": "parked",
    "reason": "too large",
    "event_type": "pbx.account.changed",
    "events": "[]",
    "accounts": "[]",
    "me": "00000000-0000-0000-0000-000000000000",
    "commits": 0,
    "seconds": 15,
    "guid": None,
    "usn": None,
    "ausn": None,
    "since_guid": None,
    "since_usn": None,
    "since_ausn": None,
    "sequence": 1,
}


OTHERWISE: Mapping[str, Mapping[str, Any]] = {"extend_confirmed": {"before": 12_345}, "revisions": {"after": "a1"}}

ASKED_OTHERWISE = {"add_event", "save_account", "known_accounts", "unsent_of_all", "unsent_of_source"}
"""Many rows in one text, a mirror without numbers of rows, and rows for nobody but who has the store."""


@pytest.fixture(scope="module")
def connection(server: PrivatePostgres) -> Iterator[psycopg.Connection[Any]]:
    """Return a store that has a long history, of which one lane is far behind, as the planner knows it."""
    engine = PostgresEngine(server)
    with engine.store():
        pass
    with psycopg.connect(server.url(engine.name), autocommit=True) as opened:
        for statement in HISTORY:
            opened.execute(statement.encode())
        yield opened


def plan_of(connection: psycopg.Connection[Any], name: str) -> str:
    found = connection.execute(b"EXPLAIN " + queries()[name], {**PARAMETERS, **OTHERWISE.get(name, {})}).fetchall()
    return "\n".join(str(line[0]) for line in found)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("unsent_of_source", r"Index Scan using outbox_of_source"),
        ("unsent_of_all", r"Index Scan using outbox_pkey"),
        ("unsent_ids", r"Index Scan using outbox_pkey"),
        ("count_unsent_of_source", r"outbox_of_source"),
        ("count_doubtful", r"outbox_of_source"),
        ("doubt_first", r"outbox_of_source"),
        ("count_to_hold", r"outbox_of_source"),
        ("hold", r"outbox_of_source"),
        ("count_to_put_off", r"outbox_of_source"),
        ("put_off", r"outbox_of_source"),
        ("first_unsent", r"outbox_of_source"),
        ("free_held", r"aside_state|aside_pkey"),
        ("count_again", r"aside_state"),
        ("copy_again", r"aside_state"),
        ("mark_moved", r"aside_state"),
        ("parked_beside", r"aside_pkey|aside_state"),
        ("revisions", r"account_pkey"),
        ("set_aside", r"outbox_pkey"),
        ("bytes_waiting", r"outbox_pkey"),
        ("source_of_position", r"outbox_pkey"),
        ("confirmed_before", r"confirmed_pkey"),
        ("extend_confirmed", r"confirmed_pkey"),
        ("prune_confirmed", r"confirmed_pkey"),
        ("prune_events", r"Index (Only )?Scan using outbox_of_source"),
        ("accounts", r"account_pkey"),
        ("mark_seen", r"account_pkey"),
        ("last_event", r"outbox_of_source|outbox_pkey"),
        ("last_confirmed", r"confirmed_pkey"),
    ],
)
def test_a_hot_query_uses_the_index_that_was_made_for_it(
    connection: psycopg.Connection[Any], name: str, index: str
) -> None:
    plan = plan_of(connection, name)
    assert re.search(index, plan), plan
    scanned = set(re.findall(r"Seq Scan on (\w+)", plan))
    assert not scanned & {"outbox", "account", "confirmed"}, plan


@pytest.mark.parametrize("name", ["unsent_of_source", "unsent_of_all", "unsent_ids"])
def test_a_page_of_the_outbox_is_read_and_no_more(connection: psycopg.Connection[Any], name: str) -> None:
    """The index gives positions in order, so that a limit ends the reading."""
    assert "Sort" not in plan_of(connection, name)


def test_a_page_of_a_source_is_read_whatever_else_the_bridge_has(connection: psycopg.Connection[Any]) -> None:
    """Also before the planner knows who has what: otherwise who took over hundreds of PBXs looks at what each has."""
    ((me,),) = connection.execute("SELECT id FROM bridge LIMIT 1").fetchall()
    with connection.transaction(force_rollback=True):
        connection.execute("UPDATE source SET holder = %s, epoch = 2", [me])
        asked = {**PARAMETERS, "me": me, "epoch": 2}
        found = connection.execute(b"EXPLAIN " + queries()["unsent_of_held"], asked).fetchall()
    plan = "\n".join(str(line[0]) for line in found)
    assert "Index Scan using outbox_of_source" in plan, plan
    assert not re.search(r"Sort|Seq Scan on outbox", plan), plan


def test_an_event_costs_one_index_beside_its_key(connection: psycopg.Connection[Any]) -> None:
    """Every change pays for each of them, in what is written and in what is flushed."""
    found = connection.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'outbox' ORDER BY 1").fetchall()
    assert [name for (name,) in found] == ["outbox_of_source", "outbox_pkey"]


def test_an_event_is_never_updated_but_when_its_person_is_forgotten() -> None:
    updating = [name for name, query in queries().items() if re.match(rb"UPDATE outbox\b", query)]
    assert updating == ["forget_event"]


ONLY_HERE = {
    "alive",
    "begin_lease",
    "begin_life",
    "checked",
    "count_commit",
    "cut_stranded",
    "disbelieve_leases",
    "end_lapsed",
    "end_life",
    "extend_or_confirm",
    "facts",
    "forget_lives",
    "has_tables",
    "in_force",
    "my_commits",
    "renew_lease",
    "tables",
}
"""Who has the store, how the server is, and what tables there are: of a file the operating system and a lock tell."""


def for_several_bridges() -> set[str]:
    """Return the names of the statements by which bridges share a store: a file has one bridge."""
    text = (files("bridge.store.postgres.sql") / "sharing.sql").read_text("utf-8")
    return set(re.findall(r"^-- (\w+): ", text, re.MULTILINE))


def test_both_engines_have_the_same_statements(connection: psycopg.Connection[Any]) -> None:
    """And each can be prepared, with the names of its parameters."""
    assert queries().keys() - of_sqlite().keys() == ONLY_HERE | for_several_bridges()
    assert not of_sqlite().keys() - queries().keys()
    parameters = {name: set(re.findall(r"(?<!:):([a-z]\w*)", body)) for name, body in of_sqlite().items()}
    differing = {
        name: (of_file, of_server)
        for name, of_file in parameters.items()
        if of_file != (of_server := {found.decode() for found in re.findall(rb"%\((\w+)\)s", queries()[name])})
        and name not in ASKED_OTHERWISE
    }
    assert not differing
    for statement in queries().values():
        placed = statement
        for number, name in enumerate(dict.fromkeys(re.findall(rb"%\((\w+)\)s", statement)), 1):
            placed = placed.replace(b"%%(%s)s" % name, b"$%d" % number)
        connection.execute(b"PREPARE tried AS " + placed)
        connection.execute(b"DEALLOCATE tried")
