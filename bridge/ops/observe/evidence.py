"""What a recording has to say about how a PBX behaves: each question sorted by what became of it."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from statistics import median
from typing import Any, Final

from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.ops.observe.probing import OVER, SKIPPED
from bridge.pbx.recording.exchanges import Act, Exchange, Said, Transcript
from bridge.pbx.wire import messages as m

HELD_SECONDS: Final = 5.0
HELD_FACTOR: Final = 5.0
"""An answer that took longer, and so much longer than usual, waited for something to happen."""

PASSING_SECONDS: Final = 15.0
"""What went wrong, and was right when asked again within this time, was passing."""

DELETION_TYPES: Final = frozenset({"AccountInfoDel", "AccountDelete"})


class Outcome(StrEnum):
    """What became of a question with a guid of the PBX."""

    ROW = "row"
    REPEATED = "repeated"
    """The account that led to where it was asked from."""
    NOTHING = "nothing"
    """An answer without an account."""
    NEW_GUID = "new guid"
    ERROR = "error"
    SILENCE = "silence"
    CLOSED = "closed"
    HELD = "held"
    """Answered late, when something had happened."""


BAD: Final = frozenset({Outcome.ERROR, Outcome.SILENCE, Outcome.CLOSED})


@dataclass(slots=True)
class Sorted:
    """A question and its outcome."""

    exchange: Exchange
    outcome: Outcome
    is_passing: bool = False
    """It went wrong, and was right when asked again."""

    @property
    def said(self) -> Said:
        """The answer, where there is one."""
        if self.exchange.answer is None:
            raise ValueError("no answer")
        return self.exchange.answer


@dataclass(frozen=True, slots=True)
class Delivery:
    """An account that was told."""

    at: float
    row: Row
    said: Said
    asked_from: Cursor | None
    """``None`` where nobody asked."""


@dataclass(slots=True)
class Window:
    """The time after an act of an operator, up to the next."""

    since: float
    until: float
    deliveries: list[Delivery] = field(default_factory=list)

    def has(self, at: float) -> bool:
        """Tell whether *at* is within it."""
        return self.since <= at < self.until


class Evidence:
    """A transcript, looked at in every way that the findings need."""

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        every = transcript.exchanges
        self._last_asked_at = every[-1].asked_at if every else 0.0
        self.answers = [each.answer for each in every if each.answer is not None]
        self.guids = frozenset(guid for said in self.answers if (guid := guid_in(said.message)) is not None)
        self.probes = [each for each in every if each.question.cursor.guid is None]
        asked = [each for each in every if each.question.cursor.guid is not None and not self._is_cut_off(each)]
        self.foreign = [each for each in asked if each.question.cursor.guid not in self.guids]
        own = [each for each in asked if each.question.cursor.guid in self.guids]
        self.usual_delay = median([each.delay for each in own if each.answer is not None] or [0.0])
        self.windows = self._windows()
        self.by_question: Mapping[Cursor, list[Sorted]] = self._sorted(own)
        self.deliveries = self._deliveries(own)
        self._by_account: dict[AccountGuid, list[Delivery]] = defaultdict(list)
        for delivery in self.deliveries:
            if delivery.asked_from is not None:
                self._by_account[delivery.row.account_guid].append(delivery)
        for window in self.windows.values():
            window.deliveries = [each for each in self.deliveries if window.has(each.at)]

    # The list

    @property
    def sorted(self) -> Iterator[Sorted]:
        """Every question with a guid of the PBX."""
        for listed in self.by_question.values():
            yield from listed

    @property
    def ends(self) -> Sequence[Sorted]:
        """Questions behind which nothing further had changed."""
        return [
            each
            for listed in self.by_question.values()
            for each in listed
            if not each.is_passing
            and each.outcome is not Outcome.ROW
            and each.outcome is not Outcome.NEW_GUID
            and each.outcome is not Outcome.CLOSED
            and not (each.outcome is Outcome.REPEATED and self._goes_on(each, listed))
        ]

    @property
    def walks(self) -> Sequence[Sequence[Delivery]]:
        """Readings of the list from its start, each as far as it went."""
        walks: list[list[Delivery]] = []
        passed: set[Any] = set()
        for delivery in self.deliveries:
            asked, place = delivery.asked_from, _place(delivery.row)
            if asked is None:
                continue
            if asked.is_start:
                walks.append([delivery])
                passed = {place}
            elif walks and _place(walks[-1][-1].row) == (asked.usn, asked.ausn) and place not in passed:
                walks[-1].append(delivery)
                passed.add(place)
        return walks

    @property
    def longest_walk(self) -> Sequence[Delivery]:
        """The reading that went farthest."""
        return max(self.walks, key=len, default=())

    def act_between(self, since: float, until: float) -> bool:
        """Tell whether an operator did something meanwhile."""
        return any(since <= act.at < until for act in self.transcript.acts)

    def before(self, delivery: Delivery) -> Delivery | None:
        """Return what was answered of the same account before."""
        told = self._by_account[delivery.row.account_guid]
        bisect = bisect_right if delivery.asked_from is None else bisect_left
        place = bisect(told, delivery.at, key=lambda each: each.at)
        return told[place - 1] if place else None

    # How it is made

    def _is_cut_off(self, exchange: Exchange) -> bool:
        """Tell whether nobody waited for the answer: the recording ended, or we closed the connection."""
        is_open = exchange.answer is None and exchange.closed_with is None
        return is_open and exchange.asked_at >= self._last_asked_at and exchange.delay < HELD_SECONDS

    def _windows(self) -> dict[str, Window]:
        acts = self.transcript.acts
        following = [*acts[1:], Act("", self.transcript.ended_at + 1.0)]
        return {
            act.name: Window(act.at, after.at)
            for act, after in zip(acts, following, strict=False)
            if act.name not in {OVER, SKIPPED} and after.name != SKIPPED
        }

    def _sorted(self, own: Sequence[Exchange]) -> dict[Cursor, list[Sorted]]:
        by_question: dict[Cursor, list[Sorted]] = defaultdict(list)
        for exchange in own:
            by_question[exchange.question.cursor].append(Sorted(exchange, self._outcome(exchange)))
        for listed in by_question.values():
            self._mark_passing(listed)
        return dict(by_question)

    def _outcome(self, exchange: Exchange) -> Outcome:
        answer, asked = exchange.answer, exchange.question.cursor
        if answer is None:
            return Outcome.SILENCE if exchange.closed_with is None else Outcome.CLOSED
        guid = guid_in(answer.message)
        if guid is not None and guid != asked.guid:
            return Outcome.NEW_GUID
        is_late = exchange.given_up_at is not None and exchange.given_up_at < answer.at
        is_slow = exchange.delay > max(HELD_SECONDS, HELD_FACTOR * self.usual_delay)
        if is_late or (is_slow and self.act_between(exchange.asked_at, answer.at)):
            return Outcome.HELD
        if isinstance(answer.message, m.RequestError):
            return Outcome.ERROR
        if isinstance(answer.message, m.AccountRow):
            is_same = not asked.is_start and _place(answer.message.row) == (asked.usn, asked.ausn)
            return Outcome.REPEATED if is_same else Outcome.ROW
        return Outcome.NOTHING

    def _mark_passing(self, listed: Sequence[Sorted]) -> None:
        bad = sum(each.outcome in BAD for each in listed)
        is_told_otherwise = any(each.outcome in {Outcome.NOTHING, Outcome.REPEATED} for each in listed)
        for each, following in pairwise(listed):
            gap = following.exchange.asked_at - each.exchange.asked_at - each.exchange.delay
            each.is_passing = (
                each.outcome in BAD
                and following.outcome not in BAD
                and gap <= PASSING_SECONDS
                and (bad == 1 or is_told_otherwise)
                and not self.act_between(each.exchange.asked_at, following.exchange.asked_at)
            )

    def _goes_on(self, repeated: Sorted, listed: Sequence[Sorted]) -> bool:
        """Tell whether the same question got something else than the same account again, and not by a change."""
        following = next(iter(listed[listed.index(repeated) + 1 :]), None)
        if any(each.outcome is Outcome.NOTHING for each in listed):
            return True
        if following is None or following.outcome is not Outcome.ROW:
            return False
        since, until = repeated.exchange.asked_at, following.exchange.asked_at
        return until - since <= PASSING_SECONDS and not self.act_between(since, until)

    def _deliveries(self, own: Sequence[Exchange]) -> list[Delivery]:
        told = [
            Delivery(said.at, said.message.row, said, exchange.question.cursor)
            for exchange in own
            for said in (exchange.answer,)
            if said is not None and isinstance(said.message, m.AccountRow)
        ]
        told += [
            Delivery(said.at, said.message.row, said, None)
            for talk in self.transcript.talks
            for said in (*talk.unasked, *(again for each in talk.exchanges for again in each.again))
            if isinstance(said.message, m.AccountRow)
        ]
        return sorted(told, key=lambda delivery: delivery.at)


def guid_in(message: m.Message) -> Token | None:
    """Return the guid that a reply tells."""
    if isinstance(message, m.AccountRow):
        return message.row.cursor.guid
    return message.cursor.guid if isinstance(message, m.NoAccount) else None


def _place(row: Row) -> tuple[Token | None, Token | None]:
    return row.cursor.usn, row.cursor.ausn


def accounts_of(deliveries: Sequence[Delivery]) -> frozenset[AccountGuid]:
    """Return whom *deliveries* are about."""
    return frozenset(delivery.row.account_guid for delivery in deliveries)
