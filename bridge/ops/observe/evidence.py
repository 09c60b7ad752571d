"""What a recording has to say about how a PBX behaves: each question sorted by what became of it."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from statistics import median
from typing import Any, Final

from bridge.events.normalize import account_key
from bridge.model import Cursor, Row, Token
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
    STRANGE = "strange"
    """No answer, but something else that nobody here can read."""
    STUCK = "stuck"
    """Another account than the one that led to where it was asked from, which leads there as well."""
    ANEW = "anew"
    """The first account of the list."""


BAD: Final = frozenset({Outcome.ERROR, Outcome.SILENCE, Outcome.CLOSED, Outcome.STRANGE})


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

    @property
    def account(self) -> str:
        """Whom it is about, however that is spelled."""
        return account_key(self.row.account_guid)


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
        self._firsts: set[tuple[str, Place]] = set()
        self.leading_to: Mapping[Cursor, set[str]] = self._leading_to(own)
        """The accounts behind which a place is; one of each, where numbers are unique."""
        self.by_question: Mapping[Cursor, list[Sorted]] = self._sorted(own)
        self.deliveries = self._deliveries(own)
        self._by_account: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in self.deliveries:
            if delivery.asked_from is not None:
                self._by_account[delivery.account].append(delivery)
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
        last = _place(self.longest_walk[-1].row) if self.longest_walk else None
        return [
            each
            for listed in self.by_question.values()
            for each in listed
            if not each.is_passing
            and each.outcome is not Outcome.ROW
            and each.outcome is not Outcome.NEW_GUID
            and each.outcome is not Outcome.CLOSED
            and not (each.outcome is Outcome.ANEW and _asked_from(each.exchange) != last)
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

    @property
    def shared(self) -> int:
        """How many places are behind several accounts, so that nobody can go on from there."""
        return sum(len(accounts) > 1 for place, accounts in self.leading_to.items() if not place.is_start)

    def act_between(self, since: float, until: float) -> bool:
        """Tell whether an operator did something meanwhile."""
        return any(since <= act.at < until for act in self.transcript.acts)

    def before(self, delivery: Delivery) -> Delivery | None:
        """Return what was answered of the same account before."""
        told = self._by_account[delivery.account]
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

    def _leading_to(self, own: Sequence[Exchange]) -> Mapping[Cursor, set[str]]:
        leading: dict[Cursor, set[str]] = defaultdict(set)
        for exchange in own:
            answer, asked = exchange.answer, exchange.question.cursor
            if answer is None or not isinstance(answer.message, m.AccountRow):
                continue
            account, place = account_key(answer.message.row.account_guid), _place(answer.message.row)
            if place != (asked.usn, asked.ausn):
                leading[Cursor(asked.guid, *place)].add(account)
            if asked.is_start:
                self._firsts.add((account, place))
        return leading

    def _outcome(self, exchange: Exchange) -> Outcome:
        answer, asked = exchange.answer, exchange.question.cursor
        if answer is None:
            if exchange.closed_with is not None:
                return Outcome.CLOSED
            return Outcome.STRANGE if exchange.beside else Outcome.SILENCE
        guid = guid_in(answer.message)
        if guid is not None and guid != asked.guid:
            return Outcome.NEW_GUID
        is_late = exchange.given_up_at is not None and exchange.given_up_at < answer.at
        is_slow = exchange.delay > max(HELD_SECONDS, HELD_FACTOR * self.usual_delay)
        if not isinstance(answer.message, m.AccountRow):
            return Outcome.ERROR if isinstance(answer.message, m.RequestError) else Outcome.NOTHING
        if (is_late or is_slow) and self.act_between(exchange.asked_at, answer.at):
            return Outcome.HELD
        return self._outcome_of_row(asked, answer.message.row)

    def _outcome_of_row(self, asked: Cursor, row: Row) -> Outcome:
        account, place = account_key(row.account_guid), _place(row)
        if asked.is_start:
            return Outcome.ROW
        if place == (asked.usn, asked.ausn):
            leading = self.leading_to.get(asked)
            return Outcome.REPEATED if not leading or account in leading else Outcome.STUCK
        return Outcome.ANEW if (account, place) in self._firsts else Outcome.ROW

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


Place = tuple[Token | None, Token | None]


def _place(row: Row) -> Place:
    return row.cursor.usn, row.cursor.ausn


def _asked_from(exchange: Exchange) -> Place:
    return exchange.question.cursor.usn, exchange.question.cursor.ausn


def accounts_of(deliveries: Sequence[Delivery]) -> frozenset[str]:
    """Return whom *deliveries* are about."""
    return frozenset(delivery.account for delivery in deliveries)
