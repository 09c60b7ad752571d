"""How the interpreter is set for a bridge: one thread reads and sends, another one keeps, and both want its lock.

Whoever has the lock keeps it for 5 ms by default, while a PBX that answered at once waits for our next question. The
sides of ``python -m tests.benchmark walk_loopback``, in turns on two cores: an account took 386 µs so, 370 µs with
0.2 ms, and 360 µs with 0.02 ms, which costs 302 µs of CPU instead of 261 µs, since the lock changes hands more often.
The collector of cycles looks at every 700 new objects by default; ``perf`` found it in 5 % of the samples of a walk.
"""

import gc
import sys
from typing import Final

SWITCH_SECONDS: Final = 0.0001
"""The loop waits at most so long for the thread of the store."""

COLLECT_EVERY: Final = 10_000
"""Objects made and not freed."""


def tune() -> None:
    """Set it, for the whole process."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(COLLECT_EVERY)
