"""How the interpreter is set for a bridge: one thread reads and sends, another one keeps, and both want its lock.

Whoever has the lock keeps it for 5 ms by default, while a PBX that answered at once waits for our next question. The
collector of cycles looks at every 700 new objects, of which a change makes fifty and leaves no cycle behind. Measured
on loopback with two cores, an account of a walk takes 360 µs instead of 386 µs (the bare client: 257 µs).
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
