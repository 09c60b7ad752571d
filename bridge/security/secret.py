"""A value that is used and never shown; and, for whatever is shown, the cloth that wipes such values off."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, final
from urllib.parse import quote, unquote

from bridge.errors import FileUnusable
from bridge.security.urls import HIDDEN, read_scheme, secrets_in

MIN_SECRET_CHARACTERS: Final = 3
"""Shorter values would blank out half of every word; no PBX or broker should have such a password."""

MIN_TOKEN_CHARACTERS: Final = 16
"""Of what opens the page; ``openssl rand -hex 8`` makes so many."""

MAX_SECRET_BYTES: Final = 1 << 16
"""Of a file. What is larger is another file than was meant."""

MAX_WORD_CHARACTERS: Final = 15
"""A longer secret is no word of any sentence, even where it is made of letters only."""

_WORD: Final = re.compile(r"[A-Za-z]+([-_. ][A-Za-z]+)*|[0-9]+")
_USERINFO: Final = re.compile(r"(:/{1,2}[^\s:]{0,255}):\S{1,1000}@")  # of a URL, and of one that was taken for a path
_ASSIGNED: Final = re.compile(
    r"""((?:password|passwd|pwd|secret|token)["']?(?:=|["']\s*:\s*))("[^"]*"|'[^']*'|[^\s,;&"']+)""", re.IGNORECASE
)
_TELLING_KEYS: Final = frozenset({"password", "passwd", "pwd", "secret", "token", "authorization"})


class _Known:
    """The secrets that were revealed, by how they are found again."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self._public = ""
        self._words: set[str] = set()
        self._forms: set[str] = set()
        self._anywhere: Sequence[str] = ()
        self._quoted: re.Pattern[str] | None = None
        self._is_sorted = True
        self._changing = threading.RLock()
        """A configuration is read in a thread: nobody may find what it has taken out to put it in anew."""

    def add(self, secrets: Iterable[str]) -> None:
        """Take up *secrets*, each by how it is to be found: one that everybody may read is none any more."""
        with self._changing:
            self._sort_in(set(secrets) - self.secrets)

    def make_public(self, text: str) -> None:
        """Take up what everybody may read."""
        with self._changing:
            self._public = text
            self._words.clear()
            self._forms.clear()
            self._is_sorted = False
            self._sort_in(set(self.secrets))

    def _sort_in(self, secrets: Iterable[str]) -> None:
        for secret in secrets:
            self.secrets.add(secret)
            if secret in self._public:
                continue
            if _is_word(secret):
                self._words.add(secret)
            else:
                self._forms.update(_forms(secret))
            self._is_sorted = False

    def _sort(self) -> None:
        with self._changing:
            self._anywhere = sorted(self._forms, key=len, reverse=True)  # or what is left of a longer one tells it
            listed = "|".join(map(re.escape, sorted(self._words, key=len, reverse=True)))
            self._quoted = re.compile(rf"""(["'`])(?:{listed})\1""") if listed else None
            self._is_sorted = True  # last: another thread wipes by what was sorted before

    def wiped_off(self, text: str) -> str:
        """Return *text* without them."""
        if not self._is_sorted:
            self._sort()
        for secret in self._anywhere:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        # These may be words of an innocent sentence: only in quotes they are certain to be a value.
        return text if self._quoted is None else self._quoted.sub(rf"\1{HIDDEN}\1", text)


_known: Final = _Known()


@final
class Secret:
    """A password, a token, or a URL with a password in it; from the configuration or from a file.

    A file is read again at every use, so that a secret can be changed without a restart; while its content is of no
    use, the former one is. *check* is called with a content and raises a ``ValueError`` where it is none. No form of
    printing shows the value, and what was ever revealed is known to ``scrub``.
    """

    __slots__ = ("_check", "_file", "_former", "_value")

    def __init__(
        self,
        value: str | None = None,
        *,
        file: Path | None = None,
        check: Callable[[str], object] = lambda _content: None,
    ) -> None:
        self._value = value
        self._file = file
        self._check = check
        self._former: str | None = None

    def __repr__(self) -> str:
        return f"Secret(file={str(self._file)!r})" if self._file is not None else f"Secret({HIDDEN})"

    __str__ = __repr__

    def reveal(self) -> str:
        """Return the value; of a file its content, or the former one while there is none that can be used.

        Raises:
            FileUnusable: the file holds no secret, and never did since the start.

        """
        try:
            self._former = self.read()
        except FileUnusable:
            if self._former is None:
                raise
        return self._former

    def read(self) -> str:
        """Return the value; of a file its present content.

        Raises:
            FileUnusable: the file holds no secret.

        """
        if self._file is None:
            value = self._value or ""
        else:
            try:
                value = read_content(self._file)
                self._check(value)
            except ValueError as problem:
                raise FileUnusable(f"the secret in {self._file} {problem}") from None
        hide(secrets_in(value) if read_scheme(value) else [value])
        return value

    @property
    def trouble(self) -> str:
        """Why the former content of the file is used; empty where that is not so."""
        try:
            self.read()
        except FileUnusable as problem:
            return str(problem)
        return ""


class NotThere(ValueError):  # noqa: N818 - it says what is the case
    """A file that is missing, empty or not to be read: it may be so for a moment only."""


def read_content(file: Path) -> str:
    """Return the secret in *file*: one line, without byte order mark, line end and the blanks around it.

    Raises:
        NotThere: there is none at present.
        ValueError: what is there is no secret; how so, and nothing of it.

    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would be waited for, for ever
        with os.fdopen(descriptor, "rb") as opened:
            data = opened.read(MAX_SECRET_BYTES + 1) or b""
    except OSError as problem:
        who = f" by user {os.geteuid()}" if isinstance(problem, PermissionError) else ""
        raise NotThere(f"cannot be read{who}: {problem.strerror}") from None
    if len(data) > MAX_SECRET_BYTES:
        raise ValueError(f"has more than {MAX_SECRET_BYTES} bytes; is it the right file?")
    try:
        text = data.decode("utf-8-sig").strip().strip("\ufeff").strip()
    except UnicodeDecodeError:
        raise ValueError("cannot be read: it is not UTF-8 text") from None
    if not text:
        raise NotThere("is empty")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(re.match(r"#(\s|$)", line) for line in lines) or (len(lines) > 1 and any(line[0] == "#" for line in lines)):
        raise ValueError("has a comment; it has to hold the secret and nothing else")
    if len(lines) > 1:
        raise ValueError("has several lines; it has to hold the secret in one")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        raise ValueError("is in quotes, which would be taken for a part of it; write it without them")
    if re.search(r"\s#", text):
        raise ValueError("has a comment behind it; it has to hold the secret and nothing else")
    if not text.replace("\t", "").replace("\u00a0", "").isprintable():
        raise ValueError("has control characters in it; is it the right file?")
    return text


def hide(values: Iterable[str]) -> None:
    """Let ``scrub`` remove these values, and their encoded forms, from now on."""
    _known.add(value for value in values if len(value) >= MIN_SECRET_CHARACTERS)


def make_public(texts: Iterable[str]) -> None:
    """Say what everybody may read, names for instance: a secret that is the same is not wiped off such a text.

    A user called like the password would otherwise be shown as ``***``, which tells both.
    """
    _known.make_public("\n".join(texts))


def scrub(text: str) -> str:
    """Return *text* without secrets, without passwords in URLs, and without characters that could forge a line."""
    text = _USERINFO.sub(rf"\1:{HIDDEN}@", _known.wiped_off(text))
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def is_telling(key: str) -> bool:
    """Tell whether what stands under *key* is a secret, whatever it is."""
    return key.casefold() in _TELLING_KEYS


def _is_word(secret: str) -> bool:
    """Tell whether *secret* may stand in a sentence or a log line without being meant."""
    return len(secret) <= MAX_WORD_CHARACTERS and _WORD.fullmatch(secret) is not None


def _forms(secret: str) -> Iterable[str]:
    """Yield *secret* as it may come along: in a URL, in a text between quotes, in JSON."""
    for plain in {secret, unquote(secret)}:
        if len(plain) >= MIN_SECRET_CHARACTERS:
            yield from (plain, quote(plain, safe=""), repr(plain)[1:-1], ascii(plain)[1:-1], json.dumps(plain)[1:-1])
