"""URLs that may have a password in them: read strictly, so that none is misunderstood, and shown without it.

A password with a ``/``, ``#``, ``?`` or ``@`` in it that nobody encoded cuts a URL at another place than was meant. So
whatever leaves room for doubt is refused, and nothing of what was refused is shown.
"""

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"

ENCODE: Final = "percent-encode the password: / is %2F, # is %23, ? is %3F, @ is %40, a comma is %2C, a blank is %20"

_MAX_PORT: Final = 65535
_MAX_HOST_CHARACTERS: Final = 253
"""RFC 1035, section 2.3.4; 63 of each label."""
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PLACE: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{1,5}))?")
_NEXT: Final = re.compile(r"\s*,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in its parts; those about who one is are percent-encoded, as they stood there."""

    scheme: str
    user: str | None
    password: str | None
    host: str
    """A name, or an address without brackets."""
    port: int | None
    path: str
    query: str

    def __repr__(self) -> str:
        return f"<Url {self}>"

    def __str__(self) -> str:
        user = "" if self.user is None else f"{self.user}{'' if self.password is None else f':{HIDDEN}'}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        query = f"?{HIDDEN}" if self.query else ""  # where some services want a key
        return f"{self.scheme}://{user}{host}{port}{self.path}{query}"


def split_urls(text: str) -> Sequence[str]:
    """Return the URLs in *text*, which separates them by commas; a comma within one separates nothing."""
    return _NEXT.split(text.strip())


def read_url(text: str, schemes: Collection[str]) -> Url:
    """Return the parts of the one URL in *text*, which has one of *schemes*.

    Raises:
        ValueError: it is none, or it can be understood in two ways; without a word of what it is.

    """
    scheme, _, rest = text.partition("://")
    end = next((place for place, character in enumerate(rest) if character in "/?#"), len(rest))
    authority, tail = rest[:end], rest[end:]
    userinfo, at, place = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    found = _PLACE.fullmatch(place)
    if (
        scheme not in schemes
        or not text.isprintable()
        or any(character in text for character in ' \\"')
        or any(character in tail for character in "#@")
        or "@" in userinfo
        or found is None
    ):
        raise ValueError("is no URL, or can be understood in two ways")
    path, _, query = tail.partition("?")
    return Url(
        scheme,
        user if at else None,
        password if colon else None,
        read_host(found["six"] or found["name"]),
        None if found["port"] is None else _port(found["port"]),
        path,
        query,
    )


def read_host(text: str) -> str:
    """Return *text* if it can be the name or the address of a host.

    Raises:
        ValueError: it cannot; without a word of what it is.

    """
    if ":" in text:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError("is no address of a host") from None
    elif len(text) > _MAX_HOST_CHARACTERS or not all(map(_LABEL.fullmatch, text.removesuffix(".").split("."))):
        raise ValueError("is no name of a host; one with other letters has to be written as xn--…")
    return text


def _port(text: str) -> int:
    if not 1 <= int(text) <= _MAX_PORT:
        raise ValueError(f"has a port that is not between 1 and {_MAX_PORT}")
    return int(text)


def read_scheme(text: str) -> str:
    """Return how *text* begins if that is the scheme of a URL; empty where it is none."""
    scheme, divided, _ = text.strip().partition("://")
    return scheme if divided and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) else ""


def without_password(text: str) -> str:
    """Return the URLs in *text* as they may be shown; of one that cannot be read nothing but how it begins."""
    shown = []
    for url in split_urls(text):
        try:
            shown.append(str(read_url(url, {read_scheme(url)})))
        except ValueError:
            shown.append(f"{read_scheme(url)}://{HIDDEN}")
    return ",".join(shown)


def secrets_in(text: str) -> Sequence[str]:
    """Return what has to be hidden of the URLs in *text*: passwords, of a query everything, else all it may be."""
    found = []
    for url in split_urls(text):
        try:
            parts = read_url(url, {read_scheme(url)})
        except ValueError:
            rest = url.partition("://")[2]
            found += [rest, rest.rpartition("@")[0].partition(":")[2]]
        else:
            told = [pair.partition("=") for pair in parts.query.split("&")]
            found += [parts.password or "", *(value for name, _, value in told if not name.startswith("ssl"))]
    return [secret for secret in found if secret]


def read_vhost(url: Url) -> str:
    """Return the virtual host that the URL of a broker names."""
    return unquote(url.path.removeprefix("/")) or "/"
