"""The bridge as a process of its own, as an operator runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.frozen import freeze
from tests.support.planted import planted_in

PATIENCE_SECONDS = 60


class Command:
    """A running ``account-bridge``, or another *program*; everything it prints is kept."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        program: Sequence[str] = (sys.executable, "-m", "bridge"),
    ) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
        self._process = subprocess.Popen(
            [*program, *arguments],
            env={**clean, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._readers = [
            threading.Thread(target=self._keep, args=(stream, lines), daemon=True)
            for stream, lines in ((self._process.stdout, self.out), (self._process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @staticmethod
    def _keep(stream: Any, lines: list[str]) -> None:
        lines.extend(line.rstrip("\n") for line in stream)
        stream.close()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def number(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def printed(self) -> str:
        """Everything, from both streams."""
        return "\n".join([*self.out, *self.err])

    def logs(self, pattern: str) -> list[dict[str, Any]]:
        """Return the log lines so far whose event matches."""
        found = []
        for line in list(self.err):
            if line.startswith("{"):
                entry = json.loads(line)
                if re.search(pattern, entry["event"]):
                    found.append(entry)
        return found

    def wait_for_log(self, pattern: str, count: int = 1, *, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """Return the log line with which *count* are there."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = self.logs(pattern)
            if len(found) >= count:
                return found[count - 1]
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in:\n{self.printed}")

    def wait(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """Return the exit code once it has ended."""
        code = self._process.wait(seconds)
        for reader in self._readers:
            reader.join(PATIENCE_SECONDS)
        assert not planted_in(self.printed), "a secret was printed"
        return code

    def terminate(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def hang_up(self) -> None:
        """Ask it to read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """Freeze it."""
        freeze([self._process.pid])

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()


def run(*arguments: str, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> tuple[int, Command]:
    """Run a command to its end."""
    with Command(*arguments, environment=environment, cwd=cwd) as command:
        return command.wait(), command
