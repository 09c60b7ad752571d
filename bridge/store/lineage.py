"""A lineage: one generation of what a store knows of a source, and why a new one begins.

Sequences and revisions count within a lineage, and an event's id is made of it, so nothing that was numbered in one can
be confused with anything of another. One begins when the store first meets a source, and for all sources at once
whenever the store may be an older state of itself: then its mirror is not what subscribers have, and nothing may be
concluded from it. What waits is still sent as it was numbered; the mirror starts empty, everything is told once more as
``initial``, and the certificate of the first proven walk says that what was not told is gone.

Three things say that a store may be an older state of itself: it says so (``backup`` writes that into every copy); the
lock file beside it expects another incarnation, or knows higher positions; the log at the broker has a higher number of
its lineage, for any source, or cannot be read to its end. The first two are asked whenever it is opened, the log at
every start. Where there is no log to be read, the lock file has to answer alone.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from bridge.model import Numbers, SourceName
from bridge.store.records import LogContents

_FORM: Final = re.compile(r"(\d{8}T\d{9})Z-[0-9a-f]{4}", re.ASCII)
_STAMP: Final = "%Y%m%dT%H%M%S%f"


def new_lineage(now: datetime, known: Iterable[str]) -> str:
    """Return a lineage that sorts behind all that are *known*, whatever the clock says.

    Its text has one width and begins with the time of its birth, so that lineages sort as texts.
    """
    births = [birth + timedelta(milliseconds=1) for lineage in known if (birth := read_birth(lineage)) is not None]
    birth = max([now.astimezone(UTC), *births])
    return f"{birth:%Y%m%dT%H%M%S}{birth.microsecond // 1000:03}Z-{secrets.token_hex(2)}"


def read_birth(lineage: str) -> datetime | None:
    """Return when *lineage* was born, to the millisecond; ``None`` where it is none, or none can come behind it."""
    found = _FORM.fullmatch(lineage)
    if found is not None:
        with suppress(ValueError, OverflowError):
            birth = datetime.strptime(f"{found[1]}000", _STAMP).replace(tzinfo=UTC)
            birth + timedelta(days=1)
            return birth
    return None


def find_lead(log: LogContents, known: Mapping[SourceName, Numbers], given: int) -> str:
    """Return how far *log* is beyond a store that gave the numbers *known* and positions up to *given*, if it is."""
    beyond = [
        f"{source} {_numbered(*log.newest[source])} instead of {_numbered(*known[source])}"
        for source in find_beyond(log.newest, known)
    ]
    if beyond:
        return f"the log at the broker has later numbers: {', '.join(beyond)}"
    if log.last_position > given:
        return f"the log at the broker has the position {log.last_position}, and none above {given} was given here"
    return ""


def find_beyond(found: Mapping[SourceName, Numbers], known: Mapping[SourceName, Numbers]) -> Sequence[SourceName]:
    """Return the sources of which higher numbers were *found* than are *known*, if any are."""
    return [
        source
        for source, numbers in found.items()
        if source in known and read_birth(numbers[0]) is not None and numbers > known[source]
    ]


def _numbered(lineage: str, sequence: int, walk: int) -> str:
    certificate = f"the certificate of walk {walk} behind " if walk else ""
    return f"{certificate}{sequence} of {lineage}"
