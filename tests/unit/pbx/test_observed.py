"""What a PBX does otherwise than it was observed to do is told once; what was not found out says nothing."""

import json
from pathlib import Path

import pytest

from bridge.errors import FileUnusable
from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.ops.observe.observation import Observation
from bridge.ops.observe.probing import Observer, Plan
from bridge.pbx.observed import ObservedHabits, compare, read_observation
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Answer, Event, Stray
from bridge.simulator.modes import ALL_WORDS, Modes
from bridge.simulator.pbx import Pbx
from tests.support.observing import PretendLine, observed

GUID, PLACE = Token('"g"'), Cursor(Token('"g"'), Token('"7"'), Token('"3"'))


def row(usn: str = '"8"', ausn: str | None = '"3"', *, guid: bool = False, is_deleted: bool = False) -> m.AccountRow:
    cursor = Cursor(GUID if guid else None, Token(usn), Token(ausn) if ausn else None)
    return m.AccountRow(Row(cursor, AccountGuid("a"), "erika", {"cn": "Erika"}, is_deleted))


def answer(reply: m.AccountReply, cursor: Cursor = PLACE, *, is_certain: bool = True) -> Answer:
    return Answer(reply, m.AccountInfo("acct-1", cursor), is_certain)


@pytest.mark.parametrize(
    ("word", "event", "told"),
    [
        ("cursor-string", answer(row("8")), "usn as a number"),
        ("cursor-huge", answer(row()), "usn as a text"),
        ("ord-lex", answer(row(ausn=None)), "accounts without ausn"),
        ("ord-absent", answer(row()), "accounts with ausn"),
        ("rowguid-absent", answer(row(guid=True)), "accounts with the guid of the list"),
        ("src-echoed", answer(row(), is_certain=False), "answers without src"),
        ("idle-guid", answer(m.NoAccount(Cursor())), "neither guid nor numbers"),
        ("idle-bare", answer(m.NoAccount(PLACE)), "numbers and no account"),
        ("idle-silent", answer(m.NoAccount(Cursor(GUID))), "its guid alone"),
        ("idle-guid", answer(row('"7"')), "the last account again"),
        ("err-none", answer(m.RequestError("no")), "answers with an error"),
        ("del-none", answer(row(is_deleted=True)), "deletions in words"),
        ("push-none", Stray(row()), "accounts that nobody asked for"),
    ],
)
def test_what_no_observation_has_shown_is_told_once(word: str, event: Event, told: str) -> None:
    habits = ObservedHabits([word])
    assert told in habits.unlike(event)
    assert habits.unlike(event) == ""
    assert ObservedHabits([]).unlike(event) == ""


def test_an_error_at_each_end_is_no_news_where_that_was_observed() -> None:
    assert ObservedHabits(["idle-error", "err-none"]).unlike(answer(m.RequestError("no"))) == ""


@pytest.mark.parametrize("word", ALL_WORDS)
async def test_a_pbx_that_does_what_was_observed_is_no_news(word: str) -> None:
    pbx = Pbx(accounts=12, seed=3, modes=Modes.parse([word]))
    observation, _ = await observed(pbx)
    assert unlike(observation, await heard(pbx)) == []


async def heard(pbx: Pbx) -> list[Event]:
    """Return what another observer hears of *pbx*."""
    line = PretendLine(pbx)
    await Observer(line, line.notebook, Plan()).run()
    events = [event for contact in line.contacts for event in contact.heard]
    answers = [event for event in events if isinstance(event, Answer)]
    guids = {each.reply.cursor.guid for each in answers if isinstance(each.reply, m.NoAccount)} | {None}
    foreign = [each for each in answers if each.question.cursor.guid not in guids]  # which a bridge asks with never
    return [event for event in events if event not in foreign]


def unlike(observation: Observation, events: list[Event]) -> list[str]:
    habits = ObservedHabits(observation.words)
    return [told for event in events if (told := habits.unlike(event))]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"version":1}', '{"modes":7}', "\x00"])
def test_an_observation_that_cannot_be_read_is_told_and_stops_nothing(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "hq.json"
    if content is not None:
        file.write_text(content, "utf-8")
    with pytest.raises(FileUnusable, match=r"hq\.json"):
        read_observation(file)
    said: list[str] = []
    compare(file, "hq", said.append)(answer(row()))
    assert ["compared with nothing" in words for words in said] == [True]


def test_what_is_unlike_comes_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "hq.json"
    file.write_text(json.dumps({"version": 1, "modes": ["cursor-string", "of-a-later-version"]}), "utf-8")
    said: list[str] = []
    hear = compare(file, "hq", said.append)
    for _ in range(3):
        hear(answer(row("8")))
    assert len(said) == 1
    assert "usn as a number" in said[0]
    assert "account-bridge observe hq --json" in said[0]
