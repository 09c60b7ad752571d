from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.pbx.walk.schedule import (
    APART,
    CONFIRM_AFTER,
    DOUBTS_APART,
    FIRST_RETRY,
    LAST_RETRY,
    LONGEST_DAY,
    SET_BACK,
    SPREAD,
    Habits,
    WalkSchedule,
)

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


def test_a_walk_that_was_asked_for_and_cut_off_is_tried_again() -> None:
    """Or else the yes to many deletions would be left for whichever walk comes next."""
    walks = schedule(nightly_at=None)
    walks.ask()
    walks.over(NOON, is_proven=False)
    assert not walks.due(NOON)
    assert walks.due(NOON + FIRST_RETRY) == "asked for"
    walks.ask()
    assert walks.due(NOON) == "asked for", "who asks once more does not wait"
    walks.over(NOON, is_proven=True)
    assert not walks.due(NOON + 24 * HOUR)


def test_a_walk_after_an_outage_that_was_cut_off_is_tried_again() -> None:
    walks = schedule(nightly_at=None)
    walks.came_back(HOUR)
    walks.over(NOON, is_proven=False)
    assert not walks.due(NOON)
    assert walks.due(NOON + FIRST_RETRY) == "the PBX was away"
    walks.over(NOON + HOUR, is_proven=True)
    assert not walks.due(NOON + 24 * HOUR)


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


def test_a_doubt_asks_for_a_walk_soon_and_not_more_than_once_an_hour() -> None:
    walks, begun = schedule(nightly_at=None), []
    for minute in range(180):
        now = NOON + timedelta(minutes=minute)
        walks.doubt(is_evident=True)
        if reason := walks.due(now):
            begun.append((minute, reason))
            walks.over(now, is_proven=True)
    assert begun == [(0, SET_BACK), (60, SET_BACK), (120, SET_BACK)]


def test_quiet_hours_hold_up_a_doubt() -> None:
    walks = schedule(nightly_at=None, quiet_from=time(8), quiet_until=time(18))
    walks.doubt(is_evident=True)
    assert not walks.due(NOON)
    assert walks.due(NOON.replace(hour=18)) == SET_BACK


def test_a_doubt_stands_until_a_walk_is_proven_and_is_followed_later_and_later() -> None:
    walks, now, pauses = schedule(nightly_at=None), NOON, []
    walks.doubt(is_evident=True)
    for _ in range(6):
        before = now
        while not walks.due(now):
            now += timedelta(minutes=5)
        pauses.append(now - before)
        walks.over(now, is_proven=False)
    assert pauses == sorted(pauses)
    assert pauses[1] == DOUBTS_APART
    assert pauses[-1] == LAST_RETRY
    walks.over(now, is_proven=True)
    assert not walks.due(now + 48 * HOUR)


def test_mere_ignorance_asks_for_no_walk_while_one_is_fresh() -> None:
    """As after a start of the bridge: what it would be asked for is not known any more."""
    walks = schedule(nightly_at=None)
    walks.doubt(is_evident=False)
    begun = next(minute for minute in range(300) if walks.due(NOON + timedelta(minutes=minute)))
    assert DOUBTS_APART <= timedelta(minutes=begun) <= DOUBTS_APART + SPREAD


def test_after_a_start_several_pbxs_of_which_nothing_is_known_are_not_walked_at_once() -> None:
    begins = set()
    for name in map(str, range(20)):
        walks = WalkSchedule(name, Habits(nightly_at=None), NOON - 24 * HOUR)
        walks.doubt(is_evident=False)
        begins.add(next(minute for minute in range(300) if walks.due(NOON + timedelta(minutes=minute))))
    assert len(begins) > 5
    assert max(begins) <= SPREAD.total_seconds() / 60


def test_a_new_epoch_is_a_first_reading_and_ends_every_doubt_about_the_old_one() -> None:
    walks = schedule(nightly_at=None)
    walks.doubt(is_evident=True)
    walks.began(is_new_epoch=True)
    walks.over(NOON, is_proven=True)
    assert not walks.due(NOON + 48 * HOUR)


def test_the_second_look_is_told_and_comes_when_it_was_told() -> None:
    walks = schedule(nightly_at=None)
    assert walks.second_look_at(NOON) is None
    walks.over(NOON, is_proven=True, absent=3)
    at = walks.second_look_at(NOON + timedelta(minutes=4))
    assert at == NOON + CONFIRM_AFTER
    assert walks.due(at) == "some accounts were not seen"
    walks.over(at, is_proven=False)
    later = walks.second_look_at(at)
    assert later is not None
    assert later > at
    assert not walks.due(later - timedelta(seconds=1))
    assert walks.due(later)
    walks.over(later, is_proven=True)
    assert walks.second_look_at(later) is None


@pytest.mark.parametrize(("until", "hours"), [(time(18), 6), (time(6), 18)])
def test_the_second_look_waits_for_the_end_of_quiet_hours(until: time, hours: int) -> None:
    walks = schedule(nightly_at=None, quiet_from=time(11), quiet_until=until)
    walks.over(NOON, is_proven=True, absent=3)
    at = walks.second_look_at(NOON)
    assert at == NOON + hours * HOUR
    assert walks.due(at) == "some accounts were not seen"


