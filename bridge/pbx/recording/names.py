"""What may stand in a recording as a PBX wrote it: names and words of the vendor's, and nothing else.

A member whose name is not here is recorded under a pseudonym, since the key of a JSON map may be a person's name. What
is a secret by its name is dropped, whatever it is.
"""

from collections.abc import Mapping
from typing import Final

from bridge.pbx.wire.parser import DELETION_WORDS

EDITION: Final = "13r1-16r1"
"""Of the vendor's pages: where these names and words are from."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEMBERS: Final = _words(
    # every message, and the login
    "mt api src app domain sip guid dn digest info pbxObj ok error errorText err challenge nonce url "
    "pbx pbxDns apis version build hidden serviceInfo user appObj sysClient "
    # the account API, and what a deletion may look like
    "usn ausn account-guid account-h323 update del deleted "
    # info as at a login
    "appobj appdn appurl cn unlicensed testmode lics groups apps name "
    # info as the client's user object
    "num email prefix intl ntl subs area country subscriber account settings session alt altHttp "
    # info as a row of the users table
    "h323 pwd apps-my config node loc hide e164 cfpr t-cfpr pseudo h323-email fax emails allows t-allows grps mode dyn "
    "devices hw text admin no-filter tls no-mob trusted sreg mr voip gk-id prim cds forks wakeups ext number "
    # info as an object of the admin API
    "fake ext-in gi local trace critical no-dev login-c login-t admin-node admin-pbx filter cd-filter cfnr "
    "busy-out cd-block rej-ext no-disc dnd phone-config colr messages push phone uclic voicemail mobility mypbx video "
    "app-sharing reporting app-lics grp presence c a n gws idle ipei ac profiles type active usr turnUsr turnPwd "
    "key pin"
)

TYPES: Final = _words(
    "AppChallenge AppChallengeResult AppLogin AppLoginResult CheckBuild CheckBuildResult AppInfo AppInfoResult PbxInfo "
    "KeepAlive AccountInfo AccountInfoResult AccountInfoDel AccountDelete Error"
)
"""Of messages."""

ABOUT_ACCOUNTS: Final = _words("AccountInfo AccountInfoResult AccountInfoDel AccountDelete")
"""Of those that have a usn and an ausn."""

APIS: Final = _words(
    "PbxAccountApi PbxImpersonation PbxSignal PbxTableUsers PbxAdminApi PbxApi EpSignal RCC PbxMessages"
)

WORDS: Final[Mapping[str, frozenset[str]]] = {
    "mt": TYPES,
    "api": APIS,
    "apis": APIS,
    "update": DELETION_WORDS,
    "dyn": _words("in out"),
    "mode": _words("active inactive"),
}
"""What may stand under a member of this name as it is."""

LISTS: Final = _words("apps apps-my")
"""Texts under these names are lists, separated by commas."""

_SECRETS: Final = _words(
    "ac ipei usr turnusr phone phoneconfig pseudo gkid auth authorization credentials hash sessionid"
)
_SECRET_ENDS: Final = (
    *("pwd", "passwd", "secret", "key", "keyshare", "salt", "digest", "nonce", "session", "pin", "hash"),
)
_SECRET_PARTS: Final = ("password", "passwort", "token", "challenge", "credential", "secret", "passphrase")


def is_secret(name: str) -> bool:
    """Tell whether what stands under a member of this name is to be dropped."""
    plain = "".join(character for character in name.lower() if character.isalnum())
    return plain in _SECRETS or plain.endswith(_SECRET_ENDS) or any(part in plain for part in _SECRET_PARTS)
