"""A PostgreSQL of our own, which tests may stop, kill and fill: own port, own folder, nobody else's data."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

import psycopg

from tests.support.frozen import freeze, thaw
from tests.support.planted import leaks
from tests.support.rabbit import free_port

START_SECONDS = 60
BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=None)
"""Where Debian has the server itself, which is in nobody's path."""

USER, PASSWORD = "bridge", "a-password-of-the-database"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "40",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "log_statement": "none",
    "log_parameter_max_length_on_error": "0",
    "log_min_error_statement": "panic",
    "wal_level": "replica",
    "hot_standby": "on",
    "timezone": "UTC",
}


def is_installed() -> bool:
    """Tell whether a server can be started here."""
    return BINARIES is not None


class PrivatePostgres:
    """Starts with ``with``; ``stop`` and ``kill`` leave the data in place for the next ``start``.

    *settings* are added to its configuration. What was committed survives a ``kill``: fsync stays as it is, and only a
    machine without power could tell the difference, so *is_durable* false is for who looks at speed alone.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, *, is_durable: bool = True) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._folder.chmod(0o755)
        self.data = self._folder / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {**_SETTINGS, "fsync": "on" if is_durable else "off", **(settings or {})}

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
            self.run("CREATE ROLE bridge LOGIN PASSWORD 'a-password-of-the-database'")
            self.create_database("bridge")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        found = list(leaks(self._folder))  # all that was ever stored, and the server's own log
        shutil.rmtree(self._folder, ignore_errors=True)
        assert not found, found

    def url(self, database: str = "bridge", *, port: int | None = None, password: str = PASSWORD) -> str:
        """Return the URL of a database, by another *port* where a proxy stands before it."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{port or self.port}/{database}"

    @property
    def runtime(self) -> Path:
        """A folder with a short name for the socket of a bridge, whose name has its limits; it goes with the server."""
        folder = self._folder / "run"
        folder.mkdir(exist_ok=True)
        return folder

    def create_database(self, name: str) -> str:
        """Make a database of the bridge's user, and return its URL."""
        self.run(f"CREATE DATABASE {name} OWNER {USER}")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run a statement as the administrator, and return its rows."""
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert BINARIES is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*as_nobody(), str(BINARIES / "postgres"), "-D", str(self.data), *self._options()],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self._folder,
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")
            with suppress(psycopg.OperationalError):
                self.run("SELECT 1")
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not answer in time:\n{self.log()}")

    def stop(self, how: Literal["fast", "immediate", "smart"] = "fast") -> None:
        """Have it stop: *fast* ends all sessions, *immediate* is a crash that recovers at the next start."""
        assert self._process is not None
        sent = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how]
        os.kill(self._process.pid, sent)
        self._process.wait(START_SECONDS)

    def restart(self, how: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it and start it again."""
        self.stop(how)
        self.start()

    def kill(self) -> None:
        """Take its plug out."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(START_SECONDS)
            for _ in range(START_SECONDS * 20):  # its children see that it is gone, and end by themselves
                if not _children(self.data):
                    break
                time.sleep(0.05)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        freeze(self._processes())

    def go_on(self) -> None:
        """End ``pause``."""
        thaw(self._processes())

    def _processes(self) -> set[int]:
        """Return it and its children, each of which is a group of its own."""
        assert self._process is not None
        return {self._process.pid, *_children(self.data)}

    def cut_all(self, database: str = "bridge") -> None:
        """End every session on a database, as an administrator would."""
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
        self.run(f"{cut} '{database}'")

    def configure(self, **settings: str) -> None:
        """Change settings of the running server, which knows them from then on."""
        for name, value in settings.items():
            self.run(f"ALTER SYSTEM SET {name} = '{value}'")
        self.run("SELECT pg_reload_conf()")

    def log(self) -> str:
        """Return what the server said."""
        return (self._folder / "log").read_text("utf-8", errors="replace")

    def copy_from(self, other: "PrivatePostgres") -> None:
        """Take all that *other* has, and nothing else, as its standby: instead of ``with``, and then ``start``."""
        shutil.rmtree(self.data, ignore_errors=True)
        self._make_folder()
        _run(
            "pg_basebackup",
            "-h",
            "127.0.0.1",
            "-p",
            str(other.port),
            "-U",
            "postgres",
            "-D",
            str(self.data),
            "-R",
            "-c",
            "fast",
        )

    def promote(self) -> None:
        """Make a standby the primary, on a timeline of its own."""
        self.run("SELECT pg_promote()")

    def _options(self) -> list[str]:
        settings = {**self._settings, "port": str(self.port)}
        return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def _make(self) -> None:
        self._make_folder()
        _run("initdb", "-D", str(self.data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync")
        (self.data / "pg_hba.conf").write_text(
            "host all postgres 127.0.0.1/32 trust\nhost replication postgres 127.0.0.1/32 trust\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )

    def _make_folder(self) -> None:
        owned(self._folder)


def _owner() -> pwd.struct_passwd | None:
    """Return who the server runs as, where we are the administrator, as whom it refuses to run."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def owned(folder: Path) -> None:
    """Give a folder, and what is in it, to that user."""
    user = _owner()
    if user is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)


def as_nobody() -> list[str]:
    """Return what a command begins with that has to run as another user than the administrator."""
    user = _owner()
    return [] if user is None else ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _run(command: str, *arguments: str) -> None:
    assert BINARIES is not None
    done = subprocess.run(
        [*as_nobody(), str(BINARIES / command), *arguments],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
        cwd="/",
    )
    if done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")


def _children(data: Path) -> list[int]:
    """Return the processes that still work on *data*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cwd").resolve() == data:
                    found.append(int(entry.name))
    return found
