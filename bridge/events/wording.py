"""An account and its change in words, for a terminal, a page and a sentence. Whoever shows them takes them as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from bridge.model import ChangeKind, Reason

_NEWS: Final = {
    "h323": "new user name",
    "display_name": "new display name",
    "common_name": "new name",
    "numbers": "new extension",
    "emails": "new e-mail address",
    "groups": "groups changed",
    "pbx": "moved to another PBX",
    "node": "moved to another node",
    "domain": "new domain",
    "apps": "apps changed",
    "template": "new template",
    "hidden": "visibility changed",
    "devices": "devices changed",
}
_SHOWN_NEWS: Final = 2
_SHOWN_FORMS: Final = 3

MAX_QUOTED_CHARACTERS: Final = 200

MAX_TEXT_CHARACTERS: Final = 160
"""Of one text on the page."""

_UNSHOWABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]+")
"""Control characters, and those that would turn the writing direction of what stands beside them."""

_QUOTED: Final = re.compile("“[^”]*(?:”|$)")


class Difference(NamedTuple):
    """One field of an account, before and after, as short texts."""

    field: str
    before: str
    after: str


def choose_name(account: Mapping[str, Any]) -> str:
    """Return what a person calls *account*: a name where it has one, else whatever tells it apart."""
    names = (account.get(field) for field in ("display_name", "common_name", "h323", "guid"))
    return str(next((name for name in names if name), "?"))


def headline(kind: ChangeKind, reason: Reason | None, changed: Sequence[str]) -> str:
    """Return what happened to an account in two or three words: ``new extension``."""
    if kind is ChangeKind.INITIAL:
        return "there at the first reading"
    if kind is ChangeKind.CREATED:
        return "is back" if reason is Reason.RESTORED else "new account"
    if kind is ChangeKind.DELETED:
        return "gone from the PBX" if reason is Reason.MISSING else "deleted"
    news = list(dict.fromkeys(_NEWS.get(field, f"{field} changed") for field in changed))
    if not news:
        return "touched, nothing published differs"
    more = len(news) - _SHOWN_NEWS
    return ", ".join(news[:_SHOWN_NEWS]) + (f" and {more} more" if more > 0 else "")


def held_words(source: str, held: int) -> str:
    """Return what is wrong, and what to do, where so many deletions are held; nothing where none are."""
    if not held:
        return ""
    return (
        f"{held} {'account is' if held == 1 else 'accounts are'} gone from the PBX, too many to delete unasked. "
        f"If that is right: account-bridge resync {source} --accept-deletions"
    )


def unread_words(forms: Sequence[str]) -> str:
    """Return what is wrong, and what to do, where a PBX tells accounts in a form that nobody can read."""
    if not forms:
        return ""
    told, more = "; ".join(forms[:_SHOWN_FORMS]), len(forms) - _SHOWN_FORMS
    return (
        f"This PBX tells accounts in a form that this bridge cannot read ({clean(told)}"
        f"{f'; and {more} more' if more > 0 else ''}), so names, numbers or groups of them may be missing from what is "
        "published. Nothing is lost: a version that reads it tells the difference. Please report it, with "
        "account-bridge support-bundle"
    )


def quoted(words: str) -> str:
    """Return *words* of somebody else's, marked as such: ``without_quotes`` finds them."""
    return f"“{clean(''.join(character for character in words if character not in '“”')[:MAX_QUOTED_CHARACTERS])}”"


def without_quotes(text: str) -> str:
    """Return *text* without what somebody else said, which may name a person."""
    return _QUOTED.sub("“…”", text)


def differences(
    changed: Sequence[str], previous: Mapping[str, Any], account: Mapping[str, Any]
) -> Sequence[Difference]:
    """Return what *changed*, field by field; nothing of an account that was forgotten, of which neither is left."""
    return [
        Difference(field.replace("_", " "), brief(previous.get(field)), brief(account.get(field)))
        for field in changed
        if field in previous or field in account
    ]


def brief(value: Any) -> str:
    """Return one value of an account as a short text."""
    if isinstance(value, list):
        return ", ".join(brief(item) for item in value) or "none"
    if isinstance(value, dict):
        name = str(value.get("name") or value.get("text") or "?")
        return name if value.get("active", True) else f"{name} (out)"
    return "none" if value is None else str(value)


def clean(text: str) -> str:
    """Return *text* without anything a terminal would obey."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def shown(text: str) -> str:
    """Return *text* as it may stand on a page: one line, not long, and turning nothing around."""
    cleaned = _UNSHOWABLE.sub(" ", text).strip()
    return cleaned if len(cleaned) <= MAX_TEXT_CHARACTERS else f"{cleaned[: MAX_TEXT_CHARACTERS - 1]}…"
