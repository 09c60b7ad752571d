"""A value that is used and never shown; and, for whatever is shown, the cloth that wipes such values off."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from bridge.errors import BadConfig

HIDDEN: Final = "***"

MIN_SECRET_CHARACTERS: Final = 3
"""Shorter values would blank out ordinary words; no PBX or broker should have such a password."""

_CREDENTIALS_IN_URL: Final = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@")
_revealed: set[str] = set()


@final
class Secret:
    """A password, a token, or a URL with a password in it; from the configuration or from a file.

    A file is read again at every use, so that a secret can be changed without a restart. No form of printing shows it,
    and what was ever revealed is known to ``scrub``.
    """

    __slots__ = ("_file", "_value")

    def __init__(self, value: str | None = None, *, file: Path | None = None) -> None:
        self._value = value
        self._file = file

    def __repr__(self) -> str:
        return f"Secret(file={str(self._file)!r})" if self._file is not None else f"Secret({HIDDEN})"

    __str__ = __repr__

    def reveal(self) -> str:
        """Return the value; of a file, its content without the line end.

        Raises:
            BadConfig: the file cannot be read, or is empty.

        """
        if self._file is None:
            value = self._value or ""
            hide(_secrets_in(value))
            return value
        try:
            value = self._file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
            raise BadConfig(f"the secret in {self._file} cannot be read: {reason}") from problem
        if not value:
            raise BadConfig(f"the secret in {self._file} is empty")
        hide(_secrets_in(value))
        return value


def hide(values: Iterable[str]) -> None:
    """Let ``scrub`` remove these values, and their URL-encoded forms, from now on."""
    for value in values:
        if len(value) >= MIN_SECRET_CHARACTERS:
            _revealed.update((value, quote(value, safe=""), unquote(value)))


def scrub(text: str) -> str:
    """Return *text* without secrets, without passwords in URLs, and without characters that could forge a line."""
    for secret in _revealed:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    text = _CREDENTIALS_IN_URL.sub(rf"\1:{HIDDEN}@", text)
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def _secrets_in(value: str) -> list[str]:
    """Return the passwords of URLs, several of which may be separated by commas; of anything else all of it."""
    if "://" not in value:
        return [value]
    return [urlsplit(url.strip()).password or "" for url in value.split(",")]


def without_password(url: str) -> str:
    """Return *url* with its password hidden."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{HIDDEN}@{host}"))
