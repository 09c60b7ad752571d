import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from bridge.consumer.away import is_away
from bridge.errors import BadEvent, PbxUnreachable


def test_a_locked_file_is_waited_for_and_a_wrong_statement_is_not(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "crm.db", timeout=0)) as ours,
        closing(sqlite3.connect(tmp_path / "crm.db")) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as locked:
            ours.execute("CREATE TABLE letter (text)")
        other.rollback()
        with pytest.raises(sqlite3.OperationalError) as wrong:
            ours.execute("INSERT INTO nothing VALUES (1)")
    assert is_away(locked.value)
    assert not is_away(wrong.value)


def test_a_file_that_may_only_be_read_is_waited_for(tmp_path: Path) -> None:
    """Until somebody mounts it again, or gives the right back; every change would fail alike."""
    with closing(sqlite3.connect(tmp_path / "crm.db")) as made:
        made.execute("CREATE TABLE letter (text)")
    with (
        closing(sqlite3.connect(f"file:{tmp_path}/crm.db?mode=ro", uri=True)) as ours,
        pytest.raises(sqlite3.OperationalError) as read_only,
    ):
        ours.execute("INSERT INTO letter VALUES (1)")
    assert is_away(read_only.value)


@pytest.mark.parametrize(
    "problem",
    [
        psycopg.OperationalError("the connection is closed"),
        psycopg.InterfaceError("the connection is closed"),
        errors.ReadOnlySqlTransaction("a standby"),
        errors.AdminShutdown("the server is restarted"),
        errors.DeadlockDetected("another one goes first"),
        errors.TooManyConnections("no room"),
        PbxUnreachable("any Transient says it itself"),
        ConnectionRefusedError(),
    ],
)
def test_what_passes_by_itself_is_waited_for(problem: Exception) -> None:
    assert is_away(problem)


@pytest.mark.parametrize(
    "problem",
    [
        errors.ProgramLimitExceeded("one value is too long"),
        errors.UniqueViolation(),
        errors.InFailedSqlTransaction(),
        psycopg.InterfaceError("the cursor is of another kind"),
        LookupError(),
        BadEvent("no"),
        None,
    ],
)
def test_what_is_wrong_with_one_change_is_an_attempt(problem: Exception | None) -> None:
    assert not is_away(problem)


def test_an_error_that_another_library_made_of_it_is_looked_into() -> None:
    wrapped = RuntimeError("a query failed")
    wrapped.__cause__ = errors.AdminShutdown()
    assert is_away(wrapped)
