import gc
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bridge.runtime import interpreter
from bridge.runtime.interpreter import COLLECT_EVERY, SWITCH_SECONDS, tune


@pytest.fixture
def restored() -> Iterator[None]:
    before = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(before[0])
    gc.set_threshold(*before[1])


@pytest.mark.usefixtures("restored")
def test_the_loop_gets_the_lock_soon_and_the_collector_looks_seldom() -> None:
    sys.setswitchinterval(1.0)
    tune()
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    assert gc.get_threshold()[0] == COLLECT_EVERY


PIECES = """
from pathlib import Path
from bridge.runtime import interpreter
from bridge.runtime.interpreter import give_memory_back

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

pieces = [bytes(2000) for _ in range(40_000)]
few = pieces[::100]
del pieces
before = held()
give_memory_back()
print(before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library gives it back by itself, or never")
def test_memory_that_is_free_in_pieces_is_given_back() -> None:
    told = subprocess.run([sys.executable, "-c", PIECES], check=True, capture_output=True, text=True)
    assert int(told.stdout) > 40_000_000


def test_another_c_library_has_nothing_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_find_trim", lambda: None)
    interpreter.give_memory_back()
