"""The walker alone: a script of what a PBX says, at times the test chooses. Numbers are seconds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bridge.errors import PbxBrokeProtocol, PbxRefusedRequest, PbxUnreachable
from bridge.model import Cursor, Row, Token
from bridge.pbx.walk.actions import (
    Action,
    Ask,
    CaughtUp,
    Compare,
    Doubted,
    EpochBegan,
    Pace,
    Reached,
    RowRead,
    Say,
    Sighted,
    WalkBegan,
    WalkEnded,
)
from bridge.pbx.walk.walker import FRESH_SECONDS, MAX_EPOCHS, WALK_STRETCH_ROWS, Phase, Walker
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Answer, Stray
from tests.support.rows import GUID, cursor, row

PACE = Pace(poll_interval=120, poll_jitter=0, answer_timeout=30, keepalive=40)
OTHER_GUID = Token('"other"')
QUESTION = m.AccountInfo("acct-1")


class Script:
    """A walker and a clock; remembers the last actions."""

    def __init__(
        self, since: Cursor | None = None, reached: Reached | None = None, *, has_turn: bool = True, **pace: Any
    ) -> None:
        pace_of = replace(PACE, **pace)
        self.walker = Walker(since or Cursor(), pace_of, chance=lambda: 0.5, reached=reached, has_turn=has_turn)
        self.now = 0.0

    def begin(self) -> Sequence[Action]:
        return self.walker.begin(self.now)

    def answer(self, reply: m.AccountReply) -> Sequence[Action]:
        return self.walker.heard(Answer(reply, QUESTION), self.now)

    def hear(self, event: Any) -> Sequence[Action]:
        return self.walker.heard(event, self.now)

    def guid(self, guid: Token = GUID) -> Sequence[Action]:
        return self.answer(m.NoAccount(Cursor(guid)))

    def row(self, told: Row) -> Sequence[Action]:
        return self.answer(m.AccountRow(told))

    def nothing(self) -> Sequence[Action]:
        return self.answer(m.NoAccount())

    def wait(self) -> Sequence[Action]:
        """Jump to when the walker wants to be woken."""
        self.now = self.walker.wake_at
        return self.walker.pass_time(self.now)

    def wait_for_question(self) -> Ask:
        for _ in range(20):
            asked = [action for action in self.wait() if isinstance(action, Ask)]
            if asked:
                return asked[0]
        raise AssertionError("no question in sight")


def started(since: Cursor | None = None, guid: Token = GUID, **pace: Any) -> Script:
    script = Script(since, **pace)
    assert script.begin() == [Ask(Cursor())]
    assert script.guid(guid) == [Ask(Cursor())]
    return script


def reading(**pace: Any) -> Script:
    script = started(**pace)
    script.guid()
    return script


def idle(**pace: Any) -> Script:
    script = reading(**pace)
    script.row(row("a", 1))
    assert script.nothing() == [CaughtUp(is_proven=True), WalkEnded(is_proven=True, until=cursor(1))]
    return script


def test_the_guid_is_probed_twice_and_a_new_one_begins_the_list_from_its_start() -> None:
    assert started().guid() == [EpochBegan(Cursor(GUID)), Ask(Cursor(GUID))]


def test_the_known_guid_goes_on_from_the_stored_cursor() -> None:
    assert checked(m.AccountRow(row("b", 7)))[1] == [Ask(cursor(7))]


def test_where_the_place_before_is_not_known_nothing_can_be_asked_and_that_is_said() -> None:
    """Nothing speaks against the PBX, so this is no evidence."""
    script = Script(cursor(7), Reached(cursor(6), cursor(5), row("b", 6).account_guid))
    script.begin()
    doubted, asked = script.guid()
    assert isinstance(doubted, Doubted)
    assert not doubted.is_evident
    assert asked == Ask(Cursor())
    assert script.guid() == [Ask(cursor(7))]


def test_another_guid_than_the_stored_one_begins_anew() -> None:
    script = started(cursor(7), OTHER_GUID)
    assert script.guid(OTHER_GUID) == [EpochBegan(Cursor(OTHER_GUID)), Ask(Cursor(OTHER_GUID))]


def test_each_row_is_handed_on_and_asked_behind() -> None:
    script = reading()
    assert script.row(row("a", 1)) == [RowRead(row("a", 1), cursor(1)), Ask(cursor(1))]
    assert script.row(row("b", 2)) == [RowRead(row("b", 2), cursor(2)), Ask(cursor(2))]


def test_a_row_without_guid_belongs_to_the_guid_of_the_session() -> None:
    """The vendor's page leaves it out of the printed result."""
    told = replace(row("a", 1), cursor=replace(cursor(1), guid=None))
    assert reading().row(told)[0] == RowRead(row("a", 1), cursor(1))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(m.NoAccount(Cursor(GUID)), id="idle-guid"),
        pytest.param(m.NoAccount(), id="idle-bare"),
        pytest.param(m.NoAccount(cursor(99)), id="idle-cursor"),
        pytest.param(m.AccountRow(row("a", 1)), id="idle-repeat"),
    ],
)
def test_caught_up_is_proven_by_an_answer_without_news_and_the_cursor_stays(answer: m.AccountReply) -> None:
    script = reading()
    script.row(row("a", 1))
    assert script.answer(answer)[0] == CaughtUp(is_proven=True)
    assert script.wait_for_question() == Ask(cursor(1))
    assert script.now == pytest.approx(120)


