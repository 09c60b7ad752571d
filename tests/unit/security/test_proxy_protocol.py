import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.security.proxy_protocol import SIGNATURE, V2_MAX_BYTES, Introduced, introduced

REST = st.binary(max_size=200)


def second(address: str, *, command: int = 1, more: bytes = b"", size: int | None = None) -> bytes:
    parsed = ipaddress.ip_address(address)
    addresses = parsed.packed * 2 + struct.pack("!HH", 50000, 443) + more
    family = 0x11 if parsed.version == 4 else 0x21
    told = len(addresses) if size is None else size
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, told) + addresses


def first(address: str) -> bytes:
    family = "TCP4" if ipaddress.ip_address(address).version == 4 else "TCP6"
    return f"PROXY {family} {address} {address} 50000 443\r\n".encode()


@given(st.ip_addresses(), REST, st.booleans())
def test_an_address_and_what_follows_come_out_as_they_were_put_in(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    rest: bytes,
    is_second: bool,  # noqa: FBT001
) -> None:
    head = (second if is_second else first)(str(address))
    assert introduced(head + rest) == Introduced(str(address), rest)


@given(st.ip_addresses(), st.booleans())
def test_of_every_part_of_it_more_is_wanted(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    is_second: bool,  # noqa: FBT001
) -> None:
    head = (second if is_second else first)(str(address))
    assert [introduced(head[:end]) for end in range(len(head))] == [None] * len(head)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=100).map(lambda data: SIGNATURE + data),
                 st.binary(max_size=150).map(lambda data: b"PROXY TCP4 " + data)))  # fmt: skip
def test_whatever_comes_is_understood_waited_for_or_refused(data: bytes) -> None:
    try:
        found = introduced(data)
    except ValueError:
        return
    if found is None:
        assert len(data) < V2_MAX_BYTES, "nobody waits for ever"
    elif found.address:
        ipaddress.ip_address(found.address)


@given(REST)
def test_a_proxy_that_speaks_for_itself_or_does_not_know_names_nobody(rest: bytes) -> None:
    for head in (b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n", second("192.0.2.1", command=0)):
        assert introduced(head + rest) == Introduced("", rest)


def test_remarks_behind_the_addresses_are_passed_over() -> None:
    assert introduced(second("2001:db8::1", more=b"\x03\x00\x04abcd") + b"GET") == Introduced("2001:db8::1", b"GET")


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
    b"PROXY TCP4 192.0.2.\xff 192.0.2.2 1 2\r\n",
    b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 " + b"1" * 200,
    SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
    SIGNATURE + b"\x22\x11\x00\x0c" + bytes(12),
    SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
    SIGNATURE + b"\x21\x11\xff\xff",
])  # fmt: skip
def test_what_is_no_proxy_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"PROXY|port|address|Expected|Octet|octet|codec"):
        introduced(data)
