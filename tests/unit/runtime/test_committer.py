import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from bridge.delivery.reconcile import DeletionLimit, delete_missing
from bridge.errors import StoreUnreachable
from bridge.events.normalize import Rules
from bridge.model import Row, SourceName, Token
from bridge.observability.source_status import SourceStatus
from bridge.pbx.reader import WalkEvent
from bridge.pbx.walk.actions import CaughtUp, Compare, Doubted, EpochBegan, RowRead, Sighted, WalkBegan, WalkEnded
from bridge.pbx.walk.schedule import CONFIRM_AFTER, SET_BACK, Habits, WalkSchedule
from bridge.runtime import row_budget
from bridge.runtime.committer import CLOSE_ROWS, Committer
from bridge.runtime.row_budget import SHARED_GROUP_ROWS, RowBudget, weight
from bridge.store.contract import Offload
from bridge.store.sqlite.store import SqliteStore
from bridge.store.thread import StoreThread
from tests.support.outbox import unsent
from tests.support.rows import HQ, cursor, row
from tests.support.world import at_once

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def schedule_of() -> WalkSchedule:
    return WalkSchedule(HQ, Habits(nightly_at=None), NOW - timedelta(hours=1))


def intake_of(store: SqliteStore, *, run: Offload, is_new: bool = False, **more: Any) -> Committer:
    settings: dict[str, Any] = {"part": SourceStatus(since=NOW), "schedule": schedule_of(), **more}
    return Committer(
        HQ,
        store,
        rules=Rules(key=store.key, is_new=is_new),
        run=run,
        clock=lambda: NOW,
        deletion_limit=DeletionLimit(),
        on_committed=lambda _told: None,
        **settings,
    )


async def test_what_follows_closely_is_kept_in_order_and_a_stop_does_not_wait_for_more(tmp_path: Path) -> None:
    """A group that gathers ends when somebody waits for it, and none of it is lost."""
    rows = [row(f"a{number}", number) for number in range(1, 4 * CLOSE_ROWS)]
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, ask_ahead=10)
        committing = asyncio.create_task(committer.keep_committing())
        async with asyncio.timeout(30):
            for delivered in rows:
                await committer.put(RowRead(delivered, delivered.cursor))
            await committer.settle()
        committing.cancel()
        await asyncio.wait([committing])
        assert [found.sequence for found in unsent(store.exchange)] == list(range(1, len(rows) + 1))
        assert store.place(HQ).cursor == committer.cursor == rows[-1].cursor


async def test_who_asks_for_events_while_they_are_being_kept_gets_them(tmp_path: Path) -> None:
    """Nobody who reads the outbox is woken once more when they are durable."""
    thread = StoreThread()
    asked: list[Any] = []
    delivered = row("a1", 1)
    with SqliteStore(tmp_path / "bridge.db") as store, closing(thread):
        committer = intake_of(store, run=thread, on_keeping=lambda: asked.append(thread(unsent, store.exchange)))
        async with asyncio.timeout(30):
            await committer.commit([RowRead(delivered, delivered.cursor)])
            assert [[found.sequence for found in await rows] for rows in asked] == [[1]]


def walked(*rows: Row, until: Row) -> list[WalkEvent]:
    """Return a proven full walk beside the live cursor that saw these rows."""
    seen = [Sighted(each) for each in rows]
    return [WalkBegan(), *seen, CaughtUp(is_proven=True), WalkEnded(is_proven=True, until=until.cursor)]


