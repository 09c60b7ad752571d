"""One side of a comparison, as a process of its own: neither shares an event loop, a heap or a GIL with the other.

    measured = run("bare", "walked", url=...)     # calls tests.benchmark.bare.walked(url=...) in a new interpreter

A side is a plain function that takes and returns what JSON can hold.
"""

import importlib
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 1800
LAST_WORDS = 10_000
"""Characters of what a side that failed said."""
ROOT = Path(__file__).parents[2]
PAGE_BYTES = resource.getpagesize()


class SideFailedError(Exception):
    """A side ended without a result; the message is what it wrote to stderr."""


class Side:
    """A running side. ``result`` waits for its end; ``ready`` for the first line it prints while it runs."""

    def __init__(self, module: str, function: str, arguments: dict[str, Any]) -> None:
        self._name = f"{module}.{function}"
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody empties would stop who writes much
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmark.sides", module, function, json.dumps(arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> str:
        """Return the line that the side prints once it is ready."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(PATIENCE_SECONDS)
            raise SideFailedError(f"{self._name} ended early: {self._said()}")
        return line.strip()

    def result(self) -> dict[str, Any]:
        """Close its stdin, which asks a side that waits to come to an end, and return what it measured."""
        try:
            out, _ = self._process.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise SideFailedError(f"{self._name} did not end within {PATIENCE_SECONDS} s") from None
        if self._process.returncode:
            raise SideFailedError(f"{self._name} failed:\n{self._said()}")
        measured: dict[str, Any] = json.loads(out.splitlines()[-1])
        return measured

    def _said(self) -> str:
        self._words.seek(0)
        return self._words.read()[-LAST_WORDS:]

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._words.close()


@contextmanager
def running(module: str, function: str, **arguments: Any) -> Iterator[Side]:
    side = Side(module, function, arguments)
    try:
        yield side
    finally:
        side.stop()


def run(module: str, function: str, **arguments: Any) -> dict[str, Any]:
    """Return what the function measured.

    Raises:
        SideFailedError: it raised, or did not end.

    """
    with running(module, function, **arguments) as side:
        return side.result()


def rss_bytes() -> int:
    """Return how much memory this process holds at the moment."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def peak_rss_bytes() -> int:
    """Return the most that this process ever held; ``getrusage`` would count what its parent held when it forked."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status tells no VmHWM")


if __name__ == "__main__":
    module, function, arguments = sys.argv[1:]
    call = getattr(importlib.import_module(f"tests.benchmark.{module}"), function)
    sys.stdout.write(json.dumps(call(**json.loads(arguments))) + "\n")
