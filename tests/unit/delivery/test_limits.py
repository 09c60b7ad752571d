import pytest

from bridge.delivery.limits import Limits
from bridge.store.records import Backlog

LIMITS = Limits(max_events=100, max_bytes=1000, min_free_bytes=50)


def test_a_disk_that_nobody_can_see_is_no_limit() -> None:
    assert LIMITS.reached(Backlog(), None, is_full=False) == ""


@pytest.mark.parametrize(
    ("backlog", "free_bytes", "words"),
    [
        (Backlog(rows=100), 1000, "100 events wait (store.max_unsent_events is 100)"),
        (Backlog(rows=60, held_rows=40), 1000, "40 of the events are held: account-bridge parked"),
        (Backlog(rows=1, bytes=1000), 1000, "store.max_unsent_bytes"),
        (Backlog(rows=1, bytes=500, held_rows=1, held_bytes=500), 1000, "store.max_unsent_bytes"),
        (Backlog(), 49, "almost full"),
    ],
)
def test_each_limit_is_told_with_its_setting_and_that_nothing_is_lost(
    backlog: Backlog, free_bytes: int, words: str
) -> None:
    told = LIMITS.reached(backlog, free_bytes, is_full=False)
    assert words in told
    assert "nothing is lost" in told


def test_below_its_limits_an_outbox_has_room() -> None:
    assert not LIMITS.reached(Backlog(rows=99, bytes=999), 50, is_full=False)


@pytest.mark.parametrize(
    ("still_full", "has_room", "free_bytes"),
    [(Backlog(rows=90), Backlog(rows=89), 1000), (Backlog(bytes=900), Backlog(bytes=899), 1000)],
)
def test_reading_goes_on_only_once_there_is_some_room(still_full: Backlog, has_room: Backlog, free_bytes: int) -> None:
    """Otherwise it would stop and go on with every event that the broker takes."""
    assert LIMITS.reached(still_full, free_bytes, is_full=True)
    assert not LIMITS.reached(has_room, free_bytes, is_full=True)
    assert LIMITS.reached(Backlog(), 55, is_full=True)
    assert not LIMITS.reached(Backlog(), 56, is_full=True)
