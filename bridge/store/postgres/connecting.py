"""How the database is reached: hosts, TLS, deadlines, and how a session behaves."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo

from bridge.errors import FileUnusable
from bridge.store.postgres.rows import Row, named_rows

CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 25.0
"""Whatever gets no answer for so long has failed; longer than the longest statement may take."""

Result = TypeVar("Result")

STATEMENT_SECONDS: Final = 20
"""How long a statement may take that never took too long."""
SESSION: Final = {
    "synchronous_commit": "on",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "5s",
    "timezone": "UTC",
}
"""How a session behaves, whatever the server has as default. One that freezes in a transaction must not keep locks."""

_NETWORK: Final[Mapping[str, str | int]] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "account-bridge",
    "client_encoding": "UTF8",
}


class Connection(psycopg.Connection[Row]):
    """A connection of which no wait is without an end, whatever the network or the server does not say."""

    times: float = 1
    """How much longer than usual a statement may take on it, and an answer."""
    answer_seconds: float | None = None
    """For which an answer is usually waited, where that is not as on others."""

    def wait(self, gen: Generator[Any, Any, Result], *arguments: Any, **named: Any) -> Result:
        """Do what *gen* wants of the server, as psycopg does it.

        Raises:
            psycopg.OperationalError: there was no answer in time. What became of it nobody knows, so that nothing can
                follow on this connection.

        """
        return super().wait(_within((self.answer_seconds or ANSWER_SECONDS) * self.times, gen), *arguments, **named)


def _within(seconds: float, steps: Generator[Any, Any, Result]) -> Generator[Any, Any, Result]:
    """Take the *steps* of psycopg's protocol, which hears every tenth of a second when there is nothing to be read."""
    until = time.monotonic() + seconds
    try:
        wanted = next(steps)
        while True:
            is_ready = yield wanted
            if not is_ready and time.monotonic() > until:
                raise psycopg.OperationalError(f"it gave no answer for {seconds:g} s")
            wanted = steps.send(is_ready)
    except StopIteration as done:
        result: Result = done.value
        return result


@dataclass(frozen=True, slots=True)
class Database:
    """Which database, in libpq's words; asked for at every connection, since its password may have changed."""

    parameters: Callable[[], Mapping[str, str]] = field(repr=False)
    place: str
    """What it is called in sentences: the URL without its password."""
    is_pooled: bool = False
    """True behind a pooler that gives each transaction another session: then nothing rests on one."""

    def connect(self, *, to_write: bool, times: float = 1) -> Connection:
        """Return a new connection that commits each statement at once; a statement may take so many *times* as long.

        Raises:
            psycopg.Error: it cannot be reached, or lets nobody in.

        """
        try:
            wanted: dict[str, Any] = {**_NETWORK, **self.parameters()}
        except (FileUnusable, ValueError) as problem:  # its file has something else meanwhile: that may be mended
            raise psycopg.OperationalError(f"what is in store.url or its file now {problem}") from problem
        wanted["target_session_attrs"] = "read-write" if to_write else "any"
        connection = Connection.connect(
            make_conninfo("", **wanted),
            autocommit=True,
            row_factory=named_rows,
            prepare_threshold=None if self.is_pooled else 3,
        )
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.read_only = not to_write
        connection.times = times
        if not self.is_pooled:
            try:
                for statement in _settings(times, is_local=False):
                    connection.execute(statement)
                if not to_write:
                    connection.execute("SET default_transaction_read_only = on")
            except BaseException:
                connection.close()
                raise
        return connection

    def begin(self, connection: Connection) -> list[bytes]:
        """Return what begins a transaction."""
        may = "ONLY" if connection.read_only else "WRITE"
        return [f"BEGIN ISOLATION LEVEL READ COMMITTED READ {may}".encode(), *self._settings(connection)]

    @contextmanager
    def transaction(self, connection: Connection) -> Iterator[None]:
        """Do what is inside in one transaction."""
        with connection.transaction():
            for statement in self._settings(connection):
                connection.execute(statement)
            yield

    def ask(
        self, connection: Connection, statement: bytes, parameters: Mapping[str, Any] | None = None
    ) -> psycopg.Cursor[Row]:
        """Run a statement by itself; behind a pooler in a transaction, in which the settings are ours."""
        if not self.is_pooled or connection.info.transaction_status is not _IDLE:
            return connection.execute(statement, parameters, binary=True)
        with connection.pipeline():
            for begin in self.begin(connection):
                connection.execute(begin)
            asked = connection.execute(statement, parameters, binary=True)
            connection.execute(b"COMMIT")
        return asked

    def _settings(self, connection: Connection) -> list[bytes]:
        return _settings(connection.times, is_local=True) if self.is_pooled else []


_IDLE: Final = psycopg.pq.TransactionStatus.IDLE


def _settings(times: float, *, is_local: bool) -> list[bytes]:
    """Return what has a session, or a transaction, behave as ours.

    A session of a pooler may have been left with another search path, as pg_dump leaves it.
    """
    wanted = {**SESSION, "statement_timeout": f"{round(STATEMENT_SECONDS * times * 1000)}ms"}
    settings = [f"set_config('{name}', '{value}', {str(is_local).lower()})" for name, value in wanted.items()]
    path = [b"SET LOCAL search_path TO DEFAULT"] if is_local else []
    return [*path, f"SELECT {', '.join(settings)}".encode()]