def test_the_poll_interval_is_varied_by_its_jitter() -> None:
    script = reading(poll_jitter=0.1)
    script.walker._chance = lambda: 1.0  # noqa: SLF001 - a die that always shows the same
    script.nothing()
    script.wait_for_question()
    assert script.now == pytest.approx(132)


def test_silence_proves_nothing_and_is_asked_again_at_the_next_poll() -> None:
    script = reading()
    script.row(row("a", 1))
    assert script.wait() == [CaughtUp(is_proven=False), WalkEnded(is_proven=False, until=cursor(1))]
    assert script.now == 30
    assert script.wait_for_question() == Ask(cursor(1))
    assert script.now == pytest.approx(150)


def test_a_late_answer_still_counts_while_no_newer_question_was_asked() -> None:
    """A PBX may hold a question until something changes."""
    script = reading()
    script.row(row("a", 1))
    script.wait()
    script.now = 100
    assert script.row(row("b", 2)) == [RowRead(row("b", 2), cursor(2)), Ask(cursor(2))]


def test_after_two_silent_polls_somebody_must_at_least_tell_the_guid() -> None:
    script = reading()
    script.row(row("a", 1))
    script.wait()
    script.wait_for_question()
    assert [action for action in script.wait() if isinstance(action, Ask)] == [Ask(Cursor())]
    script.guid()
    assert script.guid() == [Ask(cursor(1))]


def test_a_pbx_that_answers_no_probe_is_unreachable() -> None:
    script = Script()
    script.begin()
    assert script.wait() == [Ask(Cursor())]
    with pytest.raises(PbxUnreachable, match="PbxAccountApi"):
        script.wait()


def test_a_question_that_meets_an_error_is_asked_again_then_probed_for_and_then_rests() -> None:
    script = reading()
    script.row(row("a", 1))
    assert script.answer(m.RequestError("busy")) == []
    assert script.wait_for_question() == Ask(cursor(1))
    assert script.now == 1
    script.answer(m.RequestError("busy"))
    assert script.wait_for_question() == Ask(Cursor()), "perhaps the guid is not known any more"
    assert script.now == 5
    script.guid()
    assert script.guid() == [Ask(cursor(1))]
    caught_up, walk_ended = script.answer(m.RequestError("busy"))
    assert isinstance(caught_up, CaughtUp)
    assert not caught_up.is_proven
    assert "busy" in caught_up.trouble
    assert walk_ended == WalkEnded(is_proven=False, until=cursor(1))
    assert script.wait_for_question() == Ask(cursor(1)), "at the next poll it is asked again"
    assert script.now == pytest.approx(125)


def test_a_pbx_that_does_not_even_tell_its_guid_is_given_up() -> None:
    script = Script()
    script.begin()
    for _ in range(2):
        assert script.answer(m.RequestError("not allowed")) == []
        assert script.wait_for_question() == Ask(Cursor())
    with pytest.raises(PbxRefusedRequest, match="not allowed"):
        script.answer(m.RequestError("not allowed"))


