import ssl
from datetime import UTC, datetime

import pytest
import trustme

from bridge.security.validity import valid_until


@pytest.mark.parametrize(
    "until",
    [
        datetime(2026, 11, 1, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2061, 1, 2, tzinfo=UTC),
    ],
)
def test_it_is_read_until_when_a_certificate_is_valid(until: datetime) -> None:
    """Also beyond 2049, which DER writes otherwise."""
    issued = trustme.CA().issue_cert("pbx.example.com", not_after=until)
    assert valid_until(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())) == until


def test_what_is_no_certificate_has_no_end() -> None:
    whole = ssl.PEM_cert_to_DER_cert(trustme.CA().issue_cert("pbx").cert_chain_pems[0].bytes().decode())
    for data in (b"", b"\x30", b"\x30\x80", b"nonsense", whole[:40], whole[:-1], b"\x30\x02\x05\x00"):
        assert valid_until(data) is None
