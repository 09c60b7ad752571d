"""What the board says about the outbox: how much waits, of whom, in doubt or parked, and whether there is room left."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from bridge.clock import utc_now
from bridge.delivery.limits import Limits
from bridge.logs import get_logger
from bridge.model import OutboxRow, SourceName
from bridge.observability.status import BridgeStatus
from bridge.runtime.committer import Committed
from bridge.store.contract import Offload, OperatorStore, Outbox

BLOCKED: Final = "broker_blocked"
"""The cause on the board while the broker takes nothing because of an alarm of its own."""

log = get_logger(__name__)


class OutboxMonitor:
    """Keeps the numbers of *board* up to date; *has_room* is set while no limit is reached."""

    def __init__(  # noqa: PLR0913, PLR0917 - whatever is counted
        self,
        board: BridgeStatus,
        store: OperatorStore,
        offload: Offload,
        limits: Limits,
        has_room: asyncio.Event,
        behind: Outbox | None = None,
    ) -> None:
        self._board = board
        self._behind = behind
        self._store = store
        self._offload = offload
        self._limits = limits
        self._has_room = has_room
        self._may_have_doubts = True
        """True where rows may have come into doubt, or out of it, or been parked, since they were counted last."""

    def __repr__(self) -> str:
        return f"<OutboxMonitor {self._store.backlog}>"

    def doubt(self) -> None:
        """Say that rows may be in doubt, or parked, that were not before."""
        self._may_have_doubts = True

    def told(self, told: Committed) -> None:
        """Count what has become durable."""
        self.count()
        self.count_of(told.source)

    def published(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        """Count what the broker confirmed."""
        self.count()
        board = self._board
        board.confirmed(len(rows), rows[0].created_at, rows[-1].created_at, now)
        for source in {row.source for row in rows}:
            if (part := board.sources.get(source)) is not None:  # it may not be followed any more
                part.confirmed(now)
                self.count_of(source)
        if board.in_doubt:
            self.doubt()

    def written(self, rows: Sequence[OutboxRow], now: datetime) -> None:
        """Count what the log confirmed."""
        self.count()
        if (part := self._board.log) is not None:
            part.wrote(len(rows), rows[-1].created_at, now)

    async def measure(self, now: datetime) -> None:
        """Look at the clock, at the disk, at what is in doubt, and at who waits for a good reason."""
        board = self._board
        if by := board.keep_pace(now):
            log.warning("clock.set", seconds=round(by.total_seconds(), 1))
        figures = await self._offload(self._store.figures)
        board.free_bytes, board.commit_seconds, board.store_repeats = (
            figures.free_bytes,
            figures.commit_seconds,
            figures.repeats,
        )
        self.count_all()
        if self._may_have_doubts:
            await self._count_doubts()
        if not board.unsent:
            board.broker.confirmed_working(now)  # nothing is left that it could have refused
        if not board.unsent or board.broker.cause == BLOCKED:
            board.beat("publish")
        if board.log is not None and not board.log.unsent:
            board.log.confirmed_working(now)
            board.beat("write log")
        for name, part in board.sources.items():
            if board.full or part.is_paused or part.waits_for_turn:
                board.beat(f"read {name}")

    def count_all(self) -> None:
        """Bring the board up to date with the outbox, and with what waits in it of each source."""
        self.count()
        for name in self._board.sources:
            self.count_of(SourceName(name))

    def count(self) -> None:
        """Bring the board up to date with the outbox, and look whether there is still room in it."""
        board, backlog = self._board, self._store.backlog
        board.has_waiting(backlog, utc_now())
        if board.log is not None and self._behind is not None:
            part, behind = board.log, self._behind.backlog
            part.has_waiting(behind, utc_now())
            backlog = max(backlog, behind, key=lambda one: one.bytes + one.held_bytes)
        full = self._limits.reached(backlog, board.free_bytes, is_full=bool(board.full))
        if full and not board.full:
            self._has_room.clear()
            log.warning("outbox.full", problem=full)
        elif board.full and not full:
            self._has_room.set()
            log.info("outbox.has_room")
        board.full = full

    def count_of(self, source: SourceName) -> None:
        """Bring the board up to date with what waits of *source*."""
        self._board.sources[source].has_waiting(self._store.exchange.waiting(source))

    async def _count_doubts(self) -> None:
        self._may_have_doubts = False
        board = self._board
        doubtful = await self._offload(self._store.exchange.doubtful)
        parked_of = await self._offload(self._store.parked_by_source)
        board.in_doubt = sum(doubtful.values())
        for name, part in board.sources.items():
            known = SourceName(name)
            part.counted(in_doubt=doubtful.get(known, 0), parked=parked_of.get(known, 0))
