"""How a database becomes the store of one bridge: its tables brought up to date, and nobody else writing."""

import os
import socket
import uuid
from contextlib import suppress
from typing import Final

import psycopg

from bridge import __version__
from bridge.errors import StoreInUse, StoreUnusable
from bridge.store.postgres.connecting import Connection, Database
from bridge.store.postgres.errors import (
    as_ours,
    half_restored,
    in_use,
    not_shared,
    older,
    other_encoding,
    younger,
)
from bridge.store.postgres.sql import migrations, queries, works_for

LOCK_KEY: Final = 0x1DB_5709E
"""Of the one lock that is taken, for the length of a transaction, while tables are made."""
MIGRATION_TIMES: Final = 100
"""How much longer a step may take than a statement."""
ENCODING: Final = "UTF8"


def migrate(database: Database, connection: Connection) -> None:
    """Run the migrations that the store has not had.

    Raises:
        StoreUnusable: a younger bridge wrote it, and this one cannot work with what that made of it; or the database
            cannot hold every text.
        StoreInUse: an older one is at work that could not work with what would be made of it.

    """
    place = database.place
    with database.transaction(connection):
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
        applied, oldest = read_tables(database, connection)
        known = migrations()[-1].number
        if applied > known:
            if oldest > known:
                raise StoreUnusable(younger(place, applied, known))
            return
        if applied < known and applied:
            _refuse_beside_older(connection, place, works_for(migrations()[-1]))
        connection.times = MIGRATION_TIMES
        for migration in migrations():
            if migration.number > applied:
                connection.execute(migration.statements.encode())
        connection.times = 1
        if applied < known:
            if not applied:
                connection.execute("CREATE TABLE schema_version (tables integer NOT NULL, works_for integer NOT NULL)")
            connection.execute("DELETE FROM schema_version")
            connection.execute(
                "INSERT INTO schema_version (tables, works_for) VALUES (%s, %s)", [known, works_for(migrations()[-1])]
            )


def read_tables(database: Database, connection: Connection) -> tuple[int, int]:
    """Return which tables there are, and the oldest whose bridges can work with them; zeros where there are none.

    Raises:
        StoreUnusable: the database cannot hold every text, or its tables are not filled yet.

    """
    (found,) = database.ask(connection, queries()["has_tables"]).fetchall()
    if found["encoding"] != ENCODING:
        raise StoreUnusable(other_encoding(database.place, found["encoding"]))
    if not found["has_any"]:
        return 0, 0
    for row in database.ask(connection, queries()["tables"]).fetchall():
        return int(row["tables"]), int(row["works_for"])
    raise StoreUnusable(half_restored(database.place))


def begin_life(database: Database, connection: Connection, seconds: float, *, is_shared: bool = False) -> str:
    """Take the store for a new life of this process, and return its id; *is_shared*: beside others that share it.

    Raises:
        StoreInUse: another bridge lives that shares it with nobody, or with whom we would not.

    """
    me, place = str(uuid.uuid4()), database.place
    told = {"me": me, "name": f"{socket.gethostname()}, process {os.getpid()}", "version": __version__}
    try:
        database.ask(connection, queries()["disbelieve_leases"], {"seconds": seconds})
        with database.transaction(connection):
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK_KEY])
            with suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(queries()["cut_stuck"], {"me": me})
            if is_shared:
                _refuse_lone_bridges(connection, place)
            else:
                connection.execute(queries()["end_lapsed"])
                for other in connection.execute(queries()["alive"]).fetchall():
                    raise StoreInUse(in_use(place, other["name"], other["seconds"]))
                if connection.execute(queries()["free_all"]).rowcount:  # as after an unclean stop of one bridge
                    connection.execute(queries()["set_meta_value"], {"name": "open", "value": b"yes"})
            beginning = "begin_shared_life" if is_shared else "begin_life"
            connection.execute(queries()[beginning], {**told, "tables": migrations()[-1].number})
            connection.execute(queries()["begin_lease"], {"me": me, "seconds": seconds})
            connection.execute(queries()["forget_lives"])
    except psycopg.errors.UniqueViolation as problem:
        raise StoreInUse(in_use(place, "which came a moment earlier", seconds)) from problem
    except psycopg.Error as problem:
        raise as_ours(place, problem) from problem
    return me


def _refuse_lone_bridges(connection: Connection, place: str) -> None:
    connection.execute(queries()["end_lapsed_alone"])
    for other in connection.execute(queries()["others_alive"]).fetchall():
        if not other["shares"]:
            raise StoreInUse(not_shared(place, other["name"]))


def _refuse_beside_older(connection: Connection, place: str, oldest: int) -> None:
    for other in connection.execute(queries()["alive"]).fetchall():
        if other["tables"] < oldest and other["seconds"] > 0:
            raise StoreInUse(older(place, other["name"], other["version"]))
