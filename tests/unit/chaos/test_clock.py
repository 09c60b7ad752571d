import os
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.chaos.site import CLOCK, ROOT

TOLD = "import time; from bridge import clock; print(clock.utc_now().isoformat(), time.time(), clock.steady())"


def told(file: Path, seconds: float) -> tuple[datetime, datetime, float]:
    file.write_bytes(struct.pack("d", seconds))
    environment = {**os.environ, "PYTHONPATH": f"{CLOCK}:{ROOT}", "CHAOS_CLOCK": str(file)}
    printed = subprocess.run([sys.executable, "-c", TOLD], env=environment, capture_output=True, check=True, text=True)
    now, seconds_since, steady = printed.stdout.split()
    return datetime.fromisoformat(now), datetime.fromtimestamp(float(seconds_since), UTC), float(steady)


def test_a_clock_that_is_off_tells_another_time_and_runs_on_as_steadily(tmp_path: Path) -> None:
    right, _, before = told(tmp_path / "clock", 0)
    for seconds in (7200.0, -7200.0):
        for now in told(tmp_path / "clock", seconds)[:2]:
            assert abs(now - right - timedelta(seconds=seconds)) < timedelta(minutes=1)
    assert told(tmp_path / "clock", 7200.0)[2] - before < 60