def test_an_error_now_and_then_does_no_harm() -> None:
    script = reading()
    for number in range(1, 9):
        script.answer(m.RequestError("busy"))
        script.wait_for_question()
        assert script.row(row("a", number))[0] == RowRead(row("a", number), cursor(number))
    assert script.walker.is_walking


def test_an_error_text_is_quoted_short_and_without_control_characters() -> None:
    script = Script()
    script.begin()
    for _ in range(2):
        script.answer(m.RequestError("x"))
        script.wait_for_question()
    with pytest.raises(PbxRefusedRequest) as refused:
        script.answer(m.RequestError("\x1b[31m" + "y" * 9999))
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_another_guid_in_the_middle_begins_a_new_list() -> None:
    script = reading()
    told = row("b", 1, guid=OTHER_GUID)
    assert script.row(told) == [EpochBegan(Cursor(OTHER_GUID)), Ask(Cursor(OTHER_GUID))]
    assert script.row(told)[0] == RowRead(told, told.cursor)


def test_a_pbx_that_changes_its_guid_with_every_answer_is_given_up() -> None:
    script = reading()
    for number in range(MAX_EPOCHS - 1):
        script.row(row("a", 1, guid=Token(str(number))))
    with pytest.raises(PbxBrokeProtocol, match="keeps changing"):
        script.row(row("a", 1, guid=OTHER_GUID))


def test_a_list_that_bites_its_own_tail_does_not_become_an_endless_loop() -> None:
    script = reading()
    for number in range(1000):
        actions = script.row(row(f"a{number % 7}", number % 7 + 1))
        if CaughtUp(is_proven=False) in actions:
            break
    assert script.walker.phase is Phase.IDLE
    assert number < 40


def test_two_accounts_with_the_same_numbers_are_both_read() -> None:
    script = reading()
    script.row(row("a", 1))
    assert RowRead(row("b", 1), cursor(1)) in script.row(row("b", 1))
    assert script.row(row("b", 1)) == [CaughtUp(is_proven=True)]


def test_an_account_without_numbers_cannot_be_read_past() -> None:
    with pytest.raises(PbxBrokeProtocol, match="without usn and ausn"):
        reading().row(replace(row("a", 1), cursor=Cursor(GUID)))


def test_a_pushed_row_is_not_applied_but_makes_us_ask_once() -> None:
    """It will come in its place; applied out of turn it could overwrite what is newer."""
    script = idle()
    assert script.hear(Stray(m.AccountRow(row("b", 9)))) == [Ask(cursor(1))]
    assert script.hear(Stray(m.AccountRow(row("b", 9)))) == []


def test_a_pbx_that_repeats_old_accounts_after_each_answer_is_not_asked_for_ever() -> None:
    script = idle()
    stray = Stray(m.AccountRow(row("a", 1)))
    asked = 0
    while script.now < 119:
        asked += len([action for action in script.hear(stray) if isinstance(action, Ask)])
        script.nothing()
        script.now += 1
    assert asked == 1
    script.wait_for_question()
    script.nothing()
    assert script.hear(stray) == [Ask(cursor(1))], "after the next poll it is heeded once more"


def test_a_pushed_deletion_is_applied_and_moves_no_cursor() -> None:
    """It might never come again."""
    told = row("a", 9, is_deleted=True)
    actions = idle().hear(Stray(m.AccountRow(told)))
    assert RowRead(told, cursor(1)) in actions


def test_silence_is_broken_by_keepalives() -> None:
    script = idle()
    assert script.wait() == [Say(m.KeepAlive())]
    assert script.now == 40
    assert script.wait() == [Say(m.KeepAlive())]
    assert script.now == 80


def test_questions_keep_their_distance() -> None:
    script = Script(min_spacing=5)
    script.begin()
    assert script.guid() == []
    assert script.wait() == [Ask(Cursor())]
    assert script.now == pytest.approx(5)


def test_app_info_and_check_build_are_answered() -> None:
    script = idle()
    assert script.hear(m.AppInfo("app", "s1")) == [Say(m.AppInfoResult("app", "s1"))]
    assert script.hear(m.CheckBuild("x")) == [Say(m.CheckBuildResult())]


