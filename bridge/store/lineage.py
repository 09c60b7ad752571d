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
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

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
