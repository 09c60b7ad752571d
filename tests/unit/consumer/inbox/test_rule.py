"""The statements alone; what databases make of them is tested with real ones, in tests/integration/test_inbox.py."""

import pytest

from bridge.consumer.inbox.rule import PAGE_ACCOUNTS, InboxStatements, Query, QueryResult
from tests.support.events import LINEAGE, event, verified

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


@pytest.mark.parametrize("many", [0, 1, PAGE_ACCOUNTS - 1, PAGE_ACCOUNTS, PAGE_ACCOUNTS + 1, 2 * PAGE_ACCOUNTS])
def test_accounts_are_compared_page_by_page(many: int) -> None:
    """So that a large table is never in memory."""
    present = {f"{number:09}": 1 for number in range(many)}
    rows = [(LINEAGE, account, revision) for account, revision in present.items()]
    steps = POSTGRES.comparing(verified(present=present))
    query = next(steps)
    with pytest.raises(StopIteration) as done:
        while True:
            page = [row for row in rows if row[1] > query.parameters["last"]][: query.parameters["limit"]]
            query = steps.send(QueryResult(page, len(page)))
    assert done.value.value == ""


@pytest.mark.parametrize("name", ["", "Inbox", "a b", "x;DROP TABLE y", "a" * 41, "1st"])
def test_a_table_name_that_could_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        InboxStatements(name, collation="BINARY")
