"""The store of a run, in either engine: how it is copied while the bridge goes on, set back, and lost."""

import os
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from bridge.model import Sink
from bridge.store.sqlite.backup import put_back
from tests.chaos.errors import CannotRunError, StandstillError
from tests.chaos.servers import Servers
from tests.support.postgres import BINARIES, PASSWORD, USER
from tests.support.process import run

COPY_SECONDS = 60

# In SQL of our own, so that what the bridge believes to wait is not asked of the bridge.
_WAITING: Final = """
    SELECT (SELECT count(*) FROM outbox WHERE sinks & {sink} <> 0 AND position > coalesce((
            SELECT max(through) FROM confirmed WHERE sink = {sink} AND lane IN (0, outbox.source_id)), 0))
        + (SELECT count(*) FROM aside WHERE sink = {sink} AND state IN ('parked', 'held', 'fenced'))
"""
LEASE_SECONDS = 5.0


class KeptStore(Protocol):
    """What a run does with the store beside the bridge."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings of the bridge that are about it."""

    def copy(self, environment: Mapping[str, str], number: int) -> Path:
        """Copy it while the bridge goes on, as an operator would, and return the copy."""

    def waiting(self, sink: Sink) -> int:
        """Return how many events wait in it for *sink*, while no bridge has it."""

    def replace(self, copy: Path | None, number: int) -> None:
        """Put *copy* in its place, or nothing."""


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

    def waiting(self, sink: Sink) -> int:
        with closing(sqlite3.connect(self._folder / "bridge.db")) as store:
            return int(store.execute(_WAITING.format(sink=sink.value)).fetchone()[0])

    def replace(self, copy: Path | None, number: int) -> None:
        store = self._folder / "bridge.db"
        if copy is None:
            for file in self._folder.glob("bridge.db*"):
                file.unlink()
            return
        if number % 2:
            for suffix in ("", "-wal", "-shm"):
                store.with_name(f"{store.name}{suffix}").unlink(missing_ok=True)
            copy.rename(store)
            return
        put_back(copy, store, datetime.now(UTC))
        for kept_before in self._folder.glob("bridge.db.before-*"):
            kept_before.unlink()
        copy.unlink()


class DatabaseStore:
    """A database of *servers*; copies are dumps in *folder*."""

    def __init__(self, servers: Servers, folder: Path, *, is_shared: bool = False) -> None:
        self._is_shared = is_shared
        self._servers = servers
        self._folder = folder

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "BRIDGE_STORE_URL": self._servers.url,
            "BRIDGE_STORE_FAILOVER_LOSES_NOTHING": str(self._servers.is_synchronous).lower(),
            "BRIDGE_STORE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
            "BRIDGE_STORE_SHARED": str(self._is_shared).lower(),
            "XDG_RUNTIME_DIR": str(self._servers.runtime),
        }

    def copy(self, environment: Mapping[str, str], number: int) -> Path:  # noqa: ARG002 - PostgreSQL copies by itself
        copy = self._folder / f"copy-{number}.dump"
        self._call("pg_dump", "-Fc", "-f", str(copy), "bridge")
        return copy

    def waiting(self, sink: Sink) -> int:
        return int(str(self._servers.primary.run(_WAITING.format(sink=sink.value), "bridge")[0][0]))

    def replace(self, copy: Path | None, number: int) -> None:  # noqa: ARG002 - always by the command there is for it
        self._servers.primary.drop_database("bridge")
        self._servers.primary.create_database("bridge")
        if copy is None:
            return
        self._call("pg_restore", "--no-owner", "-d", "bridge", str(copy))
        copy.unlink()

    def _call(self, command: str, *arguments: str) -> None:
        if BINARIES is None:
            raise CannotRunError("PostgreSQL is needed; on Debian: apt-get install postgresql")
        done = subprocess.run(
            [str(BINARIES / command), "-h", "127.0.0.1", "-p", str(self._servers.primary.port), "-U", USER, *arguments],
            env={**os.environ, "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            timeout=COPY_SECONDS,
            check=False,
        )
        if done.returncode:
            raise StandstillError(f"{command}: {done.stderr}")
