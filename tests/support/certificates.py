"""Certificates as files, and what pins them."""

import hashlib
import ssl
from datetime import datetime
from pathlib import Path

import trustme


def written(
    authority: trustme.CA, folder: Path, name: str, *, as_name: str = "server", not_after: datetime | None = None
) -> tuple[Path, Path]:
    """Write a certificate for *name* and its key, and return their files."""
    issued = authority.issue_cert(name, not_after=not_after)
    certificate, key = folder / f"{as_name}.pem", folder / f"{as_name}.key"
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    return certificate, key


def authority_file(authority: trustme.CA, folder: Path, name: str = "ca.pem") -> Path:
    authority.cert_pem.write_to_path(str(folder / name))
    return folder / name


def fingerprint_of(certificate: Path) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).digest()
