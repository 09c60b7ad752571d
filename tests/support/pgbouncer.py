"""A pgbouncer of our own before a private PostgreSQL, which gives each transaction whatever session is free."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.support.postgres import PASSWORD, USER, PrivatePostgres, as_nobody, owned
from tests.support.rabbit import free_port

START_SECONDS = 20


def is_installed() -> bool:
    """Tell whether one can be started here."""
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/bin") is not None


class PgBouncer:
    """Starts with ``with``; before the *databases* of *server*, with few sessions for many connections."""

    def __init__(self, server: PrivatePostgres, *, sessions: int = 2) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None
        (self._folder / "users.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
        (self._folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nauth_type = scram-sha-256\nauth_file = {self._folder / 'users.txt'}\n"
            f"pool_mode = transaction\ndefault_pool_size = {sessions}\nserver_idle_timeout = 5\nunix_socket_dir =\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        owned(self._folder)

    def __enter__(self) -> Self:
        command = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
        assert command is not None
        self._process = subprocess.Popen(
            [*as_nobody(), command, "-q", str(self._folder / "pgbouncer.ini")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        raise RuntimeError("pgbouncer did not start")

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)
