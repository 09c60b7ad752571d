import pytest

from bridge.pbx.rest import BEHIND, BURST_SECONDS, CHEAP_SECONDS, MAX_REST_SECONDS, SHARE, Rest


def test_usual_answers_are_free_however_many_there_are() -> None:
    rest = Rest()
    assert not any(rest.due(CHEAP_SECONDS, at * 0.0001, is_answer=True) for at in range(10_000))


@pytest.mark.parametrize(("spent", "is_answer"), [(0.0002, False), (0.020, True), (3.0, True)])
def test_what_is_dear_or_was_not_asked_for_gets_its_share_of_the_time_and_no_more(
    spent: float,
    is_answer: bool,  # noqa: FBT001
) -> None:
    rest, now, used = Rest(), 100.0, 0.0
    while now < 400.0:
        now += spent + rest.due(spent, now + spent, is_answer=is_answer)
        used += (spent - CHEAP_SECONDS) * BEHIND if is_answer else spent
    counted = (spent - CHEAP_SECONDS) * BEHIND if is_answer else spent
    most = max(SHARE, counted / (spent + MAX_REST_SECONDS))
    assert used <= most * 300.0 + BURST_SECONDS + counted
    assert used >= most * 300.0 * 0.8, "nor less"


def test_a_few_pushes_are_taken_as_they_come() -> None:
    rest = Rest()
    assert not any(
        rest.due(0.0003, second + push * 0.001, is_answer=False) for second in range(60) for push in range(30)
    )


def test_who_has_rested_owes_nothing() -> None:
    rest = Rest()
    assert rest.due(1.0, 10.0, is_answer=False) == MAX_REST_SECONDS
    assert not rest.due(0.001, 30.0, is_answer=False)
