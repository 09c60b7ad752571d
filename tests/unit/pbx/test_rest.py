import pytest

from bridge.pbx.rest import (
    BEHIND,
    BURST_SECONDS,
    CHEAP_SECONDS,
    HEAVY_SHARE,
    MAX_REST_SECONDS,
    NEWS_SECONDS,
    SHARE,
    Crowd,
    Rest,
)

USUAL_SECONDS = 0.0001


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


def work_done(crowd: Crowd, heavy: int, *, light_every: float) -> float:
    """Return the part of a minute that *heavy* PBXs with endless news took, while another had some now and then."""
    rests = [Rest(crowd) for _ in range(heavy)]
    free_at = [0.0] * heavy
    light, light_at, now, used = Rest(crowd), 0.0, 0.0, 0.0
    while now < 60.0:
        if now >= light_at:
            assert not light.due(USUAL_SECONDS, now, is_answer=True, is_news=True), "it never waits"
            light_at += light_every
        for number, rest in enumerate(rests):
            if free_at[number] <= now:
                used += USUAL_SECONDS * BEHIND
                now += USUAL_SECONDS
                free_at[number] = now + rest.due(USUAL_SECONDS, now, is_answer=True, is_news=True)
        now += 0.0005
    return used / 60.0


@pytest.mark.parametrize("heavy", [1, 3])
def test_who_has_much_to_tell_shares_while_somebody_else_has_a_little(heavy: int) -> None:
    assert work_done(Crowd(), heavy, light_every=0.5) == pytest.approx(HEAVY_SHARE, rel=0.25)


def test_who_is_alone_in_having_news_may_take_all_the_time() -> None:
    rest = Rest(Crowd())
    assert not any(rest.due(USUAL_SECONDS, at * USUAL_SECONDS, is_answer=True, is_news=True) for at in range(10_000))
    assert work_done(Crowd(), 1, light_every=NEWS_SECONDS * 10) > HEAVY_SHARE


def test_many_that_walk_beside_each_other_do_not_wait_for_each_other() -> None:
    crowd = Crowd()
    rests, now, waited = [Rest(crowd) for _ in range(16)], 0.0, 0.0
    for _ in range(2_000):
        for rest in rests:
            now += USUAL_SECONDS
            waited += rest.due(USUAL_SECONDS, now, is_answer=True, is_news=True) if now > NEWS_SECONDS + 1 else 0.0
    assert not waited


@pytest.mark.parametrize("walking", [2, 3])
def test_a_few_that_walk_beside_each_other_and_fill_the_time_do_not_wait_for_each_other(walking: int) -> None:
    """Each of them takes more than a little, however short of all the time that is."""
    crowd = Crowd()
    rests, now, waited = [Rest(crowd) for _ in range(walking)], 0.0, 0.0
    while now < 60.0:
        for rest in rests:
            now += USUAL_SECONDS * BEHIND
            pause = rest.due(USUAL_SECONDS, now, is_answer=True, is_news=True)
            waited += pause if now > 2 * NEWS_SECONDS else 0.0
            now += pause
    assert not waited


def test_the_crowd_forgets_those_who_were_alone_in_telling_much() -> None:
    crowd = Crowd()
    for number in range(50):
        rest = Rest(crowd)
        for at in range(500):
            rest.due(USUAL_SECONDS, number * 10 * NEWS_SECONDS + at * USUAL_SECONDS, is_answer=True, is_news=True)
    assert repr(crowd) == "<Crowd, 0 heavy>"


def test_answers_that_tell_nothing_new_are_free() -> None:
    crowd = Crowd()
    rest, light = Rest(crowd), Rest(crowd)
    for at in range(10_000):
        light.due(USUAL_SECONDS, at * USUAL_SECONDS, is_answer=True, is_news=not at % 100)
        assert not rest.due(USUAL_SECONDS, at * USUAL_SECONDS, is_answer=True)
