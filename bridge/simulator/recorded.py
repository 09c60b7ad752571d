"""A PBX as it was recorded: what it answered to which question, when, and what it said unasked.

A question is told by its cursor, since whoever reads the list sends back what came. Of several answers to one question
the latest counts that was given by then: changes come when they came. An account that was told anew by then is passed
over in its former place, as in a list ordered by changes. Errors, silence and cut connections come as often as they
did. A question that nobody asked is left unanswered, and counted.
"""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from bridge.model import AccountGuid, Cursor, Token
from bridge.pbx.recording.exchanges import Exchange, Said, Talk, transcribe
from bridge.pbx.recording.frames import Recording
from bridge.pbx.wire import messages as m
from bridge.simulator.modes import Modes, UnknownMode
from bridge.simulator.pbx import Pbx

HELD_SECONDS: Final = 5.0
"""An answer that took longer, and much longer than others, waited for something to happen."""

HELD_FACTOR: Final = 5.0

SOON_SECONDS: Final = 10.0
"""What is said so soon after a login is part of it."""

PASSING_SECONDS: Final = 120.0
"""An error or a silence behind which the same question was answered within this time was a passing one."""

NEWS_SECONDS: Final = 1.0
"""Changes of one account told within this time are all told."""

MAX_STEPS: Final = 100_000
"""Over accounts that were told anew since."""

FOREIGN: Final = Token('"foreign"')
"""Stands for every guid that the PBX never told."""

OWN: Final = Token('"own"')
"""Stands for the guid that is valid on a connection, where each has another one."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a question once."""

    asked_at: float
    exchange: Exchange
    is_held: bool

    @property
    def is_passing(self) -> bool:
        """Tell whether it was no answer: an error, a silence, the end of the connection."""
        answer = self.exchange.answer
        return answer is None or isinstance(answer.message, m.RequestError)


@dataclass(slots=True)
class Script:
    """A recording, ready to be played."""

    by_question: dict[Cursor, list[Told]] = field(default_factory=lambda: defaultdict(list))
    deliveries: dict[AccountGuid, list[tuple[float, Cursor]]] = field(default_factory=lambda: defaultdict(list))
    """When each account was told, and at which place."""
    introductions: list[list[tuple[float, str]]] = field(default_factory=list)
    """What was said behind each login, and how many seconds later."""
    pushes: list[Said] = field(default_factory=list)
    """What was said unasked, later than that."""
    known: frozenset[Token] = frozenset()
    """What was told as guid."""
    is_guid_of_connection: bool = False
    is_guid_of_question: bool = False
    began_at: float = 0.0
    ended_at: float = 0.0

    def key(self, cursor: Cursor) -> Cursor:
        """Return what stands for *cursor* as a question."""
        if cursor.guid is None:
            return Cursor()
        if self.is_guid_of_connection:
            return cursor
        return cursor if cursor.guid in self.known else Cursor(FOREIGN, cursor.usn, cursor.ausn)

    def find(self, cursor: Cursor, at: float, given: set[int]) -> Told | None:
        """Return what comes of a question *at* that time; *given* are passing answers that were given before."""
        told: Told | None = None
        for _ in range(MAX_STEPS):
            listed = self.by_question.get(cursor)
            if not listed:
                break
            told = self._latest(listed, at, given)
            place = self._passed_over(told, at)
            if place is None:
                return told
            cursor = Cursor(cursor.guid, place.usn, place.ausn)
        return told

    def _latest(self, listed: list[Told], at: float, given: set[int]) -> Told:
        index = max(0, bisect_right([told.asked_at for told in listed], at) - 1)
        while listed[index].is_passing and id(listed[index]) in given and index + 1 < len(listed):
            if listed[index + 1].asked_at - listed[index].asked_at > PASSING_SECONDS:
                break
            index += 1
        return listed[index]

    def _passed_over(self, told: Told, at: float) -> Cursor | None:
        """Return the place behind the account in *told* where that was told anew by *at*, and so is there no longer."""
        answer = told.exchange.answer
        if answer is None or not isinstance(answer.message, m.AccountRow):
            return None
        row = answer.message.row
        deliveries = self.deliveries[row.account_guid]
        until = bisect_right([when for when, _ in deliveries], at)
        if until == 0 or row.cursor.is_start:
            return None
        when, place = deliveries[until - 1]
        is_other = (place.usn, place.ausn) != (row.cursor.usn, row.cursor.ausn)
        return row.cursor if is_other and when > answer.at + NEWS_SECONDS else None


def prepare(recording: Recording) -> Script:
    """Return *recording* ready to be played."""
    transcript = transcribe(recording.frames)
    script = Script(ended_at=transcript.ended_at)
    talks = [talk for talk in transcript.talks if talk.exchanges]
    script.began_at = talks[0].exchanges[0].asked_at if talks else 0.0
    _learn_guids(script, talks)
    delays = [each.delay for each in transcript.exchanges if each.answer is not None]
    usual = median(delays) if delays else 0.0
    for talk in talks:
        valid: set[Token] = set()
        for exchange in talk.exchanges:
            _take(script, exchange, valid, usual)
        _take_unasked(script, talk)
    for listed in script.by_question.values():
        listed.sort(key=lambda told: told.asked_at)
    for deliveries in script.deliveries.values():
        deliveries.sort(key=lambda delivery: delivery[0])
    script.pushes.sort(key=lambda said: said.at)
    return script