def test_noise_beside_an_answer_does_no_harm() -> None:
    script = reading()
    for _ in range(10_000):
        assert script.hear(m.Unreadable("not valid JSON")) == []
    assert script.row(row("a", 1))[0] == RowRead(row("a", 1), cursor(1))


def test_an_answer_that_cannot_be_read_is_not_taken_for_silence() -> None:
    script = reading()
    script.hear(m.Unreadable("AccountInfoResult: usn is neither text nor number"))
    with pytest.raises(PbxBrokeProtocol, match="usn is neither"):
        script.wait()


def test_the_first_reading_of_an_epoch_is_a_full_walk() -> None:
    script = reading()
    assert script.walker.is_walking
    script.row(row("a", 1))
    assert WalkEnded(is_proven=True, until=cursor(1)) in script.nothing()
    assert not script.walker.is_walking


def test_a_wanted_walk_reads_from_the_start_beside_the_live_cursor() -> None:
    script = idle()
    assert script.walker.want_walk(script.now) == [WalkBegan(), Ask(Cursor(GUID))]
    assert script.row(row("a", 1)) == [Sighted(row("a", 1)), Ask(cursor(1))]
    assert script.row(row("b", 2)) == [Sighted(row("b", 2)), Ask(cursor(2))]
    assert script.nothing() == [Ask(cursor(1))], "its end is followed by a live question"
    assert script.row(row("b", 2)) == [RowRead(row("b", 2), cursor(2)), Ask(cursor(2))]
    assert script.nothing() == [CaughtUp(is_proven=True), WalkEnded(is_proven=True, until=cursor(2))]


def test_live_questions_go_on_during_a_walk() -> None:
    script = idle(slow_answer=1000)
    script.walker.want_walk(script.now)
    for number in range(1, WALK_STRETCH_ROWS):
        script.row(row(f"a{number}", number))
    assert script.row(row("z", WALK_STRETCH_ROWS)) == [Sighted(row("z", WALK_STRETCH_ROWS)), Ask(cursor(1))]
    assert script.nothing() == [CaughtUp(is_proven=True), Ask(cursor(WALK_STRETCH_ROWS))]
    script.now += 121
    assert Ask(cursor(1)) in script.row(row("b", 7777)), "also when a poll is due"


def test_after_a_proven_walk_reading_goes_on_behind_its_last_row() -> None:
    """A PBX set back to an older state counts anew: the live cursor would wait in the future for ever."""
    script = reading()
    script.row(row("a", 900))
    script.nothing()
    script.walker.want_walk(script.now)
    script.row(row("a", 17))
    script.nothing()
    assert WalkEnded(is_proven=True, until=cursor(17)) in script.nothing()
    assert script.wait_for_question() == Ask(cursor(17))


@pytest.mark.parametrize("trouble", ["silence", "error", "new guid", "cycle"])
def test_a_troubled_walk_proves_nothing(trouble: str) -> None:
    script = idle()
    script.walker.want_walk(script.now)
    script.row(row("a", 1))
    actions: list[Action] = []
    if trouble == "silence":
        while not any(isinstance(action, WalkEnded) for action in actions):
            actions += script.wait()
    elif trouble == "error":
        for _ in range(3):
            actions += script.answer(m.RequestError("busy"))
            script.wait_for_question()
        actions += script.nothing()
    elif trouble == "new guid":
        actions += script.guid(OTHER_GUID)
        assert actions[0] == EpochBegan(Cursor(OTHER_GUID))
    else:
        for number in range(40):
            actions += script.row(row("ab"[number % 2], number % 2 + 1))
    assert not [action for action in actions if isinstance(action, WalkEnded) and action.is_proven]


def test_answers_that_may_be_shifted_prove_nothing() -> None:
    """Without ``src``, the answer to a question given up looks like the answer to the next one."""
    script = idle()
    script.wait_for_question()
    script.wait()
    script.wait_for_question()
    actions = script.walker.heard(Answer(m.NoAccount(), QUESTION, is_certain=False), script.now)
    assert CaughtUp(is_proven=False) in actions


