"""What the broker said about each message of one channel.

Pure: numbers in, numbers out. The broker counts the messages of a channel from 1 (the *delivery tag*) and confirms them
in any order, one by one or everything up to a tag at once. A message that no queue takes comes back first and is then
confirmed all the same: that confirm means refused. Each tag gets one outcome, and each outcome is told once.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bridge.errors import BridgeError, BrokerDidNotConfirm


class Outcomes(NamedTuple):
    """What became of rows sent in one session, by tag: 1 is the first row sent in it, in the order of sending."""

    confirmed: Sequence[int]
    """Tags of rows that the broker has."""
    refused: Sequence[tuple[int, BridgeError]]
    """Tags of rows that it did not take, and why: ``EventUnroutable`` for what came back, ``BrokerDidNotConfirm`` for
    a nack."""


class ConfirmLedger:
    """Keeps the tags of one channel."""

    def __init__(self) -> None:
        self._open: list[str] = []
        """Ids of the messages from tag ``first`` on, in order."""
        self.first = 1
        """Every tag below it has its outcome."""
        self._beyond: set[int] = set()
        """Tags from ``first`` on that have their outcome."""
        self._returned: dict[int, BridgeError] = {}
        """Tags of messages that came back and are not confirmed yet."""
        self._confirmed: list[int] = []
        self._refused: list[tuple[int, BridgeError]] = []

    def __repr__(self) -> str:
        return f"<ConfirmLedger {self.sent_count} sent, {self.outstanding} without an outcome>"

    @property
    def sent_count(self) -> int:
        """How many messages were sent: the tag of the last one."""
        return self.first + len(self._open) - 1

    @property
    def outstanding(self) -> int:
        """How many messages were sent and have no outcome."""
        return len(self._open) - len(self._beyond)

    @property
    def has_news(self) -> bool:
        """True while there are outcomes that ``take`` has not returned."""
        return bool(self._confirmed or self._refused)

    def take(self) -> Outcomes:
        """Return the outcomes since the last call."""
        news = Outcomes(self._confirmed, self._refused)
        self._confirmed, self._refused = [], []
        return news

    def sent(self, event_ids: Iterable[str]) -> None:
        """Record that these messages go out next, in this order."""
        self._open += event_ids

    def ack(self, tag: int, *, multiple: bool) -> None:
        """Record a confirm, of one message or of all up to *tag*.

        Raises:
            BrokerDidNotConfirm: no such message was sent, so that no confirm of this channel means anything.

        """
        if multiple and not self._beyond and not self._returned and self.first <= tag <= self.sent_count:
            self._confirmed += range(self.first, tag + 1)  # what a busy broker says nearly always
            self._settle_until(tag)
            return
        for one in self._meant(tag, multiple=multiple):
            refusal = self._returned.pop(one, None)
            if refusal is None:
                self._confirmed.append(one)
            else:
                self._refused.append((one, refusal))
        self._advance()

    def nack(self, tag: int, refusal: BridgeError, *, multiple: bool) -> None:
        """Record that the broker did not take a message, or with *multiple* none up to *tag* without an outcome.

        Raises:
            BrokerDidNotConfirm: no such message was sent.

        """
        self._refused += [(one, self._returned.pop(one, refusal)) for one in self._meant(tag, multiple=multiple)]
        self._advance()

    def returned(self, event_id: str | None, refusal: BridgeError) -> None:
        """Record that a message came back because no queue takes it; its confirm, which follows, means refused."""
        for tag, open_id in enumerate(self._open, self.first):
            if open_id == event_id and tag not in self._beyond and tag not in self._returned:
                self._returned[tag] = refusal
                return

    def _meant(self, tag: int, *, multiple: bool) -> Sequence[int]:
        """Return the tags without an outcome that *tag* stands for, which have one now; 0 with *multiple* is all."""
        if tag > self.sent_count or (tag < 1 and not multiple):
            raise BrokerDidNotConfirm(f"the broker told of the message {tag}, and {self.sent_count} were sent")
        last = tag or self.sent_count
        meant = [one for one in range(self.first if multiple else last, last + 1) if self._is_open(one)]
        self._beyond.update(meant)
        return meant

    def _is_open(self, tag: int) -> bool:
        return tag >= self.first and tag not in self._beyond

    def _advance(self) -> None:
        last = self.first - 1
        while last + 1 in self._beyond:
            last += 1
            self._beyond.remove(last)
        self._settle_until(last)

    def _settle_until(self, tag: int) -> None:
        del self._open[: tag + 1 - self.first]
        self.first = tag + 1
