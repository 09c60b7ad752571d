import pytest

from bridge.pbx.inbound.admission import (
    FORGET_SECONDS,
    LAST_PAUSE_SECONDS,
    MAX_ADDRESSES,
    Bounds,
    ConnectionLimiter,
    Ticket,
)
from bridge.security.forwarded import find_network


def entered(gate: ConnectionLimiter, address: str = "192.0.2.1") -> Ticket:
    ticket = gate.enter(address, lambda: None)
    assert ticket is not None
    return ticket


def test_an_address_and_all_together_have_a_limit() -> None:
    gate = ConnectionLimiter(Bounds(total=3, per_address=2, unauthenticated=10))
    tickets = [entered(gate), entered(gate)]
    for ticket in tickets:
        gate.logged_in(ticket)
    assert gate.enter("192.0.2.1", lambda: None) is None
    gate.logged_in(entered(gate, "192.0.2.2"))
    assert gate.enter("192.0.2.3", lambda: None) is None
    gate.leave(tickets[0])
    entered(gate, "192.0.2.3")


def test_where_too_many_are_silent_the_oldest_of_them_goes_and_never_one_that_is_logged_in() -> None:
    gate, dropped = ConnectionLimiter(Bounds(unauthenticated=2)), []
    first = gate.enter("192.0.2.1", lambda: dropped.append(1))
    assert first is not None
    gate.logged_in(first)
    for number in (2, 3, 4, 5):
        assert gate.enter(f"192.0.2.{number}", lambda number=number: dropped.append(number)) is not None  # type: ignore[misc]
    assert dropped == [2, 3]


def test_strangers_behind_the_proxy_of_a_pbx_do_not_take_its_place() -> None:
    """All of one address: who has not logged in makes room, and who has stays."""
    gate, dropped = ConnectionLimiter(Bounds(total=100, per_address=4, unauthenticated=50)), []
    pbx = entered(gate)
    gate.logged_in(pbx, ("example.com", "hq", "guid"))
    for number in range(20):
        assert gate.enter("192.0.2.1", lambda number=number: dropped.append(number)) is not None  # type: ignore[misc]
    assert dropped == list(range(17))
    gate.logged_in(entered(gate))
    assert pbx.is_dropped is False


def test_an_address_from_which_somebody_logged_in_keeps_its_place_in_a_crowd() -> None:
    gate, dropped = ConnectionLimiter(Bounds(unauthenticated=4)), list[str]()
    gate.expect("192.0.2.1", ("example.com", "hq", "guid"))
    for address in ("192.0.2.1", *(f"198.51.100.{number}" for number in range(30))):
        assert gate.enter(address, lambda address=address: dropped.append(address)) is not None  # type: ignore[misc]
    assert dropped == [f"198.51.100.{number}" for number in range(27)]
    gate, dropped = ConnectionLimiter(Bounds(unauthenticated=4)), []
    for address in ("192.0.2.2", "192.0.2.1", *["192.0.2.3"] * 10):
        assert gate.enter(address, lambda address=address: dropped.append(address)) is not None  # type: ignore[misc]
    assert set(dropped) == {"192.0.2.3"}, "of strangers those go first of whom there are most"


def test_where_all_places_are_taken_by_strangers_one_of_them_goes() -> None:
    gate = ConnectionLimiter(Bounds(total=3, unauthenticated=3))
    gate.logged_in(entered(gate, "192.0.2.1"))
    first = entered(gate, "192.0.2.2")
    entered(gate, "192.0.2.3")
    late = entered(gate, "192.0.2.4")
    assert (first.is_dropped, gate.connected) == (True, 4), "it counts until it is closed"
    gate.leave(first)
    gate.logged_in(late)
    assert gate.connected == 3


def test_others_behind_a_proxy_do_not_hold_up_whoever_logged_in_from_there_before() -> None:
    gate = ConnectionLimiter(Bounds())
    gate.expect("192.0.2.1", ("example.com", "hq", "guid"))
    ticket = entered(gate)
    for _ in range(100):
        gate.failed(ticket, 1000, ("example.com", "hq", "another guid"))
        gate.judged_at(ticket, 1000, ("example.com", "hq", "another guid"))
    assert gate.judged_at(ticket, 1000, ("example.com", "branch", "guid")) is None
    assert gate.judged_at(ticket, 1000, ("example.com", "hq", "guid")) == 1000
    gate.failed(ticket, 1000, ("example.com", "hq", "guid"))
    assert gate.judged_at(ticket, 1000, ("example.com", "hq", "guid")) == 1001, "but it, too, waits after a failure"
    assert gate.judged_at(entered(gate, "192.0.2.2"), 1000, ("example.com", "hq", "guid")) == 1000, (
        "no one's but its own"
    )


