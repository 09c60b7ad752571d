import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.changelist import ChangeList, Entry
from bridge.simulator.modes import Order
from bridge.simulator.people import Record, make_guid


def record(guid: str, touched: int = 0) -> Record:
    return Record(guid, f"user.{guid}", guid, guid, "1", (), (), "secret", "hq", touched=touched)


def walked(accounts: ChangeList, position: int = -1) -> list[Entry]:
    return list(accounts.after(position))


@pytest.mark.parametrize("order", Order)
@given(
    deeds=st.lists(st.tuples(st.sampled_from(["change", "delete", "reissue", "note"]), st.integers(0, 5)), max_size=60),
    data=st.data(),
)
def test_a_reader_who_stopped_anywhere_misses_nothing(
    order: Order, deeds: list[tuple[str, int]], data: st.DataObject
) -> None:
    accounts = ChangeList(order, guid="node")
    mirror: dict[str, Entry] = {}
    position = -1
    for number, (deed, who) in enumerate(deeds):
        guid = str(who)
        if deed == "change":
            accounts.change(record(guid, number))
        elif deed == "delete":
            accounts.change(record(guid, number), is_deleted=True)
        elif deed == "reissue":
            accounts.reissue({guid, "0", "1"})
        else:
            for _, entry in zip(range(data.draw(st.integers(0, 4))), walked(accounts, position), strict=False):
                mirror[entry.record.guid], position = entry, accounts.position(entry.usn, entry.ausn)
    for entry in walked(accounts, position):
        mirror[entry.record.guid] = entry
    assert mirror == accounts.current


@pytest.mark.parametrize("order", Order)
@given(deeds=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_no_pair_of_numbers_is_used_twice(order: Order, deeds: list[tuple[bool, int]]) -> None:
    accounts = ChangeList(order, guid="node")
    issued: list[Entry] = []
    for is_reissue, who in deeds:
        guids = {str(who), "0"}
        issued += accounts.reissue(guids) if is_reissue else [accounts.change(record(str(who)))]
    numbers = [(entry.record.guid, entry.usn, entry.ausn) for entry in issued]
    assert len(set(numbers)) == len(numbers)
    positions = [entry.position for entry in issued]
    assert positions == sorted(set(positions))


@pytest.mark.parametrize(("order", "moves"), [(Order.LEX, {"ausn"}), (Order.INDEP, {"ausn"}), (Order.CONST, {"usn"})])
def test_an_edit_of_what_accounts_depend_on_moves_ausn_where_ausn_can_move(order: Order, moves: set[str]) -> None:
    accounts = ChangeList(order, guid="node")
    before = accounts.change(record("1"))
    (after,) = accounts.reissue({"1"})
    assert {name for name in ("usn", "ausn") if getattr(before, name) != getattr(after, name)} == moves


def test_a_log_keeps_what_later_changes_replaced() -> None:
    accounts = ChangeList(Order.LEX, guid="node")
    entries = [accounts.change(record("1", touched)) for touched in range(3)]
    assert walked(accounts) == entries[-1:]
    assert list(accounts.log_after(-1)) == entries


def test_a_copy_stays_as_it_was() -> None:
    accounts = ChangeList(Order.LEX, guid="node")
    kept = accounts.change(record("1"))
    twin = accounts.copy()
    accounts.change(record("1", 1))
    assert walked(twin) == [kept]


def test_a_limited_log_forgets_the_oldest() -> None:
    accounts = ChangeList(Order.LEX, guid="node", log_limit=10)
    for number in range(100):
        accounts.change(record("1", number))
    assert 10 <= len(list(accounts.log_after(-1))) <= 20


def test_finding_the_next_account_does_not_look_at_all_of_them() -> None:
    """Stale entries are tidied away, so that a question costs the same after many changes."""
    chance = random.Random(1)  # noqa: S311 - a test's dice
    accounts = ChangeList(Order.LEX, guid="node")
    guids = [make_guid(chance) for _ in range(1000)]
    for guid in guids:
        accounts.change(record(guid))
    for _ in range(5000):
        accounts.change(record(chance.choice(guids)))
    assert accounts.stale_entries <= 64 + len(guids) // 8
