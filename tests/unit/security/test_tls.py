import hashlib
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from bridge.errors import FileUnusable
from bridge.security.tls import (
    ClientTls,
    ServerCertificate,
    Trust,
    as_text,
    client_context,
    name_distrust,
    read_fingerprint,
)
from tests.support.certificates import authority_file, written

NOW = datetime(2026, 11, 29, tzinfo=UTC)
DIGEST = hashlib.sha256(b"x").digest()


@pytest.mark.parametrize("text", [
    DIGEST.hex(),
    DIGEST.hex().upper(),
    as_text(DIGEST),
    f"sha256:{DIGEST.hex()}",
    f"SHA256:{as_text(DIGEST)}",
    f" {DIGEST.hex(' ')} ",
])  # fmt: skip
def test_a_fingerprint_may_be_written_in_every_usual_way(text: str) -> None:
    assert read_fingerprint(text) == DIGEST


@pytest.mark.parametrize("text", ["", "abc", "zz" * 32, "ab" * 20, "ab" * 33, "md5:" + "ab" * 16])
def test_what_is_no_sha256_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        read_fingerprint(text)


def test_mistakes_in_files_name_the_key_and_say_what_belongs_there(tmp_path: Path) -> None:
    certificate, key = written(trustme.CA(), tmp_path, "a.example")
    _, other_key = written(trustme.CA(), tmp_path, "b.example", as_name="other")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("no certificate")
    missing = tmp_path / "missing"
    for trust, words in (
        (Trust(ca_file=missing), f"ca_file: {missing} cannot be used: No such file"),
        (Trust(ca_file=nonsense), f"ca_file: {nonsense} cannot be used: no certificate or crl found"),
        (Trust(certificate_file=missing), f"certificate_file: {missing} cannot be read: No such file"),
        (Trust(certificate_file=certificate, key_file=missing), f"key_file: {missing} cannot be read: No such file"),
        (Trust(certificate_file=certificate, key_file=nonsense), "Both have to be PEM text and belong together"),
        (Trust(certificate_file=certificate, key_file=other_key), "key values mismatch. Both have to"),
        (Trust(certificate_file=certificate), "the same file cannot be used"),
    ):
        with pytest.raises(FileUnusable) as problem:
            client_context(trust)
        assert words in str(problem.value)
    with pytest.raises(FileUnusable, match="key values mismatch"):
        ServerCertificate(certificate, other_key)
    assert ServerCertificate(certificate, key).context


def test_a_key_with_a_passphrase_is_refused_rather_than_asked_about(tmp_path: Path) -> None:
    certificate, key = written(trustme.CA(), tmp_path, "a.example")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(FileUnusable, match="has a passphrase; give one without"):
        client_context(Trust(certificate_file=certificate, key_file=key))


def test_what_is_half_replaced_changes_nothing_and_is_tried_again(tmp_path: Path) -> None:
    certificate, key = written(trustme.CA(), tmp_path, "a.example")
    shown = ServerCertificate(certificate, key)
    assert not shown.refresh()
    good = key.read_text()
    key.write_text("half")
    for _ in range(2):
        with pytest.raises(FileUnusable):
            shown.refresh()
        assert shown.trouble(NOW).endswith("Both have to be PEM text and belong together. The former one stays in use")
    key.write_text(good)
    assert shown.refresh()
    assert shown.trouble(NOW) == ""
    assert not shown.refresh()


@pytest.mark.parametrize(
    ("days", "words"),
    [(30, ""), (20, "are shown ends on 2026-12-19; put a new one into "), (-1, "has expired: it ended on 2026-11-28;")],
)
def test_a_certificate_of_ours_that_ends_soon_is_told_of_until_there_is_another(
    tmp_path: Path, days: int, words: str
) -> None:
    authority, now = trustme.CA(), NOW
    certificate, key = written(authority, tmp_path, "a.example", not_after=now + timedelta(days=days))
    shown = ServerCertificate(certificate, key)
    assert words in shown.trouble(now)
    assert bool(words) == (str(certificate) in shown.trouble(now))
    written(authority, tmp_path, "a.example", not_after=now + timedelta(days=90))
    assert shown.refresh()
    assert shown.trouble(now) == ""


def test_a_ca_file_is_read_at_once(tmp_path: Path) -> None:
    assert client_context(Trust(ca_file=authority_file(trustme.CA(), tmp_path))).get_ca_certs()


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Let the two talk TLS for as long as the client wants, in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there, server_hostname="a.example")
    theirs = server.wrap_bio(there, back, server_side=True)
    for _ in range(10):
        with suppress(ssl.SSLWantReadError):
            ours.do_handshake()
            return
        with suppress(ssl.SSLWantReadError):
            theirs.do_handshake()
    raise AssertionError("no end of it")


def test_files_are_taken_over_when_they_are_good_and_the_former_ones_used_until_then(tmp_path: Path) -> None:
    """And a CA that is no longer in the file is no longer believed."""
    former, later = trustme.CA(), trustme.CA()
    servers = [
        ServerCertificate(*written(ca, tmp_path, "a.example", as_name=f"{n}")).context
        for n, ca in enumerate((former, later))
    ]
    file = authority_file(former, tmp_path)
    tls = ClientTls(Trust(ca_file=file))
    tls.refresh()
    handshake(tls.context, servers[0])
    for broken in ("", "half", None):
        file.unlink() if broken is None else file.write_text(broken)
        tls.refresh()
        assert str(file) in tls.trouble
        handshake(tls.context, servers[0])
    later.cert_pem.write_to_path(str(file))
    tls.refresh()
    assert not tls.trouble
    handshake(tls.context, servers[1])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tls.context, servers[0])


def test_files_that_were_never_good_are_named_and_tried_again(tmp_path: Path) -> None:
    tls = ClientTls(Trust(ca_file=tmp_path / "later.pem"))
    for _ in range(2):
        with pytest.raises(FileUnusable, match=r"later\.pem cannot be used: No such file"):
            tls.refresh()
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "later.pem"))
    tls.refresh()
    assert not tls.trouble


def test_where_no_file_is_needed_many_share_one_context() -> None:
    """The CAs of a system are half a megabyte."""
    one, other = ClientTls(Trust()), ClientTls(Trust())
    one.refresh()
    assert one.context is other.context


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (9, "Is the clock right"),
        (10, "Put a new one there"),
        (18, "Set rabbitmq.ca_file to the CA that signed it, or rabbitmq.fingerprint"),
        (20, "Set rabbitmq.ca_file to the CA that signed it, or rabbitmq.fingerprint"),
        (62, "Set rabbitmq.server_name"),
        (64, "Set rabbitmq.server_name"),
    ],
)
def test_of_a_certificate_that_does_not_verify_only_what_helps_is_told(code: int, remedy: str) -> None:
    problem = ssl.SSLCertVerificationError(1, "no")
    problem.verify_code, problem.verify_message = code, "why"
    words = name_distrust(problem, "rabbitmq.")
    assert words.startswith(f"why. {remedy}")
    assert words.count(". ") == 1
