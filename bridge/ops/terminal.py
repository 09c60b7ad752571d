"""Events as a person reads them in a terminal: who changed how, at a glance."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from rich.text import Text

from bridge.broker.confirms import Outcomes
from bridge.errors import BridgeError, FenceHeld
from bridge.events.cloudevents import ACCOUNT_CHANGED, AccountChanged, decode
from bridge.events.wording import choose_name, clean, differences
from bridge.model import ChangeKind, OutboxRow, Reason, SourceName

STYLES: Final = {
    ChangeKind.INITIAL: "cyan",
    ChangeKind.CREATED: "green",
    ChangeKind.UPDATED: "yellow",
    ChangeKind.DELETED: "red",
}


def event_line(event: AccountChanged) -> Text:
    """Return *event* as one line. Names are shown as text: control characters and markup in them do nothing."""
    return Text.assemble(
        (f"{event.time.astimezone():%H:%M:%S}  ", "dim"),
        (f"{event.kind:<8}", STYLES[event.kind]),
        (f" {event.source:<8} ", "dim"),
        (f"{clean(choose_name(event.account)):<28} ", "bold"),
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


class TerminalPublisher:
    """Stands in for a broker where none is wanted: hands every account change to *take* at once, and confirms it."""

    def __init__(self, take: Callable[[AccountChanged, bytes], None]) -> None:
        self._take = take
        self._sent = 0
        self._told = 0
        self._news = asyncio.Event()

    def reconsider(self) -> None:
        """Take the news that what was refused may be taken now: nothing was."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator["TerminalPublisher"]:
        """Publish while inside."""
        self._sent = self._told = 0
        yield self

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Show *rows*."""
        for row in rows:
            if row.event_type == ACCOUNT_CHANGED:
                self._take(decode(row.body), row.body)
        self._sent += len(rows)
        self._news.set()

    def explain_refusal(self, _row: OutboxRow) -> BridgeError | None:
        """Refuse nothing."""
        return None

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Let no source wait."""
        return {}

    async def release(self, sources: Collection[SourceName]) -> None:
        """Give nothing back: there are no fences."""

    async def claim(self, _sources: Collection[SourceName]) -> None:
        """Take no fences: nobody else shows anything here."""

    async def outcomes(self) -> Outcomes:
        """Return what was shown, once there is more of it."""
        while self._sent == self._told:
            self._news.clear()
            await self._news.wait()
        told, self._told = self._told, self._sent
        return Outcomes(range(told + 1, self._sent + 1), ())
