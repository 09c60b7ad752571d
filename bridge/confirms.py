"""What the broker said about the messages of one channel, and how far that reaches without a gap.

Pure: numbers in, numbers out. The broker counts the messages of a channel from 1 (the *delivery tag*) and confirms them
in any order, one by one or everything up to a tag at once. Progress is the unbroken confirmed prefix; a refused message
ends it for good, whatever is confirmed behind.
"""

from collections.abc import Sequence

from bridge.errors import BridgeError, BrokerDidNotConfirm


class Ledger:
    """Keeps the tags of one channel."""

    def __init__(self) -> None:
        self._unconfirmed: list[str] = []
        """Ids of the rows behind the prefix, in order: the first one has the tag ``confirmed + 1``."""
        self._beyond: set[int] = set()
        """Tags confirmed behind a gap."""
        self._refused_tag = 0
        self.confirmed = 0
        """Length of the unbroken confirmed prefix."""
        self.refusal: BridgeError | None = None
        """Why the first refused message was refused."""

    def __repr__(self) -> str:
        return f"<Ledger {self.confirmed} confirmed, {self.outstanding} unconfirmed>"

    @property
    def outstanding(self) -> int:
        """How many messages were sent and are not part of the prefix."""
        return len(self._unconfirmed)

    @property
    def is_over(self) -> bool:
        """True once the prefix ends at a refused message, so that it can never grow again."""
        return self.confirmed + 1 == self._refused_tag

    def sent(self, event_ids: Sequence[str]) -> None:
        """Record that these messages go out next, in this order."""
        self._unconfirmed += event_ids

    def ack(self, tag: int, *, multiple: bool) -> bool:
        """Record a confirm, of one message or of all up to *tag*, and return whether the prefix grew."""
        sent = self.confirmed + self.outstanding
        if tag > sent:
            self._refuse(self.confirmed + 1, BrokerDidNotConfirm("the broker confirmed a message that was never sent"))
            return False
        limit = self._refused_tag - 1 if self._refused_tag else sent
        reached = self.confirmed
        if multiple:
            reached = max(reached, min(tag, limit))
        elif tag > reached:
            self._beyond.add(tag)
        while reached < limit and reached + 1 in self._beyond:
            reached += 1
        if reached == self.confirmed:
            return False
        del self._unconfirmed[: reached - self.confirmed]
        self.confirmed = reached
        if self._beyond:
            self._beyond = {beyond for beyond in self._beyond if beyond > reached}
        return True

    def nack(self, tag: int, *, multiple: bool) -> None:
        """Record that the broker did not take a message, or with *multiple* none up to *tag* not confirmed before."""
        first = tag
        if multiple:
            first = next((old for old in range(self.confirmed + 1, tag) if old not in self._beyond), tag)
        if first > self.confirmed:
            self._refuse(
                first, BrokerDidNotConfirm("the broker refused a message (nack): is a queue full, or its node down?")
            )

    def returned(self, event_id: str | None, refusal: BridgeError) -> None:
        """Record that a message came back because no queue takes it; its confirm, which follows, means nothing.

        Or that it could not be sent at all, and that nothing behind it was.
        """
        if event_id in self._unconfirmed:
            self._refuse(self.confirmed + 1 + self._unconfirmed.index(event_id), refusal)

    def _refuse(self, tag: int, refusal: BridgeError) -> None:
        if not self._refused_tag or tag < self._refused_tag:
            self._refused_tag, self.refusal = tag, refusal
