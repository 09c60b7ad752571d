import asyncio
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bridge.delivery.contracts import Offload
from bridge.delivery.reconcile import Brake
from bridge.intake import CLOSE_ROWS, Intake
from bridge.normalize import Rules
from bridge.service import StoreThread
from bridge.status import SourcePart
from bridge.store.sqlite import SqliteStore
from bridge.walk.decisions import Deliver
from bridge.walk.schedule import Habits, WalkSchedule
from tests.support.outbox import unsent
from tests.support.rows import HQ, row
from tests.support.world import at_once

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def intake_of(store: SqliteStore, *, run: Offload, **more: Any) -> Intake:
    return Intake(
        HQ,
        store,
        rules=Rules(key=store.key),
        run=run,
        clock=lambda: NOW,
        part=SourcePart(since=NOW),
        brake=Brake(),
        on_told=lambda _told: None,
        schedule=WalkSchedule(HQ, Habits(nightly_at=None), NOW - timedelta(hours=1)),
        **more,
    )


async def test_what_follows_closely_is_kept_in_order_and_a_stop_does_not_wait_for_more(tmp_path: Path) -> None:
    """A group that gathers ends when somebody waits for it, and none of it is lost."""
    rows = [row(f"a{number}", number) for number in range(1, 4 * CLOSE_ROWS)]
    with SqliteStore(tmp_path / "bridge.db") as store:
        intake = intake_of(store, run=at_once, ask_ahead=10)
        committing = asyncio.create_task(intake.keep_committing())
        async with asyncio.timeout(30):
            for delivered in rows:
                await intake.put(Deliver(delivered, delivered.cursor))
            await intake.settle()
        committing.cancel()
        await asyncio.wait([committing])
        assert [found.sequence for found in unsent(store.exchange)] == list(range(1, len(rows) + 1))
        assert store.place(HQ).cursor == intake.cursor == rows[-1].cursor


async def test_who_asks_for_events_while_they_are_being_kept_gets_them(tmp_path: Path) -> None:
    """Nobody who reads the outbox is woken once more when they are durable."""
    thread = StoreThread()
    asked: list[Any] = []
    delivered = row("a1", 1)
    with SqliteStore(tmp_path / "bridge.db") as store, closing(thread):
        intake = intake_of(store, run=thread, on_keeping=lambda: asked.append(thread(unsent, store.exchange)))
        async with asyncio.timeout(30):
            await intake.commit([Deliver(delivered, delivered.cursor)])
            assert [[found.sequence for found in await rows] for rows in asked] == [[1]]
