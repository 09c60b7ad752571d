import gc
import sys
from collections.abc import Iterator

import pytest

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
