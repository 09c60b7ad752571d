"""What the log has already, asked when a session begins: the broker remembers the last publishing id of a producer.

A publishing id is a position of the outbox, given once and sent in ascending order. So whatever is to be sent and has a
position that is not above the last id of its stream was written by an earlier session.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from bridge.errors import StoreOutdated
from bridge.model import OutboxRow
from bridge.store.contract import Offload, Outbox

PAGE_ROWS: Final = 1000
"""Of what is to be sent: so many are looked at in one step."""

REMEMBERED_ROWS: Final = 5000
"""Of what is confirmed: so many are looked at, to see whether the log still has them."""


class DeduplicatingSession(Protocol):
    """A session with a log whose broker remembers what it got in earlier ones."""

    @property
    def lasts(self) -> Sequence[int]:
        """The highest publishing id that each stream of the log has of us; 0 where it has nothing."""

    def choose_stream(self, row: OutboxRow) -> int:
        """Return the number of the stream that *row* belongs to."""


async def recover(session: DeduplicatingSession, store: Outbox, *, offload: Offload, now: datetime) -> tuple[int, str]:
    """Count as done what the log had before *session*; return how many rows that were, and what is wrong with the log.

    Raises:
        StoreOutdated: it has numbers that this store never gave.

    """
    last, given = max(session.lasts, default=0), await offload(store.last_given)
    if last > given:
        raise StoreOutdated(
            f"the log has events of this store up to number {last}, and it has given none above {given}: another state "
            "of it was at work. Start the bridge again: it then tells everything anew, under a new lineage"
        )
    # In pages, each of which counts at once: that the log has an event is true whatever becomes of the rest.
    count = after = 0
    while rows := await offload(partial(store.unsent_through, last, after=after, limit=PAGE_ROWS)):
        done = [row.position for row in rows if row.position <= session.lasts[session.choose_stream(row)]]
        await offload(store.mark_sent, done, now)
        count, after = count + len(done), rows[-1].position
    confirmed = await offload(store.newest_confirmed, REMEMBERED_ROWS)
    lost = [row for row in confirmed if row.position > session.lasts[session.choose_stream(row)]]
    if not lost:
        return count, ""
    streams = sorted({session.choose_stream(row) for row in lost})
    return count, (
        f"the log has lost events that it had confirmed ({len(lost)} of the newest {len(confirmed)}, in the "
        f"partition{'s' if len(streams) > 1 else ''} {', '.join(map(str, streams))}): it was deleted, or its broker "
        "was put back from a backup. What it lost is not written again; readers begin anew with the first entry"
    )
