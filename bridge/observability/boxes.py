"""Many PBXs in few words: one box for each reason, and who needs a look before who is well."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bridge.observability.component_status import LEVELS, Level

FEW: Final = 12
"""PBXs that are told one by one."""

NAMED: Final = 3
"""PBXs that a box names."""

WAITS_FOR_TURN: Final = "waits_for_turn"

_SAME: Final = "have the same trouble"
_REASONS: Final = {
    "pbx_refused_login": "refuse the login",
    "pbx_unreachable": "cannot be reached",
    "pbx_not_trusted": "show a certificate that is not trusted",
    "pbx_broke_protocol": "answer what cannot be understood",
    "pbx_refused_request": "refuse the request for accounts",
    "pbx_reading_failed": "cannot be read",
    "pbx_paused": "are paused by an operator",
    "file_unusable": "have a file that cannot be used",
    "not_connected": "are not connected",
    WAITS_FOR_TURN: "wait for their turn, while others are read",
    "walk_stalled": "have a full walk that is stuck",
    "deletions_held": "wait for a yes to deletions, or for a full walk",
    "pbx_unlike_before": "are unlike before",
    "pbx_unlike_observed": "do what no observation has shown",
    "api_not_listed": "do not list the PbxAccountApi",
    "event_unroutable": "have events that no queue takes",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that somebody should know."""

    where: str
    """``bridge``, ``outbox``, ``broker``, or the name of a PBX."""
    cause: str
    """One word for machines: the same as in metrics."""
    level: Level
    since: datetime | None
    words: str
    """What is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Box:
    """One reason, and whom it concerns."""

    where: str
    """``bridge``, ``outbox``, ``broker``, ``log``, ``door``, or the name of a PBX; of several: how many they are."""
    names: Sequence[str]
    """The PBXs that it concerns."""
    cause: str
    level: Level
    since: datetime | None
    """Of the first of them."""
    words: str


def boxes(problems: Iterable[Problem], pbxs: Mapping[str, Any]) -> list[Box]:
    """Return a box for each reason, the worst first; *pbxs* are the names that are those of PBXs."""
    found: dict[tuple[Level, str, str], list[Problem]] = {}
    for problem in problems:
        own = "" if problem.where in pbxs else f"{problem.where} {problem.words}"
        found.setdefault((problem.level, problem.cause, own), []).append(problem)
    return [_box(each) for each in found.values()]


def _box(problems: Sequence[Problem]) -> Box:
    first = problems[0]
    if len(problems) == 1:
        return Box(first.where, [first.where], first.cause, first.level, first.since, first.words)
    names = [problem.where for problem in problems]
    since = min((problem.since for problem in problems if problem.since is not None), default=None)
    reason = _REASONS.get(first.cause, _SAME)
    words = f"{len(names)} PBXs {reason}: {listed(names)}. {names[0]}: {first.words}"
    return Box(f"{len(names)} PBXs", names, first.cause, first.level, since, words)


def listed(names: Sequence[str]) -> str:
    """Return some *names*, and how many there are beside."""
    if len(names) <= NAMED + 1:
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


def by_trouble(levels: Mapping[str, Level]) -> list[str]:
    """Return names, the worst first and then in the order of the alphabet."""
    return sorted(levels, key=lambda name: (-LEVELS.index(levels[name]), name))


def told_one_by_one(levels: Mapping[str, Level]) -> tuple[list[str], Mapping[Level, int]]:
    """Return which PBXs are told one by one, and how many of each level are only counted."""
    names = by_trouble(levels)
    if len(names) <= FEW:
        return names, {}
    shown = [name for name in names if levels[name] is not Level.OK][:FEW]
    return shown, dict(_counted(levels, set(shown)))


def _counted(levels: Mapping[str, Level], shown: set[str]) -> Iterator[tuple[Level, int]]:
    for level in reversed(LEVELS):
        count = sum(one is level and name not in shown for name, one in levels.items())
        if count:
            yield level, count
