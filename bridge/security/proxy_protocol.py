"""The PROXY protocol, by which a proxy says at the start of a connection from where it comes: versions 1 and 2.

Source: HAProxy's ``doc/proxy-protocol.txt``. Bytes in, address and rest out; no input or output here.
"""

import ipaddress
import re
import struct
from dataclasses import dataclass
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""Of version 2; the first byte already is none of version 1."""

V1_MAX_BYTES: Final = 107
"""The longest line there is, its end included."""

V2_MAX_BYTES: Final = 1024
"""As much as we read; the addresses take 36 bytes, the rest are remarks that we do not look at."""

_V2_HEAD: Final = 16
_V1_ADDRESSES: Final = {b"TCP4": ipaddress.IPv4Address, b"TCP6": ipaddress.IPv6Address}
_V2_ADDRESS_BYTES: Final = {1: 12, 2: 36, 3: 216}
"""By family: IPv4, IPv6, UNIX."""
_PORT: Final = re.compile(r"0|[1-9]\d{0,4}", re.ASCII)
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Introduced:
    """A connection whose proxy has introduced it."""

    address: str
    """Where it comes from; empty where the proxy speaks for itself, or does not know."""
    rest: bytes
    """What belongs to the connection itself."""


def introduced(data: bytes) -> Introduced | None:
    """Return who it is, from the first bytes of a connection; ``None``: more bytes are wanted.

    Raises:
        ValueError: it is no PROXY protocol.

    """
    if data.startswith(SIGNATURE):
        return _second(data)
    if SIGNATURE.startswith(data) or b"PROXY ".startswith(data):
        return None
    if data.startswith(b"PROXY "):
        return _first(data)
    raise ValueError("the connection does not begin with the PROXY protocol")


def _first(data: bytes) -> Introduced | None:
    line, end, rest = data[:V1_MAX_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= V1_MAX_BYTES:
            raise ValueError("a line of the PROXY protocol that does not end")
        return None
    rest += data[V1_MAX_BYTES:]
    _, family, *told = line.split(b" ")
    if family == b"UNKNOWN":
        return Introduced("", rest)
    if family not in _V1_ADDRESSES or len(told) != 4:  # noqa: PLR2004 - two addresses and two ports
        raise ValueError("a line of the PROXY protocol that says nothing of an address")
    source, _ = (_V1_ADDRESSES[family](address.decode("ascii")) for address in told[:2])
    for port in told[2:]:
        if not _PORT.fullmatch(port.decode("ascii")) or int(port) > _MAX_PORT:
            raise ValueError("a port that is none")
    return Introduced(str(source), rest)


def _second(data: bytes) -> Introduced | None:
    if len(data) < _V2_HEAD:
        return None
    kind, family, size = struct.unpack_from("!BBH", data, len(SIGNATURE))
    version, command = kind >> 4, kind & 15
    if version != 2 or command > 1:  # noqa: PLR2004 - the version
        raise ValueError("a PROXY protocol of another version")
    end = _V2_HEAD + size
    if end > V2_MAX_BYTES:
        raise ValueError("more PROXY protocol than anybody has to say")
    wanted = _V2_ADDRESS_BYTES.get(family >> 4, 0)
    if command == 1 and size < wanted:
        raise ValueError("a PROXY protocol that is cut short")
    if len(data) < end:
        return None
    addresses, rest = data[_V2_HEAD:end], data[end:]
    if command == 0:
        return Introduced("", rest)
    if family >> 4 == 1:
        return Introduced(str(ipaddress.IPv4Address(addresses[:4])), rest)
    if family >> 4 == 2:  # noqa: PLR2004 - the family
        return Introduced(str(ipaddress.IPv6Address(addresses[:16])), rest)
    return Introduced("", rest)
