"""Trying again, in the one place that does.

What waiting helps (``Transient``) is tried again soon, with jitter and growing pauses; what somebody has to mend
(``Misconfigured``) slowly and loudly; anything else ends the bridge.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import Final

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from bridge.errors import (
    BridgeError,
    BrokerRefusedEvent,
    EventForbidden,
    LeaseLost,
    Misconfigured,
    OutboxFull,
    Transient,
)
from bridge.observability.component_status import Level

LOST_SECONDS: Final = 1.0
"""Before housekeeping goes on in another life of the bridge."""


class Backoff:
    """How long to wait before the next attempt (a tenacity ``wait``); progress makes it short again."""

    def __init__(self, *, transient_max_seconds: float = 60.0, misconfigured_seconds: float = 60.0) -> None:
        self._transient_max_seconds = transient_max_seconds
        self._misconfigured_seconds = misconfigured_seconds
        self._failures = 0

    @property
    def is_tried(self) -> bool:
        """True while something fails and did not work again yet."""
        return self._failures > 0

    def progress(self) -> None:
        """Say that something worked."""
        self._failures = 0

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the pause in seconds: between half of 2^failures and all of it, so that many do not come at once."""
        self._failures += 1
        problem = retry_state.outcome.exception() if retry_state.outcome is not None else None
        if self._failures == 1 and isinstance(problem, (BrokerRefusedEvent, EventForbidden)):
            return 0.0  # one event is to blame: the broker is well, and all others wait for the next session
        if isinstance(problem, Misconfigured):
            return self._misconfigured_seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        ceiling = min(self._transient_max_seconds, 2.0 ** min(self._failures - 1, 16))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret


async def keep_trying(
    work: Callable[[], Awaitable[None]], patience: Backoff, on_failure: Callable[[BridgeError, float], None]
) -> None:
    """Do *work* until it returns, again after each failure that can pass.

    Raises:
        Fatal: from *work*; waiting would not help.
        CancelledError: the task was cancelled, even where *work* made a failure of that. A ``TaskGroup`` does so until
            Python 3.12: of a failure inside and a cancellation from outside at the same time it raises the first only.

    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0

    def can_pass(problem: BaseException) -> bool:
        if not isinstance(problem, (Transient, Misconfigured)):
            return False
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from problem
        return True

    def before_sleep(state: RetryCallState) -> None:
        problem = state.outcome.exception() if state.outcome is not None else None
        if isinstance(problem, BridgeError):
            on_failure(problem, state.next_action.sleep if state.next_action is not None else 0.0)

    retrying = AsyncRetrying(
        retry=retry_if_exception(can_pass),
        wait=patience,
        before_sleep=before_sleep,
        reraise=True,
    )
    await retrying(work)


async def again_when_lost(work: Callable[[], Awaitable[None]]) -> None:
    """Do *work*, which goes on for ever, and again where the bridge was taken to be dead: it begins anew by itself."""
    while True:
        try:
            await work()
        except LeaseLost:
            await asyncio.sleep(LOST_SECONDS)
        else:
            return


def find_cause(problem: BridgeError) -> str:
    """Return the name of *problem* for machines: ``pbx_refused_login``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(problem).__name__).lower()


def choose_level(problem: BridgeError) -> Level:
    """Return how bad it is that *problem* keeps an end from working; not to read on purpose is no fault of the PBX."""
    if isinstance(problem, OutboxFull):
        return Level.PAUSED
    return Level.ERROR if isinstance(problem, Misconfigured) else Level.WARN
