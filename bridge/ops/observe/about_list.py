"""What reading the list shows: U1, U2, U7, U11, U13."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any, Final

from bridge.ops.observe.about_cursor import are_of_one_type, numbers
from bridge.ops.observe.evidence import Evidence, Outcome, Sorted
from bridge.ops.observe.finding import NEVER, Finding, Kind, Sureness, conclude
from bridge.pbx.recording.exchanges import Talk
from bridge.pbx.wire import messages as m

MEMBERS: Final = ("guid", "usn", "ausn", "account-guid", "account-h323", "info")
FEW: Final = 5
"""Accounts of which nobody can tell how they are ordered."""

MANY: Final = 20
AT_ENDS: Final = 3
MANY_ROWS: Final = 10
CUT_SECONDS: Final = 50.0
REPLACED_SECONDS: Final = 10.0

_ENDS: Final = {
    "guid": Kind("answers with its guid alone", "idle-guid"),
    "bare": Kind("answers without guid, numbers or account", "idle-bare"),
    "cursor": Kind("answers with usn and ausn, and no account", "idle-cursor"),
    "empty": Kind('answers with an empty text as "account-guid"', "idle-empty"),
    "null": Kind('answers with null as "account-guid"', "idle-null"),
    "repeat": Kind("tells the last account again", "idle-repeat"),
    "silent": Kind("says nothing at all (it may hold the question until something changes)", "idle-silent"),
    "held": Kind("says nothing until something changes, and then tells that", "idle-hold"),
    "error": Kind("answers with an error", "idle-error"),
}
_STRANGE: Final = "answers with something that nobody here can read"
_AT_END: Final = {
    Outcome.HELD: "held",
    Outcome.ERROR: "error",
    Outcome.REPEATED: "repeat",
    Outcome.STUCK: "tells another account than the last one, with the numbers of that",
    Outcome.ANEW: "begins its list anew",
    Outcome.STRANGE: _STRANGE,
}
_HOLDS: Final = {
    "single": Kind("the newest question is answered, older ones never are", "hold-single"),
    "all": Kind("every held question is answered", "hold-all"),
    "queue": Kind("held questions are answered in their order, one for each change", "hold-queue"),
}
_ERRORS: Final = {
    "prop": Kind("an AccountInfoResult with an error in it, and all is well when asked again", "err-prop"),
    "mt": Kind('a message of type "Error", and all is well when asked again', "err-mt"),
    "silence": Kind("a question now and then stays unanswered, and all is well when asked again", "err-silent"),
    "closed": Kind("a connection is closed now and then, and all is well on the next", "err-close"),
    "none": Kind("no question met an error", "err-none"),
}
_WALKS: Final = {
    "ascending": Kind(
        "in the order of its numbers, the oldest change first (what changes meanwhile do to that was not seen)",
        "walk-usn",
    ),
    "other": Kind(
        "in another order than that of its numbers (what changes meanwhile do to that was not seen)", "walk-table"
    ),
}
_SPEEDS: Final = {"fast": Kind("", "fast"), "slow": Kind("", "slow")}


def about_list(evidence: Evidence) -> Iterator[Finding]:
    """Yield what reading the list shows."""
    yield _ends(evidence)
    yield conclude(
        "U2",
        "What becomes of several questions that it holds",
        _holds(evidence),
        _HOLDS,
        otherwise="no question was seen to be held and answered later",
        enough=NEVER,
    )
    yield _errors(evidence)
    yield _order(evidence)
    yield _speed(evidence)


def optional_style(evidence: Evidence) -> str:
    """Return how members without a value are written: ``absent``, ``null``, ``empty``, or nothing where not seen."""
    for probe in evidence.probes:
        if probe.answer is not None and isinstance(probe.answer.message, m.NoAccount):
            value = probe.answer.content.get("account-h323", 0)
            return {0: "absent", None: "null", "": "empty"}.get(value, "") if not isinstance(value, dict | list) else ""
    return ""


def _ends(evidence: Evidence) -> Finding:
    question = "The answer where nothing further has changed"
    seen = [_end(evidence, each) for each in evidence.ends]
    # One of those that come now and then says nothing about the end.
    passing = {_PASSING[each.outcome] for each in evidence.sorted if each.is_passing}
    kept = [kind for kind in seen if kind not in passing] or seen
    kept += _passing_at_ends_only(evidence, kept)
    found = conclude("U1", question, kept, _ENDS, otherwise="the end of the list was not reached")
    is_changed = any(
        {Outcome.SILENCE, Outcome.ROW} <= {each.outcome for each in listed} for listed in evidence.by_question.values()
    )
    if set(kept) == {"silent"} and not is_changed:
        return replace(found, sureness=Sureness.LIKELY)  # a question that is held looks like that, too
    return found


_MET: Final = "a question now and then meets something that nobody here can read, and an answer when asked again"
_LATE: Final = "a question now and then is answered when nobody waits for it any more"
_HUNG_UP: Final = "a connection is closed now and then although no question is open"
_PASSING: Final = {
    Outcome.ERROR: "error",
    Outcome.SILENCE: "silent",
    Outcome.CLOSED: "closed",
    Outcome.STRANGE: _STRANGE,
}


def _passing_at_ends_only(evidence: Evidence, kept: Sequence[str]) -> list[str]:
    """Return what went wrong so often where nothing further had changed, and nowhere else, that it belongs there."""
    if not kept:
        return []
    rows = sum(each.outcome is Outcome.ROW for each in evidence.sorted)
    passing, is_elsewhere = [], False
    for listed in evidence.by_question.values():
        for each, following in pairwise(listed):
            if each.is_passing and each.outcome is not Outcome.CLOSED:
                passing.append(each)
                is_elsewhere |= following.outcome is Outcome.ROW
    if is_elsewhere or len(passing) < AT_ENDS or rows < MANY_ROWS:
        return []
    return [_PASSING[each.outcome] for each in passing]


def _end(evidence: Evidence, each: Sorted) -> str:
    if each.outcome is Outcome.SILENCE:
        return "held" if any(other.outcome is Outcome.HELD for other in evidence.sorted) else "silent"
    if each.outcome is Outcome.NOTHING:
        return _without_account(each.said.content, optional_style(evidence))
    return _AT_END[each.outcome]


def _without_account(content: dict[str, Any], style: str) -> str:
    told = {name for name in MEMBERS if content.get(name) not in (None, "", {}, [])}
    if told == {"guid"}:
        return "guid"
    if told and told <= {"usn", "ausn"}:
        return "cursor"
    if told:
        return f"answers with {', '.join(sorted(told))} and no account"
    value = content.get("account-guid", 0)
    if value == "" and style != "empty":
        return "empty"
    return "null" if value is None and style != "null" else "bare"


def _holds(evidence: Evidence) -> Iterator[str]:
    """Yield what became of questions that were under way at once when the first of them was answered."""
    for talk in evidence.transcript.talks:
        own = [each for each in talk.exchanges if each.question.cursor.guid in evidence.guids]
        waiting = {id(each.exchange) for each in evidence.sorted if each.outcome is Outcome.HELD}
        late = [each.answer.at for each in own if each.answer is not None and id(each) in waiting]
        if not late:
            continue
        at = min(late)
        held = [each for each in own if each.asked_at < at - 1 and (each.answer is None or each.answer.at >= at)]
        answered = [each for each in held if each.answer is not None and each.answer.at < at + 1]
        if len(held) < 2:  # noqa: PLR2004 - one alone shows nothing
            continue
        if len(answered) == len(held):
            yield "all"
        elif answered == held[-1:]:
            yield "single"
        elif answered == held[: len(answered)]:
            yield "queue"
        else:
            yield "some of several are answered"


def _errors(evidence: Evidence) -> Finding:
    question = "What an error looks like that passes"
    passing = [each for each in evidence.sorted if each.is_passing]
    seen = [
        ("mt" if each.said.content.get("mt") == "Error" else "prop")
        if each.outcome is Outcome.ERROR
        else each.outcome.value
        for each in passing
    ]
    unasked = [said for talk in evidence.transcript.talks for said in talk.unasked]
    strays = any(isinstance(said.message, m.AccountReply) for said in unasked)
    seen = [_LATE if kind == "silence" and strays else _MET if kind == "strange" else kind for kind in seen]
    seen += [_LATE] * sum(_is_late(each) for each in evidence.sorted)
    seen += [_HUNG_UP] * sum(_is_hung_up(talk, evidence) for talk in evidence.transcript.talks)
    asked = sum(1 for _ in evidence.sorted)
    if not seen and asked < MANY:
        return conclude("U7", question, [], _ERRORS, otherwise=f"none came in {asked} questions, which are few")
    enough = 2 if seen else NEVER  # what never came may come yet
    return conclude("U7", question, seen or ["none"] * asked, _ERRORS, otherwise="", enough=enough)


def _is_late(each: Sorted) -> bool:
    answer, given_up_at = each.exchange.answer, each.exchange.given_up_at
    is_after = answer is not None and given_up_at is not None and given_up_at < answer.at
    return is_after and each.outcome is not Outcome.HELD


def _is_hung_up(talk: Talk, evidence: Evidence) -> bool:
    """Tell whether the PBX closed a connection for no reason that another finding tells."""
    if talk.closed_at is None or talk.is_ours or talk.let_in_at is None:
        return False
    reboot, closed_at = evidence.windows.get("reboot"), talk.closed_at
    is_open = any(each.closed_with is not None for each in talk.exchanges)
    last = max([*talk.keepalives, *(each.asked_at for each in talk.exchanges)], default=talk.let_in_at)
    later = [other for other in evidence.transcript.talks if other.opened_at > talk.opened_at]
    is_replaced = any(0 <= closed_at - other.opened_at < REPLACED_SECONDS for other in later)
    is_quiet = closed_at - last >= CUT_SECONDS
    return not (is_open or is_replaced or is_quiet or (reboot is not None and reboot.has(closed_at)))


def _order(evidence: Evidence) -> Finding:
    question = "In which order the list is read from its start"
    walk = evidence.longest_walk
    places = [place for each in walk if (place := numbers(each)) is not None] if are_of_one_type(walk) else []
    if len(places) < FEW or len(places) < len(walk):
        return conclude("U11", question, [], _WALKS, otherwise=_unordered(len(walk)))
    by_usn, by_pair = [usn for usn, _ in places], [(ausn, usn) for usn, ausn in places]
    by_larger = [max(place) for place in places]
    is_ascending = any(order == sorted(order) for order in (by_usn, by_pair, by_larger))
    seen = ["ascending" if is_ascending else "other"]
    return conclude("U11", question, seen * len(places), _WALKS, otherwise="", enough=NEVER)


def _unordered(accounts: int) -> str:
    return f"{accounts} accounts are too few to tell" if accounts < FEW else "their numbers cannot be put into an order"


def _speed(evidence: Evidence) -> Finding:
    question = "How fast answers come"
    delays = [each.exchange.delay for each in evidence.sorted if each.outcome in {Outcome.ROW, Outcome.NOTHING}]
    if not delays:
        return Finding("U13", question, "no answer was timed", Sureness.UNKNOWN)
    usual, longest = median(delays), max(delays)
    told = f"usually after {usual:.3f} s, at most after {longest:.3f} s"
    sureness = Sureness.SURE if len(delays) >= MANY else Sureness.LIKELY
    words = ("slow",) if usual >= 0.5 else ("fast",) if longest < 0.25 else ()  # noqa: PLR2004 - seconds
    return Finding("U13", question, told, sureness, len(delays), words)
