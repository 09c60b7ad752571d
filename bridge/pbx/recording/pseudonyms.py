"""Frames without persons: every value is replaced by a keyed hash, so that what was equal still is.

Kept are the structure, the type of each value, how long a text is (roughly: 12, 24, 48 … characters), whether it is a
guid, a mail address, a URL or JSON again, ``true``, ``false``, ``null``, 0, 1 and the empty text, and the names and
words in ``names``. Two spellings of one guid stay that. What stands instead is made of letters and digits that say
nothing: no vowels, and of digits only 6 to 9. Who has the recording and not the key can neither guess a value nor try
one.

Kept are usn and ausn, too, beside the guid of the PBX's list: they count changes of a database, tell of nobody, and
without their order and their types nothing could be learnt about them. Only what looks like a count is one: up to 24
digits, or hexadecimal with a digit in it. Lost is how the JSON was written: white space, escapes, invalid characters.
"""

import hashlib
import json
import re
from typing import Any, Final

import orjson

from bridge.pbx.recording import names

KEY_BYTES: Final = 32
FIRST_CLASS: Final = 12
"""Characters of the shortest pseudonym: 44 bits, so that a hundred thousand short texts stay as many."""

DROPPED: Final = "dropped"
"""What stands in the place of a secret text; a number becomes 0, an object and a list become empty."""

MAX_DEPTH: Final = 40
"""Of objects and lists in each other; what lies deeper is recorded as empty."""

_LETTERS: Final = "bcdfghjklmnpqrst"
_GUID_LETTERS: Final = "bcdf"
_DIGITS: Final = "6789"

_GUID: Final = re.compile(r"\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?", re.IGNORECASE)
_MAIL: Final = re.compile(r"([^@\s]+)@([^@\s]+)")
_URL: Final = re.compile(r"(https?|wss?|sips?|tel|mailto)(://|:)(\S*)", re.IGNORECASE)
_COUNT: Final = re.compile(r"[0-9]{1,24}|(?=[0-9a-f]{0,23}[0-9])[0-9a-f]{1,24}|[0-9a-f]{1,2}")
_VERSION: Final = re.compile(r"[0-9]{2}r[0-9]{1,2}")


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


class Pseudonyms:
    """Replaces what stands in frames, under one *key*: the same by the same everywhere."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"<Pseudonyms of key {self.key_id}>"

    @property
    def key_id(self) -> str:
        """What two recordings under the same key have in common; says nothing about the key."""
        return self._written("key", "", FIRST_CLASS, _LETTERS)

    def frame(self, data: bytes | str) -> str:
        """Return a frame as it may be written down. What is no JSON becomes one word, which is no JSON either."""
        text = data.decode(errors="replace") if isinstance(data, bytes) else data
        try:
            return self._json(text, is_frame=True)
        except (ValueError, RecursionError):
            return self._replaced("x", text)

    def text(self, text: str) -> str:
        """Return what stands for *text* wherever it stands."""
        if not text.strip():
            return text[:1]
        return self._structured(text) or self._replaced("n" if text.isdecimal() else "t", text)

    def _structured(self, text: str) -> str:
        """Return what stands for a text that has a form; empty where it has none."""
        if _GUID.fullmatch(text):
            return self._guid(text)
        if text.lstrip()[0] in "{[":
            try:
                return self._json(text)
            except (ValueError, RecursionError):
                return ""
        if found := _URL.fullmatch(text):
            parts = [self.text(part) if part else "" for part in found[3].split("/")]
            return f"{found[1].lower()}{found[2]}{'/'.join(parts)}"
        if found := _MAIL.fullmatch(text):
            return f"{self._replaced('t', found[1])}@{self._replaced('t', found[2])}"
        return ""

    def name(self, name: str) -> str:
        """Return what stands for the name of a member."""
        return name if name in names.MEMBERS else self._replaced("m", name)

    def _json(self, text: str, *, is_frame: bool = False) -> str:
        content = _loaded(text)
        if not isinstance(content, dict | list):
            raise ValueError("a single value")  # noqa: TRY004 - as any text that is no message
        return orjson.dumps(self._value("", content, MAX_DEPTH, is_frame=is_frame)).decode()

    def _value(self, name: str, value: Any, depth: int, *, is_frame: bool = False) -> Any:
        """Return what stands for the *value* of a member."""
        if isinstance(value, dict | list) and not depth:
            return type(value)()
        if isinstance(value, dict):
            has_counts = is_frame and str(value.get("mt")) in names.ABOUT_ACCOUNTS
            return {
                self.name(key): self._member(key, inner, depth - 1, has_counts=has_counts)
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self._value(name, inner, depth - 1) for inner in value]
        if isinstance(value, _Number) or (isinstance(value, int | float) and not isinstance(value, bool)):
            return orjson.Fragment(self._number(str(value)))
        if isinstance(value, str):
            return self._text_of(name, value)
        return value

    def _member(self, name: str, value: Any, depth: int, *, has_counts: bool) -> Any:
        if has_counts and name in {"usn", "ausn"} and isinstance(value, str) and _COUNT.fullmatch(value):
            if not isinstance(value, _Number):
                return value
            if value.isdecimal():
                return orjson.Fragment(str(value))
        if names.is_secret(name):
            return _dropped(value)
        return self._value(name, value, depth)

    def _text_of(self, name: str, text: str) -> str:
        words = names.WORDS.get(name)
        if words is not None and (text if name in {"mt", "api", "apis"} else text.lower()) in words:
            return text
        if name == "version" and _VERSION.fullmatch(text):
            return text
        if name in names.LISTS and "," in text:
            return ",".join(self.text(part) for part in text.split(","))
        return self.text(text)

    def _number(self, written: str) -> str:
        sign, digits = ("-", written[1:]) if written.startswith("-") else ("", written)
        if digits in {"0", "1"}:
            return str(written)
        if not digits.isdecimal():
            return f"{sign}{self._written('number', digits, 14, _DIGITS)}.5"
        classes = (length for length in (15, 18, 20, 40, 80, 160, 320) if len(digits) <= length)
        return sign + self._written("number", digits, next(classes, 640), _DIGITS)

    def _guid(self, text: str) -> str:
        plain = "".join(character for character in text.lower() if character.isalnum())
        letters = iter(self._written("guid", plain, len(plain), _GUID_LETTERS))
        told = "".join(next(letters) if character.isalnum() else character for character in text)
        return told if text == text.lower() else told.upper()

    def _replaced(self, kind: str, text: str) -> str:
        length = FIRST_CLASS
        while length < len(text):
            length *= 2
        return kind + self._written("text", text, length - 1, _LETTERS)

    def _written(self, what: str, text: str, length: int, letters: str) -> str:
        """Return *length* letters that only the key makes of *text*."""
        told = b"\0".join((self._key, what.encode(), text.encode("utf-8", "surrogatepass")))
        return "".join(letters[byte % len(letters)] for byte in hashlib.shake_256(told).digest(length))


def _dropped(value: Any) -> Any:
    """Return what is left of a secret: its type."""
    if isinstance(value, _Number):
        return 0
    if isinstance(value, str):
        return DROPPED if value else ""
    if isinstance(value, dict | list):
        return type(value)()
    return None


def _loaded(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_refuse)
    except RecursionError:
        return orjson.loads(text)  # which takes what is nested deeper, as the bridge does


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
