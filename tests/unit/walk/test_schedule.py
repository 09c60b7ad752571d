from datetime import UTC, datetime, time, timedelta

import pytest

from bridge.walk.schedule import CONFIRM_AFTER, FIRST_RETRY, LAST_RETRY, SPREAD, Habits, WalkSchedule

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def schedule(verified_at: datetime | None = NOON, **habits: object) -> WalkSchedule:
    return WalkSchedule("hq", Habits(**habits), verified_at)  # type: ignore[arg-type]  # names of Habits


def test_a_list_never_verified_is_walked_at_once() -> None:
    assert schedule(None).due(NOON) == "not verified yet"


def test_a_walk_that_was_not_proven_is_tried_again_later_and_later() -> None:
    """A PBX that never proves the end of its list must not be walked all day long."""
    walks, now, pauses = schedule(None), NOON, []
    for _ in range(8):
        walks.over(now, is_proven=False)
        ended = now
        while not walks.due(now):
            now += timedelta(minutes=5)
        pauses.append(now - ended)
    assert pauses[0] == FIRST_RETRY
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_RETRY


def test_every_night_there_is_one_walk() -> None:
    walks, now, nights = schedule(), NOON, []
    while now < NOON + timedelta(days=3):
        now += timedelta(minutes=5)
        if walks.due(now):
            nights.append(now)
            walks.over(now, is_proven=True)
    assert len(nights) == 3
    assert all(time(2, 0) <= night.time() <= (NOON.replace(hour=2) + SPREAD + HOUR).time() for night in nights)


def test_several_pbxs_do_not_begin_at_the_same_minute() -> None:
    begins = set()
    for name in map(str, range(20)):
        walks, now = WalkSchedule(name, Habits(), NOON), NOON
        while not walks.due(now):
            now += timedelta(minutes=1)
        begins.add(now)
    assert len(begins) > 5


def test_never_means_never() -> None:
    walks = schedule(nightly_at=None)
    assert not any(walks.due(NOON + hours * HOUR) for hours in range(200))


@pytest.mark.parametrize(("minutes", "reason"), [(9, ""), (10, "the PBX was away")])
def test_a_long_outage_asks_for_a_walk(minutes: int, reason: str) -> None:
    walks = schedule()
    walks.came_back(timedelta(minutes=minutes))
    assert walks.due(NOON) == reason


def test_accounts_not_seen_are_looked_for_once_more_soon() -> None:
    walks = schedule()
    walks.over(NOON, is_proven=True, absent=3)
    assert not walks.due(NOON)
    assert walks.due(NOON + CONFIRM_AFTER) == "some accounts were not seen"


def test_a_restart_does_not_forget_that_accounts_were_not_seen() -> None:
    walks = WalkSchedule("hq", Habits(nightly_at=None), NOON, absent=3)
    assert not walks.due(NOON)
    assert walks.due(NOON + CONFIRM_AFTER) == "some accounts were not seen"


def test_a_second_look_that_was_cut_off_is_taken_again() -> None:
    walks = schedule(nightly_at=None)
    walks.over(NOON, is_proven=True, absent=3)
    walks.over(NOON + CONFIRM_AFTER, is_proven=False)
    assert not walks.due(NOON + CONFIRM_AFTER)
    assert walks.due(NOON + CONFIRM_AFTER + FIRST_RETRY) == "some accounts were not seen"
    walks.over(NOON + HOUR, is_proven=True)
    assert not walks.due(NOON + 24 * HOUR)


def test_no_second_walk_begins_while_one_is_under_way() -> None:
    walks = schedule(None)
    walks.began(is_new_epoch=True)
    walks.ask()
    assert not walks.due(NOON)


def test_quiet_hours_hold_up_everything_but_an_operator() -> None:
    walks = schedule(None, quiet_from=time(8), quiet_until=time(18))
    assert not walks.due(NOON)
    assert walks.due(NOON.replace(hour=18))
    walks.ask()
    assert walks.due(NOON) == "asked for"


def test_quiet_hours_may_go_over_midnight() -> None:
    habits = Habits(quiet_from=time(22), quiet_until=time(6))
    assert [hour for hour in range(24) if habits.are_quiet(time(hour))] == [0, 1, 2, 3, 4, 5, 22, 23]


def test_a_new_epoch_is_verified_anew() -> None:
    walks = schedule()
    walks.began(is_new_epoch=True)
    walks.over(NOON, is_proven=False)
    assert walks.due(NOON + FIRST_RETRY) == "not verified yet"
