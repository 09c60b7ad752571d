"""What a benchmark is given: how long it may take, a broker, a folder, and somewhere to say how far it is."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.benchmark.figures import Figure
from tests.benchmark.plots import Plot
from tests.support.rabbit import PrivateBroker


@dataclass
class Run:
    """One run of the program."""

    is_quick: bool
    stack: ExitStack
    plots: list[Plot] = field(default_factory=list)

    @cached_property
    def broker(self) -> PrivateBroker:
        """A broker of our own, started when somebody first asks for it."""
        self.say("starting a RabbitMQ of our own")
        return self.stack.enter_context(PrivateBroker("log.file.level = error", streams=True))

    @cached_property
    def folder(self) -> Path:
        """A folder that is gone at the end."""
        path = Path(tempfile.mkdtemp(prefix="benchmark-"))
        self.stack.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    def pick(self, whole: int, quick: int) -> int:
        """Return how much to do."""
        return quick if self.is_quick else whole

    def rounds(self, whole: int, quick: int = 1) -> Iterator[int]:
        """Count rounds aloud."""
        last = self.pick(whole, quick)
        for number in range(1, last + 1):
            self.say(f"round {number} of {last}")
            yield number

    def say(self, words: str) -> None:
        """Tell people how far we are."""
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {words}\n")
        sys.stderr.flush()


Measure = Callable[[Run], Sequence[Figure]]


@dataclass(frozen=True)
class Benchmark:
    """One line of the table, or a few that are measured together."""

    name: str
    figures: Sequence[str]
    """Names of the figures that ``measure`` returns."""
    measure: Measure
    is_extra: bool = False
    """Left out by ``--quick`` unless it is named."""
    is_long: bool = False
    """Left out unless it is named."""


@contextmanager
def a_run(*, is_quick: bool) -> Iterator[Run]:
    """Yield a run; everything it started is gone afterwards."""
    with ExitStack() as stack:
        # Some twenty interpreters are started, which would all compile the same modules where that is not kept.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield Run(is_quick, stack)
