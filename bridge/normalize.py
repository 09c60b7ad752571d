"""What a PBX delivers, made into what we publish.

Nobody documents what the ``info`` of an account holds. Four shapes are plausible (the login info the PBX gives to apps,
the client's user object, a row of the users table, an object of the admin API); each field is looked for under
all of its names. Only fields on the lists below can ever leave: the secrets that other fields hold, and those that a
future firmware adds, are out by construction.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from bridge.model import AccountGuid, Published, Row

FIELDS: Final = (
    "guid",
    "h323",
    "display_name",
    "common_name",
    "numbers",
    "emails",
    "groups",
    "pbx",
    "node",
    "domain",
)
"""Published unless excluded."""

OPTIONAL_FIELDS: Final = ("apps", "template", "hidden", "devices")
"""Published where ``publish.include`` names them."""

MAX_TEXT_CHARACTERS: Final = 1024
"""Of one published text. The PBX's own limits are far below; beyond this something else is in the field."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Which fields leave, and which of them only as a keyed hash that shows that they changed."""

    fields: Sequence[str] = FIELDS
    masked: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *, include: Iterable[str] = (), exclude: Iterable[str] = (), mask: Iterable[str] = ()) -> "Projection":
        """Return the projection for these adjustments; ``guid`` always stays, and stays readable."""
        wanted = (*FIELDS, *(name for name in OPTIONAL_FIELDS if name in set(include)))
        unwanted = set(exclude) - {"guid"}
        return cls(tuple(name for name in wanted if name not in unwanted), frozenset(mask) - {"guid"})


@dataclass(frozen=True, slots=True)
class Rules:
    """How rows are judged; fixed for the life of a bridge."""

    key: bytes
    """Of the store: makes digests and masks that cannot be guessed from a list of likely values."""
    projection: Projection = Projection()
    skip_unchanged: bool = False
    """Do not publish a change in which no published field differs."""


def account_key(account_guid: AccountGuid) -> str:
    """Return what two spellings of one guid have in common; PBXs differ in dashes and case."""
    return account_guid.replace("-", "").lower()


def account_of(row: Row, before: Published | None, rules: Rules) -> Published:
    """Return the published account in *row*. What the row does not tell stays as it was *before*."""
    info = row.info
    if info is None:
        kept: Published = before or {}
        told = {"h323": _masked("h323", row.h323, rules)} if row.h323 is not None else {}
        return {name: told.get(name, kept.get(name, _EMPTY.get(name))) for name in rules.projection.fields} | {
            "guid": row.account_guid
        }
    account = {name: _FINDERS[name](row, info) for name in rules.projection.fields}
    for name in rules.projection.masked & account.keys():
        account[name] = _masked(name, account[name], rules)
    if row.h323 is None and account.get("h323") is None and before is not None and "h323" in account:
        account["h323"] = before.get("h323")
    return account


def unknown_names(info: Mapping[str, Any]) -> frozenset[str]:
    """Return the names in *info* that no shape explains, so that they can be reported, names only."""
    unknown = info.keys() - _KNOWN_NAMES
    return frozenset(name[:_MAX_NAME_CHARACTERS] for name in unknown if name.isprintable()) if unknown else _NO_NAMES


