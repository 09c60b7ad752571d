"""Until when a certificate is valid: the one thing of it that the standard library reads only of those it trusts."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

_SEQUENCE: Final = 0x30
_UTC_TIME: Final = 0x17
_FORMS: Final = {_UTC_TIME: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""How DER writes a time, by its tag (RFC 5280, 4.1.2.5)."""


def valid_until(certificate: bytes) -> datetime | None:
    """Return when *certificate*, in DER, ends or has ended; ``None`` where that cannot be read.

    Certificate, its first part, and in that the first sequence that is made of two times.
    """
    with suppress(ValueError, IndexError):
        (_, whole), *_ = _parts(certificate)
        (_, told), *_ = _parts(whole)
        for tag, content in _parts(told):
            times = [each for each in _parts(content) if each[0] in _FORMS] if tag == _SEQUENCE else []
            if len(times) == len(("from", "until")):
                kind, text = times[1]
                return datetime.strptime(text.decode("ascii"), _FORMS[kind]).replace(tzinfo=UTC)
    return None


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of what stands in *data* side by side."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        if at + length > len(data):
            raise ValueError("it is cut off")
        yield tag, data[at : at + length]
        at += length
