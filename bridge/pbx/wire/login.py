"""The login digest: proof of the app password without sending it.

Source: the vendor's AppWebsocket page. The digest is SHA-256 over
``app:domain:sip:guid:dn:info:challenge:password``, where ``info`` is compact JSON as sent, and where a login without
``info`` leaves out that part *and its colon*. The vendor's own four test vectors and two logins captured from real
PBXs are in ``tests/data``.
"""

import hashlib
import hmac

from bridge.pbx.wire.messages import AppLogin


def login_digest(  # noqa: PLR0913 - the fields are the vendor's
    *,
    app: str,
    challenge: str,
    password: str,
    domain: str = "",
    sip: str = "",
    guid: str = "",
    dn: str = "",
    info: str | None = None,
) -> str:
    """Return the digest as 64 lower-case hex digits.

    *info* is the JSON text exactly as it is sent; ``None`` where the login carries none.
    """
    parts = [app, domain, sip, guid, dn]
    if info is not None:
        parts.append(info)
    parts += [challenge, password]
    return hashlib.sha256(":".join(parts).encode()).hexdigest()


def is_proven(login: AppLogin, *, challenge: str, password: str) -> bool:
    """Tell whether whoever sent *login* knows *password*. Takes the same time whether or not.

    The digest covers ``info`` as the PBX wrote it, which may be its compact form or the very characters that came.
    """
    told = {
        "app": login.app,
        "domain": login.domain,
        "sip": login.sip,
        "guid": login.guid,
        "dn": login.dn,
        "challenge": challenge,
        "password": password,
    }
    infos = (login.info, login.info if login.info_as_sent is None else login.info_as_sent)
    verdicts = [digests_match(login.digest, login_digest(**told, info=info)) for info in infos]
    return any(verdicts)


def digests_match(one: str, other: str) -> bool:
    """Compare two digests in constant time, whatever characters a stranger sent."""
    return hmac.compare_digest(one.lower().encode(), other.lower().encode())
