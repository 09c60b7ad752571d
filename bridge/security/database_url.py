"""The URL of a PostgreSQL database: read strictly, shown without its password, with TLS unless it says otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from bridge.security.urls import Url, read_url

SCHEMES: Final = ("postgresql", "postgres")
OPTIONS: Final = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "channel_binding")
"""What may stand behind the question mark; everything else is the bridge's business."""

_VERIFIED: Final = "verify-full"
_NO_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca")
_DEFAULT_PORT: Final = 5432
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where a database is, and as whom to log in. Of several hosts the one is taken that lets us write."""

    hosts: Sequence[tuple[str, int]]
    database: str
    user: str
    password: str | None = field(repr=False)
    options: Mapping[str, str]

    def __str__(self) -> str:
        hosts = ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.hosts)
        return f"postgresql://{self.user}@{hosts}/{self.database}"

    @property
    def is_local(self) -> bool:
        """True where it is on this machine, and nobody can listen on the way."""
        return all(host in _LOOPBACK for host, _ in self.hosts)

    @property
    def insecurity(self) -> str:
        """What is insecure about the way to it, as the end of a sentence; empty where nothing is."""
        mode = self.options.get("sslmode", "disable" if self.is_local else _VERIFIED)
        if self.is_local or mode == _VERIFIED:
            return ""
        if mode in {"require", "verify-ca"}:
            return f"whoever answers at {self} is believed to be it (sslmode={mode})"
        return f"{self} may be talked to without TLS (sslmode={mode})"

    def parameters(self) -> Mapping[str, str]:
        """Return the same as libpq wants to hear it."""
        told = {
            "host": ",".join(host for host, _ in self.hosts),
            "port": ",".join(str(port) for _, port in self.hosts),
            "dbname": self.database,
            "user": self.user,
        }
        if self.password is not None:
            told["password"] = self.password
        if not self.is_local:
            told |= {"sslmode": _VERIFIED}
            if self.options.get("sslmode", _VERIFIED) == _VERIFIED:
                told |= {"sslrootcert": "system"}
        return told | dict(self.options)


def read_database_url(text: str) -> DatabaseUrl:
    """Return the parts of the URL in *text*.

    Raises:
        ValueError: it is none, or it can be understood in two ways; without a word of what it is.

    """
    scheme, _, rest = text.strip().partition("://")
    end = next((place for place, character in enumerate(rest) if character in "/?#"), len(rest))
    userinfo, at, hosts = rest[:end].rpartition("@")
    urls = [read_url(f"{scheme}://{userinfo}{at}{host}{rest[end:]}", SCHEMES) for host in hosts.split(",")]
    first = urls[0]
    database, user = unquote(first.path.removeprefix("/")), unquote(first.user or "")
    if not database or "/" in database or not user:
        raise ValueError("names no user, or no database")
    if "\0" in unquote(text):
        raise ValueError("has U+0000 in it, behind which libpq would read nothing")
    return DatabaseUrl(
        [(url.host, url.port or _DEFAULT_PORT) for url in urls],
        database,
        user,
        None if first.password is None else unquote(first.password),
        _options(first),
    )


def _options(url: Url) -> Mapping[str, str]:
    told = {}
    for pair in url.query.split("&") if url.query else ():
        name, _, value = pair.partition("=")
        if name not in OPTIONS:
            raise ValueError(f"may say {', '.join(OPTIONS)} behind the question mark, and nothing else")
        told[name] = unquote(value)
    if told.get("sslmode", _VERIFIED) not in {_VERIFIED, *_NO_MODES}:
        raise ValueError(f"may have sslmode {_VERIFIED} or, less securely, {', '.join(_NO_MODES)}")
    return told
