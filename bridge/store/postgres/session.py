"""A session with the database in which a transaction survives its connection.

A transaction is a list of statements, and the first of them counts it, on the condition that nobody else wrote since
the last one. So where a connection ends in its midst, the same statements are repeated on another one and find what
they found before. Where it ends in the commit, so that nobody knows whether that happened, the count says so. A count
that is lower than what was committed says that the database went back in time.
"""

import contextlib
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import psycopg

from bridge.errors import StoreInUse, StoreUnreachable
from bridge.logs import get_logger
from bridge.store.postgres.connecting import ANSWER_SECONDS, Connection, Database
from bridge.store.postgres.errors import Trouble, as_ours, classify, describe, taken
from bridge.store.postgres.rows import Row
from bridge.store.postgres.sql import queries

MAX_PAUSE_SECONDS: Final = 5.0
FIRST_PAUSE_SECONDS: Final = 0.05
AT_ONCE_TRIES: Final = 3

Result = TypeVar("Result")
Statement = tuple[bytes, Mapping[str, Any]]

log = get_logger(__name__)


class SetBack(Exception):  # noqa: N818 - what was found; never leaves the store
    """The database is an older state of itself: what was committed is not there."""


class Session:
    """One connection, and another one whenever that breaks. Blocks; called from one thread at a time.

    *me* is the life of this bridge, as far as it writes. What keeps it waiting is told to *on_wait*, and an empty text
    when that is over; it waits for *patience_seconds* at most.
    """

    def __init__(
        self, database: Database, me: str, *, patience_seconds: float, on_wait: Callable[[str], None] = lambda _: None
    ) -> None:
        self._database = database
        self._me = me
        self._patience_seconds = patience_seconds
        self._on_wait = on_wait
        self._connection: Connection | None = None
        self._pipeline: psycopg.Pipeline | None = None
        """Open in a transaction: what is not asked back is sent along with what comes next."""
        self._leaving = contextlib.ExitStack()
        self._done: list[Statement] = []
        """What the transaction did so far."""
        self._commits = 0
        self._is_in_doubt = False
        self.is_inside = False
        """True in a transaction."""
        self._was_connected = False
        self._no_more_waiting = threading.Event()
        self._busy_since: float | None = None
        self.is_new = False
        """Set with every new connection, until somebody takes note."""
        self.troubles: Counter[str] = Counter()
        """How often something had to be repeated, by the code of the reason."""
        self.commit_seconds = 0.0
        """How long the last commit took, its transaction included."""

    def __repr__(self) -> str:
        return f"<Session with {self._database.place}, {'connected' if self._connection else 'not connected'}>"

    @property
    def commits(self) -> int:
        """How many transactions this life has committed."""
        return self._commits

    def close(self) -> None:
        """End it."""
        self.drop()

    def wait_no_more(self) -> None:
        """Have whatever waits for the database fail from now on; may be called from any thread."""
        self._no_more_waiting.set()

    def cut_if_stuck(self) -> None:
        """End a connection that has given no answer for too long; called from another thread."""
        since, connection = self._busy_since, self._connection
        if since is not None and connection is not None and time.monotonic() - since > ANSWER_SECONDS:
            log.warning("store.no_answer", store=self._database.place, seconds=ANSWER_SECONDS)
            with contextlib.suppress(OSError, psycopg.Error):
                handle = socket.socket(fileno=os.dup(connection.fileno()))
                with handle:
                    handle.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------------ outside of transactions

    def look(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """Return the rows of a statement that changes nothing.

        Raises:
            StoreUnreachable: the database is away for longer than anybody wants to wait.
            StoreUnusable: it is not what it should be.

        """
        if self.is_inside:
            return self.rows(name, parameters)
        for trial in self._trials():
            with trial:
                return self._connect().execute(queries()[name], parameters, binary=True).fetchall()
        raise AssertionError  # trials end by returning or raising

    def do(self, name: str, parameters: Mapping[str, Any]) -> int:
        """Run a statement that may be repeated and is no part of the store's transactions; return what it changed.

        Raises:
            StoreUnreachable: the database is away for longer than anybody wants to wait.

        """
        for trial in self._trials():
            with trial:
                return self._connect().execute(queries()[name], parameters).rowcount
        raise AssertionError  # trials end by returning or raising

    # ------------------------------------------------------------------ transactions

    def begin(self) -> None:
        """Begin a transaction; the database hears of it with its first statement."""
        self._done, self.is_inside, self._is_in_doubt = [], True, False

    def rows(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """Return the rows of a statement in the transaction."""
        return self._step((queries()[name], parameters), lambda cursor: cursor.fetchall())

    def count(self, name: str, parameters: Mapping[str, Any]) -> int:
        """Return how many rows a statement changed."""
        return self._step((queries()[name], parameters), self._changed)

    def send(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Have a statement done, at the latest with the commit; the server begins while we go on."""
        self._step((queries()[name], parameters), lambda cursor: cursor.connection.pgconn.flush())

    def commit(self) -> None:
        """Make all of it durable; where the connection breaks, until it is known to be."""
        if self._done:
            began = time.perf_counter()
            for trial in self._trials():
                with trial:
                    connection = self._in_transaction()
                    self._is_in_doubt = True
                    connection.execute(b"COMMIT")
                    self._leave_pipeline()
                    break
                if self._has_happened(trial.problem):
                    break
            self._commits += 1
            self.commit_seconds = time.perf_counter() - began
        self.is_inside = False

    def rollback(self) -> None:
        """Have nothing of it happen."""
        self.is_inside, self._done = False, []
        if self._pipeline is not None:
            try:
                self._leave_pipeline()
                self._connect().execute(b"ROLLBACK")
            except psycopg.Error:
                self.drop()

    def stand_at(self, commits: int) -> None:
        """Go on from another count than was left behind."""
        self._commits = commits

    def _step(self, statement: Statement, answer: Callable[[psycopg.Cursor[Row]], Result]) -> Result:
        for trial in self._trials():
            with trial:
                found = answer(self._in_transaction().execute(*statement, binary=True))
                self._done.append(statement)
                return found
            self._has_happened(trial.problem)
        raise AssertionError  # trials end by returning or raising

    def _changed(self, cursor: psycopg.Cursor[Row]) -> int:
        if self._pipeline is not None:
            self._pipeline.sync()
        return cursor.rowcount

    def _in_transaction(self) -> Connection:
        """Return the connection, with the transaction begun on it and all done in it that was done before."""
        connection = self._connect()
        if self._pipeline is None:
            self._leaving = contextlib.ExitStack()
            self._pipeline = self._leaving.enter_context(connection.pipeline())
            for statement in self._database.begin():
                connection.execute(statement)
            connection.execute(queries()["count_commit"], {"me": self._me, "commits": self._commits})
            for statement, parameters in self._done:
                connection.execute(statement, parameters, binary=True)
        return connection

    def _has_happened(self, problem: psycopg.Error | None) -> bool:
        """Look, where the database says that we are not where we left off; True where the commit in doubt happened.

        Raises:
            StoreInUse: somebody else has the store now.
            SetBack: what was committed is not there any more.

        """
        if problem is None or classify(problem) is not Trouble.NOT_OURS:
            return False
        is_inside, self.is_inside = self.is_inside, False
        found = self.look("my_commits", {"me": self._me})
        self.is_inside = is_inside
        if not found or found[0]["is_over"]:
            raise StoreInUse(taken(self._database.place))
        commits = found[0]["commits"]
        if commits == self._commits + 1 and self._is_in_doubt:
            return True
        if commits != self._commits:
            self._commits = commits
            raise SetBack
        return False

    # ------------------------------------------------------------------ connections

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.connect(to_write=True)
            self._was_connected = self.is_new = True
        return self._connection

    def _leave_pipeline(self) -> None:
        self._pipeline = None
        self._leaving.close()

    def drop(self) -> None:
        """Let go of the connection, in whatever state it is; there will be another one."""
        connection, self._connection, self._pipeline = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
            with contextlib.suppress(psycopg.Error):
                self._leaving.close()

    def _trials(self) -> Iterator["_Trial"]:
        """Yield trials until one of them ends the loop, with longer and longer pauses between them."""
        until = time.monotonic() + self._patience_seconds
        told = ""
        at_once = AT_ONCE_TRIES
        pause = FIRST_PAUSE_SECONDS
        while True:
            trial = _Trial(self)
            self._busy_since = time.monotonic()
            try:
                yield trial
            finally:
                self._busy_since = None
                if trial.problem is None and told:
                    self._on_wait("")
                    log.info("store.available", store=self._database.place)
            problem = trial.problem
            if problem is None:
                return
            self.troubles[problem.sqlstate or "connection"] += 1
            trouble = classify(problem)
            if trouble is Trouble.FATAL or (trouble is Trouble.REFUSED and not self._was_connected):
                raise as_ours(self._database.place, problem) from problem
            if trouble is Trouble.NOT_OURS:
                continue
            if trouble is Trouble.IN_THE_WAY and at_once:
                at_once -= 1
                continue
            if time.monotonic() > until or self._no_more_waiting.is_set():
                raise StoreUnreachable(describe(self._database.place, problem)) from problem
            words = describe(self._database.place, problem)
            if words != told:
                log.warning("store.unavailable", problem=words)
                told = words
                self._on_wait(words)
            self._no_more_waiting.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - so that not all come at once
            pause = min(MAX_PAUSE_SECONDS, 2 * pause)


class _Trial:
    """One attempt; what the database says against it is kept in ``problem``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.problem: psycopg.Error | None = None

    def __enter__(self) -> None:
        self.problem = None

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> bool:
        if isinstance(problem, psycopg.Error):
            self.problem = problem
            self._session.drop()
            return True
        return False
