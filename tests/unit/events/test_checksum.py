import random
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from bridge.events.checksum import MODULUS, checksum
from tests.support.events import LATER_LINEAGE, LINEAGE

ACCOUNTS = st.lists(st.tuples(st.sampled_from([LINEAGE, LATER_LINEAGE]), st.text(), st.integers(1, 2**53 - 1)))


def test_the_checksum_of_an_account_is_what_others_compute() -> None:
    """``printf '20261123T190002418Z-9f3c:2a4d009c:7' | sha256sum``; an edit would make every subscriber differ."""
    assert checksum([(LINEAGE, "2a4d009c", 7)]) == 0x004081C0
    assert checksum([]) == 0


@given(ACCOUNTS, st.randoms(use_true_random=False))
def test_it_is_a_sum_in_any_order(accounts: list[tuple[str, str, int]], chance: random.Random) -> None:
    first_bits = [int(sha256(f"{a}:{b}:{c}".encode()).hexdigest()[:8], 16) for a, b, c in accounts]
    chance.shuffle(accounts)
    assert checksum(accounts) == sum(first_bits) % 2**32 < MODULUS


@given(ACCOUNTS, st.tuples(st.just(LINEAGE), st.text(), st.integers(1, 2**53 - 2)))
def test_one_account_more_or_at_another_revision_or_lineage_changes_it(
    accounts: list[tuple[str, str, int]], one: tuple[str, str, int]
) -> None:
    lineage, key, revision = one
    others = [(lineage, key, revision + 1), (LATER_LINEAGE, key, revision)]
    found = {checksum(accounts), *(checksum([*accounts, each]) for each in (one, *others))}
    assert len(found) == 4
