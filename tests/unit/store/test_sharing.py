"""What a bridge decides about sharing sources: how many it takes and gives, and when it believes its lease."""

import random
from collections import Counter

import pytest

from bridge.model import SourceName
from bridge.store.sharing import LEFT_OVER_SECONDS, SETTLED_SECONDS, Free, Peer, Tenure, choose_claims, choose_gifts

OLD = 2 * SETTLED_SECONDS
NAMES = [SourceName(f"pbx-{number}") for number in range(9)]


def free(*names: SourceName, seconds: float = 0.0, kept_for: str | None = None) -> list[Free]:
    return [Free(name, seconds, kept_for) for name in names]


def peers(*held: int, age: float = OLD) -> list[Peer]:
    return [Peer(str(number), age, count) for number, count in enumerate(held)]


def test_free_sources_are_taken_up_to_the_share_at_once() -> None:
    everything = frozenset(NAMES)
    assert choose_claims("0", free(*NAMES), peers(0, 0, 0), everything, 0, 60.0) == NAMES[:3]
    assert choose_claims("0", free(*NAMES[3:]), peers(3, 0, 0), everything, 3, 60.0) == []
    assert choose_claims("0", free(*NAMES[3:]), peers(3), everything, 3, 60.0) == NAMES[3:]


def test_what_nobody_takes_is_taken_a_little_later_by_anybody() -> None:
    """The others may not be configured for it, or may have hung."""
    waiting = free(*NAMES[3:], seconds=LEFT_OVER_SECONDS)
    assert choose_claims("0", waiting, peers(3, 0, 0), frozenset(NAMES), 3, 60.0) == NAMES[3:]


def test_only_what_is_configured_and_not_meant_for_another_is_taken() -> None:
    wanted = [*free(NAMES[0], kept_for="1"), *free(NAMES[1], kept_for="0"), *free(NAMES[2])]
    assert choose_claims("0", wanted, peers(0, 0), frozenset(NAMES[:2]), 0, 60.0) == [NAMES[1]]


def test_a_bridge_that_takes_nothing_yet_is_not_counted() -> None:
    others = [*peers(0), Peer("1", OLD, 0, is_ready=False)]
    assert choose_claims("0", free(*NAMES), others, frozenset(NAMES), 0, 60.0) == NAMES


def test_bridges_that_start_together_share_at_once() -> None:
    """Whoever comes first leaves the others their part, though all of it has been free for hours."""
    others = [Peer("0", 1.0, 0), Peer("1", 1.0, 0, is_ready=False), Peer("2", 1.0, 0, is_ready=False)]
    waiting = free(*NAMES, seconds=7200.0)
    assert choose_claims("0", waiting, others, frozenset(NAMES), 0, 0.0) == NAMES[:3]


@pytest.mark.parametrize(
    ("known", "given"),
    [
        (peers(9, 0, 0), 3),
        (peers(5, 2, 2), 0),  # within the slack
        (peers(6, 3, 0), 3),
        (peers(6, 6, 0), 0),  # the other one is fuller, by its name
        (peers(9, 0, 0, age=1.0), 0),
        ([*peers(9, 0), Peer("2", OLD, 0, "other")], 4),
    ],
)
def test_the_fullest_gives_to_the_emptiest_and_only_what_helps_both(known: list[Peer], given: int) -> None:
    to, names = choose_gifts("0", known, NAMES, len(NAMES))
    assert len(names) == given
    assert bool(to) == bool(names)


def test_sources_come_to_rest_and_none_goes_to_and_fro() -> None:
    """1000 sources, bridges that come and go: in the end all have about the same, and then nothing moves any more."""
    chance = random.Random(1)  # noqa: S311 - an order, no secret
    sources = [SourceName(f"pbx-{number}") for number in range(1000)]
    holder: dict[SourceName, str | None] = dict.fromkeys(sources, None)
    lives = ["a"]
    moves = Counter[SourceName]()

    def known() -> list[Peer]:
        counts = Counter(holder.values())
        return [Peer(life, OLD, counts[life]) for life in lives]

    def round_of_all() -> int:
        moved = 0
        for me in chance.sample(lives, len(lives)):
            unheld = free(*(name for name in sources if holder[name] is None), seconds=0.0)
            mine = [name for name in sources if holder[name] == me]
            for name in choose_claims(me, unheld, known(), frozenset(sources), len(mine), 60.0):
                holder[name] = me
            to, gifts = choose_gifts(me, known(), [name for name in sources if holder[name] == me], len(sources))
            for name in gifts:
                holder[name] = to
                moves[name] += 1
                moved += 1
        return moved

    for comes, goes in (("b", None), ("c", None), (None, "a"), ("d", None), (None, "c"), ("e", None), ("f", None)):
        lives += [comes] if comes else []
        if goes:
            lives.remove(goes)
            holder = {name: None if life == goes else life for name, life in holder.items()}
        for _ in range(200):
            if not round_of_all() and None not in holder.values():
                break
        counts = Counter(holder.values())
        fair = len(sources) / len(lives)
        assert all(0.8 * fair <= counts[life] <= 1.06 * fair for life in lives), counts
        assert not round_of_all()
    assert max(moves.values()) <= 4


def test_a_lease_is_believed_a_little_shorter_than_it_is_and_from_when_its_renewal_was_sent() -> None:
    tenure = Tenure(15.0, 100.0)
    assert tenure.is_good(111.9)
    assert not tenure.is_good(112.1)
    tenure.renewed(105.0)
    assert tenure.is_good(116.9)
    assert not tenure.is_good(117.1)


def test_others_are_buried_only_by_one_who_could_renew_for_a_whole_lease() -> None:
    tenure = Tenure(15.0, 100.0)
    for sent_at in range(103, 115, 3):
        tenure.renewed(float(sent_at))
    assert not tenure.may_bury(114.9)
    assert tenure.may_bury(115.1)
    tenure.failed(116.0)
    tenure.renewed(117.0)
    assert not tenure.may_bury(126.0)
    for sent_at in range(120, 132, 3):
        tenure.renewed(float(sent_at))
    assert tenure.may_bury(131.1)
    tenure.renewed(200.0)  # it slept
    assert not tenure.may_bury(201.0)
