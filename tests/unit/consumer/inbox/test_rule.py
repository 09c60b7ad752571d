"""The statements alone; what databases make of them is tested with real ones, in tests/integration/test_inbox.py."""

import pytest

from bridge.consumer.inbox.rule import InboxStatements, Query, QueryResult
from tests.support.events import event, verified

SQLITE = InboxStatements("inbox", collation="BINARY")
POSTGRES = InboxStatements("inbox", collation='"C"', locking="LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")


def test_a_change_is_one_statement() -> None:
    """With the answer in the number of rows it changed, there is no moment between reading and writing."""
    assert isinstance(SQLITE.accepting(event()), Query)


@pytest.mark.parametrize("spelled", ["2A4D-009C-C700", "2a4d009cc700", "2a4d-009c-c700"])
def test_an_account_is_the_same_however_its_guid_is_spelled(spelled: str) -> None:
    query = SQLITE.accepting(event(spelled))
    assert (query.parameters["account"], query.parameters["guid"]) == ("2a4d009cc700", spelled)


def test_a_certificate_that_completes_nothing_asks_the_database_nothing() -> None:
    assert list(POSTGRES.completing(verified(completes=False))) == []


def test_the_first_statement_of_a_certificate_locks_or_writes() -> None:
    """A transaction that reads first and writes later can find its snapshot outdated, and then nothing helps."""
    assert next(SQLITE.completing(verified())).sql.startswith("INSERT")
    assert next(POSTGRES.completing(verified())).sql.startswith("LOCK TABLE inbox")


def test_a_certificate_that_is_known_changes_nothing() -> None:
    steps = SQLITE.completing(verified())
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send(QueryResult((), 0))
    assert done.value.value == []


@pytest.mark.parametrize("name", ["", "Inbox", "a b", "x;DROP TABLE y", "a" * 41, "1st"])
def test_a_table_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        InboxStatements(name, collation="BINARY")
