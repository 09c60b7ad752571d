"""The last resort: a thread that ends the process where a stop is not over in its time, or work hangs.

Every wait in the bridge has a deadline. Where one has not after all, a restart is what helps: nothing durable is
damaged, and whoever started the process (compose, systemd, an orchestrator) starts it again. A thread, because the
event loop may be what hangs. It counts on the monotonic clock, since that of the wall may jump.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from bridge.observability.status import BridgeStatus
from bridge.security.secret import scrub

HUNG: Final = 3
"""The exit code of a process that was ended the hard way."""

STOP_SECONDS: Final = 25.0
"""For a stop, whoever wants it: an operator, or a task that cannot go on. Docker and Kubernetes kill after 30."""

HANG_SECONDS: Final = 120.0
"""How long ``/livez`` may say that a task hangs before the process ends."""

LOOK_SECONDS: Final = 1.0

FROZEN_SECONDS: Final = 10.0
"""So long without a look, the whole process stood still (docker pause, a suspended machine): all begin anew."""


def end_now(words: str) -> None:
    """End the process without any more ado, with *words* and where each thread stands on stderr."""
    told = scrub(f"{words}. Ended the hard way; what was not confirmed is sent again after the restart")
    os.write(sys.stderr.fileno(), f"account-bridge: {told}\n".encode())
    faulthandler.dump_traceback(file=sys.stderr)
    os._exit(HUNG)


class HardEnd:
    """Watches while inside; *end* is called with the reason, in words, and does not return."""

    def __init__(
        self,
        *,
        stop_seconds: float = STOP_SECONDS,
        hang_seconds: float = HANG_SECONDS,
        end: Callable[[str], None] = end_now,
    ) -> None:
        self._stop_seconds = stop_seconds
        self._hang_seconds = hang_seconds
        self._end = end
        self._board: BridgeStatus | None = None
        self._is_stopping: Callable[[], bool] = lambda: False
        self._stop_began_at: float | None = None
        self._looked_at: float | None = None
        self._seen: dict[str, tuple[object, float]] = {}
        """Of every task its last progress, and when that was seen for the first time."""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="hard end", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()

    def watch(self, board: BridgeStatus, is_stopping: Callable[[], bool]) -> None:
        """Watch the tasks on *board* from now on; the time for a stop runs from when *is_stopping*."""
        self._board, self._is_stopping = board, is_stopping

    def stop(self) -> None:
        """Say that the process is to end, for whatever reason."""
        self._is_stopping = lambda: True

    def reason(self, now: float) -> str:
        """Return why the process has to end at *now*, in monotonic seconds; empty where it has not."""
        if self._looked_at is not None and now - self._looked_at > FROZEN_SECONDS:
            self._stop_began_at = None
            self._seen.clear()
        self._looked_at = now
        ended = self._board.ended() if self._board is not None else []
        if ended or self._is_stopping():
            if self._stop_began_at is None:
                self._stop_began_at = now
            if now - self._stop_began_at > self._stop_seconds:
                why = f", and {ended[0]}" if ended else ""
                return f"the bridge did not stop within {self._stop_seconds:g} s{why}"
            return ""
        if self._board is not None and self._board.locked():  # whoever waits for the store goes on once it answers
            self._seen.clear()
            return ""
        tasks = list(self._board.tasks.items()) if self._board is not None else []
        for name, task in tasks:
            progress_at, seen_at = self._seen.get(name, (None, now))
            if progress_at != task.progress_at:
                self._seen[name] = (task.progress_at, now)
            elif now - seen_at > task.limit.total_seconds() + self._hang_seconds:
                return f"the task {name!r} has made no progress for {now - seen_at:.0f} s"
        return ""

    def _keep_looking(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            if words := self.reason(time.monotonic()):
                self._end(words)
