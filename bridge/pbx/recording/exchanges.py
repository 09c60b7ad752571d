"""A recording as questions and their answers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bridge.pbx.recording.frames import Frame
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.parser import read_message

CUT: Final = 1006
"""The code of an end without a goodbye; once more, since nothing here may know of connections."""

_NOTHING: Final[dict[str, Any]] = {}
_STRANGE: Final = (m.Other, m.Unreadable, m.AccountReply)


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the PBX."""

    at: float
    text: str
    message: m.Message
    content: dict[str, Any]
    """Its JSON; empty where it is none."""


@dataclass(slots=True)
class Exchange:
    """A question, and what became of it."""

    connection: int
    asked_at: float
    question: m.AccountInfo
    answer: Said | None = None
    again: list[Said] = field(default_factory=list)
    """What came for the same question once more."""
    beside: list[Said] = field(default_factory=list)
    """What came while it was open and is no answer that anybody here can read: of another type, with another src."""
    given_up_at: float | None = None
    """When the next question was asked, or the recording ended, without an answer."""
    closed_with: int | None = None
    """The code of the connection's end, where that came instead."""

    @property
    def delay(self) -> float:
        """Seconds until the answer, the end, or the giving up."""
        if self.answer is not None:
            return self.answer.at - self.asked_at
        return (self.given_up_at or self.asked_at) - self.asked_at


@dataclass(slots=True)
class Talk:
    """One connection."""

    number: int
    opened_at: float
    login: list[Said] = field(default_factory=list)
    """What the PBX said until it let us in."""
    let_in_at: float | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    unasked: list[Said] = field(default_factory=list)
    """What the PBX said without a question, after the login."""
    keepalives: list[float] = field(default_factory=list)
    """When the bridge sent one."""
    closed_at: float | None = None
    code: int = 0
    is_ours: bool = False
    """True where the bridge closed it."""


@dataclass(slots=True)
class Act:
    """What an operator did in the PBX."""

    name: str
    at: float


@dataclass(slots=True)
class Transcript:
    """Everything that passed."""

    talks: list[Talk] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    ended_at: float = 0.0

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """All of them, in the order of the questions."""
        return sorted((each for talk in self.talks for each in talk.exchanges), key=lambda each: each.asked_at)


def transcribe(frames: Iterable[Frame]) -> Transcript:
    """Return *frames* as exchanges."""
    transcript = Transcript()
    talks: dict[int, _Writer] = {}
    for frame in frames:
        transcript.ended_at = frame.at
        if frame.what == "act":
            transcript.acts.append(Act(frame.text, frame.at))
            continue
        writer = talks.get(frame.connection)
        if writer is None or frame.what == "opened":
            talk = Talk(frame.connection, frame.at)
            transcript.talks.append(talk)
            writer = talks[frame.connection] = _Writer(talk)
        writer.take(frame)
    for writer in talks.values():
        writer.end(transcript.ended_at)
    return transcript


class _Writer:
    """Takes one connection down."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._open: list[Exchange] = []
        self._by_src: dict[str, Exchange] = {}

    def take(self, frame: Frame) -> None:
        """Take its next frame."""
        talk = self._talk
        if frame.what == "closed":
            talk.closed_at, talk.code, talk.is_ours = frame.at, frame.code, frame.by == "bridge"
            for exchange in self._open:
                if exchange.given_up_at is not None:
                    continue
                if frame.by == "pbx":
                    exchange.closed_with = frame.code
                elif frame.code == CUT:
                    talk.exchanges.remove(exchange)  # for a newer connection, say: nobody waited for an answer
        elif frame.by == "bridge":
            self._bridge_said(read_message(frame.text), frame.at)
        elif frame.what == "message":
            self._pbx_said(Said(frame.at, frame.text, read_message(frame.text), _content(frame.text)))

    def end(self, at: float) -> None:
        """Take note that nothing more comes."""
        for exchange in self._open:
            exchange.given_up_at = exchange.given_up_at or self._talk.closed_at or at

    def _bridge_said(self, message: m.Message, at: float) -> None:
        if isinstance(message, m.KeepAlive):
            self._talk.keepalives.append(at)
        elif isinstance(message, m.LoginAccepted):  # of a PBX that logs in at the bridge
            self._talk.let_in_at = at
        elif isinstance(message, m.AccountInfo):
            for before in self._open:
                before.given_up_at = before.given_up_at or at
            exchange = Exchange(self._talk.number, at, message)
            self._talk.exchanges.append(exchange)
            self._open.append(exchange)
            if message.src:
                self._by_src[message.src] = exchange

    def _pbx_said(self, said: Said) -> None:
        talk, message = self._talk, said.message
        if talk.let_in_at is None and not talk.exchanges:
            talk.login.append(said)
            if isinstance(message, m.LoginAccepted):
                talk.let_in_at = said.at
            return
        exchange = self._exchange_of(message)
        if exchange is None:
            talk.unasked.append(said)
            if isinstance(message, _STRANGE) and self._open and self._open[-1].given_up_at is None:
                self._open[-1].beside.append(said)
        elif exchange.answer is None:
            exchange.answer = said
            if exchange in self._open:
                self._open.remove(exchange)
        else:
            exchange.again.append(said)

    def _exchange_of(self, message: m.Message) -> Exchange | None:
        """Return the exchange that *message* belongs to."""
        if not isinstance(message, m.AccountReply):
            return None
        if message.src is not None:
            return self._by_src.get(message.src)
        if not self._open:
            return None
        # Without src, who asks one question at a time means the last, unless that was given up; the vendor's example
        # may have several under way.
        last = self._open[-1]
        if not last.question.src:
            return self._open[0]
        return last if last.given_up_at is None else None


def _content(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING
    return content if isinstance(content, dict) else _NOTHING
