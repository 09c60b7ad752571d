"""The pretend PBX is observed: what is said of it is right, or nothing is said."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from bridge.errors import PbxUnreachable
from bridge.ops.observe.finding import Sureness
from bridge.ops.observe.observation import Observation, conclude_from
from bridge.ops.observe.probing import Observer, Plan
from bridge.ops.observe.report import as_html, as_text
from bridge.simulator.modes import ALL_WORDS, Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.session import Connection
from tests.support import observing
from tests.support.observing import PretendLine, doing, observed

BY_READING = (
    *("idle-guid", "idle-bare", "idle-cursor", "idle-empty", "idle-null", "idle-repeat", "idle-silent", "idle-error"),
    *(
        "guid-session",
        "guid-request",
        "rowguid-present",
        "ord-absent",
        "dup-chain",
        "info-missing",
        "walk-table",
        "slow",
    ),
    *("stale-newguid", "stale-rows", "stale-ignore", "stale-error", "stale-silent", "stale-close"),
    *("cursor-string", "cursor-number", "cursor-hex", "cursor-zeros", "cursor-big", "cursor-huge"),
    *("err-prop", "err-mt", "err-silent", "err-close", "shape-t", "shape-l", "shape-u", "shape-o", "slow"),
    *("src-dropped", "api-dropped", "api-impersonation", "challenge-number", "json-shuffled", "json-extra"),
    *("pbxinfo-after", "pbxinfo-early", "pbxinfo-late", "pbxinfo-repeated", "pbxinfo-bare", "pbxinfo-unlisted"),
    *("keepalive-ignored", "keepalive-answered", "keepalive-sent", "keepalive-required"),
    *("optional-null", "optional-empty", "second-allowed", "second-refused", "second-replaces"),
)
"""What shows without anybody changing anything."""

BY_ACTS = (
    *(
        "idle-hold",
        "hold-single",
        "hold-all",
        "hold-queue",
        "del-flag",
        "del-none",
        "del-bare",
        "del-mt",
        "del-newguid",
    ),
    *("guid-db", "guid-boot", "ord-lex", "ord-indep", "ord-const", "info-full", "info-delta", "push-none", "push-row"),
    *("dup-late", "coalesce", "log"),
)
"""What shows when an operator does what he is asked to."""

LOOKS_LIKE = {
    "guid-node": ["guid-db"],
    "walk-snapshot": ["walk-usn", "walk-table"],
    "ord-walk": ["walk-table", "ord-lex"],
    "idle-hold": ["idle-silent"],
    "del-then-recreate": ["del-flag"],
    "del-lost": ["del-flag"],
    "dup-noop": ["dup-none"],
    "throttle-close": ["fast"],
}
"""What cannot be told from another in an observation: what is said of it is right as far as it goes."""

FIELDS = {str(word): field.name for field in fields(Modes) for word in type(getattr(Modes(), field.name))}


def pretend(*words: str) -> Pbx:
    beside = {"hold": ["idle-hold"], "app_info": ["pbxinfo-after"]}
    more = [other for word in words for other in beside.get(FIELDS[word], [])]
    return Pbx(accounts=12, seed=3, modes=Modes.parse([*more, *words]))


def said_wrongly(observation: Observation, modes: Modes) -> list[str]:
    """Return words for a question that name something else than what the PBX does."""
    does = {field.name: str(getattr(modes, field.name)) for field in fields(Modes)}
    likened = {like for word in does.values() for like in LOOKS_LIKE.get(word, ())}
    return [word for word in observation.words if does[FIELDS[word]] != word and word not in likened]


@pytest.mark.parametrize("word", BY_READING)
async def test_what_shows_in_reading_is_named(word: str) -> None:
    observation, _ = await observed(pretend(word))
    assert word in observation.words


@pytest.mark.parametrize("word", BY_ACTS)
async def test_what_shows_in_changes_is_named(word: str) -> None:
    pbx = pretend(word)
    observation, _ = await observed(pbx, operator=doing(pbx))
    assert word in observation.words


@pytest.mark.parametrize("with_acts", [False, True])
@pytest.mark.parametrize("word", ALL_WORDS)
async def test_nothing_is_said_that_is_wrong(word: str, *, with_acts: bool) -> None:
    pbx = pretend(word)
    observation, _ = await observed(pbx, operator=doing(pbx) if with_acts else None)
    assert said_wrongly(observation, pbx.modes) == []
    assert not pbx.oracle.mistakes


@pytest.mark.parametrize("word", ["idle-hold", "ord-walk", "walk-snapshot"])
async def test_what_looks_like_something_else_is_never_called_sure(word: str) -> None:
    observation, _ = await observed(pretend(word))
    named = [finding for finding in observation.findings if set(LOOKS_LIKE[word]) & set(finding.words)]
    assert {finding.sureness for finding in named} == {Sureness.LIKELY}


@pytest.mark.parametrize("word", BY_READING)
async def test_a_pbx_made_of_the_words_behaves_the_same(word: str) -> None:
    first, _ = await observed(pretend(word))
    again, _ = await observed(Pbx(accounts=12, seed=9, modes=Modes.parse(first.words)))
    assert again.words == first.words


async def test_a_small_box_is_asked_one_question_at_a_time_and_five_in_a_second_at_most() -> None:
    pbx = pretend("pbxinfo-after")
    line = PretendLine(pbx)
    await Observer(line, line.notebook, Plan()).run()
    pauses = [later - earlier for earlier, later in zip(line.asked_at, line.asked_at[1:], strict=False)]
    assert min(pauses) >= 0.2
    assert pbx.oracle.load.max_parallel == 1
    assert pbx.oracle.load.refusals == 0


async def test_an_observation_that_is_stopped_says_what_it_learnt() -> None:
    line = PretendLine(pretend("idle-bare"))

    def stop(sentence: str) -> None:
        if sentence.startswith("asking from an old place"):
            raise PbxUnreachable("stopped")

    with pytest.raises(PbxUnreachable, match="stopped"):
        await Observer(line, line.notebook, Plan(), tell=stop).run()
    observation = conclude_from(line.notebook.frames)
    assert "idle-bare" in observation.words
    assert any(finding.sureness is Sureness.UNKNOWN for finding in observation.findings)


async def test_the_end_of_a_list_that_is_read_in_part_is_not_known() -> None:
    observation, _ = await observed(pretend("idle-bare"), plan=Plan(max_rows=5))
    ends = [finding for finding in observation.findings if finding.unknown == "U1"]
    assert {finding.sureness for finding in ends} <= {Sureness.UNKNOWN}


async def test_two_ends_that_contradict_each_other_are_named_first() -> None:
    """A PBX that changes its habit: nothing is concluded, and the report begins with it."""
    pbx = pretend("idle-bare")
    line = PretendLine(pbx)

    def change(sentence: str) -> None:
        if sentence.startswith("asking at the end"):
            pbx.modes = Modes.parse(["idle-cursor"])

    await Observer(line, line.notebook, Plan(), tell=change).run()
    observation = conclude_from(line.notebook.frames)
    assert not [word for word in observation.words if word.startswith("idle-")]
    assert "No word of the pretend PBX says this" in list(as_text(observation, "hq"))[2]


@pytest.mark.parametrize("does_it", ["is skipped", "is said to be done and is not"])
async def test_nothing_follows_from_an_act_that_was_not_done(does_it: str) -> None:
    async def nobody(_name: str, _words: str) -> bool:
        await asyncio.sleep(0)
        return does_it != "is skipped"

    plain, _ = await observed(pretend("idle-bare"))
    observation, _ = await observed(pretend("idle-bare"), operator=nobody)
    assert set(observation.words) - {"err-none", "dup-none"} <= set(plain.words)


async def test_the_report_shows_every_question_and_nothing_that_a_page_would_obey() -> None:
    observation, _ = await observed(pretend("json-extra"))
    text, page = "\n".join(as_text(observation, "<hq>")), as_html(observation, "<hq>")
    for finding in observation.findings:
        assert finding.question in text
        assert finding.bridge
    assert "<hq>" not in page
    assert {finding.unknown for finding in observation.findings} >= {f"U{number}" for number in range(1, 15)}
    assert "account-bridge simulate --mode" in page


class Odd(Connection):
    """A PBX of another make: what it says is changed before it leaves."""

    change: Callable[[dict[str, Any]], dict[str, Any]]

    def send(self, text: str, delay_seconds: float) -> None:
        super().send(json.dumps(type(self).change(json.loads(text))), delay_seconds)


ODDITIES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str, str]] = {
    "an end with more than any word says": (
        lambda said: said | {"usn": "9"} if said.keys() <= {"mt", "api", "src", "guid"} and "guid" in said else said,
        "U1",
        "idle-",
    ),
    "usn as a number, ausn as a text": (
        lambda said: said | {"usn": int(said["usn"])} if said.get("account-guid") else said,
        "U5",
        "cursor-",
    ),
    "usn with a fraction": (
        lambda said: said | {"usn": int(said["usn"]) + 0.5} if said.get("account-guid") else said,
        "U5",
        "cursor-",
    ),
    "info of another make": (
        lambda said: said | {"info": {"who": "Erika", "Mustermann": 1}} if said.get("info") else said,
        "U9",
        "shape-",
    ),
}


@pytest.mark.parametrize("name", ODDITIES)
async def test_what_no_word_says_is_named_and_no_word_is_given_for_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, unknown, words = ODDITIES[name]
    monkeypatch.setattr(Odd, "change", staticmethod(change), raising=False)
    monkeypatch.setattr(observing, "connect", Odd)
    observation, _ = await observed(pretend("json-plain"))
    assert not [word for word in observation.words if word.startswith(words)]
    assert observation.uncovered, [finding for finding in observation.findings if finding.unknown == unknown]
    assert "Mustermann" not in "\n".join(as_text(observation, "hq"))


async def test_a_deletion_that_no_word_knows_is_not_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(said: dict[str, Any]) -> dict[str, Any]:
        marks = {"deleted", "del", "update"} & said.keys()
        return {name: value for name, value in said.items() if name not in marks} | ({"gone": 1} if marks else {})

    monkeypatch.setattr(Odd, "change", staticmethod(gone), raising=False)
    monkeypatch.setattr(observing, "connect", Odd)
    pbx = pretend("json-plain")
    observation, _ = await observed(pbx, operator=doing(pbx))
    assert not [word for word in observation.words if word.startswith("del-")]
    assert any("does not say so" in told for told in observation.uncovered)


async def test_a_pbx_that_says_nothing_is_not_known_and_is_asked_gently() -> None:
    class Mute(Odd):
        def send(self, text: str, delay_seconds: float) -> None:
            if "AccountInfoResult" not in text:
                Connection.send(self, text, delay_seconds)

    pbx = pretend("json-plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(observing, "connect", Mute)
        observation, _ = await observed(pbx)
    known = {word for word in observation.words if not word.startswith(("second", "keepalive", "pbxinfo", "appinfo"))}
    assert known == set()
    assert pbx.oracle.load.questions < 20


@pytest.mark.parametrize(("code", "told"), [(1006, False), (1000, True)])
async def test_a_question_on_a_connection_that_was_replaced_says_nothing_about_silence(
    code: int, *, told: bool
) -> None:
    """A PBX that dials anew has lost it; where we said goodbye, we had waited for the answer before."""
    _, recording = await observed(pretend("idle-bare"))
    frames = list(recording.frames)
    answers = [index for index, frame in enumerate(frames) if frame.by == "pbx" and "AccountInfoResult" in frame.text]
    end = next(index for index in answers if '"guid"' not in frames[index].text and '"usn"' not in frames[index].text)
    lost = [*frames[:end], frames[end]._replace(what="closed", by="bridge", text="", code=code)]
    later = [frame._replace(at=frame.at + 100.0, connection=frame.connection + 9) for frame in frames]
    ends = next(finding for finding in conclude_from([*lost, *later]).findings if finding.unknown == "U1")
    assert ("says nothing at all" in ends.does) is told
