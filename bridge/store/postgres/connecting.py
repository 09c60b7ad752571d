"""How the database is reached: hosts, TLS, deadlines, and how a session behaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from bridge.store.postgres.rows import Row, named_rows

Connection = psycopg.Connection[Row]

CONNECT_SECONDS: Final = 5
ANSWER_SECONDS: Final = 25.0
"""Whatever gets no answer for so long is cut; longer than the longest statement may take."""

SESSION: Final = {
    "synchronous_commit": "on",
    "lock_timeout": "3s",
    "statement_timeout": "20s",
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
}


@dataclass(frozen=True, slots=True)
class Database:
    """Which database, in libpq's words; asked for at every connection, since its password may have changed."""

    parameters: Callable[[], Mapping[str, str]] = field(repr=False)
    place: str
    """What it is called in sentences: the URL without its password."""
    is_pooled: bool = False
    """True behind a pooler that gives each transaction another session: then nothing rests on one."""

    def connect(self, *, to_write: bool) -> Connection:
        """Return a new connection that commits each statement at once.

        Raises:
            psycopg.Error: it cannot be reached, or lets nobody in.

        """
        wanted: dict[str, Any] = {**_NETWORK, **self.parameters()}
        wanted["target_session_attrs"] = "read-write" if to_write else "any"
        connection: Connection = psycopg.connect(
            make_conninfo("", **wanted),
            autocommit=True,
            row_factory=named_rows,
            prepare_threshold=None if self.is_pooled else 3,
        )
        if not self.is_pooled:
            connection.execute(_set_all(is_local=False))
        return connection

    def begin(self) -> list[bytes]:
        """Return what begins a transaction."""
        begin = b"BEGIN ISOLATION LEVEL READ COMMITTED"
        return [begin, _set_all(is_local=True)] if self.is_pooled else [begin]


def _set_all(*, is_local: bool) -> bytes:
    settings = [f"set_config('{name}', '{value}', {str(is_local).lower()})" for name, value in SESSION.items()]
    return f"SELECT {', '.join(settings)}".encode()