def test_a_walk_recorded_in_the_future_counts_for_nothing() -> None:
    """The clock was ahead once: when that walk was is not known, and no night is left out for it."""
    walks = schedule(datetime(2031, 1, 1, tzinfo=UTC))
    assert walks.due(NOON) == "nightly"
    walks.over(NOON, is_proven=True)
    assert not walks.due(NOON + HOUR)


def test_accounts_not_seen_by_a_walk_recorded_in_the_future_are_looked_for_now() -> None:
    walks = WalkSchedule("hq", Habits(nightly_at=None), datetime(2031, 1, 1, tzinfo=UTC), absent=3)
    assert walks.second_look_at(NOON) == NOON
    assert walks.due(NOON) == "some accounts were not seen"


CHANGES = [
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("America/Sao_Paulo", date(2018, 2, 18)),  # at midnight
    ("America/Sao_Paulo", date(2018, 11, 4)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),  # by half an hour
    ("Australia/Lord_Howe", date(2026, 10, 4)),
]


@pytest.mark.parametrize("kind", ["zone", "offset"])
@pytest.mark.parametrize(("name", "day"), CHANGES)
@settings(max_examples=20)
@given(minute=st.integers(0, 6 * 60))
def test_every_night_has_one_walk_also_where_its_time_does_not_exist_or_exists_twice(
    kind: str, name: str, day: date, minute: int
) -> None:
    """Moments come with the zone of the machine, or with nothing but the offset that is valid then."""
    zone = ZoneInfo(name)
    first = datetime.combine(day - timedelta(days=3), time(12), zone).astimezone(UTC)
    habits = Habits(nightly_at=time(minute // 60, minute % 60))
    walks, begun = WalkSchedule("hq", habits, first.astimezone(zone)), []
    for step in range(6 * 24 * 6):
        now = (first + step * timedelta(minutes=10)).astimezone(zone)
        local = now if kind == "zone" else now.astimezone(timezone(now.utcoffset() or timedelta(0)))
        if walks.due(local):
            begun.append(now.astimezone(UTC))
            walks.over(local, is_proven=True)
    assert len(begun) == 6
    assert all(22 * HOUR <= after - before <= 26 * HOUR for before, after in pairwise(begun))


def played(jumps: list[tuple[int, int]]) -> Iterator[tuple[timedelta, datetime]]:
    """Yield steady time and what the clock shows, every five minutes; jumps are (steps before, minutes)."""
    steady, ahead = timedelta(0), timedelta(0)
    for steps, minutes in [*jumps, (2 * 24 * 12, 0)]:
        for _ in range(steps):
            yield steady, NOON + steady + ahead
            steady += timedelta(minutes=5)
        ahead += timedelta(minutes=minutes)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(-3 * 365 * 24 * 60, 3 * 365 * 24 * 60)), max_size=8))
def test_whatever_the_clock_does_a_nightly_walk_comes_within_a_day_and_not_too_often(
    jumps: list[tuple[int, int]],
) -> None:
    seconds, begun = [0.0], [timedelta(0)]
    walks = WalkSchedule("hq", Habits(), None, steady=lambda: seconds[0])
    walks.over(NOON, is_proven=True)
    end = timedelta(0)
    for steady, now in played(jumps):
        seconds[0], end = steady.total_seconds(), steady
        if walks.due(now):
            begun.append(steady)
            walks.over(now, is_proven=True)
    gaps = [after - before for before, after in pairwise([*begun, end])]
    assert all(gap <= LONGEST_DAY + timedelta(minutes=5) for gap in gaps)
    assert all(gap >= APART for gap in gaps[:-1])


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(-600_000, 600_000)), max_size=8),
    st.sampled_from(["absent", "doubt", "retry"]),
)
def test_whatever_the_clock_does_pauses_are_as_long_as_they_are_to_be(jumps: list[tuple[int, int]], what: str) -> None:
    seconds = [0.0]
    walks = WalkSchedule("hq", Habits(nightly_at=None), None, steady=lambda: seconds[0])
    walks.doubt(is_evident=True)
    walks.over(NOON, is_proven=what == "absent", absent=3)
    if what == "doubt":
        walks.over(NOON, is_proven=True)
        walks.doubt(is_evident=True)
    pause = {"absent": CONFIRM_AFTER, "doubt": DOUBTS_APART, "retry": FIRST_RETRY}[what]
    for steady, now in played(jumps):
        seconds[0] = steady.total_seconds()
        if walks.due(now):
            break
    assert steady == pause


@given(stamp=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis wants it so
def test_whatever_an_earlier_process_recorded_a_nightly_walk_comes_within_a_day(stamp: datetime) -> None:
    walks = schedule(stamp)
    assert any(walks.due(NOON + timedelta(minutes=minute)) for minute in range(0, 24 * 60 + 31, 5))
