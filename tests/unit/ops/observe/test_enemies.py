"""PBXs with habits that no word of the pretend PBX says: what is told of them is right, or that it is not known."""

from collections.abc import Mapping

import pytest

from bridge.ops.observe.finding import Finding, Sureness
from bridge.ops.observe.observation import Observation
from tests.support.enemies import observed_enemy
from tests.support.enemy import Enemy

MAX_QUESTIONS = 170
"""Of an observation with all acts of a PBX with twelve accounts, whatever it does."""

SURE, LIKELY, SPLIT, UNKNOWN = Sureness.SURE, Sureness.LIKELY, Sureness.CONTRADICTORY, Sureness.UNKNOWN

READ: Mapping[str, tuple[str, str, Sureness]] = {
    "EndIsAnEmptyObject": ("U1", "something that nobody here can read", SURE),
    "EndIsNoJson": ("U1", "something that nobody here can read", SURE),
    "EndIsAnotherType": ("U1", "something that nobody here can read", SURE),
    "EndHasASrcOfItsOwn": ("U1", "something that nobody here can read", SURE),
    "EndIsAnError": ("U1", "answers with an error", SURE),
    "EndBeginsAnew": ("U1", "begins its list anew", SURE),
    "EndIsNobody": ("U1", "tells another account than the last one", SURE),
    "EndIsANewNumber": ("U1", "answers with ausn, guid, usn and no account", SURE),
    "EndIsSilentOnceThenTold": ("U7", "now and then stays unanswered", SURE),
    "NumbersMixed": ("U5", "of several forms: decimal, number", SURE),
    "NumbersRestart": ("U5", "told of several accounts", SPLIT),
    "NumbersAreTrue": ("U5", "true or false", SURE),
    "NumbersAreLists": ("U1", "something that nobody here can read", SURE),
    "NumbersAreTimes": ("U5", "texts of another form", SURE),
    "NumbersAreNegative": ("U5", "negative numbers", SURE),
    "NumbersFromOtherWriting": ("U5", "texts of another form", SURE),
    "AusnOnSomeOnly": ("U5", "some accounts come without ausn, some with", SURE),
    "ListNotSorted": ("U11", "in another order", LIKELY),
    "GuidOfTwoNodes": ("U4", "a new one for every connection", LIKELY),
    "GuidNever": ("U4", "on one connection only", UNKNOWN),
    "GuidIsAnObject": ("messages", "cannot be read", SURE),
    "GuidInCapitalsAtTheEnd": ("U4", "became another one by itself", SPLIT),
    "AnswersTwice": ("U6", "as it was told already, once more", SURE),
    "AnswersLate": ("U7", "when nobody waits for it any more", SURE),
    "AnswersOutOfOrder": ("U7", "when nobody waits for it any more", SURE),
    "TalksInBetween": ("messages", "of a type that nobody here knows", SURE),
    "PushesWhatIsKnown": ("U6", "as it was told already, once more", SURE),
    "HangsUpAfterEach": ("U7", "closed now and then although no question is open", SURE),
    "TellsEveryOtherInfo": ("U9", "some accounts come with info, and some without", SURE),
}
"""What reading shows: of which question, in which words, how sure."""

WATCHED: Mapping[str, tuple[str, str, Sureness]] = {
    "EndIsSilentOnceThenTold": ("U1", "says nothing at all", SPLIT),
    "GuidOfTwoNodes": ("U4", "a new one for every connection", SPLIT),
    "PushesNotifications": ("U10", "of a type that nobody here knows comes without a question", SPLIT),
    "DeletionIsAMessageOfItsOwn": ("U3", "something of a type that nobody here knows", LIKELY),
    "DeletionLeavesAHusk": ("U3", "no account was seen to be deleted", UNKNOWN),
    "DeletionRenumbersAll": ("U6", "nothing differs, with new numbers", SURE),
    "TemplateTouchesNumbersAtRandom": ("U5", "raises usn; ausn stays", LIKELY),
    "NumbersRestart": ("U5", "the same numbers are told of several accounts", UNKNOWN),
}
"""The same, of what an operator's acts show."""

CONCERNED: Mapping[str, set[str]] = {
    "EndIsSilentOnceThenTold": {"U1", "U7"},
    "EndHasASrcOfItsOwn": {"U1", "messages"},
    "NumbersMixed": {"U5", "U11"},
    "NumbersAreNegative": {"U5", "U11"},
    "AnswersOutOfOrder": {"U6", "U7", "api", "src"},
    "DeletionLeavesAHusk": {"U3", "U9"},
    "TalksInBetween": {"U3", "U10", "messages"},
    "TellsNullEverywhere": {"U6", "JSON"},
    "NumbersRestart": {"U1", "U5", "U6"},
    "PushesWhatIsKnown": {"U6", "U10"},
    "EndBeginsAnew": {"U1", "U5"},
    "ListNotSorted": {"U5", "U11"},
    "GuidInCapitalsAtTheEnd": {"U4", "U6"},
    "PlantsPersons": {"U1", "login"},
}
"""Questions that a habit is about, where those are others than the one above."""


def named(observation: Observation, unknown: str, words: str) -> Finding:
    found = [each for each in observation.findings if each.unknown == unknown]
    told = [each for each in found if words in each.does]
    assert told, [(each.question, each.does) for each in found]
    return told[0]


@pytest.mark.parametrize("habit", READ)
async def test_a_habit_that_no_word_says_is_told_as_it_is(habit: str) -> None:
    unknown, words, sureness = READ[habit]
    observation, _ = await observed_enemy(Enemy.habits[habit]())
    assert named(observation, unknown, words).sureness is sureness


@pytest.mark.parametrize("habit", WATCHED)
async def test_what_an_act_shows_is_told_as_it_is(habit: str) -> None:
    unknown, words, sureness = WATCHED[habit]
    observation, _ = await observed_enemy(Enemy.habits[habit](), acts=True)
    assert named(observation, unknown, words).sureness is sureness


@pytest.mark.parametrize("acts", [False, True])
@pytest.mark.parametrize("habit", Enemy.habits)
async def test_a_habit_makes_nothing_else_wrong(habit: str, *, acts: bool) -> None:
    """What a habit is not about is told as of a PBX without it, or is not known."""
    plain, _ = await observed_enemy(Enemy(), acts=acts)
    observation, recording = await observed_enemy(Enemy.habits[habit](), acts=acts)
    concerned = {table[habit][0] for table in (READ, WATCHED) if habit in table} | CONCERNED.get(habit, set())
    usual = set(plain.words) | {"slow", "err-none", "dup-none", "info-full"}  # what fewer rows do not show
    for finding in observation.findings:
        if finding.unknown not in concerned:
            assert set(finding.words) <= usual, (finding.question, finding.does)
    asked = sum(frame.by == "bridge" and '"AccountInfo"' in frame.text for frame in recording.frames)
    assert asked <= MAX_QUESTIONS


async def test_nothing_that_no_word_says_is_left_out_of_what_is_named_first() -> None:
    for habit in ("EndIsAnEmptyObject", "NumbersAreTimes", "NumbersRestart", "AnswersLate", "TellsEveryOtherInfo"):
        observation, _ = await observed_enemy(Enemy.habits[habit]())
        unknown, words, _ = READ[habit]
        assert any(words in told for told in observation.uncovered), (habit, unknown)
