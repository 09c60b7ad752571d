import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.errors import PbxBrokeProtocol
from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import (
    CALLEE,
    CALLER,
    SMALL_TALK,
    TABLE,
    Answer,
    Conversation,
    ConversationState,
    Party,
    Stray,
)

GUID = Token('"g"')
ROW = Row(Cursor(GUID, Token('"1"'), Token('"1"')), AccountGuid("x"), "x", None)


class Ends:
    """Both ends of one connection, wired back to back."""

    def __init__(self, caller: Party = Party.BRIDGE) -> None:
        self.bridge = Conversation(Party.BRIDGE, caller=caller)
        self.pbx = Conversation(Party.PBX, caller=caller)
        self.caller, self.callee = (self.bridge, self.pbx) if caller is Party.BRIDGE else (self.pbx, self.bridge)

    def log_in(self) -> "Ends":
        self.callee.receive(self.caller.say(m.AppChallenge()))
        self.caller.receive(self.callee.say(m.AppChallengeResult("0123")))
        self.callee.receive(self.caller.say(m.AppLogin("app", "d" * 64)))
        self.caller.receive(self.callee.say(m.LoginAccepted()))
        return self

    def ask(self, cursor: Cursor | None = None) -> str:
        question = self.pbx.receive(self.bridge.ask(cursor or Cursor()))
        assert isinstance(question, m.AccountInfo)
        return question.src


@pytest.mark.parametrize("caller", Party)
def test_both_directions_log_in_and_ask(caller: Party) -> None:
    ends = Ends(caller).log_in()
    src = ends.ask()
    answer = ends.bridge.receive(ends.pbx.say(m.NoAccount(Cursor(GUID), src)))
    assert isinstance(answer, Answer)
    assert (ends.bridge.state, ends.pbx.state) == (ConversationState.READY, ConversationState.READY)


def test_a_refused_proof_ends_the_conversation() -> None:
    """A wrong password cannot become right by asking again."""
    ends = Ends()
    ends.pbx.receive(ends.bridge.say(m.AppChallenge()))
    ends.bridge.receive(ends.pbx.say(m.AppChallengeResult("0123")))
    ends.pbx.receive(ends.bridge.say(m.AppLogin("app", "d" * 64)))
    ends.bridge.receive(ends.pbx.say(m.LoginRefused()))
    assert ends.bridge.state is ConversationState.CLOSED
    with pytest.raises(PbxBrokeProtocol):
        ends.bridge.ask(Cursor())


def everything_said() -> Iterator[m.Message]:
    yield from (m.AppChallenge(), m.AppChallengeResult("1"), m.AppLogin("a", "d"), m.LoginAccepted(), m.LoginRefused())
    yield from (m.PbxInfo(), m.AppInfo(), m.AppInfoResult(), m.AccountInfo("s"))


@pytest.mark.parametrize("state", ConversationState)
@pytest.mark.parametrize("speaker", Party)
@pytest.mark.parametrize("message", list(everything_said()), ids=lambda message: type(message).__name__)
def test_what_is_not_in_the_table_is_refused(state: ConversationState, speaker: Party, message: m.Message) -> None:
    conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
    conversation.state = state
    role, after = TABLE[state].get(type(message), ("nobody", None))
    speakers = {CALLER: Party.BRIDGE, CALLEE: Party.PBX, "bridge": Party.BRIDGE, "pbx": Party.PBX}

    def speak() -> None:
        if speaker is Party.BRIDGE:
            conversation.say(message)
        else:
            conversation.receive(message.to_json())

    if speakers.get(role) is speaker:
        speak()
        assert conversation.state is after
    else:
        with pytest.raises(PbxBrokeProtocol):
            speak()
        assert conversation.state is state


@pytest.mark.parametrize("state", [state for state in ConversationState if state is not ConversationState.CLOSED])
@pytest.mark.parametrize("data", ['{"mt":"KeepAlive"}', '{"mt":"Whatever","x":1}', "not json", '{"mt":"CheckBuild"}'])
def test_small_talk_changes_nothing_at_any_time(state: ConversationState, data: str) -> None:
    conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
    conversation.state = state
    assert type(conversation.receive(data)) in SMALL_TALK
    assert conversation.state is state


def test_a_reply_nobody_asked_for_is_a_stray() -> None:
    ends = Ends().log_in()
    told = m.AccountRow(ROW).to_json()
    assert ends.bridge.receive(told) == Stray(m.AccountRow(replace(ROW, size=len(told))))


def test_a_late_reply_to_a_question_given_up_is_a_stray() -> None:
    ends = Ends().log_in()
    first, second = ends.ask(), ends.ask()
    assert isinstance(ends.bridge.receive(m.AccountRow(ROW, first).to_json()), Stray)
    assert isinstance(ends.bridge.receive(m.AccountRow(ROW, second).to_json()), Answer)


def test_a_late_reply_still_answers_while_nothing_newer_was_asked() -> None:
    ends = Ends().log_in()
    src = ends.ask()
    assert isinstance(ends.bridge.receive(m.KeepAlive().to_json()), m.KeepAlive)
    assert isinstance(ends.bridge.receive(m.AccountRow(ROW, src).to_json()), Answer)


def test_a_reply_without_src_answers_where_src_was_never_seen() -> None:
    ends = Ends().log_in()
    ends.ask()
    answer = ends.bridge.receive(m.NoAccount(Cursor(GUID)).to_json())
    assert isinstance(answer, Answer)
    assert not answer.is_certain


def test_a_push_is_no_answer_where_the_pbx_repeats_src() -> None:
    """Taken for an answer it would move the cursor past accounts that nobody has told yet."""
    ends = Ends().log_in()
    ends.bridge.receive(m.NoAccount(Cursor(GUID), ends.ask()).to_json())
    src = ends.ask()
    assert isinstance(ends.bridge.receive(m.AccountRow(ROW).to_json()), Stray)
    assert isinstance(ends.bridge.receive(m.AccountRow(ROW, src).to_json()), Answer)


def test_a_pbx_that_repeats_src_is_not_believed_without_it_whatever_gets_lost() -> None:
    """Old accounts that it repeats on its own would be taken for the news that a lost answer owes us."""
    ends = Ends().log_in()
    ends.bridge.receive(m.NoAccount(Cursor(GUID), ends.ask()).to_json())
    for _ in range(3):
        ends.ask()
        assert isinstance(ends.bridge.receive(m.AccountRow(ROW).to_json()), Stray)


def test_the_vendors_example_can_be_followed_from_both_ends() -> None:
    exchange = json.loads((Path(__file__).parents[3] / "data" / "vendor-example.json").read_text("utf-8"))
    ends = Ends().log_in()
    for turn in exchange:
        if "bridge" in turn:
            assert isinstance(ends.pbx.receive(json.dumps(turn["bridge"])), m.AccountInfo)
            ends.ask()
        else:
            assert isinstance(ends.bridge.receive(json.dumps(turn["pbx"])), Answer)