def test_a_slow_pbx_gets_as_long_a_rest_as_it_took() -> None:
    script = reading()
    script.now += 0.01
    script.row(row("a", 1))
    script.now += 2
    assert not [action for action in script.row(row("b", 2)) if isinstance(action, Ask)]
    answered_at = script.now
    script.wait_for_question()
    assert script.now - answered_at == pytest.approx(2)


def test_a_long_way_is_no_slow_pbx() -> None:
    script = Script()
    script.begin()
    for reply in (m.NoAccount(Cursor(GUID)), m.NoAccount(Cursor(GUID)), m.AccountRow(row("a", 1))):
        script.now += 0.6
        assert [action for action in script.answer(reply) if isinstance(action, Ask)]


def test_a_question_of_a_walk_that_got_lost_is_asked_once_more() -> None:
    script = idle(keepalive=1000)
    script.walker.want_walk(script.now)
    script.row(row("a", 1))
    assert script.wait() == [Ask(cursor(1))]
    script.nothing()
    assert WalkEnded(is_proven=True, until=cursor(1)) in script.nothing()


def test_an_account_told_twice_without_src_proves_no_end() -> None:
    """The second one may be a mere repetition, and the real answer still on its way."""
    script = reading()
    for behind in (Cursor(GUID), cursor(1)):
        answer = Answer(m.AccountRow(row("a", 1)), m.AccountInfo("acct-9", behind), is_certain=False)
        actions = script.walker.heard(answer, script.now)
    assert CaughtUp(is_proven=False) in actions


REACHED = Reached(cursor(7), cursor(6), row("b", 7).account_guid)
KNOWN = row("b", 7)


def reconnected() -> Script:
    """A new connection to a PBX of which the last row is *KNOWN*; the place before that was asked for."""
    script = Script(cursor(7), REACHED)
    script.begin()
    assert script.guid() == [Ask(cursor(6))]
    return script


def checked(reply: m.AccountReply) -> tuple[Sequence[Action], Sequence[Action]]:
    """Return what comes of the answer to that question, the second probe aside, and of the second probe."""
    script = reconnected()
    *actions, asked = script.answer(reply)
    assert asked == Ask(Cursor())
    return actions, script.guid()


def doubts(actions: Sequence[Action]) -> list[Doubted]:
    return [action for action in actions if isinstance(action, Doubted)]


def test_after_a_reconnect_the_pbx_has_to_know_what_it_told_last() -> None:
    """A PBX set back tells nothing until its numbers have caught up with ours: so it is asked for what it must know."""
    assert checked(m.AccountRow(KNOWN)) == ([Compare(KNOWN, is_news=False)], [Ask(cursor(7))])


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(m.NoAccount(Cursor(GUID)), id="nothing"),
        pytest.param(m.AccountRow(replace(row("b", 7), cursor=Cursor(GUID))), id="no numbers"),
    ],
)
def test_a_pbx_that_no_longer_knows_it_is_doubted_and_nothing_moves(reply: m.AccountReply) -> None:
    actions, then = checked(reply)
    assert [type(action) for action in actions] == [Doubted]
    assert then == [Ask(cursor(7))]


def test_a_deletion_in_words_is_taken_whatever_question_it_answers() -> None:
    """It might never come again."""
    told = replace(row("c", 1, is_deleted=True), cursor=Cursor(GUID))
    actions, then = checked(m.AccountRow(told))
    assert actions[0] == RowRead(replace(told, cursor=cursor(7)), cursor(7))
    assert len(doubts(actions)) == 1
    assert then == [Ask(cursor(7))]


def test_an_error_is_a_doubt_and_the_question_is_not_repeated() -> None:
    script = reconnected()
    (doubted,) = script.answer(m.RequestError("unknown place"))
    assert isinstance(doubted, Doubted)
    assert script.wait_for_question() == Ask(Cursor())
    assert script.guid() == [Ask(cursor(7))]


def test_silence_is_a_doubt_and_reading_goes_on() -> None:
    """Without a second probe, which would wait behind the question where answers come strictly in order."""
    script = reconnected()
    doubted, asked = script.wait()
    assert isinstance(doubted, Doubted)
    assert asked == Ask(cursor(7))
    assert script.row(row("c", 8))[-2:] == [RowRead(row("c", 8), cursor(8)), Ask(cursor(8))]


