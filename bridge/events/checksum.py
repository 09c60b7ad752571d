"""What a certificate says of all accounts at once, so that a subscriber can compare its own table with it.

Of each present account, the lineage, the key (its guid without dashes and in lower case) and the revision make a text;
the first 32 bits of its SHA-256 make a number; and the sum of these, modulo 2^32, is the checksum.

A sum wants no order, so a database makes it of its rows as they lie, and neither sorts nor hands them over; with 32
bits of each, two million accounts fit exactly into any number there is, those of JavaScript too. An accident is missed
once in four thousand million times, and nobody is kept from forging. The lineage is in it since revisions count within
one: in the next, most accounts are at revision 1 again.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import Final

MODULUS: Final = 1 << 32


def checksum(accounts: Iterable[tuple[str, str, int]]) -> int:
    """Return the checksum of accounts, each as its lineage, its key and its revision, in any order."""
    return (
        sum(
            int.from_bytes(sha256(f"{lineage}:{key}:{revision}".encode()).digest()[:4])
            for lineage, key, revision in accounts
        )
        % MODULUS
    )
