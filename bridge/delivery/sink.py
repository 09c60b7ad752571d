"""What relaying needs of a publisher and of its sessions; both match by shape, and import nothing of this."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from bridge.broker.confirms import Outcomes
from bridge.errors import BridgeError, FenceHeld
from bridge.model import OutboxRow, SourceName


class Session(Protocol):
    """A connection to the broker, used until its first failure and then thrown away.

    It ends at once with the first failure, wherever that is raised: in ``send``, in a fence taken late, by a confirm
    for what was never sent, by a closed channel, a lost connection or a deadline, by cancellation of ``send``. Whoever
    waits in ``send`` or ``outcomes`` is woken with the reason, and so is whoever calls them later. No wait outlives its
    session, and every wait has a deadline. What the broker says about a single row is no failure of the session.
    """

    def explain_refusal(self, row: OutboxRow) -> BridgeError | None:
        """Return why *row* would be refused for good whatever happens (too large, say).

        ``None`` where nothing is known against it. Decides before sending; no I/O. ``send`` may rely on having been
        asked.
        """

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources that another connection publishes for, as far as they were asked about, and why they wait.

        Those that are configured are asked about when a session begins.
        """

    async def claim(self, sources: Collection[SourceName]) -> None:
        """Take the fences of *sources* that are not taken; those that another connection holds are ``fenced`` then.

        Raises what ended the session.
        """

    async def release(self, sources: Sequence[SourceName]) -> None:
        """Give the fences of *sources* back, of which nothing is on its way; somebody else may publish for them then.

        Raises what ended the session.
        """

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Hand *rows* to the broker in order; waits while the broker blocks us, not for outcomes.

        Raises what ended the session; a row of a source that is ``fenced`` does. How many of *rows* the broker has
        then, nobody knows.
        """

    async def outcomes(self) -> Outcomes:
        """Wait for news of rows sent in this session, in any order, each tag told once.

        Raises what ended the session, after everything that came before its end was told.
        """


class Publisher(Protocol):
    """Makes sessions."""

    def session(self) -> AbstractAsyncContextManager[Session]:
        """Return a new session; raises what keeps it from starting."""

    def reconsider(self) -> None:
        """Take the news that what was refused for good may be taken now."""