def test_news_comes_behind_our_place_too_and_what_was_there_is_told_anew() -> None:
    """Its numbers are news as well: numbers that the mirror knows would have been passed already."""
    script = reconnected()
    assert script.row(row("c", 8)) == [Ask(Cursor())]
    assert script.guid() == [Ask(cursor(7))]
    first = script.row(row("c", 8))
    assert first == [Compare(row("c", 8), is_news=True), RowRead(row("c", 8), cursor(8)), Ask(cursor(8))]
    assert script.row(row("b", 9)) == [RowRead(row("b", 9), cursor(9)), Ask(cursor(9))]
    assert script.nothing() == [CaughtUp(is_proven=True)]


def test_numbers_that_another_account_has_by_now_are_a_doubt_for_the_mirror() -> None:
    assert checked(m.AccountRow(row("c", 7)))[0] == [Compare(row("c", 7), is_news=False)]


def test_other_news_behind_our_place_than_behind_the_one_before_is_a_doubt() -> None:
    """So numbers that were ours are those of another account, and have been passed."""
    script = reconnected()
    script.row(row("c", 8))
    script.guid()
    assert len(doubts(script.row(row("d", 9)))) == 1


@pytest.mark.parametrize("end", ["nothing", "silence"])
def test_news_that_does_not_come_behind_our_place_is_a_doubt(end: str) -> None:
    script = reconnected()
    script.row(row("c", 3))
    script.guid()
    assert len(doubts(script.nothing() if end == "nothing" else script.wait())) == 1
    assert script.walker.reached.cursor == cursor(7)


def test_what_is_no_longer_there_and_told_nowhere_else_is_a_doubt() -> None:
    """A PBX that repeats its last row when it is caught up gives the same older row to both questions."""
    script = reconnected()
    script.row(row("c", 3))
    script.guid()
    assert not doubts(script.row(row("c", 3)))
    assert len(doubts(script.row(row("c", 3)))) == 1


def test_another_guid_in_answer_begins_a_new_list() -> None:
    told = m.AccountRow(row("c", 1, guid=OTHER_GUID))
    assert reconnected().answer(told) == [EpochBegan(Cursor(OTHER_GUID)), Ask(Cursor(OTHER_GUID))]


def test_it_is_asked_once_on_a_connection() -> None:
    script = reconnected()
    script.answer(m.AccountRow(KNOWN))
    script.guid()
    for _ in range(2):
        script.answer(m.RequestError("busy"))
        asked = script.wait_for_question()
    assert asked == Ask(Cursor()), "the guid is probed anew"
    assert script.guid() == [Ask(Cursor())]
    assert script.guid() == [Ask(cursor(7))]


def test_the_last_row_repeated_without_src_does_not_spoil_the_connection() -> None:
    """The second probe lies between the question for it and the live one, so the repetition is an answer of its own."""
    script = Script(cursor(7), REACHED)
    script.begin()
    for reply in (m.NoAccount(Cursor(GUID)), m.AccountRow(KNOWN), m.NoAccount(Cursor(GUID)), m.AccountRow(KNOWN)):
        script.walker.heard(Answer(reply, QUESTION, is_certain=False), script.now)
    actions = script.walker.heard(Answer(m.NoAccount(), QUESTION, is_certain=False), script.now)
    assert CaughtUp(is_proven=True) in actions


def test_a_walker_tells_what_it_reached_and_what_came_before() -> None:
    script = reading()
    assert script.walker.reached == Reached(Cursor(GUID), None, None)
    script.row(row("a", 1))
    assert script.walker.reached == Reached(cursor(1), Cursor(GUID), row("a", 1).account_guid)
    script.row(row("b", 1))
    assert script.walker.reached == Reached(cursor(1), Cursor(GUID), row("b", 1).account_guid), "the same numbers"
    script.row(row("c", 2))
    assert script.walker.reached == Reached(cursor(2), cursor(1), row("c", 2).account_guid)


