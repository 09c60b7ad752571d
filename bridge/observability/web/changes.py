"""The last changes as the page shows them: bounded in number and in length, and nothing but texts."""

from collections.abc import Sequence
from typing import Any, Final

from bridge.errors import BadEvent
from bridge.events.cloudevents import AccountChanged, decode
from bridge.events.wording import choose_name, differences, headline, shown
from bridge.store.records import KeptEvent

MAX_DIFFERENCES: Final = 6


def as_json(events: Sequence[KeptEvent]) -> list[dict[str, Any]]:
    """Return *events* for the page."""
    return [_change(event) for event in events]


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
        "account": shown(choose_name(changed.account)),
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
