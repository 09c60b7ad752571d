"""How often somebody may come."""

from bridge.security.rate import MAX_REMEMBERED, Rate, Share

EACH, TOGETHER = Share(8, 1), Share(20, 10)


def came(rate: Rate, address: str, now: float, tries: int = 100, *, is_known: bool = False) -> int:
    return sum(rate.may(address, now, is_known=is_known) for _ in range(tries))


def test_each_may_come_so_often_at_once_and_then_as_time_goes() -> None:
    rate = Rate(EACH, TOGETHER, 1.0)
    assert came(rate, "a", 0) == 8
    assert came(rate, "a", 3.5) == 3
    assert came(rate, "b", 3.5) == 8, "that of another is its own"
    assert came(rate, "a", 1000) == 8, "no more than at once, however long it was away"


def test_all_together_leave_half_to_those_who_have_not_tried_for_a_while() -> None:
    rate = Rate(EACH, TOGETHER, 1.0)
    taken = [came(rate, f"crowd {number}", 0) for number in range(4)]
    assert taken == [8, 3, 1, 1], "of the last two only the first try counted as one of a newcomer"
    for now in range(1, 20):
        came(rate, f"crowd {now % 4}", now)
        assert rate.may(f"new {now}", now)
    came(rate, "crowd 2", 20)
    came(rate, "crowd 3", 20)
    assert not rate.may("crowd 2", 20.1)
    assert rate.may("crowd 2", 21.1)


def test_not_even_rare_ones_get_more_than_all_may_have() -> None:
    rate = Rate(EACH, TOGETHER, 1.0)
    assert sum(rate.may(f"{number}", 0) for number in range(100)) == 20
    assert sum(rate.may(f"{number} later", 1) for number in range(100)) == 10


def test_a_crowd_takes_nothing_from_whom_we_know() -> None:
    rate = Rate(EACH, TOGETHER, 1.0)
    for number in range(100):
        rate.may(f"{number}", 0)
    assert came(rate, "known", 0, is_known=True) == 8
    assert not rate.may("unknown", 0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    rate = Rate(EACH, TOGETHER, 1.0)
    assert came(rate, "a", 100) == 8
    assert came(rate, "a", 50) == 0


def test_what_is_remembered_is_bounded() -> None:
    rate = Rate(EACH, Share(1e9, 1), 1.0)
    for number in range(MAX_REMEMBERED + 5):
        rate.may(f"{number}", 0)
    assert repr(rate) == f"<Rate of {MAX_REMEMBERED} addresses>"
