"""What shows in whatever a PBX says: how it writes, introduces itself, keeps connections alive."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from bridge.ops.observe.about_list import optional_style
from bridge.ops.observe.evidence import Evidence
from bridge.ops.observe.finding import Finding, Kind, conclude
from bridge.pbx.recording.exchanges import Said, Talk
from bridge.pbx.recording.names import MEMBERS
from bridge.pbx.wire import messages as m

AT_ONCE_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 65.0
CUT_SECONDS: Final = 50.0
SECOND_SECONDS: Final = 5.0

_SRCS: Final = {
    "echoed": Kind("is repeated in the answer", "src-echoed"),
    "dropped": Kind("is not in the answer", "src-dropped"),
}
_APIS: Final = {
    "PbxAccountApi": Kind("PbxAccountApi", "api-echoed"),
    "": Kind("nothing", "api-dropped"),
    "PbxImpersonation": Kind("PbxImpersonation", "api-impersonation"),
}
_OPTIONALS: Final = {
    "absent": Kind("is left out", "optional-absent"),
    "null": Kind("is null", "optional-null"),
    "empty": Kind("is an empty text", "optional-empty"),
}
_JSONS: Final = {
    "plain": Kind("begins with its type"),
    "shuffled": Kind("has its type somewhere behind", "json-shuffled"),
}
_CHALLENGES: Final = {
    "text": Kind("a text (its characters are not recorded)"),
    "number": Kind("a number", "challenge-number"),
}
_INTRODUCTIONS: Final = {
    "none": Kind("does not introduce itself", "pbxinfo-none"),
    "early": Kind("introduces itself before it lets us in", "pbxinfo-early"),
    "late": Kind("introduces itself some seconds after the login", "pbxinfo-late"),
    "repeated": Kind("introduces itself after the login, and again", "pbxinfo-repeated"),
    "unlisted": Kind("introduces itself, and PbxAccountApi is not among its apis", "pbxinfo-unlisted"),
    "bare": Kind("introduces itself without its version", "pbxinfo-bare"),
    "after": Kind("introduces itself after the login", "pbxinfo-after"),
}
_APP_INFOS: Final = {
    "none": Kind("does not ask", "appinfo-none"),
    "before": Kind("asks before it introduces itself", "appinfo-before"),
    "after": Kind("asks after it introduced itself", "appinfo-after"),
    "alone": Kind("asks, and does not introduce itself"),
}
_KEEPALIVES: Final = {
    "answered": Kind("answers them", "keepalive-answered"),
    "ignored": Kind("takes no notice of them, and cuts no quiet connection", "keepalive-ignored"),
    "sent": Kind("sends its own", "keepalive-sent"),
    "required": Kind("cuts a connection on which nothing was said for a while", "keepalive-required"),
}
_SECONDS: Final = {
    "allowed": Kind("both live", "second-allowed"),
    "refused": Kind("the second is not let in", "second-refused"),
    "replaces": Kind("the first is closed", "second-replaces"),
}


def about_manner(evidence: Evidence) -> Iterator[Finding]:
    """Yield what shows in whatever the PBX says."""
    talks = evidence.transcript.talks
    told = [said for said in evidence.answers if said.content]
    asked = [each for each in evidence.transcript.exchanges if each.answer is not None and each.question.src]
    srcs = ["echoed" if each.answer is not None and each.answer.content.get("src") else "dropped" for each in asked]
    yield conclude("src", "The src of a question", srcs, _SRCS, otherwise="no question with one was answered")
    results = [said for said in told if said.content.get("mt") == "AccountInfoResult"]
    apis = [str(said.content.get("api") or "") for said in results]
    yield conclude("api", "What an answer says as api", apis, _APIS, otherwise="no question was answered")
    style = optional_style(evidence)
    yield conclude(
        "JSON",
        "A member without a value",
        [style] * len(evidence.probes) if style else [],
        _OPTIONALS,
        otherwise="the guid was not told on its own",
        enough=2,
    )
    first = ["plain" if next(iter(said.content)) == "mt" else "shuffled" for said in told]
    yield conclude("JSON", "An answer", first, _JSONS, otherwise="no question was answered")
    yield from _strange(evidence, results)
    challenges = [
        "number" if isinstance(said.content.get("challenge"), int) else "text"
        for talk in talks
        for said in talk.login
        if isinstance(said.message, m.AppChallengeResult)
    ]
    yield conclude("login", "The challenge of a login", challenges, _CHALLENGES, otherwise="the PBX logged in at us")
    introductions = [kind for talk in talks if (kind := _introduction(talk))]
    if "repeated" in introductions:  # on a short connection there is no time for that
        introductions = [kind for kind in introductions if kind != "after"]
    yield conclude("login", "How it introduces itself", introductions, _INTRODUCTIONS, otherwise="not seen", enough=2)
    app_infos = [kind for talk in talks if (kind := _app_info(talk))]
    yield conclude(
        "login", "Whether it asks what the app offers", app_infos, _APP_INFOS, otherwise="not seen", enough=2
    )
    yield conclude(
        "keep-alive",
        "Keep-alives and quiet connections",
        _keepalives(evidence),
        _KEEPALIVES,
        otherwise="no connection was quiet for long enough",
    )
    yield conclude(
        "second",
        "A second connection of the same App object",
        _seconds(talks),
        _SECONDS,
        otherwise="there was none beside the first",
        enough=2,
    )


def _strange(evidence: Evidence, results: list[Said]) -> Iterator[Finding]:
    """Yield what nobody here knows: members, messages."""
    strange = [sorted(said.content.keys() - MEMBERS) for said in results]
    names = {name for members in strange for name in members}
    if names:
        often = sum(bool(members) for members in strange)
        words = f"{often} of {len(results)} answers have members that nobody here knows ({len(names)} names)"
        yield Finding(
            "JSON",
            "Members of answers",
            words,
            conclude("", "", [""] * often, {"": Kind("")}, otherwise="").sureness,
            often,
            ("json-extra",) if often == len(results) else (),
            () if often == len(results) else (words,),
        )
    every = [said for talk in evidence.transcript.talks for said in (*talk.login, *talk.unasked)]
    other = sum(isinstance(said.message, m.Other) for said in every)
    unreadable = sum(isinstance(said.message, m.Unreadable) for said in every)
    for count, what in ((other, "of a type that nobody here knows"), (unreadable, "that cannot be read")):
        if count:
            words = f"{count} messages came {what}"
            kind = {words: Kind(words)}
            found = conclude("messages", "What else it says", [words] * count, kind, otherwise="")
            yield Finding(found.unknown, found.question, words, found.sureness, count, (), (words,))


def _introduction(talk: Talk) -> str:
    if any(isinstance(said.message, m.PbxInfo) for said in talk.login):
        return "early"
    let_in_at = talk.let_in_at
    if let_in_at is None:
        return ""
    told = [said for said in talk.unasked if isinstance(said.message, m.PbxInfo)]
    return _introduced(told, let_in_at) if told else _not_introduced(talk, let_in_at)


def _not_introduced(talk: Talk, let_in_at: float) -> str:
    """Return ``none`` where there was time enough."""
    return "none" if (talk.closed_at or talk.opened_at + QUIET_SECONDS) - let_in_at > SECOND_SECONDS else ""


def _introduced(told: Sequence[Said], let_in_at: float) -> str:
    if told[0].at - let_in_at > AT_ONCE_SECONDS:
        return "late"
    if len(told) > 1:
        return "repeated"
    content = told[0].content
    if "PbxAccountApi" not in (content.get("apis") or ()):
        return "unlisted"
    return "after" if content.get("version") else "bare"


def _app_info(talk: Talk) -> str:
    said = [each.message for each in (*talk.login, *talk.unasked) if isinstance(each.message, m.AppInfo | m.PbxInfo)]
    asks = [index for index, message in enumerate(said) if isinstance(message, m.AppInfo)]
    tells = [index for index, message in enumerate(said) if isinstance(message, m.PbxInfo)]
    if talk.let_in_at is None:
        return ""
    if not asks:
        return "none"
    if not tells:
        return "alone"
    return "before" if asks[0] < tells[0] else "after"


def _keepalives(evidence: Evidence) -> list[str]:
    seen: set[str] = set()
    longest = 0.0
    for talk in evidence.transcript.talks:
        ours = sorted([*talk.keepalives, *(each.asked_at for each in talk.exchanges)])
        for said in talk.unasked:
            if isinstance(said.message, m.KeepAlive):
                is_answer = any(0 <= said.at - at < AT_ONCE_SECONDS for at in talk.keepalives)
                seen.add("answered" if is_answer else "sent")
        until = talk.closed_at or evidence.transcript.ended_at
        longest = max([longest, *(b - a for a, b in pairwise([*ours, until]))])
        if ours and talk.closed_at is not None and not talk.is_ours and talk.closed_at - ours[-1] >= CUT_SECONDS:
            seen.add("required")
    if not seen and longest >= QUIET_SECONDS and any(talk.keepalives for talk in evidence.transcript.talks):
        seen.add("ignored")
    return sorted(seen)


def _seconds(talks: list[Talk]) -> Iterator[str]:
    for first in talks:
        for second in talks:
            if not first.opened_at < second.opened_at < (first.closed_at or float("inf")):
                continue
            if first.let_in_at is None:
                continue
            if second.let_in_at is None:
                yield "refused"
            elif (
                first.closed_at is not None
                and not first.is_ours
                and first.closed_at - second.let_in_at < SECOND_SECONDS
            ):
                yield "replaces"
            elif any(each.answer is not None and each.asked_at > second.let_in_at for each in first.exchanges):
                yield "allowed"
