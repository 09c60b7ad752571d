"""What a ``Walker`` decides, as values that ``reader`` carries out, and the pace it keeps."""

from typing import NamedTuple

from bridge.model import AccountGuid, Cursor, Row, value
from bridge.pbx.wire import messages as m


@value
class Pace:
    """How patiently and how often a PBX is asked; all in seconds."""

    poll_interval: float = 120.0
    """Between the end of the list and the next question. The vendor's example uses two minutes."""
    poll_jitter: float = 0.1
    """Share of the interval by which it is varied, so that many PBXs are not asked at once."""
    answer_timeout: float = 30.0
    keepalive: float = 40.0
    """Without a word from us; reverse proxies cut silent connections after 60 s."""
    min_spacing: float = 0.0
    """Between two questions."""
    slow_answer: float = 0.25
    """An answer that took longer, and much longer than the fastest one, is followed by a pause as long as it took:
    half of the PBX's time is its own."""


class Reached(NamedTuple):
    """Where a connection came to: what the next one needs to see whether the PBX still is where it was."""

    cursor: Cursor
    before: Cursor | None
    """The place before that; asking behind it has to bring what led to ``cursor``."""
    account: AccountGuid | None
    """What led there."""


@value
class Ask:
    """Send this question."""

    cursor: Cursor


@value
class Say:
    """Send this message."""

    message: m.Message


@value
class RowRead:
    """Hand this row on; once it is durable the cursor stands at *until*."""

    row: Row
    until: Cursor


@value
class Sighted:
    """A full walk saw this row. The cursor does not move, and what is news in it is for the live cursor to tell."""

    row: Row


@value
class EpochBegan:
    """The PBX's list is another one than before; the cursor stands at its start, and a full walk begins."""

    start: Cursor


@value
class WalkBegan:
    """A full walk beside the live cursor begins; one that was under way is void."""


@value
class WalkEnded:
    """A full walk came to its end; the cursor stands at *until*.

    *is_proven* is true where no account can have been missed: what was not seen is not there.
    """

    is_proven: bool
    until: Cursor


@value
class CaughtUp:
    """Nothing further at the moment; proven by an answer, or only likely after silence or errors."""

    is_proven: bool
    trouble: str = ""
    """The error that the PBX gives instead of an answer."""


@value
class Compare:
    """Compare this row with the mirror, and do nothing else with it; what does not agree means ``Doubted``."""

    row: Row
    is_news: bool
    """True where the mirror must not have the account at these numbers, False where it must have it just like that."""


@value
class Doubted:
    """The PBX may have been set back under the same guid, so that our place lies ahead of it."""

    why: str
    is_evident: bool = True
    """False where nothing speaks for it, but nothing could be asked that would speak against it either."""


Action = Ask | Say | RowRead | Sighted | EpochBegan | CaughtUp | WalkBegan | WalkEnded | Compare | Doubted
