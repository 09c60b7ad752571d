"""Processes that are frozen, and are so when the call returns: a signal that was sent has not yet arrived.

Inferred from a run in which ten messages that were sent behind the signal must have been confirmed.
"""

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PATIENCE_SECONDS = 10


def freeze(pids: Collection[int]) -> None:
    """Stop the processes *pids*, and wait until not one of their threads runs any more; some may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + PATIENCE_SECONDS
    while moving := [pid for pid in pids if not _stands(pid)]:
        assert time.monotonic() < until, f"{moving} did not stop in {PATIENCE_SECONDS} s"
        time.sleep(0.001)


def thaw(pids: Collection[int]) -> None:
    """Let the processes *pids* go on."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def of_group(group: int) -> list[int]:
    """Return the processes of a process *group*."""
    found = list[int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if int(_fields(stat)[2]) == group:
                found.append(int(stat.parent.name))
    return found


def _stands(pid: int) -> bool:
    """Return whether each thread of *pid* is stopped (T), or the process has ended (Z, X)."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return all(_fields(stat)[0] in "TtZX" for stat in Path(f"/proc/{pid}/task").glob("*/stat"))
    return True


def _fields(stat: Path) -> list[str]:
    """Return what a ``/proc`` *stat* says behind the name: state, parent, group, and more."""
    return stat.read_text("utf-8", errors="replace").rpartition(")")[2].split()
