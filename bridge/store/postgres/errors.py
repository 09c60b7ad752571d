"""What goes wrong with a database: what it means, whether waiting helps, and a sentence that says what to do."""

from enum import Enum, auto
from typing import Final

import psycopg

from bridge.errors import BridgeError, StoreRefusedLogin, StoreUnreachable, StoreUnusable


class Trouble(Enum):
    """What a database's error asks for."""

    AWAY = auto()
    """Another connection, soon: restarted, failed over, cut, a standby, too many connections."""
    IN_THE_WAY = auto()
    """The same once more at once: a deadlock, or what comes to the same."""
    SLOW = auto()
    """The same once more, later: a lock or a statement took too long."""
    FULL = auto()
    """The same once more, when there is room."""
    REFUSED = auto()
    """Somebody has to change user, password, database, or what the server lets in."""
    FATAL = auto()
    """Waiting does not help."""
    NOT_OURS = auto()
    """We are not who may write, or not where we left off."""


NOT_OURS: Final = "22012"
"""Division by zero, which no statement does but ``count_commit``."""

_BY_STATE: Final = {
    "25006": Trouble.AWAY,  # read only: a standby, or a primary that became one
    "25P03": Trouble.AWAY,  # our transaction was idle too long, as if we had been frozen
    "40P01": Trouble.IN_THE_WAY,
    "40001": Trouble.IN_THE_WAY,
    "40003": Trouble.AWAY,
    "53300": Trouble.AWAY,
    "53100": Trouble.FULL,
    "53200": Trouble.FULL,
    "55P03": Trouble.SLOW,
    "57014": Trouble.SLOW,
    "58030": Trouble.FULL,  # input or output error
    "3D000": Trouble.REFUSED,
    NOT_OURS: Trouble.NOT_OURS,
}
_BY_CLASS: Final = {"08": Trouble.AWAY, "57": Trouble.AWAY, "28": Trouble.REFUSED}

_MEANS: Final = {
    "25006": "it takes no writes (a standby, or read only). Name all hosts in store.url, so that the primary is found",
    "53300": "it has no connection left: raise max_connections, or take some from somebody else",
    "53100": "its disk is full. Make room; nothing is lost",
    "53200": "it is out of memory",
    "55P03": "somebody holds a lock on the store's tables for long",
    "57014": "a statement takes too long: it is overloaded, or somebody holds a lock",
    "28P01": "it does not accept the password. Set the right one in store.url or the file of it",
    "28000": "it lets this user in from here not at all (pg_hba.conf)",
    "3D000": "there is no such database. Make it: CREATE DATABASE … OWNER …",
    "42501": "its user may not do that. Let it own the database, or the tables",
    "42P01": "its tables are not those of a bridge",
    "42703": "its tables are not those of a bridge",
}


def classify(problem: psycopg.Error) -> Trouble:
    """Return what to do about *problem*."""
    state = _state(problem)
    if state is not None:
        return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], Trouble.FATAL)
    if not isinstance(problem, psycopg.OperationalError | psycopg.InterfaceError):
        return Trouble.FATAL
    return Trouble.REFUSED if "password authentication failed" in str(problem) else Trouble.AWAY


def describe(place: str, problem: psycopg.Error) -> str:
    """Return what *problem* means for the store at *place*, and what to do; without what it was asked."""
    state = _state(problem)
    means = _MEANS.get(state or "")
    if means is None and classify(problem) is Trouble.REFUSED:
        means = "it does not accept user and password. Set the right ones in store.url or the file of it"
    told = means or (problem.diag.message_primary or _first_line(problem))
    return f"the store {place} cannot be used: {told}" + (f" ({state})" if state else "")


def as_ours(place: str, problem: psycopg.Error) -> BridgeError:
    """Return the error of ours that *problem* is."""
    trouble, sentence = classify(problem), describe(place, problem)
    if trouble is Trouble.REFUSED:
        return StoreRefusedLogin(sentence)
    return StoreUnusable(sentence) if trouble in {Trouble.FATAL, Trouble.NOT_OURS} else StoreUnreachable(sentence)


def _state(problem: psycopg.Error) -> str | None:
    return problem.sqlstate or problem.diag.sqlstate


def _first_line(problem: psycopg.Error) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


def younger(place: str, tables: int, known: int) -> str:
    """Return that a younger bridge made the tables."""
    return (
        f"the store {place} was written by a younger version of the bridge (tables {tables}, this one knows {known}). "
        "Start that version, or give this one a new database"
    )


def in_use(place: str, name: str, seconds: float) -> str:
    """Return that another bridge has the store, and until when it is believed to live."""
    return (
        f"another bridge ({name}) has the store {place} open. Stop it first, or give this one a database of its own. "
        f"If it was killed, the store is free in {max(1, round(seconds))} s"
    )


def taken(place: str) -> str:
    """Return that another bridge has taken the store over."""
    return (
        f"another bridge has taken over the store {place}, since this one was not heard of for longer than "
        "store.lease_seconds. What was committed is kept; this one stops"
    )
