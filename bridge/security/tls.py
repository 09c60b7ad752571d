"""TLS contexts for both directions and for the broker: verified, unless an operator says otherwise in so many words.

Whom to trust is checked inside the handshake, a pinned fingerprint too, so that nothing is said to anybody before.
"""

import asyncio
import hashlib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

from bridge.errors import FileUnusable
from bridge.security.validity import valid_until

DEADLINE_SECONDS: Final = 10.0
"""For a look at a certificate."""

FINGERPRINT_BYTES: Final = 32

EXPIRES_SOON: Final = timedelta(days=21)
"""So long before its end a certificate of ours is told of: those that renew themselves did so a week before that."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose certificate is believed, and which one we show; by default those that the system's CAs vouch for."""

    ca_file: Path | None = None
    server_name: str | None = None
    """The name that the certificate has to carry, where it is another one than that of the address."""
    fingerprints: frozenset[bytes] = frozenset()
    """SHA-256 of the whole certificate. Where some are given they alone decide: who signed it, for which name and until
    when does not matter, which is what the self-signed certificate of a PBX needs."""
    certificate_file: Path | None = None
    """Our own, for those who ask for one."""
    key_file: Path | None = None
    is_blind: bool = False
    """Believe everybody."""


class ClientTls:
    """TLS for the connections to one other end, made of files that may be missing or change at any time."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._files = [file for file in (trust.ca_file, trust.certificate_file, trust.key_file) if file is not None]
        self._seen: list[tuple[int, int, int] | None] = []
        self.context = _ClientContext(ssl.PROTOCOL_TLS_CLIENT) if self._files else client_context(trust)
        """Stays the same object; what is in the files holds for connections from the next ``refresh`` on."""

    def __repr__(self) -> str:
        return f"<ClientTls {self._trust}>"

    def refresh(self) -> None:
        """Take over the files if they changed, for connections from now on; to be called before each.

        Raises:
            FileUnusable: they cannot be used, and never could since the start; otherwise the former ones stay in use.

        """
        try:
            self._take_over()
        except FileUnusable:
            if self.context.present is None:
                raise

    @property
    def trouble(self) -> str:
        """Why former files are used; empty where that is not so. Those that are mended are taken over."""
        try:
            self._take_over()
        except FileUnusable as problem:
            return str(problem)
        return ""

    def _take_over(self) -> None:
        state = [_state(file) for file in self._files]
        if state != self._seen:
            self.context.present = client_context.__wrapped__(self._trust)  # a new one, so that no former CA stays
            self._seen = state


@cache  # the CAs of a system are half a megabyte, which a thousand PBXs had better share
def client_context(trust: Trust) -> "_ClientContext":
    """Return a context for connections that we open, with what is in the files at this moment.

    Raises:
        FileUnusable: a file cannot be used; the sentence begins with its key.

    """
    context = _ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = trust.server_name
    context.pins = trust.fingerprints
    if trust.is_blind or trust.fingerprints:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif trust.ca_file is not None:
        try:
            context.load_verify_locations(cafile=trust.ca_file)
        except (OSError, ssl.SSLError) as problem:
            raise FileUnusable(
                f"ca_file: {trust.ca_file} cannot be used: {_reason(problem)}. It has to hold certificates as PEM text"
            ) from problem
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if trust.certificate_file is not None:
        _load_own(context, trust.certificate_file, trust.key_file)
    return context


class ServerCertificate:
    """The certificate that we show to whoever dials us, and the context that shows it.

    With *client_ca_file*, which is read once, whoever dials may show one, too.

    Raises:
        FileUnusable: a file cannot be used; the sentence begins with its key.

    """

    def __init__(self, certificate_file: Path, key_file: Path | None, client_ca_file: Path | None = None) -> None:
        self._files = (certificate_file, key_file)
        self._seen = self._state_of_files()
        self.context = _server_context(*self._files, client_ca_file)
        self._until = _valid_until(certificate_file)
        self._unusable = ""
        """Why the files that are there now were not taken over."""

    def __repr__(self) -> str:
        return f"<ServerCertificate {self._files[0]}>"

    def refresh(self) -> bool:
        """Take over the files if they changed, for connections from now on, and return whether they had.

        Raises:
            FileUnusable: they changed and cannot be used, perhaps because only one of the two is there as yet; the
                former ones stay in use, and the next call tries again.

        """
        state = self._state_of_files()
        if state == self._seen:
            self._unusable = ""
            return False
        try:
            _server_context(*self._files, None)  # a try: what is half replaced must not spoil what is in use
            _load_own(self.context, *self._files)
        except FileUnusable as problem:
            self._unusable = str(problem)
            raise
        self._seen, self._until, self._unusable = state, _valid_until(self._files[0]), ""
        return True

    def trouble(self, now: datetime) -> str:
        """Return what an operator has to see to, as sentences; empty where there is nothing."""
        words = f"{self._unusable}. The former one stays in use" if self._unusable else ""
        if self._until is None or now < self._until - EXPIRES_SOON:
            return words
        ends = "ends" if now < self._until else "has expired: it ended"
        found = f"The certificate that PBXs are shown {ends} on {self._until:%Y-%m-%d}; put a new one into "
        return ". ".join(filter(None, [words, f"{found}{self._files[0]}, which is read again at once"]))

    def _state_of_files(self) -> list[tuple[int, int, int] | None]:
        return [None if file is None else _state(file) for file in self._files]


def peers_fingerprint(connection: ssl.SSLObject | None) -> bytes | None:
    """Return the SHA-256 of the certificate that the other end has shown and proven; ``None`` where it has none."""
    certificate = None if connection is None else connection.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).digest() if certificate else None


async def presented_certificate(host: str, port: int, server_name: str | None = None) -> bytes | None:
    """Return the certificate that is shown there, in DER, whoever signed it; ``None`` where none is."""
    context = client_context(Trust(is_blind=True))
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(DEADLINE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name or host)
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            return None if certificate is None else bytes(certificate)
    return None


def fingerprint_of(certificate: bytes) -> str:
    """Return the fingerprint of *certificate*, as people write it."""
    return as_text(hashlib.sha256(certificate).digest())


def as_text(fingerprint: bytes) -> str:
    """Return *fingerprint* as people and other programs write it: ``AB:CD:…``."""
    return fingerprint.hex(":").upper()


def read_fingerprint(text: str) -> bytes:
    """Return the fingerprint that *text* writes, with or without colons and ``sha256:`` before it.

    Raises:
        ValueError: it is none.

    """
    digits = text.strip().lower().removeprefix("sha256:").removeprefix("sha256 ").replace(":", "").replace(" ", "")
    try:
        fingerprint = bytes.fromhex(digits)
    except ValueError:
        fingerprint = b""
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise ValueError("must be a SHA-256 fingerprint: 64 hex digits, with colons or without")
    return fingerprint


def name_distrust(problem: ssl.SSLCertVerificationError, table: str = "") -> str:
    """Return why a certificate does not verify and what to do, with keys of a *table* such as ``rabbitmq.``."""
    code = getattr(problem, "verify_code", 0)
    return f"{problem.verify_message}. {_REMEDIES.get(code, _REMEDIES[0]).format(table=table)}"


_NOT_PINNED: Final = -1
# By OpenSSL's numbers (X509_V_ERR_…, x509_vfy.h), and one of ours.
_REMEDIES: Final = {
    _NOT_PINNED: "If it is a new one of theirs, set {table}fingerprint to it (account-bridge check shows it)",
    0: "Set {table}ca_file to the CA that signed it, or {table}fingerprint (account-bridge check shows it)",
    9: "Is the clock right, here and where it was made?",
    10: "Put a new one there",
    62: "Set {table}server_name to the name it carries",
    64: "Set {table}server_name to the name it carries",
}


class _ClientContext(ssl.SSLContext):
    """A context that knows which name to look for and which certificates are pinned."""

    server_name: str | None = None
    pins: frozenset[bytes] = frozenset()
    present: ssl.SSLContext | None = None
    """What stands in for this one; ``None``: nothing does."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the signature is the library's
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        if self.present is not None:
            return self.present.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name or server_hostname, session)


