"""What a PBX delivers, made into what we publish; before and after, made into changes.

Nobody documents what the ``info`` of an account holds. Four shapes are plausible (the login info the PBX gives to apps,
the client's user object, a row of the users table, an object of the admin API); each field is looked for under
all of its names. Only fields on the lists below can ever leave: the secrets that other fields hold, and those that a
future firmware adds, are out by construction.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from bridge.model import AccountChange, AccountGuid, ChangeKind, Mirrored, Published, Reason, Row, SourceName

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


class Judgement(NamedTuple):
    """What a row means: what to remember, and what to tell, if anything."""

    remember: Mirrored
    change: AccountChange | None = None


def account_key(account_guid: AccountGuid) -> str:
    """Return what two spellings of one guid have in common; PBXs differ in dashes and case."""
    return account_guid.replace("-", "").lower()


def judge(row: Row, before: Mirrored | None, *, source: SourceName, rules: Rules) -> Judgement:
    """Compare *row* with what was known *before*.

    A row in the epoch (guid) of what was known, with new numbers, is a change even where no published field differs.
    A row of a new epoch, or with numbers seen before, is the PBX repeating itself: only a real difference is a change.
    """
    after = _after(row, before, rules)
    if before is None or before.is_deleted:
        # A row that tells nothing but a guid may be a deletion as well: no reason to believe in an account.
        if row.is_deleted or (row.h323 is None and row.info is None):
            return Judgement(after._replace(is_deleted=True))
        return _appeared(after, before, source)
    if row.is_deleted:
        return _changed(after, ChangeKind.DELETED, source, Reason.REPORTED)
    return _compare(before, after, source, rules)


def _appeared(after: Mirrored, before: Mirrored | None, source: SourceName) -> Judgement:
    if before is None or before.revision == 0:
        return _changed(after, ChangeKind.CREATED, source)
    after = after._replace(reuse=before.reuse + (after.cursor == before.cursor))
    return _changed(after, ChangeKind.CREATED, source, Reason.RESTORED)


def _compare(before: Mirrored, after: Mirrored, source: SourceName, rules: Rules) -> Judgement:
    has_same_numbers = after.cursor == before.cursor
    if has_same_numbers and after.digest == before.digest:
        return Judgement(before)
    changed = _difference(before.account, after.account, rules.projection)
    is_repetition = has_same_numbers or after.cursor.guid != before.cursor.guid
    if not changed and (is_repetition or rules.skip_unchanged):
        return Judgement(after)
    if has_same_numbers:
        after = after._replace(reuse=before.reuse + 1)
    previous = {name: before.account.get(name) for name in changed}
    return _changed(after, ChangeKind.UPDATED, source, changed=changed, previous=previous)


def judge_repair(row: Row, before: Mirrored | None, *, source: SourceName, rules: Rules) -> Judgement:
    """Judge a row that a full walk proved and no live row explains: the PBX changed it behind our back.

    Only real differences are changes. Since the numbers may have been used before (a PBX set back to an older state
    counts anew), the event of an account we knew gets an id that no earlier one can have.
    """
    after = _after(row, before, rules)
    if before is None or before.is_deleted:
        return publish_anew(_appeared(after, before, source)) if before is not None else _appeared(after, None, source)
    changed = _difference(before.account, after.account, rules.projection)
    if not changed:
        return Judgement(after)
    previous = {name: before.account.get(name) for name in changed}
    after = after._replace(reuse=before.reuse + 1)
    return _changed(after, ChangeKind.UPDATED, source, changed=changed, previous=previous)


def judge_missing(known: Mirrored, *, source: SourceName) -> Judgement:
    """Judge an account that proven full walks did not see: it is deleted, and its last known state is told."""
    return _changed(known._replace(is_deleted=True), ChangeKind.DELETED, source, Reason.MISSING)


def publish_anew(judgement: Judgement) -> Judgement:
    """Return *judgement* with another event id: the PBX gave numbers used before to other content."""
    if judgement.change is None:
        return judgement
    reuse = judgement.remember.reuse + 1
    return Judgement(judgement.remember._replace(reuse=reuse), judgement.change._replace(reuse=reuse))


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


def _after(row: Row, before: Mirrored | None, rules: Rules) -> Mirrored:
    known = before.account if before is not None else None
    return Mirrored(
        account_guid=row.account_guid,
        cursor=row.cursor,
        digest=before.digest if row.is_deleted and before is not None else digest(row, rules.key),
        account=known if row.is_deleted and known is not None else account_of(row, known, rules),
        revision=before.revision if before is not None else 0,
        is_deleted=row.is_deleted,
        reuse=before.reuse if before is not None else 0,
    )


def _changed(  # noqa: PLR0913 - the parts of a change
    after: Mirrored,
    kind: ChangeKind,
    source: SourceName,
    reason: Reason | None = None,
    *,
    changed: Sequence[str] = (),
    previous: Published | None = None,
) -> Judgement:
    after = after._replace(revision=after.revision + 1)
    change = AccountChange(
        source=source,
        kind=kind,
        account=after.account,
        changed=changed,
        previous=previous or {},
        revision=after.revision,
        cursor=after.cursor,
        reason=reason,
        reuse=after.reuse,
    )
    return Judgement(after, change)


def _difference(before: Published, after: Published, projection: Projection) -> list[str]:
    # A field that was not published before (the configuration changed) has no former value to differ from. Another
    # spelling of the guid is the same guid.
    return [name for name in projection.fields if name != "guid" and name in before and before[name] != after.get(name)]


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
