"""Whether a login that reached us is good: the same work for every one, and the reason only for our own log."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bridge.errors import FileUnusable
from bridge.listen.identity import app_object
from bridge.wire.login import is_proven
from bridge.wire.messages import AppLogin


@dataclass(frozen=True, slots=True)
class App:
    """An App object whose PBXs may dial us."""

    name: str
    domain: str | None
    """Only PBXs of this System Name; for those, an entry without a domain does not count."""
    password: Callable[[], str]
    """Asked at every login, so that it can be changed in its file."""


class Verdict(StrEnum):
    """What is wrong with a login. Told to nobody but the operator."""

    GOOD = "good"
    UNKNOWN_APP = "no entry in [[listen.app]] has this name and domain"
    WRONG_PASSWORD = "wrong password"  # noqa: S105 - a reason
    USER = "the login of a user, not of the App object itself"
    AMBIGUOUS = "a colon in app, domain, sip or guid, so that the digest may be of another login"
    NO_PASSWORD = "the file with the password of this App object cannot be read"  # noqa: S105 - a reason


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and for which of the configured App objects; ``None`` where it is for none of them."""

    verdict: Verdict
    app: App | None


class Judge:
    """Knows the App objects and their passwords."""

    def __init__(self, apps: Sequence[App]) -> None:
        self._apps = apps
        self._decoy = secrets.token_urlsafe(11)

    def __repr__(self) -> str:
        return f"<Judge of {[app.name for app in self._apps]}>"

    def judge(self, login: AppLogin, challenge: str) -> Judgement:
        """Look at *login*, which answers *challenge*.

        The PBX vouches with the same password for its users when they open an app. Those are strangers here: only the
        App object itself, whose name stands in ``sip``, speaks for the PBX. As the digest joins its fields by colons,
        that of a user called ``x:domain:app:y`` is good for other fields too, of which the first ones have colons.
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
            return Judgement(Verdict.UNKNOWN_APP, None)
        if not is_readable:
            return Judgement(Verdict.NO_PASSWORD, app)
        if not is_right:
            return Judgement(Verdict.WRONG_PASSWORD, app)
        if any(":" in part for part in (login.app, login.domain, login.sip, login.guid)):
            return Judgement(Verdict.AMBIGUOUS, app)
        if own is None or (named and named.casefold() != login.sip.casefold()):
            return Judgement(Verdict.USER, app)
        return Judgement(Verdict.GOOD, app)

    def _entry(self, name: str, domain: str) -> App | None:
        named = [app for app in self._apps if app.name.casefold() == name.casefold()]
        of_domain = [app for app in named if app.domain is not None and app.domain.casefold() == domain.casefold()]
        return next(iter([*of_domain, *(app for app in named if app.domain is None)]), None)