async def test_what_a_walk_saw_and_what_it_did_not_is_told_by_schedule_status_and_store_alike(tmp_path: Path) -> None:
    rows = [row(f"a{number}", number) for number in range(1, 6)]
    part, schedule = SourceStatus(since=NOW), schedule_of()
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, part=part, schedule=schedule)
        await committer.commit([RowRead(each, each.cursor) for each in rows])
        await committer.commit(walked(*rows[1:], until=rows[-1]))
        assert (part.accounts, part.seen, part.unseen, part.deletions_held) == (5, 4, 1, 0)
        assert schedule.second_look_at(NOW) == part.second_look_at == NOW + CONFIRM_AFTER
        assert schedule.due(NOW + CONFIRM_AFTER) == "some accounts were not seen"
        kept = store.certificate(HQ)
        assert kept is not None
        assert (kept.accounts, kept.absent, kept.verified_at) == (5, 1, NOW)
        assert part.deletions == "1 not decided"
        await committer.commit(walked(*rows[1:], until=rows[-1]))
        assert part.second_look_at is None, "nothing is left to be decided"
    assert (part.accounts, part.absent, part.deletions) == (4, 0, "known")


async def test_a_walk_whose_end_the_store_does_not_take_is_over_and_another_one_is_due(tmp_path: Path) -> None:
    told, schedule, part = row("a1", 1), schedule_of(), SourceStatus(since=NOW)
    is_away = True

    async def run(call: Callable[..., Any], /, *args: Any) -> Any:
        if is_away and getattr(call, "func", None) is failing:
            raise StoreUnreachable("the database is away")
        return call(*args)

    for failing in (delete_missing, note_published):
        is_away = True
        with SqliteStore(tmp_path / f"{failing.__name__}.db") as store:
            committer = intake_of(
                store, run=run, schedule=schedule, part=part, on_retold=partial(note_published), is_new=True
            )
            await committer.commit([RowRead(told, told.cursor)])
            schedule.ask()
            with pytest.raises(StoreUnreachable):
                await committer.commit(walked(told, until=told))
            committer.start_over(store.place(HQ))
            assert part.walk is None
            assert schedule.due(NOW + timedelta(days=1)) == "asked for"
            is_away = False
            await committer.commit(walked(told, until=told))
            assert schedule.due(NOW) == ""


def note_published() -> None:
    """Stand for what notes that everybody is told by new rules."""


async def test_accounts_that_nobody_can_read_are_a_warning_until_a_walk_has_none(tmp_path: Path) -> None:
    """They are published without names, and that must not pass for all being well."""
    part = SourceStatus(since=NOW)
    plain = row("a1", 1)
    odd = replace(plain, info=None, unread="a list")
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, part=part)
        await committer.commit([RowRead(odd, odd.cursor)])
        assert "info is a list" in part.unread
        for _ in range(2):
            await committer.commit(walked(odd, until=odd))
            assert "info is a list" in part.unread, "still so"
        await committer.commit(walked(plain, until=plain))
        assert part.unread == ""
        *_, last, _certificate = unsent(store.exchange)
        assert b'"display_name":"a1"' in last.body, "what was not read is told as a difference"


async def test_held_deletions_wait_for_a_person_and_not_for_a_second_walk(tmp_path: Path) -> None:
    rows = [row(f"a{number}", number) for number in range(1, 6)]
    part = SourceStatus(since=NOW)
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, part=part)
        await committer.commit([RowRead(each, each.cursor) for each in rows])
        for _ in range(2):
            await committer.commit(walked(rows[-1], until=rows[-1]))
    assert (part.accounts, part.seen, part.unseen, part.deletions_held) == (5, 1, 0, 4)
    assert (part.deletions, part.second_look_at) == ("4 held", None)
    assert "--accept-deletions" in part.warning


async def test_another_list_ends_what_was_certified_of_the_one_before(tmp_path: Path) -> None:
    part, first = SourceStatus(since=NOW), row("a1", 1)
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, part=part)
        await committer.commit([RowRead(first, first.cursor), *walked(first, until=first)])
        assert part.deletions == "known"
        await committer.commit([EpochBegan(cursor(guid=Token('"other"')))])
        assert part.verified_at is None
        assert part.deletions == "unknown"
        assert store.certificate(HQ) is None


