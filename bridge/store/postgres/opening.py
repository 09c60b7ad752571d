"""How a database becomes the store of one bridge: its tables brought up to date, and nobody else writing."""

import os
import socket
import uuid
from typing import Final

import psycopg

from bridge import __version__
from bridge.errors import StoreInUse, StoreUnusable
from bridge.store.postgres.connecting import Connection
from bridge.store.postgres.errors import as_ours, in_use, younger
from bridge.store.postgres.sql import migrations, queries, works_for

LOCK_KEY: Final = 0x1DB_5709E
"""Of the one lock that is taken, for the length of a transaction, while tables are made."""


def migrate(connection: Connection, place: str) -> None:
    """Run the migrations that the store has not had.

    Raises:
        StoreUnusable: a younger bridge wrote it, and this one cannot work with what that made of it.

    """
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
        applied, oldest = read_tables(connection)
        known = migrations()[-1].number
        if applied > known:
            if oldest > known:
                raise StoreUnusable(younger(place, applied, known))
            return
        for migration in migrations():
            if migration.number > applied:
                connection.execute(migration.statements.encode())
        if applied < known:
            if not applied:
                connection.execute("CREATE TABLE schema_version (tables integer NOT NULL, works_for integer NOT NULL)")
            connection.execute("DELETE FROM schema_version")
            connection.execute(
                "INSERT INTO schema_version (tables, works_for) VALUES (%s, %s)", [known, works_for(migrations()[-1])]
            )


def read_tables(connection: Connection) -> tuple[int, int]:
    """Return which tables there are, and the oldest whose bridges can work with them; zeros where there are none."""
    if not connection.execute(queries()["has_tables"]).fetchall()[0]["has_any"]:
        return 0, 0
    (row,) = connection.execute(queries()["tables"]).fetchall()
    return int(row["tables"]), int(row["works_for"])


def begin_life(connection: Connection, place: str, seconds: float) -> str:
    """Take the store for a new life of this process, and return its id.

    Raises:
        StoreInUse: another bridge lives.

    """
    me = str(uuid.uuid4())
    told = {"me": me, "name": f"{socket.gethostname()}, process {os.getpid()}", "version": __version__}
    try:
        with connection.transaction():
            connection.execute(queries()["end_lapsed"])
            for other in connection.execute(queries()["alive"]).fetchall():
                raise StoreInUse(in_use(place, other["name"], other["seconds"]))
            connection.execute(queries()["begin_life"], {**told, "tables": migrations()[-1].number})
            connection.execute(queries()["begin_lease"], {"me": me, "seconds": seconds})
            connection.execute(queries()["forget_lives"])
    except psycopg.errors.UniqueViolation as problem:
        raise StoreInUse(in_use(place, "which came a moment earlier", seconds)) from problem
    except psycopg.Error as problem:
        raise as_ours(place, problem) from problem
    return me
