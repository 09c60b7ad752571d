import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import AsyncRetrying, Future, RetryCallState

from bridge.errors import (
    BadConfig,
    BridgeError,
    BrokerRefusedEvent,
    BrokerUnreachable,
    EventForbidden,
    Misconfigured,
    OutboxFull,
    PbxRefusedLogin,
    PbxUnreachable,
    StoreUnusable,
    Transient,
)
from bridge.observability.component_status import Level
from bridge.runtime.retry import Backoff, choose_level, find_cause, keep_trying

AWAY, WRONG = PbxUnreachable("away"), PbxRefusedLogin("wrong password")

failures = st.lists(st.sampled_from([AWAY, WRONG]), min_size=1, max_size=100)


def pause_after(patience: Backoff, problem: BridgeError) -> float:
    """Return what *patience* tells tenacity after one more attempt that ended with *problem*."""
    state = RetryCallState(AsyncRetrying(), None, (), {})
    state.outcome = Future(1)
    state.outcome.set_exception(problem)
    return patience(state)


class Work:
    """Fails with each of *problems* in turn, and then works."""

    def __init__(self, *problems: BridgeError) -> None:
        self.problems = list(problems)
        self.attempts = 0

    async def __call__(self) -> None:
        self.attempts += 1
        if self.problems:
            raise self.problems.pop(0)


class NoPatience(Backoff):
    """Waits for nothing, so that a test need not."""

    def __call__(self, retry_state: RetryCallState) -> float:
        super().__call__(retry_state)
        return 0.0


@pytest.mark.parametrize("problem", [BrokerRefusedEvent("too large"), EventForbidden("not this topic")])
def test_one_event_that_ends_a_session_makes_nobody_wait_for_the_next(problem: BridgeError) -> None:
    patience = Backoff()
    assert pause_after(patience, problem) == 0.0
    assert pause_after(patience, problem) >= 1.0, "but not without end"
    patience.progress()
    assert pause_after(patience, problem) == 0.0
    assert pause_after(Backoff(), BrokerUnreachable("away")) > 0.0


@given(st.integers(1, 2000), st.floats(1, 3600))
def test_the_pauses_grow_to_a_ceiling_and_lie_between_half_of_it_and_all(failures: int, most: float) -> None:
    """So that many who failed together do not come back together, and one that is back does not wait for long."""
    patience = Backoff(transient_max_seconds=most)
    pauses = [pause_after(patience, AWAY) for _ in range(failures)]
    for number, pause in enumerate(pauses):
        ceiling = min(most, 2.0 ** min(number, 16))
        assert ceiling / 2 <= pause <= ceiling


@given(failures, st.floats(1, 3600))
def test_what_somebody_has_to_mend_is_tried_slowly_however_often_it_failed(
    before: list[BridgeError], slow: float
) -> None:
    patience = Backoff(misconfigured_seconds=slow)
    for problem in before:
        pause_after(patience, problem)
    assert 0.8 * slow <= pause_after(patience, WRONG) <= 1.2 * slow


@given(failures)
def test_progress_makes_the_pauses_short_again(before: list[BridgeError]) -> None:
    patience = Backoff()
    for problem in before:
        pause_after(patience, problem)
    is_tried_before = patience.is_tried
    patience.progress()
    assert (is_tried_before, patience.is_tried) == (True, False)
    assert pause_after(patience, AWAY) <= 1


def test_pauses_are_not_all_the_same() -> None:
    assert len({pause_after(Backoff(), AWAY) for _ in range(100)}) > 1
    assert len({pause_after(Backoff(), WRONG) for _ in range(100)}) > 1


async def test_what_can_pass_is_tried_until_it_works_and_every_failure_is_told() -> None:
    work, told = Work(AWAY, WRONG, AWAY), list[tuple[BridgeError, float]]()
    patience = NoPatience()
    await keep_trying(work, patience, lambda problem, pause_seconds: told.append((problem, pause_seconds)))
    assert work.attempts == 4
    assert told == [(AWAY, 0.0), (WRONG, 0.0), (AWAY, 0.0)]
    assert patience.is_tried, "only whoever does the work knows whether it got anywhere"


@pytest.mark.parametrize("problem", [BadConfig("no"), StoreUnusable("no")])
async def test_what_no_waiting_helps_is_raised_at_once(problem: BridgeError) -> None:
    work, told = Work(AWAY, problem, AWAY), list[BridgeError]()
    with pytest.raises(type(problem)):
        await keep_trying(work, NoPatience(), lambda failure, _pause_seconds: told.append(failure))
    assert (work.attempts, told) == (2, [AWAY])


@pytest.mark.parametrize(
    ("problem", "level"),
    [
        (OutboxFull("full"), Level.PAUSED),
        (WRONG, Level.ERROR),
        (AWAY, Level.WARN),
        (BrokerUnreachable("away"), Level.WARN),
    ],
)
def test_how_bad_a_failure_is_depends_on_who_has_to_do_something(problem: BridgeError, level: Level) -> None:
    assert isinstance(problem, Misconfigured if level is Level.ERROR else Transient)
    assert choose_level(problem) is level


def test_the_cause_is_the_name_of_the_error_for_machines() -> None:
    assert [find_cause(problem) for problem in (WRONG, AWAY)] == ["pbx_refused_login", "pbx_unreachable"]


async def test_a_failure_that_hides_a_cancellation_is_not_tried_again() -> None:
    """A ``TaskGroup`` of Python 3.11 raises only the failure where both come at once."""

    async def hides() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise AWAY from None

    told = list[BridgeError]()
    trying = asyncio.create_task(keep_trying(hides, NoPatience(), lambda problem, _pause: told.append(problem)))
    await asyncio.sleep(0)
    trying.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait([trying])
    assert trying.cancelled()
    assert not told
