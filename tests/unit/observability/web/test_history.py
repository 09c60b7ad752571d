from datetime import timedelta

from bridge.observability.web.history import COARSE, COARSE_POINTS, POINTS, History
from tests.support.boards import NOW, board


def test_a_point_tells_what_happened_since_the_one_before() -> None:
    seen = board(NOW, "hq", "branch")
    history = History(seen)
    seen.sources["hq"].changes, seen.sources["branch"].changes = 3, 2
    seen.unsent, seen.held, seen.oldest_unsent_at = 4, 1, NOW - timedelta(seconds=30)
    history.sample(NOW)
    seen.sources["hq"].changes = 4
    seen.unsent = seen.held = 0
    seen.oldest_unsent_at = None
    seen.published, seen.last_lag_seconds = 5, 0.25
    history.sample(NOW + timedelta(seconds=10))
    history.sample(NOW + timedelta(seconds=20))
    told = history.as_json(is_day=False)
    assert told["changes"] == [5, 1, 0]
    assert told["unsent"] == [5, 0, 0]
    assert told["lag_seconds"] == [30.0, 0.25, 0.0]
    assert told["until"] == NOW + timedelta(seconds=20)


def test_it_is_bounded_and_the_day_keeps_sums_and_worst() -> None:
    seen = board()
    history = History(seen)
    for step in range(COARSE * (COARSE_POINTS + 3)):
        seen.sources["hq"].changes += 1
        seen.unsent = step % COARSE
        history.sample(NOW + timedelta(seconds=10 * step))
    hour, day = history.as_json(is_day=False), history.as_json(is_day=True)
    assert len(hour["changes"]) == POINTS
    assert day["changes"] == [COARSE] * COARSE_POINTS
    assert set(day["unsent"]) == {COARSE - 1}
    assert (hour["step_seconds"], day["step_seconds"]) == (10, 300)


def test_after_a_restart_it_begins_with_what_the_store_knows() -> None:
    history = History(board())
    made = NOW - timedelta(minutes=5)
    flow = [
        (made, made + timedelta(seconds=1)),
        (made, made + timedelta(seconds=45)),
        (NOW - timedelta(seconds=15), None),
        (NOW - timedelta(hours=3), NOW - timedelta(hours=3)),
        (NOW + timedelta(days=1), None),
    ]
    history.recall(flow, NOW)
    hour, day = history.as_json(is_day=False), history.as_json(is_day=True)
    assert len(hour["changes"]) == POINTS
    assert (sum(hour["changes"]), hour["changes"][-30:][0], hour["changes"][-2]) == (3, 2, 1)
    assert hour["unsent"][-31:] == [0, 1, 1, 1, 1, *[0] * 24, 1, 1]
    assert (max(hour["lag_seconds"]), hour["until"]) == (45.0, NOW)
    assert (len(day["changes"]), sum(day["changes"])) == (36, 4)
    history.sample(NOW + timedelta(seconds=10))
    assert history.as_json(is_day=False)["changes"][-1] == 0, "nothing is counted twice"
