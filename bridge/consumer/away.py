"""Whose trouble is it when a handler fails? That of the change, or of a database that is away for a while.

A change that cannot be handled is put aside after some attempts. Where the handler's database is away, none of them can
be, and putting them aside one after the other would help nobody: that is waited for.
"""

import sqlite3
import sys
from typing import Final

from bridge.errors import Transient

_SQLITE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    }
)
_PRIMARY: Final = 0xFF
"""The part of an extended result code that says what kind of error it is (sqlite.org/rescode.html)."""

_POSTGRES: Final = frozenset({"08", "40", "53", "55", "57", "58"})
"""Classes of SQLSTATE: connection, rollback by the server, resources, a lock not had, an operator, the system. Not 54,
a limit that one change exceeds (PostgreSQL's documentation, appendix A)."""

_READ_ONLY: Final = frozenset({"25006"})
"""What a standby says, also one that the connection was led to by a fail-over."""


def is_away(problem: BaseException | None) -> bool:
    """Tell whether *problem* will pass by itself, so that trying again is waiting and no attempt.

    What another library made of the error of a database is looked into (``__cause__``).
    """
    while problem is not None:
        if isinstance(problem, (Transient, ConnectionError)) or _is_of_sqlite(problem) or _is_of_postgres(problem):
            return True
        problem = problem.__cause__
    return False


def _is_of_sqlite(problem: BaseException) -> bool:
    code = getattr(problem, "sqlite_errorcode", None)
    return isinstance(problem, sqlite3.OperationalError) and isinstance(code, int) and code & _PRIMARY in _SQLITE


def _is_of_postgres(problem: BaseException) -> bool:
    psycopg = sys.modules.get("psycopg")  # who does not use it does not get its errors
    if psycopg is None or not isinstance(problem, psycopg.Error):
        return False
    if isinstance(problem, psycopg.InterfaceError) and problem.sqlstate is None:
        return "closed" in str(problem)
    if not isinstance(problem, psycopg.OperationalError):
        return problem.sqlstate in _READ_ONLY
    return problem.sqlstate is None or problem.sqlstate[:2] in _POSTGRES
