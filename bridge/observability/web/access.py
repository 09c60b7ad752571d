"""Who may look: a token where one is set, and no name in the ``Host`` header that is not ours.

Without a token the page is for this machine only. A browser on it could be led there by a page from elsewhere, whose
name was made to point to 127.0.0.1 (DNS rebinding); the name that the browser then sends gives it away. With a token
the same page could use the browser as a way into the network, so the name counts then, too.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from typing import Final

from aiohttp import web
from yarl import URL

from bridge.security.secret import MIN_TOKEN_CHARACTERS

COOKIE_SECONDS: Final = 30 * 86400


class AccessControl:
    """Decides about requests. *hosts*: names beside ``localhost`` and plain addresses under which we are known.

    Raises:
        ValueError: the token is too short to keep anybody out.

    """

    def __init__(self, token: str | None, hosts: Sequence[str] = ()) -> None:
        if token is not None and len(token.strip()) < MIN_TOKEN_CHARACTERS:
            raise ValueError(f"a token has at least {MIN_TOKEN_CHARACTERS} characters")
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(host.lower() for host in hosts)
        key = self._token or b""
        # Of two bridges on one host each has a cookie of its own, and neither cookie is the token.
        self._cookie = "account_bridge_" + _digest(key, "name")[:8]
        self._proof = _digest(key, "proof")

    def __repr__(self) -> str:
        return f"<AccessControl {'with a token' if self.has_token else 'for this machine'}>"

    @property
    def has_token(self) -> bool:
        """True where a token is wanted."""
        return self._token is not None

    def knows(self, request: web.Request) -> bool:
        """Tell whether the request is meant for us."""
        try:
            host = URL(f"http://{request.host}").host or ""
        except ValueError:
            return False
        return host.lower() in self._hosts or host.lower() == "localhost" or _is_address(host)

    def admits(self, request: web.Request) -> bool:
        """Tell whether whoever asks may see everything."""
        if self._token is None:
            return True
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ").encode(errors="surrogateescape")
        cookie = request.cookies.get(self._cookie, "").encode(errors="surrogateescape")
        return hmac.compare_digest(bearer, self._token) or hmac.compare_digest(cookie, self._proof.encode())

    def is_try(self, request: web.Request) -> bool:
        """Tell whether somebody brings what may be a token or a cookie."""
        is_one = "Authorization" in request.headers or self._cookie in request.cookies or "token" in request.query
        return self.has_token and is_one

    def brings_token(self, request: web.Request) -> bool:
        """Tell whether the address holds the right token, which is how a browser brings it once."""
        given = request.query.get("token", "").strip().encode(errors="surrogateescape")
        return self._token is not None and hmac.compare_digest(given, self._token)

    def remember(self, response: web.StreamResponse, *, is_secure: bool) -> None:
        """Let the browser come back without the token."""
        response.set_cookie(
            self._cookie, self._proof, max_age=COOKIE_SECONDS, httponly=True, samesite="Lax", secure=is_secure
        )


def _digest(key: bytes, what: str) -> str:
    return hmac.new(key, f"pbx-account-bridge page {what}".encode(), hashlib.sha256).hexdigest()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
