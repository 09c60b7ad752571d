"""Events as a person reads them in a terminal: who changed how, at a glance."""

from typing import Final

from rich.text import Text

from bridge.cloudevents import AccountChanged
from bridge.model import ChangeKind, Reason
from bridge.wording import clean, differences, name_of

STYLES: Final = {ChangeKind.CREATED: "green", ChangeKind.UPDATED: "yellow", ChangeKind.DELETED: "red"}


def event_line(event: AccountChanged) -> Text:
    """Return *event* as one line. Names are shown as text: control characters and markup in them do nothing."""
    return Text.assemble(
        (f"{event.time.astimezone():%H:%M:%S}  ", "dim"),
        (f"{event.kind:<8}", STYLES[event.kind]),
        (f" {event.source:<8} ", "dim"),
        (f"{clean(name_of(event.account)):<28} ", "bold"),
        clean(_story(event)),
    )


def _story(event: AccountChanged) -> str:
    if event.kind is ChangeKind.UPDATED:
        told = [
            f"{field}: {was} → {now}" for field, was, now in differences(event.changed, event.previous, event.account)
        ]
        return "; ".join(told) or "touched, nothing published differs"
    if event.reason is Reason.RESTORED:
        return "is back"
    if event.kind is ChangeKind.DELETED:
        return f"({event.reason})" if event.reason else ""
    numbers = ", ".join(event.account.get("numbers") or [])
    groups = ", ".join(group["name"] for group in event.account.get("groups") or [])
    return "  ".join(part for part in (numbers, groups) if part)