def test_after_a_walk_that_is_what_the_walk_came_to() -> None:
    script = idle()
    script.walker.want_walk(script.now)
    for number in (1, 2):
        script.row(row(f"w{number}", number))
    script.nothing()
    script.nothing()
    assert script.walker.reached == Reached(cursor(2), cursor(1), row("w2", 2).account_guid)


def waiting(since: Cursor | None = None) -> Script:
    """Return a script whose walker waits for its turn to read a list."""
    script = Script(since, has_turn=False)
    script.begin()
    script.guid()
    assert script.guid() == []
    assert script.walker.phase is Phase.WAITING
    assert script.walker.needs_turn
    return script


def test_a_new_list_is_not_asked_for_before_its_turn_and_the_connection_is_kept() -> None:
    script = waiting()
    assert script.wait() == [Say(m.KeepAlive())]
    assert script.now == PACE.keepalive


def test_a_turn_that_comes_at_once_begins_the_list() -> None:
    script = waiting()
    script.now += FRESH_SECONDS
    assert script.walker.take_turn(script.now) == [EpochBegan(Cursor(GUID)), Ask(Cursor(GUID))]
    script.nothing()
    assert not script.walker.needs_turn


def test_after_a_long_wait_the_guid_is_probed_anew() -> None:
    script = waiting()
    script.now += FRESH_SECONDS + 1
    assert script.walker.take_turn(script.now) == [Ask(Cursor())]
    assert script.guid(OTHER_GUID) == [Ask(Cursor())]
    assert script.walker.needs_turn
    assert script.guid(OTHER_GUID) == [EpochBegan(Cursor(OTHER_GUID)), Ask(Cursor(OTHER_GUID))]


def test_a_list_that_is_the_known_one_after_all_needs_no_turn() -> None:
    script = Script(cursor(7), has_turn=False)
    script.begin()
    script.guid(OTHER_GUID)
    assert script.guid(OTHER_GUID) == []
    script.now += FRESH_SECONDS + 1
    script.walker.take_turn(script.now)
    script.guid()
    script.guid()
    assert script.walker.phase is Phase.READING
    assert not script.walker.needs_turn


def test_what_a_pbx_says_unasked_while_it_waits_changes_nothing() -> None:
    script = waiting(replace(cursor(7), guid=OTHER_GUID))
    assert script.hear(Stray(m.AccountRow(row("a", 9)))) == []
    assert script.hear(Stray(m.AccountRow(replace(row("a", 9), is_deleted=True)))) == []
    assert script.nothing() == [], "nor does an answer that comes too late"
    assert script.walker.want_walk(script.now) == []
    assert script.walker.phase is Phase.WAITING


def test_a_full_walk_waits_for_its_turn_while_changes_are_read() -> None:
    script = waiting()
    script.walker.take_turn(script.now)
    script.row(row("a", 1))
    script.nothing()
    script.walker.give_turn_back()
    assert script.walker.want_walk(script.now) == []
    assert script.walker.needs_turn
    script.wait_for_question()
    assert script.row(row("b", 2)) == [RowRead(row("b", 2), cursor(2)), Ask(cursor(2))]
    assert script.nothing() == [CaughtUp(is_proven=True)]
    assert script.walker.take_turn(script.now) == [WalkBegan(), Ask(Cursor(GUID))]


def test_another_list_in_the_midst_of_the_first_has_its_turn_already() -> None:
    script = waiting()
    script.walker.take_turn(script.now)
    told = row("a", 1)
    assert EpochBegan(Cursor(OTHER_GUID)) in script.row(replace(told, cursor=replace(told.cursor, guid=OTHER_GUID)))


def test_a_walk_that_ends_in_a_new_list_is_over_before_that_waits() -> None:
    script = waiting()
    script.walker.take_turn(script.now)
    script.row(row("a", 1))
    script.nothing()
    script.walker.want_walk(script.now)
    assert script.walker.is_walking
    script.walker.give_turn_back()
    told = row("a", 1)
    other = replace(told, cursor=replace(told.cursor, guid=OTHER_GUID))
    assert script.row(other) == [WalkEnded(is_proven=False, until=cursor(1))]
    assert script.walker.phase is Phase.WAITING
