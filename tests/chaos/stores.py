"""The store of a run, in either engine: how it is copied while the bridge goes on, set back, and lost."""

import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from bridge.security.database_url import read_database_url
from bridge.store.postgres.connecting import Database
from bridge.store.postgres.reader import PostgresReader
from bridge.store.sqlite.backup import put_back
from bridge.store.sqlite.reader import StoreReader
from tests.chaos.errors import CannotRunError, StandstillError
from tests.support.postgres import BINARIES, PASSWORD, USER, PrivatePostgres
from tests.support.process import run

COPY_SECONDS = 60


class KeptStore(Protocol):
    """What a run does with the store beside the bridge."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings of the bridge that are about it."""

    def copy(self, environment: Mapping[str, str], number: int) -> Path:
        """Copy it while the bridge goes on, as an operator would, and return the copy."""

    def replace(self, copy: Path | None, number: int) -> int:
        """Put *copy* in its place, or nothing, and return how many events waited in it."""


class FileStore:
    """A file in *folder*; every other copy is put back by hand, and not by the command that is there for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def environment(self) -> Mapping[str, str]:
        return {"BRIDGE_STORE_URL": f"sqlite:///{self._folder / 'bridge.db'}"}

    def copy(self, environment: Mapping[str, str], number: int) -> Path:
        copy = self._folder / f"copy-{number}.db"
        code, copied = run("backup", str(copy), environment=environment, cwd=self._folder)
        if code:
            raise StandstillError(f"the store cannot be copied: {copied.printed}")
        return copy

    def replace(self, copy: Path | None, number: int) -> int:
        store = self._folder / "bridge.db"
        if copy is None:
            for file in self._folder.glob("bridge.db*"):
                file.unlink()
            return 0
        with StoreReader(copy) as kept:
            unsent = len(kept.unsent())
        if number % 2:
            for suffix in ("", "-wal", "-shm"):
                store.with_name(f"{store.name}{suffix}").unlink(missing_ok=True)
            copy.rename(store)
            return unsent
        put_back(copy, store, datetime.now(UTC))
        for kept_before in self._folder.glob("bridge.db.before-*"):
            kept_before.unlink()
        copy.unlink()
        return unsent


class DatabaseStore:
    """A database of *server*, which the bridge reaches at *port*; copies are dumps in *folder*."""

    def __init__(self, server: PrivatePostgres, port: int, folder: Path) -> None:
        self._server = server
        self._port = port
        self._folder = folder

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "BRIDGE_STORE_URL": self._server.url(port=self._port),
            "BRIDGE_STORE_LEASE_SECONDS": "5",
            "XDG_RUNTIME_DIR": str(self._server.runtime),
        }

    def copy(self, environment: Mapping[str, str], number: int) -> Path:  # noqa: ARG002 - PostgreSQL copies by itself
        copy = self._folder / f"copy-{number}.dump"
        self._call("pg_dump", "-Fc", "-f", str(copy), "bridge")
        return copy

    def replace(self, copy: Path | None, number: int) -> int:  # noqa: ARG002 - always by the command there is for it
        self._server.drop_database("bridge")
        self._server.create_database("bridge")
        if copy is None:
            return 0
        self._call("pg_restore", "--no-owner", "-d", "bridge", str(copy))
        copy.unlink()
        database = Database(lambda: read_database_url(self._server.url()).parameters(), "the copy")
        with PostgresReader(database) as kept:
            return len(kept.unsent())

    def _call(self, command: str, *arguments: str) -> None:
        if BINARIES is None:
            raise CannotRunError("PostgreSQL is needed; on Debian: apt-get install postgresql")
        done = subprocess.run(
            [str(BINARIES / command), "-h", "127.0.0.1", "-p", str(self._server.port), "-U", USER, *arguments],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            timeout=COPY_SECONDS,
            check=False,
        )
        if done.returncode:
            raise StandstillError(f"{command}: {done.stderr}")
