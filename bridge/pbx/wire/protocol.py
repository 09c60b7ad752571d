"""The conversation between bridge and PBX as a table of states: text in, events out, from either end.

Two rules stand outside the table. Small talk (keep-alives, build checks, unknown and unreadable messages) may come
from anyone at any time and changes nothing. And which reply answers which question is told by ``src``: a reply with the
``src`` of the last question is the *answer*; so is one without ``src``, as long as this PBX has not shown that it
repeats it. Every other account reply is a *stray*: late, repeated, or pushed.

``Conversation`` never waits, opens nothing and reads no clock; ``reader`` moves its text over a WebSocket, and the
simulator holds the same object from the other end.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bridge.errors import PbxBrokeProtocol
from bridge.model import Cursor, value
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.parser import read_message


class Party(StrEnum):
    """Who speaks. Either party may have opened the connection; the caller is the one who logs in."""

    BRIDGE = "bridge"
    PBX = "pbx"

    @property
    def other(self) -> "Party":
        """The one at the other end."""
        return Party.PBX if self is Party.BRIDGE else Party.BRIDGE


class ConversationState(StrEnum):
    """How far the conversation has come."""

    CONNECTED = "connected"
    CHALLENGING = "challenging"
    PROVING = "proving"
    JUDGING = "judging"
    READY = "ready"
    ASKED = "asked"
    CLOSED = "closed"


@value
class Answer:
    """The reply to the last question."""

    reply: m.AccountReply
    question: m.AccountInfo
    is_certain: bool = True
    """False where the reply carried no ``src``, so that it might belong to a question given up before."""


@dataclass(frozen=True, slots=True)
class Stray:
    """An account reply nobody waits for: late, repeated, or pushed."""

    reply: m.AccountReply


Event = m.Message | Answer | Stray

CALLER, CALLEE, BRIDGE, PBX = "caller", "callee", "bridge", "pbx"

TABLE: Final[
    dict[ConversationState, dict[type, tuple[str, ConversationState]]]
] = {  # state -> what is said -> (by whom, where it leads)
    ConversationState.CONNECTED: {m.AppChallenge: (CALLER, ConversationState.CHALLENGING)},
    ConversationState.CHALLENGING: {
        m.AppChallengeResult: (CALLEE, ConversationState.PROVING),
        m.PbxInfo: (PBX, ConversationState.CHALLENGING),  # some PBXs introduce themselves before they judge
        m.AppInfo: (PBX, ConversationState.CHALLENGING),
    },
    ConversationState.PROVING: {m.AppLogin: (CALLER, ConversationState.JUDGING)},
    ConversationState.JUDGING: {
        m.LoginAccepted: (CALLEE, ConversationState.READY),
        m.LoginRefused: (CALLEE, ConversationState.CLOSED),
        m.PbxInfo: (PBX, ConversationState.JUDGING),
        m.AppInfo: (PBX, ConversationState.JUDGING),
    },
    ConversationState.READY: {
        m.AccountInfo: (BRIDGE, ConversationState.ASKED),
        Stray: (PBX, ConversationState.READY),
        m.PbxInfo: (PBX, ConversationState.READY),
        m.AppInfo: (PBX, ConversationState.READY),
        m.AppInfoResult: (BRIDGE, ConversationState.READY),
    },
    ConversationState.ASKED: {
        Answer: (PBX, ConversationState.READY),
        m.AccountInfo: (BRIDGE, ConversationState.ASKED),  # gives up on the question before
        Stray: (PBX, ConversationState.ASKED),
        m.PbxInfo: (PBX, ConversationState.ASKED),
        m.AppInfo: (PBX, ConversationState.ASKED),
        m.AppInfoResult: (BRIDGE, ConversationState.ASKED),
    },
    ConversationState.CLOSED: {},
}

SMALL_TALK: Final = frozenset({m.KeepAlive, m.CheckBuild, m.CheckBuildResult, m.Other, m.Unreadable})


class Conversation:
    """One WebSocket connection, seen from the end of *us*; *caller* is the party that logs in.

    ``reader`` sends what ``say`` returns and hands what arrives to ``receive``.
    """

    def __init__(self, us: Party, *, caller: Party) -> None:
        self.us = us
        self.caller = caller
        self.state = ConversationState.CONNECTED
        self._them = us.other
        self._parties = {CALLER: caller, CALLEE: caller.other, BRIDGE: Party.BRIDGE, PBX: Party.PBX}
        self.open_question: m.AccountInfo | None = None
        self._asked = 0
        self._echoes = False
        """True once the other end has repeated a ``src``: from then on, a reply without one is a stray."""

    def __repr__(self) -> str:
        return f"<Conversation of the {self.us}: {self.state}, {self._asked} questions>"

    def ask(self, cursor: Cursor) -> str:
        """Return the text of the next question; its ``src`` is new on this connection."""
        self._asked += 1
        return self.say(m.AccountInfo(f"acct-{self._asked}", cursor))

    def say(self, message: m.Message) -> str:
        """Return the text of *message* from us. A message that has no place here is our own mistake.

        Raises:
            PbxBrokeProtocol: the table does not allow it.

        """
        self._step(self._classify(message), self.us)
        return message.to_json()

    def receive(self, data: bytes | str) -> Event:
        """Return what the other end said.

        Raises:
            PbxBrokeProtocol: it has no place in the conversation; close the connection.

        """
        event = self._classify(read_message(data))
        self._step(event, self._them)
        return event

    def _classify(self, message: m.Message) -> Event:
        if not isinstance(message, m.AccountReply) or self.state in _BEFORE_LOGIN:
            return message
        question = self.open_question
        if question is None:
            return Stray(message)
        if message.src == question.src:
            self._echoes = True
            return Answer(message, question)
        if message.src is None and not self._echoes:
            return Answer(message, question, is_certain=False)
        return Stray(message)

    def _step(self, event: Event, speaker: Party) -> None:
        kind = type(event)
        if kind in SMALL_TALK:
            return
        try:
            role, after = TABLE[self.state][kind]
        except KeyError:
            raise PbxBrokeProtocol(f"{_name(event)} has no place in a conversation that is {self.state}") from None
        if self._parties[role] is not speaker:
            raise PbxBrokeProtocol(f"{_name(event)} is not for the {speaker} to say")
        self.state = after
        if isinstance(event, m.AccountInfo):
            self.open_question = event
        elif kind is Answer:
            self.open_question = None


_BEFORE_LOGIN = frozenset(
    {ConversationState.CONNECTED, ConversationState.CHALLENGING, ConversationState.PROVING, ConversationState.JUDGING}
)


def _name(event: Event) -> str:
    return event.mt if isinstance(event, m.Message) else "AccountInfoResult"
