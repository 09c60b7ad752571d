"""A value that is used and never shown."""

from pathlib import Path
from typing import final
from urllib.parse import urlsplit, urlunsplit

from bridge.errors import BadConfig

HIDDEN = "***"


@final
class Secret:
    """A password, a token, or a URL with a password in it; from the configuration or from a file.

    A file is read again at every use, so that a secret can be changed without a restart. No form of printing shows it.
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
            return self._value or ""
        try:
            value = self._file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
            raise BadConfig(f"the secret in {self._file} cannot be read: {reason}") from problem
        if not value:
            raise BadConfig(f"the secret in {self._file} is empty")
        return value


def without_password(url: str) -> str:
    """Return *url* with its password hidden."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{HIDDEN}@{host}"))
