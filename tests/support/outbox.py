"""The outbox as one sink sees it, for tests that care about what is in it."""

from collections.abc import Sequence
from datetime import datetime

from bridge.model import OutboxRow
from bridge.store.tables.outbox import TableOutbox


def unsent(outbox: TableOutbox, limit: int = 10_000) -> Sequence[OutboxRow]:
    """Return what the sink of *outbox* does not have and would get next, in the order of positions."""
    rows = outbox.unpublished(dict.fromkeys(outbox.lanes(), 0), limit, limit)
    return sorted(rows, key=lambda row: row.position)


def send_all(outbox: TableOutbox, at: datetime) -> Sequence[OutboxRow]:
    """Record that the sink has everything, and return what that was."""
    rows = unsent(outbox)
    outbox.mark_published(rows, at)
    return rows
