"""The last changes as the page shows them: bounded in number and in length, and nothing but texts."""

import re
from collections.abc import Sequence
from typing import Any, Final

from bridge.cloudevents import AccountChanged, decode
from bridge.errors import BadEvent
from bridge.model import KeptEvent
from bridge.wording import differences, headline, name_of

MAX_TEXT_CHARACTERS: Final = 160
MAX_DIFFERENCES: Final = 6

_UNSHOWABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]+")
"""Control characters, and those that would turn the writing direction of what stands beside them."""


def as_json(events: Sequence[KeptEvent]) -> list[dict[str, Any]]:
    """Return *events* for the page."""
    return [_change(event) for event in events]


def shown(text: str) -> str:
    """Return *text* as it may stand on the page: one line, not long, and turning nothing around."""
    cleaned = _UNSHOWABLE.sub(" ", text).strip()
    return cleaned if len(cleaned) <= MAX_TEXT_CHARACTERS else f"{cleaned[: MAX_TEXT_CHARACTERS - 1]}…"


def _change(event: KeptEvent) -> dict[str, Any]:
    told: dict[str, Any] = {
        "position": event.position,
        "source": event.source,
        "at": event.created_at,
        "sent_at": event.published_at,
        "state": event.state,
    }
    changed = _decoded(event)
    if changed is None:
        return {**told, "account": "an account", "kind": "updated", "what": "too large to be shown", "differences": []}
    fields = differences(changed.changed, changed.previous, changed.account)
    return {
        **told,
        "account": shown(name_of(changed.account)),
        "kind": changed.kind,
        "what": shown(headline(changed.kind, changed.reason, changed.changed)),
        "differences": [
            {"field": field, "before": shown(before), "after": shown(after)}
            for field, before, after in fields[:MAX_DIFFERENCES]
        ],
        "more": max(0, len(fields) - MAX_DIFFERENCES),
    }


def _decoded(event: KeptEvent) -> AccountChanged | None:
    if event.body is None:
        return None
    try:
        return decode(event.body)
    except BadEvent:
        return None  # written by another version of the bridge; that there was a change can be told all the same