def _learn_guids(script: Script, talks: list[Talk]) -> None:
    """See whether a guid is that of a question, of a connection, or of something that lives longer."""
    probed = [[guid for each in talk.exchanges if (guid := _probed(each)) is not None] for talk in talks]
    guids = [guid for told in probed for guid in told]
    distinct = set(guids)
    is_each_new = len(distinct) == len(guids)
    script.is_guid_of_question = is_each_new and any(len(told) > 1 for told in probed)
    firsts = [set(told) for told in probed if told]
    is_each_own = len(firsts) > 1 and all(len(told) == 1 for told in firsts) and len(distinct) == len(firsts)
    script.is_guid_of_connection = script.is_guid_of_question or is_each_own
    if not script.is_guid_of_connection:
        answers = (each.answer.message for talk in talks for each in talk.exchanges if each.answer is not None)
        script.known = frozenset(guid for message in answers if (guid := _guid_in(message)) is not None)


def _probed(exchange: Exchange) -> Token | None:
    if exchange.question.cursor.guid is not None or exchange.answer is None:
        return None
    return _guid_in(exchange.answer.message)


def _guid_in(message: m.Message) -> Token | None:
    if isinstance(message, m.AccountRow):
        return message.row.cursor.guid
    return message.cursor.guid if isinstance(message, m.NoAccount) else None


def _take(script: Script, exchange: Exchange, valid: set[Token], usual: float) -> None:
    guid = _probed(exchange)
    if guid is not None:
        if script.is_guid_of_question:
            valid.clear()
        valid.add(guid)
    cursor = exchange.question.cursor
    key = script.key(cursor)
    if script.is_guid_of_connection and cursor.guid is not None:
        key = Cursor(OWN if cursor.guid in valid else FOREIGN, cursor.usn, cursor.ausn)
    is_held = exchange.answer is not None and exchange.delay > max(HELD_SECONDS, HELD_FACTOR * usual)
    if _is_cut_off(script, exchange):
        return
    script.by_question[key].append(Told(exchange.asked_at, exchange, is_held))
    if exchange.answer is not None and isinstance(exchange.answer.message, m.AccountRow) and key.guid != FOREIGN:
        row = exchange.answer.message.row
        script.deliveries[row.account_guid].append((exchange.answer.at, row.cursor))


def _is_cut_off(script: Script, exchange: Exchange) -> bool:
    """Tell whether the recording ended before there could be an answer."""
    is_open = exchange.answer is None and exchange.closed_with is None
    return is_open and exchange.delay < HELD_SECONDS and (exchange.given_up_at or 0.0) >= script.ended_at


def _take_unasked(script: Script, talk: Talk) -> None:
    let_in_at = talk.let_in_at if talk.let_in_at is not None else talk.exchanges[0].asked_at
    beside = {id(said) for each in talk.exchanges for said in each.beside}
    spoken = [said for said in talk.login if isinstance(said.message, m.PbxInfo | m.AppInfo)]
    introduction = [(0.0, said.text) for said in spoken]
    for said in talk.unasked:
        if id(said) in beside:
            continue
        if said.at - let_in_at <= SOON_SECONDS and not isinstance(said.message, m.AccountReply):
            introduction.append((said.at - let_in_at, said.text))
        else:
            script.pushes.append(said)
    script.introductions.append(introduction)


class RecordedPbx(Pbx):
    """A PBX that plays *recording*, *speed* times as fast as it was; *app* and *password* are those to log in with."""

    def __init__(
        self,
        recording: Recording,
        *,
        app: str = "demo",
        password: str = "demo",  # noqa: S107 - of a pretend PBX
        speed: float = 1.0,
    ) -> None:
        try:
            modes = Modes.parse(recording.header.modes)
        except UnknownMode:  # of a later version; what they say is in the recording itself
            modes = Modes()
        super().__init__(accounts=0, app=app, password=password, modes=modes)
        self.script = prepare(recording)
        self.speed = speed
        self.unknown_questions: list[Cursor] = []
        """What was asked and is not in the recording."""
        self.given: set[int] = set()
        """Passing answers that were given."""
        self.pushed = 0
        """So many of the pushes were sent."""
        self._first_at: float | None = None

    def __repr__(self) -> str:
        return f"<RecordedPbx of {len(self.script.deliveries)} accounts>"

    def recorded_time(self, now: float) -> float:
        """Return where in the recording we are; it begins with the first login."""
        if self._first_at is None:
            self._first_at = now
        return self.script.began_at + (now - self._first_at) * self.speed

    def played_time(self, at: float) -> float:
        """Return when *at* in the recording is."""
        return (self._first_at or 0.0) + (at - self.script.began_at) / self.speed
