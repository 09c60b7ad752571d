from concurrent.futures import Future
from datetime import timedelta

import pytest

from bridge.errors import StoreUnusable
from bridge.observability.component_status import ComponentStatus, Level, StreamStatus, worst
from bridge.observability.report import as_json
from bridge.observability.source_status import WalkProgress
from bridge.observability.status import MAX_UNSENT_AGE, age_words
from tests.support.boards import NOW, board, wait

LATER = NOW + timedelta(minutes=3)


def test_ready_means_that_changes_flow() -> None:
    assert board().is_ready(NOW)


def test_it_is_not_ready_while_a_pbx_or_the_broker_is_away() -> None:
    away = board()
    away.sources["hq"].failed("no connection", Level.WARN, NOW)
    assert not away.is_ready(NOW)
    away = board()
    away.broker.failed("no connection", Level.WARN, NOW)
    assert not away.is_ready(NOW)


def test_what_may_pass_does_not_displace_what_somebody_has_to_mend() -> None:
    told = board()
    part = told.sources["hq"]
    part.failed("the password is wrong", Level.ERROR, NOW, cause="pbx_refused_login")
    part.failed("no connection", Level.WARN, NOW, cause="pbx_unreachable")
    part.failed("the outbox is full", Level.PAUSED, NOW, cause="outbox_full")
    part.set_doing("connecting", Level.WARN, NOW)
    assert (part.level, part.cause, part.problem) == (Level.ERROR, "pbx_refused_login", "the password is wrong")
    (problem,) = as_json(told, NOW)["problems"]
    assert problem.words == "the password is wrong. Meanwhile: the outbox is full"
    part.failed("the certificate has expired", Level.ERROR, NOW, cause="pbx_not_trusted")
    assert (part.cause, part.passing) == ("pbx_not_trusted", "")
    part.set_doing("reading", Level.OK, NOW)
    assert (part.level, part.problem, part.passing) == (Level.OK, "", "")


def test_it_is_not_ready_while_an_event_waits_for_long() -> None:
    late = board()
    late.unsent, late.oldest_unsent_at = 1, NOW
    assert late.is_ready(NOW + MAX_UNSENT_AGE)
    assert not late.is_ready(NOW + MAX_UNSENT_AGE + timedelta(seconds=1))
    assert late.level(NOW + timedelta(hours=1)) is Level.ERROR


def test_held_deletions_are_a_warning_and_changes_flow_all_the_same() -> None:
    held = board()
    held.sources["hq"].warning = "30 accounts are gone from the PBX"
    assert held.is_ready(NOW)
    assert held.level(NOW) is Level.WARN


def test_a_full_outbox_is_a_pause_and_worse_than_a_warning() -> None:
    full = board()
    full.full = "the outbox is full"
    assert not full.is_ready(NOW), "at once, and not only when the next PBX is turned away"
    full.sources["hq"].failed(full.full, Level.PAUSED, NOW, cause="outbox_full")
    assert full.level(NOW) is Level.PAUSED
    assert worst(Level.WARN, Level.PAUSED, Level.OK) is Level.PAUSED
    assert worst(Level.PAUSED, Level.ERROR) is Level.ERROR


def test_what_works_again_has_no_problem() -> None:
    part = ComponentStatus(NOW)
    part.failed("no connection", Level.WARN, NOW, cause="pbx_unreachable")
    part.set_doing("connected", Level.OK, LATER)
    assert (part.problem, part.cause, part.since) == ("", "", LATER)


def test_trying_again_does_not_make_a_refused_login_look_better() -> None:
    part = ComponentStatus(NOW)
    part.failed("wrong password", Level.ERROR, NOW)
    part.set_doing("connecting", Level.WARN, LATER)
    assert (part.level, part.level_since, part.problem) == (Level.ERROR, NOW, "wrong password")
    part.failed("no connection", Level.WARN, LATER)
    assert (part.level, part.level_since) == (Level.ERROR, NOW), "it is still refused, for all that is known"
    part.failed("another certificate", Level.ERROR, LATER)
    assert part.problem == "another certificate", "another problem is another problem"


def test_a_broker_that_takes_nothing_is_not_well_just_because_it_is_connected() -> None:
    part = ComponentStatus(NOW)
    part.failed("no queue takes it", Level.WARN, NOW, cause="event_unroutable", needs_proof=True)
    part.set_doing("connected", Level.OK, LATER)
    assert (part.is_usable, part.problem) == (False, "no queue takes it")
    part.confirmed_working(LATER)
    assert (part.is_usable, part.problem, part.cause) == (True, "", "")


def test_a_proof_means_nothing_while_it_is_away() -> None:
    part = ComponentStatus(NOW)
    part.failed("no connection", Level.WARN, NOW)
    part.confirmed_working(LATER)
    assert not part.is_usable


def test_a_task_that_should_run_and_has_ended_is_told_of() -> None:
    watched, one, other = board(), Future[None](), Future[None]()
    watched.expect("read hq", one)
    watched.expect("publish", other)
    assert not watched.stuck()
    one.cancel()
    other.set_exception(StoreUnusable("the disk is full"))
    assert watched.stuck() == ["the task 'publish' has ended: the disk is full", "the task 'read hq' has ended"]
    assert watched.level(NOW) is Level.ERROR
    watched.expect_nothing()
    assert not watched.stuck(), "the bridge stops"


