"""What every session with the broker has in common: it counts what is confirmed, until its first failure."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from bridge.confirms import Ledger
from bridge.errors import BridgeError, BrokerDidNotConfirm, BrokerUnreachable

WATCH_SECONDS: Final = 0.5
"""How often a session looks whether it is blocked or overdue."""

LATE_CONFIRMS_SECONDS: Final = 2.0
"""After a refusal: how long to wait for the confirms of what was sent before it."""


class ConfirmingSession:
    """Progress is the unbroken confirmed prefix; what is confirmed while the session dies still counts."""

    def __init__(self, on_state: Callable[[str], None]) -> None:
        self._on_state = on_state
        self._ledger = Ledger()
        self._told = 0
        self._failure: BridgeError | None = None
        self._last_progress = 0.0
        self._refused_at: float | None = None
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._ledger.confirmed} confirmed, {self._ledger.outstanding} unconfirmed>"

    @property
    def is_blocked(self) -> bool:
        """True while the broker said that it takes nothing, so that no confirm can be overdue."""
        return False

    async def confirmed(self) -> int:
        """Wait until the confirmed prefix grows, and return how many rows of this session it has.

        Raises:
            BridgeError: what ended the session, after every confirm that came was told.

        """
        while self._ledger.confirmed == self._told:
            self._check()
            self._news.clear()
            await self._news.wait()
        self._told = self._ledger.confirmed
        return self._told

    def end(self, failure: BridgeError) -> None:
        """End the session; the first reason given is the one that counts, and no confirm counts any more."""
        if self._failure is None:
            self._failure = failure
            self._ended.set_result(None)
        self._news.set()

    @asynccontextmanager
    async def watched(self, deadline_seconds: float) -> AsyncIterator[None]:
        """Watch while inside, and end the session behind the caller."""
        over = BrokerUnreachable("this session is over")
        watching = asyncio.create_task(self.watch(deadline_seconds))
        watching.add_done_callback(lambda _: self.end(over))  # nobody waits for a session that is not watched
        try:
            yield
        finally:
            self.end(over)
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()  # raises: only a mistake of ours ends watching before it is cancelled

    async def watch(self, deadline_seconds: float) -> None:
        """Keep an eye on alarms and on confirms that stay out, until cancelled."""
        was_blocked = False
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = self._loop.time()
            if self.is_blocked:
                self._last_progress = now
            if self.is_blocked != was_blocked:
                was_blocked = self.is_blocked
                self._on_state("blocked: the broker has a memory or disk alarm" if was_blocked else "connected")
            if self._refused_at is not None and self._ledger.refusal is not None:
                if now - self._refused_at > LATE_CONFIRMS_SECONDS:
                    self.end(self._ledger.refusal)
            elif self._ledger.outstanding and now - self._last_progress > deadline_seconds:
                self.end(BrokerDidNotConfirm(f"the broker confirmed nothing for {deadline_seconds:g} s"))

    def _begin_sending(self) -> None:
        """Look whether anything may be sent; nothing is, behind a refused row."""
        self._check()
        if self._ledger.refusal is not None:
            raise self._ledger.refusal
        if not self._ledger.outstanding:
            self._last_progress = self._loop.time()

    def _acknowledge(self, tag: int, *, multiple: bool) -> None:
        if self._ledger.ack(tag, multiple=multiple):
            self._last_progress = self._loop.time()
            self._news.set()

    def _look_for_refusal(self) -> None:
        """End the session at a refused message, once all before it are confirmed or had their time."""
        if self._ledger.refusal is None:
            return
        if self._refused_at is None:
            self._refused_at = self._loop.time()
        if self._ledger.is_over:
            self.end(self._ledger.refusal)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _unless_ended(self, wanted: "asyncio.Future[Any]") -> None:
        try:
            await asyncio.wait((wanted, self._ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            wanted.cancel()
        self._check()
