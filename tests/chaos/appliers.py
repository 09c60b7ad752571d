"""Consumers that apply changes, as processes that are killed and started again, and what they made durable."""

import json
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from tests.chaos.counting import Arrival, States
from tests.chaos.errors import CannotRunError, StandstillError
from tests.chaos.readers import SOURCE_PREFIX, comparable
from tests.support.process import Command

COLUMNS = 6
WITH_STATE = 7
PAUSE_SECONDS = 0.5
"""Before a consumer that ended by itself is started again."""


class Effects(Protocol):
    """What a consumer made durable, in order."""

    def read_on(self, fault: int) -> Sequence[Arrival]:
        """Return what came since the last call."""

    def states(self) -> Mapping[str, States]:
        """Return every account as it stands now, for each rule that is kept; none where that is not told."""


class SqliteEffects:
    """The table of ``applier``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read_on(self, fault: int) -> Sequence[Arrival]:
        """Return what came since the last call."""
        if not self._path.exists():
            return []
        database = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=30)
        try:
            rows = database.execute(
                "SELECT position, event_id, source, sequence, account, revision, lineage FROM effect "
                "WHERE position > ? ORDER BY position",
                (self._position,),
            ).fetchall()
        except sqlite3.OperationalError as problem:
            if "no such table" in str(problem):  # its process has only just begun
                return []
            raise
        finally:
            database.close()
        if rows:
            self._position = rows[-1][0]
        return [
            Arrival(event_id, source, sequence, account, revision, fault, lineage=lineage)
            for _, event_id, source, sequence, account, revision, lineage in rows
        ]

    def states(self) -> Mapping[str, States]:
        """Return every account as it stands now, by rule."""
        found: dict[str, dict[str, Hashable]] = {"inbox": {}, "ids": {}}
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=30)) as database:
            for rule, account, content in database.execute("SELECT rule, account, content FROM state"):
                found[rule][account] = content
        return found


class TextEffects:
    """A file with a line for every effect: event id, source, lineage, sequence, account, revision; tabs between them.

    A seventh column may tell the account as it is then, as JSON, or nothing where it is gone. An account that is gone
    by a certificate has a line as well, with revision 0 and an id that no event has.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._states: dict[str, dict[str, Hashable]] = defaultdict(dict)

    def states(self) -> Mapping[str, States]:
        """Return every account as it stands now, where that is told."""
        return self._states

    def read_on(self, fault: int) -> Sequence[Arrival]:
        """Return what came since the last call, whole lines only."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        lines = whole.decode("utf-8", "replace").split("\n") if newline else []
        return [self._effect(line, fault) for line in lines]

    def _effect(self, line: str, fault: int) -> Arrival:
        columns = line.split("\t")
        if len(columns) not in {COLUMNS, WITH_STATE} or not (columns[3].isdigit() and columns[5].isdigit()):
            raise CannotRunError(
                f"{self._path} has the line {line!r}: not an event id, a source, a lineage, a sequence, an account "
                "and a revision with tabs between them"
            )
        if len(columns) == WITH_STATE:
            self._states["its rule"].pop(columns[4], None)
            if columns[6]:
                self._states["its rule"][columns[4]] = comparable(json.loads(columns[6]))
        event_id, source, lineage, sequence, account, revision = columns[:COLUMNS]
        name = source.removeprefix(SOURCE_PREFIX)
        return Arrival(event_id, name, int(sequence), account, int(revision), fault, lineage=lineage)


class Applier:
    """One such consumer; *program* is told by its environment what to read and where to write."""

    def __init__(  # noqa: PLR0913 - what makes one
        self,
        name: str,
        program: Sequence[str],
        environment: Mapping[str, str],
        effects: Effects,
        *,
        cwd: Path,
        fault: Callable[[], int],
        is_supervised: bool = False,
    ) -> None:
        self.name = name
        self.applied: list[Arrival] = []
        self.distinct: set[str] = set()
        self.since_start = 0
        """How many effects there are since it was started last."""
        self._program = program
        self._environment = environment
        self._effects = effects
        self._cwd = cwd
        self._fault = fault
        self._is_supervised = is_supervised
        self._ended_at: float | None = None
        self._command: Command | None = None

    def start(self) -> None:
        self.since_start = 0
        self._command = Command(environment=self._environment, cwd=self._cwd, program=self._program)

    def kill(self) -> None:
        if self._command is not None:
            self._command.kill()

    def check(self) -> None:
        """Look whether it still lives; one that is supervised is started again where it ended by itself.

        Raises:
            StandstillError: it ended by itself.

        """
        if self._command is None or self._command.is_running:
            return
        if not self._is_supervised:
            self._command.wait()
            raise StandstillError(f"the consumer {self.name} ended by itself: {self._command.printed[-2000:]}")
        if self._ended_at is None:
            self._ended_at = time.monotonic()
        elif time.monotonic() - self._ended_at > PAUSE_SECONDS:
            self._ended_at = None
            self.start()

    def read_on(self) -> None:
        """Take note of what it applied since the last call."""
        effects = self._effects.read_on(self._fault())
        self.applied += effects
        self.since_start += len(effects)
        self.distinct.update(effect.event_id for effect in effects if effect.revision)

    def states(self) -> Mapping[str, States]:
        """Return every account as it stands now, for each rule that it keeps; none where it does not tell."""
        return self._effects.states()


def inbox_program() -> Sequence[str]:
    """Return what starts a consumer with our library and its inbox."""
    return (sys.executable, "-m", "tests.chaos.applier")