class _PinnedObject(ssl.SSLObject):
    """One connection's TLS; its handshake fails where the other end is not one of those we know."""

    def do_handshake(self) -> None:
        super().do_handshake()
        pins: frozenset[bytes] = getattr(self.context, "pins", frozenset())
        certificate = self.getpeercert(binary_form=True) or b""
        if pins and hashlib.sha256(certificate).digest() not in pins:
            mismatch = ssl.SSLCertVerificationError(1, "the certificate is not the pinned one")
            mismatch.verify_code = _NOT_PINNED
            mismatch.verify_message = "it is not the one whose fingerprint is configured"
            raise mismatch


_ClientContext.sslobject_class = _PinnedObject


def _server_context(certificate_file: Path, key_file: Path | None, client_ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    if client_ca_file is not None:
        try:
            context.load_verify_locations(client_ca_file)
        except (OSError, ssl.SSLError) as problem:
            raise FileUnusable(f"client_ca_file: {client_ca_file} cannot be used: {_reason(problem)}") from problem
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate that stands in the file is enough
    _load_own(context, certificate_file, key_file)
    return context


def _valid_until(certificate_file: Path) -> datetime | None:
    """Return when the certificate that is shown ends, the first one in the file; ``None`` where that is not known."""
    with suppress(OSError, ValueError):
        text = certificate_file.read_text("ascii", errors="replace")
        first = text[text.index(ssl.PEM_HEADER) : text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]
        return valid_until(ssl.PEM_cert_to_DER_cert(first))
    return None


def _load_own(context: ssl.SSLContext, certificate_file: Path, key_file: Path | None) -> None:
    """Load a certificate and its key, which may be in the same file; the error names the one that is at fault."""
    for name, file in (("certificate_file", certificate_file), ("key_file", key_file)):
        if file is not None:
            try:
                file.read_bytes()
            except OSError as problem:
                raise FileUnusable(f"{name}: {file} cannot be read: {problem.strerror}") from problem
    try:
        context.load_cert_chain(certificate_file, key_file, password=_no_passphrase)
    except _HasPassphrase:
        raise FileUnusable(
            f"key_file: the key in {key_file or certificate_file} has a passphrase; give one without"
        ) from None
    except (OSError, ssl.SSLError) as problem:
        raise FileUnusable(
            f"certificate_file: {certificate_file} and its key in {key_file or 'the same file'} cannot be used: "
            f"{_reason(problem)}. Both have to be PEM text and belong together"
        ) from problem


class _HasPassphrase(Exception):  # noqa: N818 - never leaves this module
    """The key is encrypted, and nobody is there to be asked."""


def _no_passphrase() -> Any:
    raise _HasPassphrase


def _reason(problem: OSError) -> str:
    """Return what OpenSSL or the system says, in words."""
    if isinstance(problem, ssl.SSLError):
        return (problem.reason or "it holds no certificate").replace("_", " ").lower()
    return problem.strerror or str(problem)


def _state(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
