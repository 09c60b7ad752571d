"""From where somebody asks whom a proxy let through: what ``Forwarded`` and ``X-Forwarded-…`` say, and who may say it.

Source: RFC 7239, and for the older headers what the proxies' own pages say. A proxy appends, and everything before
that came from the other end, who may write what it likes. So the list is read from its end, as far as proxies that we
know have written it.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

_PAIR: Final = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=(?:([^\s",;=]+)|"((?:[^"\\]|\\.)*)")\s*')
MAX_CHARACTERS: Final = 2000
"""Of such a header; more than any chain of proxies needs."""


class Proxies:
    """The proxies that are believed: *networks* are addresses and networks, as the configuration has them."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def __repr__(self) -> str:
        return f"<Proxies {[str(network) for network in self._networks]}>"

    def trust(self, address: str) -> bool:
        """Tell whether *address* is that of one of them."""
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(mapped in network for network in self._networks)

    def origin(self, peer: str, *, forwarded: Sequence[str] = (), x_forwarded_for: Sequence[str] = ()) -> str:
        """Return where a request comes from that reached us from *peer*; the lists are the values of the headers.

        Where both headers are there and disagree, the other end has written one of them: neither is believed.
        """
        chains = [
            [_address(pairs.get("for", "")) for pairs in _forwarded(forwarded)],
            [_address(entry) for entry in _entries(x_forwarded_for)],
        ]
        found = {self._last_stranger(peer, chain) for chain in chains if chain}
        return found.pop() if len(found) == 1 else peer

    def is_https(self, peer: str, *, forwarded: Sequence[str] = (), x_forwarded_proto: Sequence[str] = ()) -> bool:
        """Tell whether a proxy that we know says that it was asked by https."""
        if not self.trust(peer):
            return False
        told = [pairs.get("proto", "") for pairs in _forwarded(forwarded)][-1:] + _entries(x_forwarded_proto)[-1:]
        return {scheme.lower() for scheme in told if scheme} == {"https"}

    def _last_stranger(self, peer: str, chain: list[str]) -> str:
        """Return the nearest address that is not that of a proxy; where the chain breaks, the last that is known."""
        known = peer
        for address in reversed(chain):
            if not self.trust(known) or not address:
                break
            known = address
        return known


def find_network(address: str) -> str:
    """Return whom *address* is counted with: itself, or of IPv6 the network (/64), which is what one customer gets."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def _entries(values: Sequence[str]) -> list[str]:
    """Return the entries of an older header; where it is too long, one that says nothing: it is there all the same."""
    text = ",".join(values)
    return [""] if len(text) > MAX_CHARACTERS else [entry.strip() for entry in text.split(",") if entry.strip()]


def _forwarded(values: Sequence[str]) -> list[dict[str, str]]:
    """Return the elements of ``Forwarded``; where it cannot be read, one that says nothing."""
    text = ",".join(values)
    if not text:
        return []
    if len(text) > MAX_CHARACTERS:
        return [{}]
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            return [{}]
        name, token, quoted = found.groups()
        elements[-1][name.lower()] = token if token is not None else re.sub(r"\\(.)", r"\1", quoted)
        position = found.end()
        if position < len(text):
            if text[position] == ",":
                elements.append({})
            elif text[position] != ";":
                return [{}]
            position += 1
    return elements


def _address(entry: str) -> str:
    """Return the address of an entry, which may have a port; empty where it has none, as of ``unknown``."""
    text = entry.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