@pytest.mark.parametrize(
    ("heard", "is_doubted"),
    [
        (Compare(row("a1", 1), is_news=False), False),
        (Compare(row("a1", 1, dn="other"), is_news=False), True),
        (Compare(row("a1", 1), is_news=True), True),
        (Compare(row("a1", 2), is_news=True), False),
        (Doubted("it says so"), True),
    ],
)
async def test_what_speaks_for_a_pbx_that_was_set_back_asks_for_a_walk_and_tells_nothing(
    tmp_path: Path,
    heard: Compare | Doubted,
    is_doubted: bool,  # noqa: FBT001 - what is to come of it
) -> None:
    schedule, known = schedule_of(), row("a1", 1)
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, schedule=schedule)
        await committer.commit([RowRead(known, known.cursor)])
        before = unsent(store.exchange)
        await committer.commit([heard])
        assert schedule.due(NOW) == (SET_BACK if is_doubted else "")
        assert store.place(HQ).cursor == committer.cursor == known.cursor
        assert unsent(store.exchange) == before


@pytest.mark.parametrize(
    ("heard", "is_initial"),
    [
        ([CaughtUp(is_proven=True)], False),
        ([CaughtUp(is_proven=False)], True),
        ([CaughtUp(is_proven=False), RowRead(row("late", 2), row("late", 2).cursor), CaughtUp(is_proven=False)], True),
        ([CaughtUp(is_proven=False)] * 2, True),
        ([CaughtUp(is_proven=False)] * 3, False),
    ],
)
async def test_neither_a_lost_answer_nor_a_broken_connection_is_the_end_of_the_first_reading(
    tmp_path: Path, heard: list[Any], *, is_initial: bool
) -> None:
    """Or else everybody who comes behind it would be told as somebody new."""
    first = row("a1", 1)
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once)
        committer.stand_at(store.place(HQ))
        await committer.commit([EpochBegan(cursor(0)), RowRead(first, first.cursor), *heard])
        assert store.place(HQ).is_initial is is_initial


async def test_rows_are_counted_until_they_are_durable_or_forgotten(tmp_path: Path) -> None:
    budget = RowBudget(16)
    rows = [row(f"a{number}", number) for number in range(1, 18)]
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, budget=budget)
        taken = [committer.take_at_once(RowRead(each, each.cursor)) for each in rows]
        assert taken == [True] * 16 + [False]
        assert committer.take_at_once(CaughtUp(is_proven=True)), "what is no row is not counted"
        committing = asyncio.create_task(committer.keep_committing())
        async with asyncio.timeout(30):
            await committer.put(RowRead(rows[-1], rows[-1].cursor))
            await committer.settle()
        committing.cancel()
        await asyncio.wait([committing])
        assert budget.rows == 0
        for each in rows[:3]:
            committer.take_at_once(RowRead(each, each.cursor))
        committer.forget_waiting()
        assert budget.rows == 0


async def test_heavy_rows_count_as_many_so_that_few_of_them_wait(tmp_path: Path) -> None:
    """A mebibyte of empty lists takes thirty in memory, and somebody else may have the store locked for a minute."""
    budget, locked = RowBudget(), asyncio.Event()

    async def run(call: Callable[[], Any], /, *arguments: Any) -> Any:
        await locked.wait()
        return call(*arguments)

    rows = [replace(row(f"a{number}", number), size=1 << 20) for number in range(1, 40)]
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=cast("Offload", run), budget=budget)
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            committing = group.create_task(committer.keep_committing())
            taken = 0
            while committer.take_at_once(RowRead(rows[taken], rows[taken].cursor)):
                taken += 1
                await asyncio.sleep(0)
            assert taken == 1, "with what it weighs there is no room for a second one"
            putting = group.create_task(committer.put(RowRead(rows[1], rows[1].cursor)))
            await asyncio.sleep(0.1)
            assert (putting.done(), budget.rows) == (False, weight(rows[0]))
            locked.set()
            await putting
            for each in rows[2:]:
                await committer.put(RowRead(each, each.cursor))
            await committer.settle()
            committing.cancel()
        assert [found.sequence for found in unsent(store.exchange)] == list(range(1, len(rows) + 1))
    assert budget.rows == 0


