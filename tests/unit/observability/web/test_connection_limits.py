"""Who is counted with whom at the page."""

import asyncio

from bridge.observability.web.connection_limits import EACH, Visitor, VisitorLimiter, VisitorLimits
from bridge.security.forwarded import Proxies


def crowd_of(clock: list[float], *proxies: str, room: VisitorLimits = VisitorLimits()) -> VisitorLimiter:  # noqa: B008 - frozen
    return VisitorLimiter(lambda: clock[0], room, Proxies(proxies))


def test_of_ipv6_a_whole_network_is_one_guesser() -> None:
    """Whoever has one address of it has 2^64."""
    crowd = crowd_of([0.0])
    for number in range(5):
        crowd.tried(f"2001:db8::{number}", is_right=False)
    assert crowd.pause("2001:db8::ffff") > 1
    assert crowd.pause("2001:db8:0:1::1") == 0
    crowd.tried("::ffff:192.0.2.1", is_right=False)
    assert crowd.pause("192.0.2.1") > 0, "the same address, written for IPv6"


def test_of_ipv6_a_whole_network_has_the_room_of_one_address() -> None:
    crowd = crowd_of([0.0], room=VisitorLimits(total=20, per_address=3))
    for number in range(10):
        visitor = Visitor(crowd, asyncio.Protocol())
        visitor.address = f"2001:db8::{number}"
        crowd.enter(visitor)
    assert len(crowd) == 3


def test_who_comes_too_often_waits_and_a_proxy_that_we_know_is_not_counted() -> None:
    clock = [0.0]
    crowd = crowd_of(clock, "192.0.2.9")
    assert sum(crowd.may_come(f"2001:db8::{number}") for number in range(1000)) == EACH.at_once
    assert crowd.may_come("192.0.2.1")
    assert all(crowd.may_come("192.0.2.9") for _ in range(1000))
    clock[0] = 1.0
    assert sum(crowd.may_come("2001:db8::1") for _ in range(1000)) == EACH.per_second
