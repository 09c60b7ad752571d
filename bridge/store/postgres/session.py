"""A session with the database in which a transaction survives its connection.

A transaction is a list of statements, and the first of them counts it, on the condition that nobody else wrote since
the last one. So where a connection ends in its midst, the same statements are repeated on another one. They find what
they found before, or it fails: on what others share, they may have come in between. Where a connection ends in the
commit, so that nobody knows whether that happened, the count says so. A count that is lower than what was committed
says that the database went back in time.
"""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import psycopg

from bridge.errors import LeaseLost, StoreInUse, StoreUnreachable, StoreUnusable
from bridge.logs import get_logger
from bridge.store.postgres.connecting import Connection, Database
from bridge.store.postgres.errors import Trouble, as_ours, classify, describe, late, life_over, not_as_found, taken
from bridge.store.postgres.rows import Row
from bridge.store.postgres.sql import queries

MAX_PAUSE_SECONDS: Final = 5.0
FIRST_PAUSE_SECONDS: Final = 0.05
AT_ONCE_TRIES: Final = 3
MOST_TIMES: Final = 64.0
TOO_SLOW: Final = "57014"
LOCKED: Final = "55P03"

Result = TypeVar("Result")
Statement = tuple[bytes, Mapping[str, Any]]
Answer = Callable[[psycopg.Cursor[Row]], Any]

log = get_logger(__name__)


class SetBack(Exception):  # noqa: N818 - what was found; never leaves the store
    """The database is an older state of itself: what was committed is not there."""