async def test_the_rows_of_a_walk_wait_for_those_of_other_walks_and_changes_do_not(tmp_path: Path) -> None:
    budget = RowBudget()
    first, second = row("a1", 1), row("a2", 2)
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, budget=budget)
        async with budget.walk_turn(SourceName("another")):
            async with asyncio.timeout(30):
                await committer.commit([RowRead(first, first.cursor), WalkBegan()])
            waiting = asyncio.create_task(committer.commit([Sighted(first), RowRead(second, second.cursor)]))
            await asyncio.sleep(0.05)
            assert store.place(HQ).cursor == first.cursor
        async with asyncio.timeout(30):
            await waiting
        assert store.place(HQ).cursor == second.cursor


async def test_walks_of_others_wait_for_a_change_until_the_exchange_has_it_and_not_for_what_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_budget, "MAX_REST_SECONDS", 3600.0)
    monkeypatch.setattr(row_budget, "REST_SHARE", 1e9)
    budget, another, told = RowBudget(), SourceName("another"), row("a1", 1)

    def may_walk() -> bool:
        has_room = budget.take(by=another, is_walking=True)
        budget.give_back(int(has_room))
        return has_room

    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, budget=budget)
        committing = asyncio.create_task(committer.keep_committing())
        async with asyncio.timeout(30):
            async with budget.walk_turn(another):
                await asyncio.sleep(0.001)
            await committer.put(RowRead(told, told.cursor))
            assert not may_walk(), "it is read"
            await committer.settle()
            assert not may_walk(), "it is durable"
            budget.told([HQ])
            assert may_walk()
            await committer.put(RowRead(told, told.cursor))
            assert not may_walk()
            await committer.settle()
            assert may_walk(), "nothing has changed"
            await committer.put(RowRead(told, told.cursor))
            committer.forget_waiting()
            assert may_walk(), "it will be read again"
            for heard in (WalkBegan(), RowRead(told, told.cursor)):
                await committer.put(heard)
            assert may_walk(), "a walk waits for no other one's rows"
            await committer.settle()
        committing.cancel()
        await asyncio.wait([committing])


@pytest.mark.parametrize("others", ["", "walk", "change"])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_groups_of_a_walk_are_small_while_others_walk_or_change_and_nothing_of_it_is_left_behind(
    tmp_path: Path, others: str, *, has_begun: bool
) -> None:
    budget = RowBudget()
    rows = [row(f"a{number}", number) for number in range(1, 151)]
    sizes: list[int] = []
    with SqliteStore(tmp_path / "bridge.db") as store:
        committer = intake_of(store, run=at_once, budget=budget)
        beginning: Sequence[WalkEvent] = [] if has_begun else [WalkBegan()]
        await committer.commit([WalkBegan()] if has_begun else [])
        commit = committer.commit

        async def noted(group: Sequence[WalkEvent]) -> None:
            sizes.append(len(group))
            await commit(group)

        committer.commit = noted  # type: ignore[method-assign]
        for each in [*beginning, *(RowRead(each, each.cursor) for each in rows)]:
            assert committer.take_at_once(each)
        if others == "change":
            budget.take(by=SourceName("another"), is_walking=False)
            budget.give_back(1)
        committing = asyncio.create_task(committer.keep_committing())
        async with asyncio.timeout(30):
            if others == "walk":
                async with budget.walk_turn(SourceName("another")):
                    while not sizes:
                        await asyncio.sleep(0)
                    assert sizes == [SHARED_GROUP_ROWS]
            while budget.rows:
                await asyncio.sleep(0.01)
        committing.cancel()
        await asyncio.wait([committing])
        assert sum(sizes) == len(beginning) + 150
        assert sizes[0] == (SHARED_GROUP_ROWS if others else sum(sizes))
        assert others != "change" or max(sizes) == SHARED_GROUP_ROWS
        assert (budget.rows, store.place(HQ).cursor) == (0, rows[-1].cursor)
