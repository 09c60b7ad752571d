"""What several commands share."""

import asyncio
import signal
import sys
from types import FrameType
from typing import Any

import pytest

from bridge.cli import common


@pytest.mark.parametrize("line", [1, 2])
async def test_a_second_signal_ends_it_at_once_wherever_the_first_one_is_just_being_heard(
    line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes with the given line of the handler of the first."""
    ended: list[int] = []
    monkeypatch.setattr(common, "_end_at_once", lambda *given: ended.append(given[0]))
    lines = 0

    def handled(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_name != "stopped":
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            signal.raise_signal(signal.SIGTERM)
        return handled

    with common.stop_signals() as stop:
        former = sys.gettrace()
        sys.settrace(handled)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            sys.settrace(former)
        await asyncio.sleep(0)
        assert stop.is_set()
    assert lines >= line, "the handler is shorter"
    assert ended, "two signals came, and neither ended it"
