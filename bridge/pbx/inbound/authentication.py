"""Whether a login that reached us is good: the same work for every one, and the reason only for our own log."""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bridge.errors import FileUnusable
from bridge.pbx.inbound.identity import app_object, claimed
from bridge.pbx.wire.login import is_proven
from bridge.pbx.wire.messages import AppLogin
from bridge.security.names import without_case

GUID: Final = re.compile(r"(?:[0-9a-fA-F]{32})?")
"""Of an App object: 32 hex digits in every login that was captured; nothing where a PBX leaves it out."""


def new_challenge() -> str:
    """Return a fresh challenge: 16 hex digits, as the vendor's samples use."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class App:
    """An App object whose PBXs may dial us."""

    name: str
    """As it stands in the PBX, byte for byte."""
    domain: str | None
    """Only PBXs of this System Name; for those, an entry without a domain does not count."""
    password: Callable[[], str]
    """Asked at every login, so that it can be changed in its file."""
    pbxs: frozenset[str] = frozenset()
    """Only PBXs of these names; without any, of every name."""
    fingerprint: bytes | None = None
    """Only with the client certificate that has this SHA-256."""


_GUID_IN_INFO: Final = re.compile(r":[0-9a-fA-F]{32}:")
"""No App object has one in its information; where it has, it is the guid of a user, and a part of other fields."""


class Verdict(StrEnum):
    """What is wrong with a login. Told to nobody but the operator."""

    GOOD = "good"
    UNKNOWN_APP = "no entry in [[listen.app]] has this name (capitals count) and domain"
    WRONG_PASSWORD = "wrong password"  # noqa: S105 - a reason
    USER = "the login of a user, not of the App object itself"
    AMBIGUOUS = "a colon in app, domain, sip, guid or dn, so that the digest may be of another login"
    NO_GUID = "a guid that is none, so that the digest may be of another login"
    OTHER_PBX = "a PBX that is not among the pbxs of its entry in [[listen.app]]"
    NO_CERTIFICATE = "not the client certificate that its entry in [[listen.app]] asks for"
    NO_PASSWORD = "the file with the password of this App object cannot be read"  # noqa: S105 - a reason


@dataclass(frozen=True, slots=True)
class Authentication:
    """A verdict, and for which of the configured App objects; ``None`` where it is for none of them."""

    verdict: Verdict
    app: App | None


class Authenticator:
    """Knows the App objects and their passwords."""

    def __init__(self, apps: Sequence[App]) -> None:
        self._apps = apps
        self._decoy = secrets.token_urlsafe(11)

    def __repr__(self) -> str:
        return f"<Authenticator of {[app.name for app in self._apps]}>"

    def judge(self, login: AppLogin, challenge: str, fingerprint: bytes | None = None) -> Authentication:
        """Look at *login*, which answers *challenge*; *fingerprint* is that of the client's certificate.

        The PBX vouches with the same password for its users when they open an app. Those are strangers here: only the
        App object itself, whose name stands in ``sip``, speaks for the PBX. The digest joins its fields by colons, so
        what the PBX signed for a user is good for every way of cutting it at other colons. Where no field has one, the
        third is the user's name up to its first colon, whatever the others are; and where that is the App's name, what
        follows in it stands in the place of the guid. What follows that may look like ``info``, where the PBX sent
        none; the user's guid is in it then, between two colons.
        """
        own = self._entry(login.sip, login.domain)
        named = app_object(login)
        app = own if own is not None else self._entry(named, login.domain)
        password = self._decoy
        is_readable = True
        if app is not None:
            try:
                password = app.password()
            except FileUnusable:
                is_readable = False
        is_right = is_proven(login, challenge=challenge, password=password)
        if app is None:
            return Authentication(Verdict.UNKNOWN_APP, None)
        if not is_readable:
            return Authentication(Verdict.NO_PASSWORD, app)
        if not is_right:
            return Authentication(Verdict.WRONG_PASSWORD, app)
        return Authentication(self._beyond_proof(login, own, named, fingerprint), app)

    @staticmethod
    def _beyond_proof(login: AppLogin, own: App | None, named: str, fingerprint: bytes | None) -> Verdict:
        """Return what is wrong with a login whose digest is right."""
        if any(":" in part for part in (login.app, login.domain, login.sip, login.guid, login.dn)):
            return Verdict.AMBIGUOUS
        if own is None or (named and named != login.sip):
            return Verdict.USER
        # A guid in the place of the name, or within info: the fields of a user whose name has a colon, moved by one.
        is_moved = login.dn and GUID.fullmatch(login.dn)
        if is_moved or not GUID.fullmatch(login.guid) or _has_guid(login.info) or _has_guid(login.info_as_sent):
            return Verdict.NO_GUID
        if own.pbxs and claimed(login).pbx not in own.pbxs:
            return Verdict.OTHER_PBX
        if own.fingerprint is not None and own.fingerprint != fingerprint:
            return Verdict.NO_CERTIFICATE
        return Verdict.GOOD

    def _entry(self, name: str, domain: str) -> App | None:
        named = [app for app in self._apps if app.name == name]
        of_domain = [
            app for app in named if app.domain is not None and without_case(app.domain) == without_case(domain)
        ]
        return next(iter([*of_domain, *(app for app in named if app.domain is None)]), None)


def _has_guid(info: str | None) -> bool:
    return info is not None and _GUID_IN_INFO.search(info) is not None