def digest(row: Row, key: bytes) -> bytes:
    """Return a keyed digest of everything *row* tells, so that a repetition is known without keeping its secrets."""
    try:
        told = orjson.dumps([row.h323, row.info], option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Nested beyond what orjson writes (254 levels), which no field of ours is: leave such members out.
        flat = {name: value for name, value in (row.info or {}).items() if not isinstance(value, dict | list)}
        told = orjson.dumps([row.h323, flat, sorted(row.info or {})], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(told, key=key, digest_size=16).digest()


def _masked(name: str, value: Any, rules: Rules) -> Any:
    if name not in rules.projection.masked or value in (None, "", []):
        return value
    digest = hashlib.blake2b(orjson.dumps([name, value]), key=rules.key, digest_size=8).hexdigest()
    return [f"masked:{digest}"] if isinstance(value, list) else f"masked:{digest}"


def _text(value: Any) -> str | None:
    """Return a text or number as clean text; anything else is not what the field is for."""
    if isinstance(value, str):
        return value[:MAX_TEXT_CHARACTERS] or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _named(name: str) -> Callable[[Row, Mapping[str, Any]], str | None]:
    return lambda _row, info: _text(info.get(name))


def _first(*names: str) -> Callable[[Row, Mapping[str, Any]], str | None]:
    def find(_row: Row, info: Mapping[str, Any]) -> str | None:
        for name in names:
            if (text := _text(info.get(name))) is not None:
                return text
        return None

    return find


def _texts(value: Any, *inside: str) -> list[str]:
    """Return the texts in *value*: one text, a list of texts, or a list of objects that hold one under *inside*."""
    if isinstance(value, str):
        return [value[:MAX_TEXT_CHARACTERS]] if value else []
    found = []
    for item in value if isinstance(value, list) else [value]:
        held = next((item[name] for name in inside if item.get(name)), None) if isinstance(item, dict) else item
        if (text := _text(held)) is not None and text not in found:
            found.append(text)
    return found


def _h323(row: Row, info: Mapping[str, Any]) -> str | None:
    return row.h323 or _h323_in(row, info)


def _numbers(_row: Row, info: Mapping[str, Any]) -> list[str]:
    numbers = []
    for name in ("e164", "num", "ext", "number"):
        if name in info:
            numbers += [number for number in _texts(info[name]) if number not in numbers]
    return numbers


def _emails(_row: Row, info: Mapping[str, Any]) -> list[str]:
    emails = _texts(info.get("emails"), "email")
    for name in ("email", "h323-email"):
        if name in info:
            emails += [email for email in _texts(info[name], "email") if "@" in email and email not in emails]
    return emails


def _groups(_row: Row, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed: list[Any] = next((info[name] for name in ("grps", "groups", "grp") if isinstance(info.get(name), list)), [])
    groups: dict[str, bool] = {}
    for group in listed:
        if isinstance(group, dict):
            if (name := _text(group.get("name"))) is not None:
                groups[name] = _is_active(group)
        elif (name := _text(group)) is not None:
            groups[name] = True
    return [{"name": name, "active": active} for name, active in sorted(groups.items())]


def _is_active(group: Mapping[str, Any]) -> bool:
    # "dyn" is what members toggle themselves (in, out); it overrules the configured "mode".
    toggled = group.get("dyn")
    is_configured: bool = group.get("mode", "active") != "inactive"
    return toggled == "in" if isinstance(toggled, str) and toggled in {"in", "out"} else is_configured


def _apps(_row: Row, info: Mapping[str, Any]) -> list[str]:
    listed = info.get("apps")
    if isinstance(listed, list):
        return sorted(_texts(listed, "name"))
    named = _text(info.get("apps-my")) or _text(listed) or ""
    return sorted({name.strip() for name in named.split(",") if name.strip()})


def _devices(_row: Row, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = info.get("devices")
    devices = [device for device in listed if isinstance(device, dict)] if isinstance(listed, list) else []
    return [{"text": _text(device.get("text")), "app": _text(device.get("app"))} for device in devices]


_h323_in = _first("h323", "sip")

_FINDERS: Final[dict[str, Callable[[Row, Mapping[str, Any]], Any]]] = {
    "guid": lambda row, _info: row.account_guid,
    "h323": _h323,
    "display_name": _named("dn"),
    "common_name": _named("cn"),
    "numbers": _numbers,
    "emails": _emails,
    "groups": _groups,
    "pbx": _first("loc", "pbx"),
    "node": _named("node"),
    "domain": _named("domain"),
    "apps": _apps,
    "template": _named("config"),
    "hidden": lambda _row, info: info.get("hide") is True,
    "devices": _devices,
}

_EMPTY: Final[dict[str, Any]] = {"numbers": [], "emails": [], "groups": [], "apps": [], "devices": []}

_MAX_NAME_CHARACTERS: Final = 40
_NO_NAMES: Final = frozenset[str]()

_NAMES_BY_SHAPE: Final = {
    "login info": "appobj appdn appurl pbx cn unlicensed testmode lics groups apps",
    "client's user object": "domain sip guid dn num email prefix",
    "row of the users table": (
        "h323 pwd apps-my config node loc hide e164 cfpr t-cfpr pseudo h323-email fax emails allows t-allows grps "
        "devices cds forks wakeups"
    ),
    "object of the admin API": (
        "fake ext ext-in text url gi local trace critical no-dev login-c login-t admin admin-node admin-pbx filter "
        "cd-filter cfnr busy-out cd-block rej-ext no-disc dnd phone-config colr messages push phone uclic voicemail "
        "mobility mypbx video app-sharing reporting app-lics grp presence gws profiles"
    ),
}

_KNOWN_NAMES: Final = frozenset(name for names in _NAMES_BY_SHAPE.values() for name in names.split())
