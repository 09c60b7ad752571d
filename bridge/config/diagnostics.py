"""Mistakes in the configuration, each with its place and in words that say what is right."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic_core import ErrorDetails

Key = tuple[str | int, ...]
"""Of a setting: the names and numbers that lead to it."""

Known = Callable[[Key], Sequence[str]]
"""Returns the names that may stand where a key stands."""


class Places:
    """Finds the place of a mistake: a variable, or a line of the file."""

    def __init__(self, file: Path | None, text: str, origins: Mapping[Key, str], known: Known) -> None:
        self._file = file
        self._known = known
        self._origins = origins
        self._lines = dict(find_lines(text))

    def sentence(self, problem: ErrorDetails) -> str:
        """Return what is wrong and where."""
        path = tuple(problem["loc"])
        key = ".".join(str(part) for part in path).replace(".0.", "[0].") or "settings"
        key = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key)
        return f"{self._place(path)}{key}: {_words(problem, path, self._known)}"

    def _place(self, path: Key) -> str:
        if path in self._origins:
            return f"{self._origins[path]}: "
        while path and path not in self._lines:
            path = path[:-1]
        return f"{self._file}, line {self._lines[path]}: " if path else ""


def find_lines(text: str) -> Iterator[tuple[Key, int]]:
    """Yield every table and key of a TOML text with its line; what spans several lines has that of its beginning."""
    table: Key = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\[\s*([\w.-]+)\s*\]\]", line):
            name = header[1]
            counts[name] = counts.get(name, -1) + 1
            table = (*name.split("."), counts[name])
            yield table, number
        elif header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = tuple(header[1].split("."))
            yield table, number
        elif key := re.match(r"\s*\"?([\w-]+)\"?\s*=", line):
            yield (*table, key[1]), number


_WORDS: Final = {
    "missing": "is missing",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "string_type": "must be a text in quotes",
    "string_unicode": "is no valid UTF-8 text",
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "path_type": "must be a path in quotes",
    "finite_number": "must be a number",
}


def _words(problem: ErrorDetails, path: Key, known: Known) -> str:
    kind, limits = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"there is no such key{did_you_mean(str(path[-1]), known(path))}"
    if kind == "value_error":
        return str(limits["error"])
    if kind in _WORDS:
        return _WORDS[kind]
    told = {
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "greater_than": "must be more than {gt}",
        "literal_error": "must be {expected}",
        "string_pattern_mismatch": "does not have the form {pattern}",
        "string_too_short": "must not be empty",
        "string_too_long": "must have at most {max_length} characters",
    }
    return told[kind].format(**limits) if kind in told else problem["msg"]


def did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Return a hint at what is *known* and looks like *name*, to be put behind a sentence; empty where nothing does."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
