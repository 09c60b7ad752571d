"""A clock that is wrong, for one process: Python imports this by itself where its folder is in ``PYTHONPATH``.

``CHAOS_CLOCK`` names a file of eight bytes with how many seconds the clock is off, which may change at any moment. What
nobody sets (the steady clocks) goes on as it does.
"""

import mmap
import os
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

from bridge import clock

_seconds_off = mmap.mmap(os.open(Path(os.environ["CHAOS_CLOCK"]), os.O_RDONLY), 8, access=mmap.ACCESS_READ)
_true_time = time.time


def _time() -> float:
    return float(_true_time() + struct.unpack("d", _seconds_off[:])[0])


time.time = _time
time.time_ns = lambda: int(_time() * 1_000_000_000)
clock.utc_now = lambda: datetime.fromtimestamp(_time(), UTC)
