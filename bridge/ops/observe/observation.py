"""All that was found out about one PBX, and what the bridge does about each of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from bridge.ops.observe.about_changes import about_changes
from bridge.ops.observe.about_cursor import about_cursor
from bridge.ops.observe.about_list import about_list
from bridge.ops.observe.about_manner import about_manner
from bridge.ops.observe.evidence import Evidence
from bridge.ops.observe.finding import Finding, Sureness
from bridge.pbx.recording.exchanges import transcribe
from bridge.pbx.recording.frames import Frame

NOT_LOOKED_AT: Final = (
    "how it refuses a login, and whether it wants every field of one (no wrong login is sent)",
    "what it does when asked too fast (it is not)",
    "what becomes of a place older than its history (nobody can wait for that)",
    "whether a PBX that dials, or a proxy before us, cuts a connection without pings (one is sent every 40 seconds)",
    "white space and escapes of its JSON, and whether a message is several frames (they are not recorded)",
)
"""What an observation says nothing about."""

_BRIDGE: Final[Mapping[str, str]] = {
    "U1": "an answer without account, or the last account again, is a proven end; silence and errors prove nothing",
    "U2": "asks one question at a time, and takes a late answer as what it is",
    "U3": "believes an explicit deletion at once; otherwise an account has to be missing in two proven walks",
    "U4": "asks for the guid twice on every connection; another one means a new list, read from its start",
    "U5": "sends usn and ausn back as they came, and compares them for equality only",
    "U6": "compares with the mirror: what is known is told to nobody",
    "U7": "asks again, then probes, then connects anew; takes no error for the end of the list",
    "U8": "assumes nothing; publishes what is listed",
    "U9": "keeps what a row leaves out where there is no info; takes info as the whole where there is",
    "U10": "does not apply what nobody asked for, and asks once more instead",
    "U11": "ignores the order, and believes an end only when it is proven",
    "U12": "upserts, so that a list told anew changes nothing; a nightly walk finds what was left out",
    "U13": "asks one question at a time, with a pause after slow answers; max_rows_per_second spares it more",
    "U14": "publishes each row that is told, with the state that it tells",
    "src": "matches answers by it, and without it by their turn",
    "api": "takes each of PbxAccountApi, PbxImpersonation and nothing",
    "JSON": "reads members by their names and leaves alone what it does not know",
    "login": "needs none of it where it dials; of a PBX that dials, the login says who it is",
    "keep-alive": "says something every keepalive_seconds",
    "second": "reads on one connection; one that is closed is opened again, with a growing pause",
    "messages": "leaves them alone, and counts those that cannot be read",
}


@dataclass(frozen=True, slots=True)
class Observation:
    """What was found out."""

    findings: Sequence[Finding]

    @property
    def words(self) -> Sequence[str]:
        """The pretend PBX's words for how this one behaves, as far as it was seen."""
        return tuple(dict.fromkeys(word for finding in self.findings for word in finding.words))

    @property
    def uncovered(self) -> Sequence[str]:
        """What it does that no word says."""
        return tuple(told for finding in self.findings for told in finding.uncovered)

    def as_json(self) -> Mapping[str, Any]:
        """Return everything as plain values."""
        return {
            "version": 1,
            "uncovered": self.uncovered,
            "modes": self.words,
            "findings": [asdict(finding) | {"how_sure": finding.how_sure} for finding in self.findings],
            "not_looked_at": NOT_LOOKED_AT,
        }


def conclude_from(frames: Iterable[Frame]) -> Observation:
    """Return what *frames*, which are under pseudonyms or not, say about a PBX."""
    evidence = Evidence(transcribe(frames))
    found = [*about_list(evidence), *about_cursor(evidence), *about_changes(evidence), *about_manner(evidence)]
    history = Finding("U12", "A place older than its history", "not seen: nothing was that old", Sureness.UNKNOWN)
    listed = [replace(finding, bridge=_BRIDGE[finding.unknown]) for finding in (*found, history)]
    return Observation(sorted(listed, key=_order))


def _order(finding: Finding) -> tuple[int, str]:
    number = finding.unknown.removeprefix("U")
    return (int(number), "") if number.isdecimal() else (100, finding.unknown)
