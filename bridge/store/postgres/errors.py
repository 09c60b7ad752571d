"""What goes wrong with a database: what it means, whether waiting helps, and a sentence that says what to do."""

import re
from enum import Enum, auto
from typing import Final

import psycopg

from bridge.errors import BridgeError, LeaseLost, StoreRefusedLogin, StoreUnreachable, StoreUnusable


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
    LOST = auto()
    """This source is not ours."""


NOT_OURS: Final = "22012"
"""Division by zero, which no statement does but ``count_commit``."""

LOST: Final = "2201E"
"""The logarithm of zero, which no statement takes but those that look whether a source is ours."""

_BY_STATE: Final = {
    "25006": Trouble.AWAY,  # read only: a standby, or a primary that became one
    "25P03": Trouble.AWAY,  # our transaction was idle too long, as if we had been frozen
    "25P04": Trouble.AWAY,  # or took too long, from PostgreSQL 17 on
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
    LOST: Trouble.LOST,
}
_BY_CLASS: Final = {"08": Trouble.AWAY, "57": Trouble.AWAY, "28": Trouble.REFUSED}

_BY_WORDS: Final = {
    "28P01": re.compile("password authentication failed"),
    "28000": re.compile("pg_hba.conf|is not permitted to log in"),
    "3D000": re.compile('database ".*" does not exist'),
    "53300": re.compile("too many (connections|clients)|remaining connection slots"),
}
"""What a server says at the login, which libpq passes on as a text only. In another language it is waited for."""

_POOLED: Final = "it is reached through a pooler. Set store.through_pooler = true"
_MEANS: Final = {
    "25006": "it takes no writes (a standby, or read only). Name all hosts in store.url, so that the primary is found",
    "53300": "it has no connection left: raise max_connections, or take some from somebody else",
    "53100": "its disk is full. Make room; nothing is lost",
    "53200": "it is out of memory",
    "55P03": "somebody holds a lock on the store's tables for long",
    "57014": "a statement takes too long: it is overloaded, or somebody holds a lock",
    "28P01": "it does not accept user and password. Set the right ones in store.url or the file of it",
    "28000": "it lets this user in from here not at all (pg_hba.conf)",
    "3D000": "there is no such database. Make it: CREATE DATABASE … OWNER …",
    "42501": "its user may not do that ({said}). Let it own the database, or the tables",
    "26000": _POOLED,
    "42P05": _POOLED,
    "42P01": "its tables are not those of a bridge",
    "42703": "its tables are not those of a bridge",
    "42P07": "it has tables of somebody else under the names of ours. Give the store a database of its own",
}


def classify(problem: psycopg.Error) -> Trouble:
    """Return what to do about *problem*."""
    state = _state(problem)
    if state is not None:
        return _BY_STATE.get(state) or _BY_CLASS.get(state[:2], Trouble.FATAL)
    if not isinstance(problem, psycopg.OperationalError | psycopg.InterfaceError):
        return Trouble.FATAL
    return Trouble.AWAY


def describe(place: str, problem: psycopg.Error) -> str:
    """Return what *problem* means for the store at *place*, and what to do; without what it was asked."""
    state = _state(problem)
    said = problem.diag.message_primary or _first_line(problem)
    told = _MEANS[state].format(said=said) if state in _MEANS else said
    return f"the store {place} cannot be used: {told}" + (f" ({state})" if state else "")


def as_ours(place: str, problem: psycopg.Error) -> BridgeError:
    """Return the error of ours that *problem* is."""
    trouble, sentence = classify(problem), describe(place, problem)
    if trouble is Trouble.REFUSED:
        return StoreRefusedLogin(sentence)
    if trouble is Trouble.LOST:
        return LeaseLost(source_taken())
    return StoreUnusable(sentence) if trouble in {Trouble.FATAL, Trouble.NOT_OURS} else StoreUnreachable(sentence)


def _state(problem: psycopg.Error) -> str | None:
    state = problem.sqlstate or problem.diag.sqlstate
    if state is None and isinstance(problem, psycopg.OperationalError):
        return next((state for state, words in _BY_WORDS.items() if words.search(str(problem))), None)
    return state


def _first_line(problem: psycopg.Error) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__


def younger(place: str, tables: int, known: int) -> str:
    """Return that a younger bridge made the tables."""
    return (
        f"the store {place} was written by a younger version of the bridge (tables {tables}, this one knows {known}). "
        "Start that version, or give this one a new database"
    )


def older(place: str, name: str, version: str) -> str:
    """Return that a bridge is at work which could not go on with the tables of this one."""
    return (
        f"a bridge of version {version} ({name}) is at work on the store {place}, and could not go on with what this "
        "one makes of the tables. Stop all of those first"
    )


def other_encoding(place: str, encoding: str) -> str:
    """Return that the database cannot hold every text."""
    return (
        f"the store {place} is a database whose encoding is {encoding}, which cannot hold every name of an account. "
        "Make one with CREATE DATABASE … OWNER … ENCODING 'UTF8' TEMPLATE template0"
    )


def half_restored(place: str) -> str:
    """Return that there are tables, and not what they are."""
    return (
        f"the store {place} has tables, but nothing says of which version. Is it being restored? Wait until it is done"
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


def not_shared(place: str, name: str) -> str:
    """Return that a bridge has the store which shares it with nobody."""
    return (
        f"another bridge ({name}) has the store {place} for itself. Give that one store.shared = true, too, and start "
        "it anew, or stop it"
    )


def source_taken() -> str:
    """Return that a source is another bridge's."""
    return "another bridge has this PBX now: nothing more of it is read or sent here"


def life_over() -> str:
    """Return that the others took us to be dead."""
    return (
        "the other bridges did not hear of this one for longer than store.lease_seconds and have its PBXs now. What "
        "was committed is kept; this one begins anew"
    )


def not_as_found(place: str) -> str:
    """Return that others came in between while a transaction was repeated on another connection."""
    return (
        f"the connection with the store {place} broke, and another bridge has changed meanwhile what was to be built "
        "upon: nothing was written"
    )


def late(place: str) -> str:
    """Return that a commit that nobody waited for any more was done."""
    return (
        f"the store {place} did at last what it gave no answer to, and this process does not know what follows from "
        "that. Nothing is lost; start it again"
    )
