"""What an observation has shown of a PBX, held against what it says now, cheaply: one look at each message.

Compared is what one message shows; what an observation did not find out for certain says nothing. ``observe --json``
writes the file, whose ``modes`` are the words of what was found.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from bridge.errors import FileUnusable
from bridge.model import Row
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Answer, Event, Stray

MAX_BYTES: Final = 1 << 20
"""Of the file; one has about 15 KB."""

_TEXTS, _NUMBERS = "usn as a text", "usn as a number"

_SHOWS: Final[Mapping[str, Mapping[str, str]]] = {
    "type of usn": {
        **dict.fromkeys(("cursor-string", "cursor-zeros", "cursor-hex"), _TEXTS),
        **dict.fromkeys(("cursor-number", "cursor-big", "cursor-huge"), _NUMBERS),
    },
    "ausn": {
        "ord-absent": "accounts without ausn",
        **dict.fromkeys(("ord-lex", "ord-indep", "ord-const"), "accounts with ausn"),
    },
    "guid of accounts": {
        "rowguid-present": "accounts with the guid of the list",
        "rowguid-absent": "accounts without the guid of the list",
    },
    "src": {"src-echoed": "answers with the src of the question", "src-dropped": "answers without src"},
    "end": {
        "idle-guid": "its guid alone where nothing further has changed",
        **dict.fromkeys(
            ("idle-bare", "idle-empty", "idle-null"), "neither guid nor numbers where nothing further has changed"
        ),
        "idle-cursor": "numbers and no account where nothing further has changed",
        "idle-repeat": "the last account again where nothing further has changed",
        **dict.fromkeys(("idle-silent", "idle-hold", "idle-error"), "no such answer"),
    },
    "errors": {
        **dict.fromkeys(("err-none", "err-silent", "err-close"), "no error"),
        **dict.fromkeys(("err-prop", "err-mt"), "answers with an error"),
    },
    "deletions": {
        **dict.fromkeys(("del-flag", "del-mt"), "deletions in words"),
        **dict.fromkeys(("del-none", "del-bare", "del-newguid"), "no deletion in words"),
    },
    "pushes": {"push-row": "accounts that nobody asked for", "push-none": "no account that nobody asked for"},
}
"""By what is looked at: the words of an observation, and what each means in a message."""


class ObservedHabits:
    """How a PBX behaved when it was observed, by the *words* that were found for it."""

    def __init__(self, words: Iterable[str]) -> None:
        found = tuple(words)
        self._seldom: set[str] = set()
        self._expected = {
            aspect: expected
            for aspect, shows in _SHOWS.items()
            if (expected := next((shows[word] for word in found if word in shows), None)) is not None
        }
        if "dup-chain" in found:  # which looks the same in one message
            self._seldom.add("the last account again where nothing further has changed")
        if "idle-error" in found:
            self._expected["errors"] = "answers with an error"  # at each end
        self._told: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"<ObservedHabits of {len(self._expected)} kinds, {len(self._told)} times otherwise>"

    def unlike(self, event: Event) -> str:
        """Return in what *event* is unlike what was observed, in words; empty where it is not, or was so before."""
        for aspect, seen in _looks_of(event):
            expected = self._expected.get(aspect)
            if expected in {None, seen} or seen in self._seldom or (aspect, seen) in self._told:
                continue
            self._told.add((aspect, seen))
            return f"it sends {seen}, and when it was observed it sent {expected}"
        return ""


def _looks_of(event: Event) -> Iterator[tuple[str, str]]:
    """Yield what *event* shows, by what is looked at."""
    match event:
        case Answer(reply=reply, question=question, is_certain=is_certain):
            yield "src", "answers with the src of the question" if is_certain else "answers without src"
            if isinstance(reply, m.RequestError):
                yield "errors", "answers with an error"
            elif isinstance(reply, m.AccountRow):
                asked = question.cursor
                place = (reply.row.cursor.usn, reply.row.cursor.ausn)
                if not asked.is_start and place == (asked.usn, asked.ausn):
                    yield "end", "the last account again where nothing further has changed"
                yield from _looks_of_row(reply.row)
            elif not question.cursor.is_start and reply.cursor.guid in {None, question.cursor.guid}:
                yield "end", _end(reply)
        case Stray(reply=m.AccountRow(row=row, src=None)):
            yield "pushes", "accounts that nobody asked for"
            yield from _looks_of_row(row)


def _end(reply: m.NoAccount) -> str:
    if reply.cursor.usn is not None or reply.cursor.ausn is not None:
        return "numbers and no account where nothing further has changed"
    if reply.cursor.guid is None:
        return "neither guid nor numbers where nothing further has changed"
    return "its guid alone where nothing further has changed"


def _looks_of_row(row: Row) -> Iterator[tuple[str, str]]:
    if row.is_deleted:
        yield "deletions", "deletions in words"
    if row.cursor.is_start:
        return
    if row.cursor.usn is not None:
        yield "type of usn", _TEXTS if row.cursor.usn.startswith('"') else _NUMBERS
    yield "ausn", "accounts without ausn" if row.cursor.ausn is None else "accounts with ausn"
    told = "with" if row.cursor.guid is not None else "without"
    yield "guid of accounts", f"accounts {told} the guid of the list"


def read_observation(file: Path) -> ObservedHabits:
    """Return what the observation in *file* has shown.

    Raises:
        FileUnusable: it cannot be read, or is none.

    """
    try:
        with file.open("rb") as opened:
            told = json.loads(opened.read(MAX_BYTES))
        words = [str(word) for word in told["modes"]]
    except OSError as problem:
        raise FileUnusable(f"the observation {file} cannot be read: {problem.strerror}") from problem
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise FileUnusable(f"{file} is no observation, as account-bridge observe --json writes it") from problem
    return ObservedHabits(words)


def compare(file: Path, name: str, tell: Callable[[str], None]) -> Callable[[Event], None]:
    """Return what hears every message of the PBX *name*, and tells what no observation has shown, once each."""
    try:
        habits = read_observation(file)
    except FileUnusable as problem:
        tell(f"{problem}. It is compared with nothing")
        return lambda _event: None

    def hear(event: Event) -> None:
        if told := habits.unlike(event):
            tell(
                f"This PBX does something that its observation has not shown: {told}. Nothing stops because of that; "
                f"observe it once more, and keep the new result: account-bridge observe {name} --json"
            )

    return hear
