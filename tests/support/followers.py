"""Subscribers of the log as processes of their own, which keep nothing but their place beside what they do."""

import asyncio
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import psycopg

from bridge.consumer.log.position_postgres import PostgresPosition
from bridge.consumer.log.position_sqlite import SqlitePosition
from bridge.consumer.log.reader import LogEntry, LogReader

POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
DEADLINE_SECONDS = 120

LETTERS = "CREATE TABLE IF NOT EXISTS letter (number INTEGER PRIMARY KEY, sequence integer, writer integer)"


class Crm(Protocol):
    """A database in which each change becomes one letter."""

    def connect(self) -> Any: ...
    def position(self, connection: Any, stream: str) -> "SqlitePosition | PostgresPosition": ...
    def transaction(self, connection: Any) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class SqliteCrm:
    """In a file."""

    path: Path

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30)
        connection.execute(LETTERS)
        return connection

    def position(self, connection: sqlite3.Connection, stream: str) -> SqlitePosition:
        return SqlitePosition(connection, stream=stream)

    def transaction(self, connection: sqlite3.Connection) -> AbstractContextManager[Any]:
        return connection


@dataclass(frozen=True)
class PostgresCrm:
    """In a schema of its own."""

    schema: str

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(POSTGRES, options=f"-c search_path={self.schema}")

    def position(self, connection: psycopg.Connection[Any], stream: str) -> PostgresPosition:
        return PostgresPosition(connection, stream=stream)

    def transaction(self, connection: psycopg.Connection[Any]) -> AbstractContextManager[Any]:
        return connection.transaction()


@contextmanager
def postgres_crm() -> Iterator[PostgresCrm]:
    crm = PostgresCrm(f"log_{uuid4().hex[:8]}")
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{crm.schema}"'.encode())
        try:
            with crm.connect() as own:
                own.execute(LETTERS.replace("INTEGER PRIMARY KEY", "serial").encode())
            yield crm
        finally:
            connection.execute(f'DROP SCHEMA "{crm.schema}" CASCADE'.encode())


def letters(crm: Crm) -> list[tuple[int, int]]:
    """Return the sequence of each letter, and the process that wrote it, in the order of writing."""
    with closing(crm.connect()) as connection:
        return [tuple(row) for row in connection.execute("SELECT sequence, writer FROM letter ORDER BY number")]


def follow(  # noqa: PLR0913 - by name
    url: str, stream: str, crm: Crm, until: int, *, replica_of: str | None = None, freeze_at: int | None = None
) -> None:
    """Write a letter for each change, until one at *until* or behind it; freeze behind the sequence *freeze_at*."""
    with closing(crm.connect()) as connection:
        position = crm.position(connection, stream)
        position.create_tables()
        connection.commit()
        reader = LogReader(url, stream=stream, start=position.start, replica_of=replica_of, heartbeat_seconds=1)

        async def apply(entry: LogEntry) -> None:
            with crm.transaction(connection):
                if position.accept(entry):
                    values = f"VALUES ({entry.event.sequence}, {os.getpid()})"
                    connection.execute(f"INSERT INTO letter (sequence, writer) {values}")
            if entry.event.sequence == freeze_at:
                os.kill(os.getpid(), signal.SIGSTOP)
            if entry.event.sequence >= until:
                reader.stop()

        asyncio.run(reader.run(apply))


def started(*arguments: Any, **more: Any) -> Any:
    """Start a process that does ``follow`` with these arguments."""
    process = multiprocessing.get_context("spawn").Process(target=follow, args=arguments, kwargs=more, daemon=True)
    process.start()
    return process


async def ended(process: Any) -> None:
    await asyncio.to_thread(process.join, DEADLINE_SECONDS)
    assert process.exitcode == 0, "it failed" if process.exitcode else "it is still at work"


async def reached(crm: Crm, count: int) -> list[tuple[int, int]]:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(found := letters(crm)) < count:
            await asyncio.sleep(0.02)
    return found


async def frozen(process: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1][0] != "T":
            await asyncio.sleep(0.02)
