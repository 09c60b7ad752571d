"""The rest of it needs a process: ``tests/integration/test_hard_end.py``."""

from concurrent.futures import Future
from datetime import timedelta

import pytest

from bridge.errors import StoreUnusable
from bridge.observability.status import BridgeStatus
from bridge.runtime.hard_end import HardEnd
from tests.support.boards import board, wait

STOP, HANG = 25.0, 120.0


@pytest.fixture
def watched() -> BridgeStatus:
    return board()


@pytest.fixture
def hard_end(watched: BridgeStatus) -> HardEnd:
    made = HardEnd(stop_seconds=STOP, hang_seconds=HANG)
    made.watch(watched, lambda: False)
    return made


def test_a_stop_has_its_time_and_no_more(hard_end: HardEnd) -> None:
    assert hard_end.reason(1000) == ""
    hard_end.stop()
    assert look_until(hard_end, 1001, 1001 + STOP) == ""
    assert "did not stop within 25 s" in hard_end.reason(1002 + STOP)


def test_a_task_that_ended_ends_everything_in_the_time_of_a_stop(hard_end: HardEnd, watched: BridgeStatus) -> None:
    """A fatal error of one task cancels the others, and waits for them."""
    one, other = Future[None](), Future[None]()
    watched.expect("read hq", one)
    watched.expect("publish", other)
    assert hard_end.reason(1000) == ""
    one.cancel()
    other.set_exception(StoreUnusable("the disk is full"))
    assert look_until(hard_end, 1000, 1000 + STOP) == ""
    assert "within 25 s, and the task 'publish' has ended: the disk is full" in hard_end.reason(1001 + STOP)


def test_a_task_that_hangs_is_given_its_limit_and_then_some(hard_end: HardEnd, watched: BridgeStatus) -> None:
    watched.watch("publish", timedelta(seconds=60))
    assert look_until(hard_end, 1000, 1000 + 60 + HANG) == ""
    assert "'publish' has made no progress for 181 s" in hard_end.reason(1001 + 60 + HANG)


def test_what_waits_for_the_store_hangs_not_but_has_its_time_again_once_that_answers(
    hard_end: HardEnd, watched: BridgeStatus
) -> None:
    watched.watch("publish", timedelta(seconds=60))
    watched.locked = lambda: "the database is away"
    assert look_until(hard_end, 1000, 9000) == ""
    watched.locked = str
    assert look_until(hard_end, 9000, 9000 + 60 + HANG) == ""
    assert "'publish' has made no progress" in hard_end.reason(9002 + 60 + HANG)
    watched.locked = lambda: "the database is away"
    hard_end.stop()
    assert look_until(hard_end, 9500, 9500 + STOP) == ""
    assert "did not stop within 25 s" in hard_end.reason(9502 + STOP)


def test_a_task_that_gets_on_is_left_alone_however_slowly(hard_end: HardEnd, watched: BridgeStatus) -> None:
    watched.watch("publish", timedelta(seconds=60))
    for turn in range(20):
        assert look_until(hard_end, 1000 + turn * 100, 1099 + turn * 100) == ""
        wait(watched, timedelta(seconds=1))
        watched.beat("publish")


def look_until(hard_end: HardEnd, begin: float, end: float) -> str:
    """Return the first reason there is, looking every few seconds."""
    now = begin
    while now <= end:
        if words := hard_end.reason(now):
            return words
        now += 5
    return hard_end.reason(end)


def test_a_clock_that_jumps_ends_nothing(hard_end: HardEnd, watched: BridgeStatus) -> None:
    """Only that a stamp changed counts, not what it says."""
    watched.watch("publish", timedelta(seconds=60))
    assert hard_end.reason(1000) == ""
    wait(watched, -timedelta(days=1))
    watched.beat("publish")
    assert look_until(hard_end, 1005, 1005 + 60 + HANG) == ""


def test_a_process_that_was_frozen_as_a_whole_begins_anew(hard_end: HardEnd, watched: BridgeStatus) -> None:
    watched.watch("publish", timedelta(seconds=60))
    assert look_until(hard_end, 1000, 1050) == ""
    assert look_until(hard_end, 5000, 5000 + 60 + HANG) == ""
    assert "'publish'" in hard_end.reason(5001 + 60 + HANG)
