"""What was found out about one open question."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

ENOUGH: Final = 3
"""Times that something has to be seen, and never otherwise, to be sure."""


NEVER: Final = 1 << 30
"""The same, of what can never be sure, however often it was seen."""


class Sureness(StrEnum):
    """How sure that is."""

    SURE = "sure"
    LIKELY = "likely"
    CONTRADICTORY = "contradictory"
    UNKNOWN = "unknown"


class Kind(NamedTuple):
    """One way in which a PBX may behave."""

    does: str
    """In plain words."""
    word: str = ""
    """The pretend PBX's word for it; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one open question, as far as there is one."""

    unknown: str
    """Its number in the list of what is open, U1 to U14, or what it is about."""
    question: str
    does: str
    sureness: Sureness
    seen: int = 0
    """How often."""
    words: tuple[str, ...] = ()
    """The pretend PBX's words for it."""
    uncovered: tuple[str, ...] = ()
    """What it does that no word says."""
    bridge: str = ""
    """What the bridge does about it."""

    @property
    def how_sure(self) -> str:
        """In words."""
        match self.sureness:
            case Sureness.SURE:
                return f"sure: seen {self.seen} times and never otherwise"
            case Sureness.LIKELY:
                return f"likely: seen {'once' if self.seen == 1 else f'{self.seen} times'}"
            case Sureness.CONTRADICTORY:
                return "contradictory: seen in several ways"
            case Sureness.UNKNOWN:
                return "not known"


def conclude(  # noqa: PLR0913 - what makes a finding
    unknown: str, question: str, seen: Iterable[str], kinds: Mapping[str, Kind], *, otherwise: str, enough: int = ENOUGH
) -> Finding:
    """Return what follows from *seen*, names of *kinds*; of one that is not among these the name says what was seen.

    *otherwise* says why nothing is known where nothing was seen.
    """
    counted = Counter(seen)
    if not counted:
        return Finding(unknown, question, otherwise, Sureness.UNKNOWN)
    found = {name: kinds.get(name, Kind(name)) for name in counted}
    if len(found) > 1:
        told = "; ".join(f"{found[name].does} ({count} times)" for name, count in counted.most_common())
        return Finding(unknown, question, told, Sureness.CONTRADICTORY, counted.total(), (), (f"{question}: {told}",))
    ((name, count),) = counted.items()
    kind = found[name]
    return Finding(
        unknown,
        question,
        kind.does,
        Sureness.SURE if count >= enough else Sureness.LIKELY,
        count,
        (kind.word,) if kind.word else (),
        () if kind.word or name in kinds else (f"{question}: {kind.does}",),
    )
