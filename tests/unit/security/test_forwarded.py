import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.security.forwarded import MAX_CHARACTERS, Proxies

PROXIES = Proxies(["10.0.0.0/8", "fd00::/8", "127.0.0.1"])


@pytest.mark.parametrize(("peer", "x_forwarded_for", "origin"), [
    ("192.0.2.9", "198.51.100.1", "192.0.2.9"),
    ("10.0.0.1", "", "10.0.0.1"),
    ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
    ("10.0.0.1", "1.2.3.4, 198.51.100.1", "198.51.100.1"),
    ("10.0.0.1", "1.2.3.4, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
    ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
    ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
    ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
    ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
    ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
    ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
    ("10.0.0.1", "1" * 3000, "10.0.0.1"),
    ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
    ("fd00::1%eth0", "198.51.100.1", "198.51.100.1"),
    ("@unix", "198.51.100.1", "@unix"),
])  # fmt: skip
def test_the_nearest_stranger_is_who_asks(peer: str, x_forwarded_for: str, origin: str) -> None:
    """Whatever stands before that, a stranger may have written."""
    assert PROXIES.origin(peer, x_forwarded_for=[x_forwarded_for] if x_forwarded_for else []) == origin
    elements = [f'for="{entry.strip()}"' for entry in x_forwarded_for.split(",")] if x_forwarded_for else []
    if len(x_forwarded_for) < 100:
        assert PROXIES.origin(peer, forwarded=[", ".join(elements)] if elements else []) == origin


@pytest.mark.parametrize(("header", "origin"), [
    ("for=198.51.100.1;proto=https;by=10.0.0.1", "198.51.100.1"),
    ('For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
    ("for=1.2.3.4, for=198.51.100.1", "198.51.100.1"),
    ('for="1.2.3.4, for=5.6.7.8", for=198.51.100.1', "198.51.100.1"),
    ("for=_hidden", "10.0.0.1"),
    ("proto=https", "10.0.0.1"),
    ('for="198.51.100.1', "10.0.0.1"),
    ("for = 198.51.100.1", "10.0.0.1"),
    ("for=198.51.100.1 for=1.2.3.4", "10.0.0.1"),
])  # fmt: skip
def test_forwarded_is_read_as_its_standard_has_it(header: str, origin: str) -> None:
    assert PROXIES.origin("10.0.0.1", forwarded=[header]) == origin


def test_of_two_headers_that_disagree_the_other_end_wrote_one() -> None:
    told = {"forwarded": ["for=1.2.3.4"], "x_forwarded_for": ["198.51.100.1"]}
    assert PROXIES.origin("10.0.0.1", **told) == "10.0.0.1"
    assert PROXIES.origin("10.0.0.1", **{**told, "forwarded": ["for=198.51.100.1"]}) == "198.51.100.1"


def test_a_header_that_is_too_long_to_be_read_does_not_leave_the_word_to_the_other() -> None:
    """A stranger makes the proxy's own header that long, and writes the other one himself."""
    long = "x," * MAX_CHARACTERS
    forged = {"forwarded": ["for=1.2.3.4"], "x_forwarded_for": [f"{long}198.51.100.1"]}
    assert PROXIES.origin("10.0.0.1", **forged) == "10.0.0.1"
    forged = {"forwarded": [f"{'a=b;' * MAX_CHARACTERS}for=198.51.100.1"], "x_forwarded_for": ["1.2.3.4"]}
    assert PROXIES.origin("10.0.0.1", **forged) == "10.0.0.1"


@given(st.lists(st.text(max_size=60), max_size=4), st.lists(st.text(max_size=60), max_size=4))
def test_whatever_a_stranger_writes_there_the_proxys_own_entry_is_believed(one: list[str], other: list[str]) -> None:
    assert PROXIES.origin("10.0.0.1", x_forwarded_for=[*one, "198.51.100.1"]) == "198.51.100.1"
    ipaddress.ip_address(PROXIES.origin("10.0.0.1", forwarded=one, x_forwarded_for=other))
    assert PROXIES.origin("192.0.2.1", forwarded=one, x_forwarded_for=other) == "192.0.2.1"


@pytest.mark.parametrize(("peer", "forwarded", "x_forwarded_proto", "is_https"), [
    ("10.0.0.1", "for=1.2.3.4;proto=https", "", True),
    ("10.0.0.1", "", "https", True),
    ("10.0.0.1", "", "https, http", False),
    ("10.0.0.1", "", "http, HTTPS", True),
    ("10.0.0.1", "proto=http", "https", False),
    ("10.0.0.1", "", "", False),
    ("192.0.2.1", "proto=https", "https", False),
])  # fmt: skip
def test_only_a_known_proxy_says_that_it_was_asked_by_https(
    peer: str,
    forwarded: str,
    x_forwarded_proto: str,
    is_https: bool,  # noqa: FBT001
) -> None:
    told = {"forwarded": [forwarded] if forwarded else [], "x_forwarded_proto": [x_forwarded_proto]}
    assert PROXIES.is_https(peer, **told) is is_https


def test_without_a_proxy_nobody_is_believed() -> None:
    assert Proxies().origin("127.0.0.1", x_forwarded_for=["198.51.100.1"]) == "127.0.0.1"
