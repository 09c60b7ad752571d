"""What the log has already, asked when a session begins: the part of draining that only the log can have."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from bridge.delivery.contracts import Offload
from bridge.model import OutboxRow

PAGE_ROWS: Final = 512


class Knowing(Protocol):
    """A session with a broker that remembers what it got in earlier ones."""

    @property
    def last(self) -> int:
        """The highest number it has of us; 0 where it has nothing."""

    def has(self, row: OutboxRow) -> bool:
        """Tell whether it has *row*."""

    async def last_of(self, lineage: str) -> Callable[[OutboxRow], bool]:
        """Return what tells whether it has a row under the name of another *lineage*."""


class Numbered(Protocol):
    """The store's view of what the log still wants; positions are the numbers that the broker remembers."""

    def former(self) -> Sequence[str]:
        """Return the lineages under which something that still waits may have been written."""

    def settle_former(self, has: Callable[[str, OutboxRow], bool]) -> int:
        """Count as done what the log has under a former lineage, and return how many rows that were."""

    def check(self, last: int) -> str:
        """Compare with the *last* number that the broker has; return what is wrong although nothing will be dropped.

        Raises:
            StoreOutdated: the broker has numbers that this store never sent.

        """

    def unpublished(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return the oldest rows behind number *after* that are not done."""

    def mark_published(self, rows: Sequence[OutboxRow], at: datetime) -> None:
        """Record that the log has *rows*."""


async def settle(
    session: Knowing, store: Numbered, *, offload: Offload, clock: Callable[[], datetime]
) -> tuple[int, str]:
    """Count as done what the log had before *session*; return how many rows that were, and what is wrong with it.

    Every row that is not done and has a number up to the last one was sent, in order, by an earlier session: what is
    held never is, and gets a new number before it is.

    Raises:
        StoreOutdated: from the store; nothing may be sent then.

    """
    warning = await offload(store.check, session.last)
    settled = 0
    if lineages := await offload(store.former):
        knows = {lineage: await session.last_of(lineage) for lineage in lineages}
        settled = await offload(store.settle_former, lambda lineage, row: knows[lineage](row))
    after = 0
    while after < session.last:
        rows = await offload(store.unpublished, after, PAGE_ROWS)
        done = [row for row in rows if session.has(row)]
        await offload(store.mark_published, done, clock())
        settled += len(done)
        if not rows:
            break
        after = rows[-1].position
    return settled, warning
