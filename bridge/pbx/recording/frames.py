"""A recording: JSON Lines, a header and then one line for each message, and for each connection that came or went.

``schemas/recording.v1.schema.json`` is the format. What stands in it is under pseudonyms (``pseudonyms``), so that the
file may be sent to whoever helps; the key is kept nowhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import orjson

from bridge import __version__
from bridge.errors import RecordingUnusable
from bridge.pbx.recording.names import EDITION
from bridge.pbx.recording.pseudonyms import Pseudonyms

FORMAT: Final = "pbx-account-bridge recording"
VERSION: Final = 1
PRIVATE_CODES: Final = 4000
"""From here on nobody registers codes of closing; whatever it was, it is recorded as this one."""

DECIMALS: Final = 4
"""Of the seconds: a tenth of a millisecond."""

What = Literal["message", "opened", "closed", "act"]


class Frame(NamedTuple):
    """A message, or what happened to a connection."""

    at: float
    """Seconds since the recording began."""
    connection: int
    """Counted from 1; 0 where it is about none."""
    what: What
    by: str = ""
    """Who said it, or closed the connection: ``bridge`` or ``pbx``."""
    text: str = ""
    """The message; of an act, what the operator did."""
    code: int = 0
    """Of the closing: that of the WebSocket, 1006 where there was no goodbye."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording says of itself."""

    made_by: str
    key: str
    """Which key, not the key: two recordings of one key use the same pseudonyms."""
    words: str = EDITION
    """Which edition of the vendor's names and words may stand in it."""
    modes: tuple[str, ...] = ()
    """Words of the pretend PBX for how this one behaves, as far as they were found out."""
    software: str = f"account-bridge {__version__}"


@dataclass(frozen=True, slots=True)
class Recording:
    """One that was read."""

    header: Header
    frames: Sequence[Frame] = field(repr=False)


def header_line(header: Header) -> str:
    """Return the first line of a recording."""
    told: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "software": header.software,
        "made_by": header.made_by,
        "words": header.words,
        "key": header.key,
    }
    if header.modes:
        told["modes"] = list(header.modes)
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE).decode()


def frame_line(frame: Frame) -> str:
    """Return the line of *frame*, whose text is under a pseudonym already."""
    told: dict[str, Any] = {"at": round(frame.at, DECIMALS)}
    if frame.connection:
        told["connection"] = frame.connection
    match frame.what:
        case "message":
            told |= {"by": frame.by, "text": frame.text}
        case "closed":
            told |= {"by": frame.by, "event": frame.what, "code": frame.code}
        case "opened":
            told["event"] = frame.what
        case "act":
            told |= {"event": frame.what, "act": frame.text}
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE).decode()


def write(header: Header, frames: Iterable[Frame], pseudonyms: Pseudonyms) -> Iterator[str]:
    """Yield the lines of a recording of *frames* as they were."""
    yield header_line(header)
    for frame in frames:
        yield frame_line(disguised(frame, pseudonyms))


def disguised(frame: Frame, pseudonyms: Pseudonyms) -> Frame:
    """Return *frame* as it may be written down."""
    match frame.what:
        case "message":
            return frame._replace(text=pseudonyms.frame(frame.text))
        case "closed" if frame.code >= PRIVATE_CODES:
            return frame._replace(code=PRIVATE_CODES)  # anybody's number
    return frame


def read(lines: Iterable[str]) -> Recording:
    """Return the recording in *lines*; the last one may be cut off, as of a program that was killed.

    Raises:
        RecordingUnusable: it is none, or of a version that nobody here knows.

    """
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise RecordingUnusable("it is empty")
    header = _header(numbered[0][1])
    frames: list[Frame] = []
    for number, line in numbered[1:]:
        try:
            frames.append(_frame(line))
        except (ValueError, KeyError, TypeError) as problem:
            if number == numbered[-1][0] and not line.endswith("\n"):
                break
            raise RecordingUnusable(f"its line {number} is none of a recording") from problem
    return Recording(header, frames)


def _header(line: str) -> Header:
    try:
        told = orjson.loads(line)
        if told["format"] != FORMAT:
            raise RecordingUnusable("its first line is not that of a recording")
        if told["version"] != VERSION:
            raise RecordingUnusable(f"it is of version {told['version']!r}, and this program knows {VERSION}")
        return Header(
            made_by=str(told["made_by"]),
            key=str(told["key"]),
            words=str(told["words"]),
            modes=tuple(str(word) for word in told.get("modes", ())),
            software=str(told["software"]),
        )
    except (ValueError, KeyError, TypeError) as problem:
        raise RecordingUnusable("its first line is not that of a recording") from problem


def _frame(line: str) -> Frame:
    told = orjson.loads(line)
    at, connection = float(told["at"]), int(told.get("connection", 0))
    match told:
        case {"text": str(text), "by": "bridge" | "pbx" as by}:
            return Frame(at, connection, "message", by, text)
        case {"event": "opened"}:
            return Frame(at, connection, "opened")
        case {"event": "closed", "by": "bridge" | "pbx" as by, "code": int(code)}:
            return Frame(at, connection, "closed", by, code=code)
        case {"event": "act", "act": str(act)}:
            return Frame(at, 0, "act", text=act)
    raise ValueError("neither a message nor an event")
