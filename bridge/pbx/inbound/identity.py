"""Which PBX it is that dials: its System Name (domain) and its PBX name, and the name of the source they make."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

import orjson

from bridge.errors import PbxBrokeProtocol
from bridge.model import SourceName
from bridge.pbx.wire.messages import AppLogin, PbxInfo
from bridge.security.names import without_case

MAX_CHARACTERS: Final = 200
"""Of either name."""

SLUG_CHARACTERS: Final = 29
DIGEST_CHARACTERS: Final = 10


@dataclass(frozen=True, slots=True)
class Identity:
    """One PBX among all that may dial. ``EXAMPLE.com`` is ``example.com``."""

    domain: str
    """System Name, in small letters."""
    pbx: str
    """PBX name, which tells master and slaves of one domain apart."""

    def __post_init__(self) -> None:
        """Write the System Name in the one way."""
        object.__setattr__(self, "domain", without_case(self.domain))

    @property
    def source(self) -> SourceName:
        """The name for events and routing keys: readable, always the same, and another one for every other PBX.

        The digest is what keeps ``a-b`` of ``c`` and ``b`` of ``a-c`` apart; at most 40 characters of ``a-z0-9-``.
        """
        told = f"{self.domain}-{self.pbx}".lower()
        slug = re.sub(r"[^a-z0-9]+", "-", told).strip("-")[:SLUG_CHARACTERS].rstrip("-") or "pbx"
        digest = hashlib.sha256(f"{self.domain}\0{self.pbx}".encode()).hexdigest()[:DIGEST_CHARACTERS]
        return SourceName(f"{slug}-{digest}")


@dataclass(frozen=True, slots=True)
class Visit:
    """A PBX that has logged in, and what tells it from another one of the same name."""

    identity: Identity
    address: str = ""
    """Where it dialled from."""
    guid: str = field(default="", repr=False)
    """Of its App object; proven by the login."""


def app_object(login: AppLogin) -> str:
    """Return the Name of the App object that the login is for, as far as it says so."""
    return _told(login, "appobj")


def claimed(login: AppLogin) -> Identity:
    """Return who says to be logging in; a part that is not told is empty."""
    return Identity(login.domain, _told(login, "pbx"))


def confirmed(claim: Identity, info: PbxInfo | None) -> Identity:
    """Return who it is, given what the login claimed (and proved) and what PbxInfo says (and does not prove).

    Raises:
        PbxBrokeProtocol: they differ, or neither tells.

    """
    domain, pbx = (info.domain, info.pbx) if info is not None else ("", "")
    is_other_domain = domain and claim.domain and without_case(domain) != claim.domain
    if is_other_domain or (pbx and claim.pbx and pbx != claim.pbx):
        raise PbxBrokeProtocol("PbxInfo names another PBX than the login did")
    identity = Identity(claim.domain or domain, claim.pbx or pbx)
    if not identity.domain or not identity.pbx:
        raise PbxBrokeProtocol("neither the login nor PbxInfo tells System Name and PBX name")
    if max(len(identity.domain), len(identity.pbx)) > MAX_CHARACTERS:
        raise PbxBrokeProtocol(f"System Name or PBX name have more than {MAX_CHARACTERS} characters")
    if "\0" in f"{identity.domain}{identity.pbx}":
        raise PbxBrokeProtocol("System Name or PBX name have U+0000 in them, which not every store can keep")
    return identity


def _told(login: AppLogin, name: str) -> str:
    info = orjson.loads(login.info) if login.info is not None else None
    value = info.get(name) if isinstance(info, dict) else None
    return value if isinstance(value, str) else ""