def test_a_task_without_progress_is_stuck_and_one_that_beats_is_not() -> None:
    watched = board()
    watched.watch("publish", timedelta(minutes=1))
    watched.beat("a task that nobody watches")
    wait(watched, timedelta(minutes=1))
    assert not watched.stuck()
    wait(watched, timedelta(minutes=2))
    (words,) = watched.stuck()
    assert words == "the task 'publish' has made no progress for 3 min (its limit is 60 s)"
    assert watched.level(LATER) is Level.ERROR
    watched.beat("publish")
    assert not watched.stuck()


def test_a_walk_that_reads_nothing_for_long_is_stalled() -> None:
    walking = board()
    walking.sources["hq"].walk = WalkProgress(NOW, NOW)
    assert not walking.is_stalled(walking.sources["hq"], LATER)
    walking.max_walk_stall = timedelta(minutes=2)
    assert walking.is_stalled(walking.sources["hq"], LATER)
    assert walking.assess(walking.sources["hq"], LATER) is Level.WARN
    walking.sources["hq"].walk.progress_at = LATER
    assert not walking.is_stalled(walking.sources["hq"], LATER)


JUMPS = [timedelta(days=365), -timedelta(days=365), timedelta(hours=1), -timedelta(hours=1)]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_is_set_makes_no_task_look_stuck_and_hides_none_that_is(jump: timedelta) -> None:
    watched = board()
    watched.watch("publish", timedelta(minutes=1))
    watched.keep_pace(NOW)
    watched.keep_pace(NOW + jump)
    assert not watched.stuck()
    wait(watched, timedelta(seconds=61))
    assert watched.stuck()


@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_is_set_makes_nothing_late_or_stalled_and_hides_nothing_that_is(jump: timedelta) -> None:
    told = board()
    part = told.sources["hq"]
    told.unsent, told.oldest_unsent_at, part.walk = 1, NOW, WalkProgress(NOW, NOW)
    told.keep_pace(NOW)
    wait(told, timedelta(minutes=4))
    now = NOW + jump + timedelta(minutes=4)
    assert told.keep_pace(now) == jump
    assert not told.is_late(now)
    assert not told.is_stalled(part, now)
    assert as_json(told, now)["sources"]["hq"]["ages"]["answer"] == 240
    wait(told, timedelta(minutes=2))
    now += timedelta(minutes=2)
    assert not told.keep_pace(now)
    assert told.is_late(now)
    assert told.is_stalled(part, now)


def test_a_clock_that_only_drifts_is_not_taken_for_one_that_was_set() -> None:
    told = board()
    told.keep_pace(NOW)
    wait(told, timedelta(seconds=1))
    assert not told.keep_pace(NOW + timedelta(seconds=1.4))
    assert told.sources["hq"].since == NOW


def test_an_event_made_by_a_clock_that_was_ahead_waits_since_now() -> None:
    """Otherwise that it is late would show when its time has come."""
    told = board()
    told.log = StreamStatus(NOW, oldest_unsent_at=NOW + timedelta(days=3))
    told.oldest_unsent_at = NOW + timedelta(days=3)
    told.keep_pace(NOW)
    assert told.oldest == told.oldest_unsent_at == told.log.oldest_unsent_at == NOW
    assert told.is_late(NOW + MAX_UNSENT_AGE + timedelta(seconds=1))


def test_the_certificate_is_not_moved_when_the_clock_is_set() -> None:
    """It is told as it was written, and subscribers have it like that."""
    told = board()
    told.sources["hq"].verified_at = NOW
    told.keep_pace(NOW)
    told.keep_pace(NOW - timedelta(days=1))
    assert told.sources["hq"].verified_at == NOW


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_ages_are_told_as_people_tell_them(seconds: float, words: str) -> None:
    assert age_words(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("share", "away", "is_ready"),
    [
        (1.0, 0, True),
        (1.0, 1, False),
        (0.5, 500, True),
        (0.5, 501, False),
        (0.001, 999, True),
        (0.07, 930, True),
        (0.07, 931, False),
        (0.0, 999, True),
        (0.0, 1000, False),
    ],
)
def test_a_fleet_is_ready_while_enough_of_its_pbxs_are_read(share: float, away: int, *, is_ready: bool) -> None:
    told = board(NOW, *(f"p{number}" for number in range(1000)))
    told.ready_share = share
    for part in list(told.sources.values())[:away]:
        part.failed("nobody answers", Level.WARN, NOW)
    assert told.is_ready(NOW) is is_ready


def test_one_pbx_has_to_be_read_whatever_share_is_enough_and_paused_ones_do_not_count() -> None:
    told = board(NOW, "hq", "branch")
    told.ready_share = 0.0
    told.sources["hq"].failed("nobody answers", Level.WARN, NOW)
    assert told.is_ready(NOW)
    told.sources["branch"].paused("paused by an operator", NOW, NOW)
    assert not told.is_ready(NOW)