class Session:
    """One connection, and another one whenever that breaks. Blocks; called from one thread at a time.

    *me* is the life of this bridge, as far as it writes; *is_shared*: others live beside it. What keeps it waiting is
    told to *on_wait*, and an empty text when that is over; it waits for *patience_seconds* at most, and for an answer
    for *answer_seconds*.
    """

    def __init__(  # noqa: PLR0913 - what makes a session
        self,
        database: Database,
        me: str,
        *,
        patience_seconds: float,
        on_wait: Callable[[str], None] = lambda _: None,
        is_shared: bool = False,
        answer_seconds: float | None = None,
    ) -> None:
        self._database = database
        self._me = me
        self._patience_seconds = patience_seconds
        self._on_wait = on_wait
        self._is_shared = is_shared
        self._answer_seconds = answer_seconds
        self._connection: Connection | None = None
        self._pipeline: psycopg.Pipeline | None = None
        """Open in a transaction: what is not asked back is sent along with what comes next."""
        self._leaving = contextlib.ExitStack()
        self._done: list[tuple[Statement, Answer, Any]] = []
        """What the transaction did so far, and what came of it."""
        self._commits = 0
        self._is_in_doubt = False
        self._was_left_in_doubt = False
        """True where a former commit was given up before there was an answer."""
        self.is_inside = False
        """True in a transaction."""
        self._was_connected = False
        self._no_more_waiting = threading.Event()
        self._times = 1.0
        """How much longer a statement may take than usual: twice as long after one that took too long."""
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
                return self._database.ask(self._connect(), queries()[name], parameters).fetchall()
        raise AssertionError  # trials end by returning or raising

    def do(self, name: str, parameters: Mapping[str, Any]) -> int:
        """Run a statement that may be repeated and is no part of the store's transactions; return what it changed.

        Raises:
            StoreUnreachable: the database is away for longer than anybody wants to wait.

        """
        for trial in self._trials():
            with trial:
                return self._database.ask(self._connect(), queries()[name], parameters).rowcount
        raise AssertionError  # trials end by returning or raising

    # ------------------------------------------------------------------ transactions

    def begin(self) -> None:
        """Begin a transaction; the database hears of it with its first statement."""
        self._was_left_in_doubt |= self._is_in_doubt
        self._done, self.is_inside, self._is_in_doubt = [], True, False

    def rows(self, name: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """Return the rows of a statement in the transaction."""
        return self._step((queries()[name], parameters), lambda cursor: cursor.fetchall())

    def count(self, name: str, parameters: Mapping[str, Any]) -> int:
        """Return how many rows a statement changed."""
        return self._step((queries()[name], parameters), self._changed)

    def send(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Have a statement done, at the latest with the commit; the server begins while we go on."""
        self._step((queries()[name], parameters), _have_begun)

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
                    trial.problem = None
                    break
            self._commits += 1
            self._be_quick_again()
            self._is_in_doubt = self._was_left_in_doubt = False
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

    def live_anew(self, me: str) -> None:
        """Go on as another life, with whatever connection there is; not in a transaction."""
        self._me, self._commits = me, 0
        self._is_in_doubt = self._was_left_in_doubt = False

    def _step(self, statement: Statement, answer: Callable[[psycopg.Cursor[Row]], Result]) -> Result:
        for trial in self._trials():
            with trial:
                found = answer(self._in_transaction().execute(*statement, binary=True))
                self._done.append((statement, answer, found))
                return found
            self._has_happened(trial.problem)
        raise AssertionError  # trials end by returning or raising

    def _changed(self, cursor: psycopg.Cursor[Row]) -> int:
        if self._pipeline is not None:
            self._pipeline.sync()
        return cursor.rowcount

    def _in_transaction(self) -> Connection:
        """Return the connection, with the transaction begun on it and all done in it that was done before.

        Raises:
            LeaseLost: what was found before is not so any more, and what follows rests on that.

        """
        connection = self._connect()
        if self._pipeline is None:
            self._leaving = contextlib.ExitStack()
            self._pipeline = self._leaving.enter_context(connection.pipeline())
            for statement in self._database.begin(connection):
                connection.execute(statement)
            connection.execute(queries()["count_commit"], {"me": self._me, "commits": self._commits})
            for done, answer, found in self._done:
                if answer(connection.execute(*done, binary=True)) != found:
                    raise LeaseLost(not_as_found(self._database.place))
        return connection

    def _has_happened(self, problem: psycopg.Error | None) -> bool:
        """Look, where the database says that we are not where we left off; True where the commit in doubt happened.

        Where a lock is in the way, end a former session of ours that has it and stands still.

        Raises:
            StoreInUse: somebody else has the store now.
            LeaseLost: the others took us to be dead.
            StoreUnreachable: a former commit that was given up happened after all, and is not in our memory.
            SetBack: what was committed is not there any more.

        """
        if problem is not None and problem.sqlstate == LOCKED:
            with contextlib.suppress(StoreUnusable):  # where it may not, the lock is waited for
                self._look_outside("cut_stranded")
        if problem is None or classify(problem) is not Trouble.NOT_OURS:
            return False
        found = self._look_outside("my_commits")
        if not found:
            raise SetBack
        if found[0]["is_over"]:
            raise LeaseLost(life_over()) if self._is_shared else StoreInUse(taken(self._database.place))
        commits = found[0]["commits"]
        if commits == self._commits + 1 and self._is_in_doubt:
            return True
        if commits == self._commits + 1 and self._was_left_in_doubt:
            raise StoreUnreachable(late(self._database.place))
        if commits != self._commits:
            self._commits = commits
            raise SetBack
        return False

    def _look_outside(self, name: str) -> Sequence[Row]:
        """Return the rows of a statement about us, in the midst of a transaction that is not open at the moment."""
        is_inside, self.is_inside = self.is_inside, False
        try:
            return self.look(name, {"me": self._me})
        finally:
            self.is_inside = is_inside

    # ------------------------------------------------------------------ connections

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.connect(to_write=True, times=self._times)
            self._connection.answer_seconds = self._answer_seconds
            self._was_connected = self.is_new = True
        return self._connection

    def _be_quick_again(self) -> None:
        """Wait for the next statement no longer than usual; a connection on which that is longer is left."""
        self._times = 1.0
        if self._connection is not None and self._connection.times > 1:
            self.drop()

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
            trial, is_old = _Trial(self), self._connection is not None
            try:
                yield trial
            finally:
                if trial.problem is None and told:
                    self._on_wait("")
                    log.info("store.available", store=self._database.place)
            problem = trial.problem
            if problem is None:
                return
            self.troubles[problem.sqlstate or "connection"] += 1
            trouble = classify(problem)
            if problem.sqlstate == TOO_SLOW:
                self._times = min(MOST_TIMES, 2 * self._times)
            if trouble in {Trouble.FATAL, Trouble.LOST} or (trouble is Trouble.REFUSED and not self._was_connected):
                raise as_ours(self._database.place, problem) from problem
            if trouble is Trouble.NOT_OURS:
                continue
            if trouble is Trouble.IN_THE_WAY and at_once:
                at_once -= 1
                continue
            is_over = time.monotonic() > until or self._no_more_waiting.is_set()
            is_stale = is_old and trouble is Trouble.AWAY  # and says nothing about the database
            if is_over and not is_stale:
                raise StoreUnreachable(describe(self._database.place, problem)) from problem
            words = describe(self._database.place, problem)
            if words != told:
                log.warning("store.unavailable", problem=words)
                told = words
                self._on_wait(words)
            self._no_more_waiting.wait(pause * random.uniform(0.5, 1))  # noqa: S311 - so that not all come at once
            pause = min(MAX_PAUSE_SECONDS, 2 * pause)


def _have_begun(cursor: psycopg.Cursor[Row]) -> None:
    """Have the server begin with a statement whose answer nobody waits for."""
    cursor.connection.pgconn.flush()


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