def test_a_connection_counts_where_its_proxy_says_that_it_comes_from() -> None:
    gate = ConnectionLimiter(Bounds(total=10, per_address=1))
    first, second = entered(gate, "10.0.0.1"), None
    assert gate.comes_from(first, "192.0.2.1")
    gate.logged_in(first)
    second = entered(gate, "10.0.0.1")
    assert not gate.comes_from(second, "192.0.2.1"), "that one has enough"
    third = entered(gate, "10.0.0.1")
    assert gate.comes_from(third, "2001:db8::7")
    assert third.address == "2001:db8::/64"
    for ticket in (first, second, third):
        gate.leave(ticket)
    assert gate.connected == 0
    assert not gate._of_address  # noqa: SLF001 - its memory is the point
    assert not gate._waiting_of  # noqa: SLF001


def test_each_failure_makes_the_next_login_of_that_address_wait_longer() -> None:
    gate = ConnectionLimiter(Bounds())
    ticket, now, waits = entered(gate), 1000.0, []
    for _ in range(8):
        due = gate.judged_at(ticket, now)
        assert due is not None
        waits.append(due - now)
        now = due
        gate.failed(ticket, now)
    assert waits == [0, 1, 2, 4, 8, 16, 30, 30]
    assert gate.judged_at(entered(gate, "192.0.2.9"), now) == now, "others do not wait"


def test_logins_that_wait_at_once_wait_one_after_the_other_and_too_many_are_refused() -> None:
    """Nobody gets more tries by opening more connections."""
    gate = ConnectionLimiter(Bounds())
    ticket = entered(gate)
    for _ in range(4):
        gate.failed(ticket, 1000)
    assert [gate.judged_at(ticket, 1000) for _ in range(6)] == [1008, 1016, 1024, None, None, None]


def test_a_good_login_forgives_its_address() -> None:
    """Behind a proxy all PBXs have one address: one with a wrong password must not keep the others out."""
    gate = ConnectionLimiter(Bounds())
    ticket = entered(gate)
    for _ in range(9):
        gate.failed(ticket, 1000)
    gate.logged_in(ticket)
    assert gate.judged_at(ticket, 1000) == 1000


def test_time_forgives_too() -> None:
    gate = ConnectionLimiter(Bounds())
    ticket = entered(gate)
    for _ in range(9):
        gate.failed(ticket, 1000)
    assert gate.judged_at(ticket, 1001 + FORGET_SECONDS) == 1001 + FORGET_SECONDS
    gate.failed(ticket, 1001 + FORGET_SECONDS)
    assert gate.judged_at(ticket, 1001 + FORGET_SECONDS) == 1002 + FORGET_SECONDS


def test_what_is_remembered_is_bounded() -> None:
    gate = ConnectionLimiter(Bounds(total=MAX_ADDRESSES * 3))
    for number in range(MAX_ADDRESSES + 500):
        ticket = entered(gate, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        gate.failed(ticket, 1000)
        gate.leave(ticket)
    assert len(gate._failures) == MAX_ADDRESSES  # noqa: SLF001 - its memory is the point
    assert gate.connected == len(gate._of_address) == len(gate._unauthenticated) == 0  # noqa: SLF001


def test_a_pause_has_an_end() -> None:
    gate = ConnectionLimiter(Bounds())
    ticket = entered(gate)
    for _ in range(10_000):
        gate.failed(ticket, 1000)
    assert gate.judged_at(ticket, 1000 + LAST_PAUSE_SECONDS) is not None


@pytest.mark.parametrize(("address", "place"), [
    ("192.0.2.7", "192.0.2.7"),
    ("::ffff:192.0.2.7", "192.0.2.7"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("fe80::1%eth0", "fe80::/64"),
    ("@local", "@local"),
])  # fmt: skip
def test_ipv6_counts_by_network(address: str, place: str) -> None:
    assert find_network(address) == place
