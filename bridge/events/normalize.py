"""What a PBX delivers, made into what we publish.

Nobody documents what the ``info`` of an account holds. Four shapes are plausible (the login info the PBX gives to apps,
the client's user object, a row of the users table, an object of the admin API); each field is looked for under
all of its names. Only fields on the lists below can ever leave: the secrets that other fields hold, and those that a
future firmware adds, are out by construction.

What leaves is clean text (in NFC, without control characters) and bounded in length and number, and the time for it
grows with the size of what came and no faster.
"""

import hashlib
import heapq
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import orjson

from bridge.events.wording import quoted
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

MAX_ITEMS: Final = 256
"""Of one published list. A user has a handful of numbers, addresses and devices, and is in some dozens of groups."""

MAX_ITEM_CHARACTERS: Final = 256
"""Of one text in a list: an e-mail address has at most 254 (RFC 5321), and the PBX's names are shorter. With
``MAX_ITEMS`` the whole account stays below 2 MB in whatever letters, which is little for the broker."""

MAX_GUID_CHARACTERS: Final = 128
"""Of a guid; the PBX's have 32 or 36."""

MAX_APPS_CHARACTERS: Final = 1 << 14
"""Of a list of apps that comes as one text."""

MAX_KNOWN_UNEXPECTED: Final = 1000
"""Names that are remembered because they were told; whoever makes up names may fill neither memory nor log."""


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
    is_new: bool = False
    """True while not all that is known was told by these rules: what is told otherwise by them is a change."""

    @property
    def publishes(self) -> str:
        """Which fields leave, and how; the same text for the same content."""
        fields, masked = sorted(self.projection.fields), sorted(self.projection.masked)
        return f"{' '.join(fields)} | {' '.join(masked)}"


def clean_guid(account_guid: str) -> AccountGuid:
    """Return a guid as it is published: clean text, not too long, and never that of another one.

    Where that takes something away, a digest of the whole takes its place, so that two guids do not become one; and
    where there are only dashes, which a key has not, it is added.
    """
    is_short = len(account_guid) <= MAX_GUID_CHARACTERS
    has_key = account_guid.strip("-") != ""
    if is_short and has_key and account_guid.isascii() and account_guid.isprintable():
        return AccountGuid(account_guid)
    clean = _clean(account_guid, MAX_GUID_CHARACTERS)
    if is_short and has_key and unicodedata.normalize("NFC", account_guid) == clean:
        return AccountGuid(clean)
    told = hashlib.blake2b(account_guid.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return AccountGuid(f"{clean[: MAX_GUID_CHARACTERS - len(told) - 1]}~{told}")


def account_key(account_guid: AccountGuid) -> str:
    """Return what two spellings of one guid have in common, as clean text; PBXs differ in dashes and case."""
    key = clean_guid(account_guid).replace("-", "").lower()
    # In other letters than these, a change of case or a dash less may leave what belongs together apart.
    return key if key.isascii() else unicodedata.normalize("NFC", key)


def read_account(row: Row, before: Published | None, rules: Rules) -> Published:
    """Return the published account in *row*. What the row does not tell stays as it was *before*."""
    info = row.info
    if info is None:
        kept: Published = before or {}
        told = {"h323": _masked("h323", _text(row.h323), rules)} if row.h323 is not None else {}
        return {name: told.get(name, kept.get(name, _EMPTY.get(name))) for name in rules.projection.fields} | {
            "guid": clean_guid(row.account_guid)
        }
    account = {name: _FINDERS[name](row, info) for name in rules.projection.fields}
    if rules.projection.masked:
        account = {name: _masked(name, value, rules) for name, value in account.items()}
    if row.h323 is None and account.get("h323") is None and before is not None and "h323" in account:
        account["h323"] = before.get("h323")
    return account


def is_usual(row: Row) -> bool:
    """Tell whether ``Unexpected`` has certainly nothing to tell of *row*; False says nothing.

    Asked of every row, one look at each value: 36 000 instructions, and 66 000 to look for each thing by itself.
    """
    info, h323 = row.info, row.h323
    if (
        info is None
        or len(row.account_guid) > MAX_GUID_CHARACTERS
        or (h323 is not None and len(h323) > MAX_TEXT_CHARACTERS)
        or not info.keys() <= _KNOWN_NAMES
        or _WHO.isdisjoint(info)
    ):
        return False
    for name, value in info.items():
        kind = type(value)
        if kind is str:
            if len(value) > MAX_ITEM_CHARACTERS:
                return False
        elif kind is list:
            if name in _LONGEST and not _is_usual_list(name, value):
                return False
        elif value is not None and kind is not bool and kind is not int:
            return False
    return all(type(info.get(name)) is not str for name in _GROUPS)


def _is_usual_list(name: str, value: list[Any]) -> bool:
    takes = _TAKES.get(name, _NO_NAMES)
    if takes is None or len(value) > MAX_ITEMS:
        return False
    is_judged = name in _TAKES  # an empty set there is a list that may hold no object at all, as that of numbers
    for item in value:
        if type(item) is not dict or (is_judged and takes.isdisjoint(item)):
            return False
        for text in item.values():
            if type(text) is str and len(text) > MAX_ITEM_CHARACTERS:
                return False
    return True


class Unexpected:
    """Remembers what in the rows of one PBX was not as anybody would expect, so that each is told once, names only."""

    def __init__(self) -> None:
        self._unknown: set[str] = set()
        self._cut: set[str] = set()
        self._unread: set[str] = set()

    def __repr__(self) -> str:
        return f"<Unexpected {len(self._unknown)} unknown, {len(self._cut)} cut, {len(self._unread)} unread>"

    @property
    def unread(self) -> Sequence[str]:
        """What came in a form that nobody can read, since that was forgotten."""
        return sorted(self._unread)

    def forget_unread(self) -> None:
        """Have what still comes in such a form told once more."""
        self._unread.clear()

    def unread_in(self, row: Row) -> Sequence[str]:
        """Return what of *row* came in a form that nobody can read, if not told before."""
        unread = unread_forms(row)
        if not unread or len(self._unread) >= MAX_KNOWN_UNEXPECTED:
            return ()
        news = sorted(unread - self._unread)
        self._unread.update(news)
        return news

    def unknown_in(self, row: Row) -> Sequence[str]:
        """Return the names in *row* that no shape explains and that were not told before."""
        room = MAX_KNOWN_UNEXPECTED - len(self._unknown)
        if row.info is None or row.info.keys() <= _KNOWN_NAMES or room <= 0:
            return ()
        news = sorted(unknown_names(row.info) - self._unknown)[:room]
        self._unknown.update(news)
        return news

    def cut_in(self, row: Row) -> Sequence[str]:
        """Return the names in *row* of which too much came, so that the rest is left out, if not told before."""
        cut = cut_names(row)
        if not cut:
            return ()
        news = sorted(cut - self._cut)
        self._cut.update(news)
        return news


def unknown_names(info: Mapping[str, Any]) -> frozenset[str]:
    """Return the names in *info* that no shape explains, so that they can be reported, names only; not too many."""
    unknown = info.keys() - _KNOWN_NAMES
    if not unknown:
        return _NO_NAMES
    told = heapq.nsmallest(_MAX_NAMES_AT_ONCE, (name for name in unknown if name.isprintable()))
    return frozenset(name[:_MAX_NAME_CHARACTERS] for name in told)


def cut_names(row: Row) -> frozenset[str]:
    """Return the names in *row* whose values are longer, or more, than what is published of them."""
    cut = [name for name, value in (row.info or {}).items() if name in _LONGEST and _is_cut(name, value)]
    if row.h323 is not None and len(row.h323) > MAX_TEXT_CHARACTERS:
        cut.append("account-h323")
    if len(row.account_guid) > MAX_GUID_CHARACTERS:
        cut.append("account-guid")
    return frozenset(cut) if cut else _NO_NAMES


def unread_forms(row: Row) -> frozenset[str]:
    """Return what of the published fields came in *row* in a form that nobody can read, in words without a value.

    Such an account is published without what it may well have, which is not to pass for all being well.
    """
    info = row.info
    if info is None:
        return frozenset([f"info is {row.unread}"]) if row.unread else _NO_NAMES
    told = [
        f"{name} in another form"
        for name, value in info.items()
        if (type(value) is not str or name in _GROUPS) and name in _TAKES and not _is_read(name, value)
    ]
    if not told and _WHO.isdisjoint(info) and (names := sorted(unknown_names(info))):
        told.append(f"info without a name or number, but with {', '.join(map(quoted, names[:_MAX_NAMES_TOLD]))}")
    return frozenset(told) if told else _NO_NAMES


def _is_read(name: str, value: Any) -> bool:
    """Tell whether the finder of the field *name* gets what there is in *value*."""
    takes = _TAKES[name]
    if isinstance(value, list):
        return not value or (takes is not None and all(_is_item(item, takes) for item in value[:MAX_ITEMS]))
    return not value or not isinstance(value, (dict, float, str))


def _is_item(item: Any, takes: frozenset[str]) -> bool:
    if isinstance(item, dict):
        return not item or not takes.isdisjoint(item)
    return not isinstance(item, (list, float))


def _is_cut(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > _LONGEST[name]
    if not isinstance(value, list):
        return False
    if len(value) > MAX_ITEMS:
        return True
    for item in value:
        for text in item.values() if isinstance(item, dict) else (item,):
            if isinstance(text, str) and len(text) > MAX_ITEM_CHARACTERS:
                return True
    return False


def digest(row: Row, key: bytes) -> bytes:
    """Return a keyed digest of everything *row* tells, so that a repetition is known without keeping its secrets."""
    try:
        told = orjson.dumps([row.h323, row.info], option=orjson.OPT_SORT_KEYS)
    except TypeError:
        # Nested beyond what orjson writes (254 levels), or a number beyond 64 bits: member by member, and of those that
        # cannot be written only the names. None of them is a field of ours.
        members = sorted((row.info or {}).items())
        told = b"\0".join(_written(part) for part in (row.h323, *(part for member in members for part in member)))
    content = _keyed(key).copy()
    content.update(told)
    return content.digest()


@lru_cache(maxsize=1)
def _keyed(key: bytes) -> hashlib.blake2b:
    """Return a hash that has taken the key, to be copied for every row: a tenth of the instructions less."""
    return hashlib.blake2b(key=key, digest_size=16)


def _written(value: Any) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else b""


def _clean(text: str, most: int) -> str:
    """Return at most *most* characters of *text*, clean: valid, in NFC, without control characters.

    Cut first: to bring a long row of combining characters into its order takes the square of its length.
    """
    text = text[:most]
    if text.isprintable() and (text.isascii() or unicodedata.is_normalized("NFC", text)):
        return text
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").translate(_CONTROL)
    return unicodedata.normalize("NFC", text)[:most]


def _masked(name: str, value: Any, rules: Rules) -> Any:
    if name not in rules.projection.masked or value in (None, "", []):
        return value
    digest = hashlib.blake2b(orjson.dumps([name, value]), key=rules.key, digest_size=8).hexdigest()
    mask = f"masked:{digest}"
    if not isinstance(value, list):
        return mask
    item = _MASKED_ITEMS.get(name)
    return [mask if item is None else {**item, next(iter(item)): mask}]


def _text(value: Any, most: int = MAX_TEXT_CHARACTERS) -> str | None:
    """Return a text or number as clean text; anything else is not what the field is for."""
    if value is None:
        return None
    if type(value) is str:
        is_clean = len(value) <= most and value.isascii() and value.isprintable()  # asked here: most texts are
        return (value if is_clean else _clean(value, most)) or None
    is_number = isinstance(value, int) and not isinstance(value, bool) and -_MOST <= value <= _MOST
    return str(value) if is_number else None


def _named(name: str) -> Callable[[Row, Mapping[str, Any]], str | None]:
    return lambda _row, info: _text(info.get(name))


def _first(*names: str) -> Callable[[Row, Mapping[str, Any]], str | None]:
    def find(_row: Row, info: Mapping[str, Any]) -> str | None:
        for name in names:
            if (text := _text(info.get(name))) is not None:
                return text
        return None

    return find


def _held(item: Any, inside: str | None) -> Any:
    """Return an item of a list, or what it holds under *inside* where it is an object."""
    if isinstance(item, dict):
        return (inside and item.get(inside)) or None
    return item


def _take_texts(found: dict[str, None], value: Any, inside: str | None = None, having: str = "") -> None:
    """Put what there is in *value* into *found*, each text once, until that is full.

    It is one text, a list of texts, or a list of objects that hold one under *inside*; only those with *having* count.
    Not a generator: for the one or two texts of an account, that took 7 000 instructions more.
    """
    for item in value if isinstance(value, list) else (value,):
        if len(found) == MAX_ITEMS:
            return
        text = _text(item if type(item) is str else _held(item, inside), MAX_ITEM_CHARACTERS)
        if text is not None and having in text:
            found[text] = None


def _h323(row: Row, info: Mapping[str, Any]) -> str | None:
    return _text(row.h323) or _h323_in(row, info)


def _numbers(_row: Row, info: Mapping[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    for name in _NUMBERS:
        if name in info:
            _take_texts(found, info[name])
    return list(found)


def _emails(_row: Row, info: Mapping[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    _take_texts(found, info.get("emails"), "email")
    for name in _EMAILS:
        if name in info:
            _take_texts(found, info[name], "email", having="@")
    return list(found)


def _groups(_row: Row, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups: dict[str, bool] = {}
    for group in _listed_groups(info):
        if isinstance(group, dict):
            if (name := _text(group.get("name"), MAX_ITEM_CHARACTERS)) is not None:
                groups[name] = _is_active(group)
        elif (name := _text(group, MAX_ITEM_CHARACTERS)) is not None:
            groups[name] = True
    return [{"name": name, "active": groups[name]} for name in _in_order(groups)] if groups else []


def _listed_groups(info: Mapping[str, Any]) -> Sequence[Any]:
    for name in _GROUPS:
        if isinstance(listed := info.get(name), list):
            return listed
    return ()


def _in_order(texts: Collection[str]) -> list[str]:
    """Return the first texts in the order of the alphabet: the same ones in whatever order they came."""
    return sorted(texts) if len(texts) <= MAX_ITEMS else heapq.nsmallest(MAX_ITEMS, texts)


def _is_active(group: Mapping[str, Any]) -> bool:
    # "dyn" is what members toggle themselves (in, out); it overrules the configured "mode".
    toggled = group.get("dyn")
    return bool(toggled == "in" or (toggled != "out" and group.get("mode", "active") != "inactive"))


def _apps(_row: Row, info: Mapping[str, Any]) -> list[str]:
    listed = info.get("apps")
    if isinstance(listed, list):
        held = (_text(_held(item, "name"), MAX_ITEM_CHARACTERS) for item in listed)
        return _in_order({name for name in held if name is not None})
    named = next((text for text in (info.get("apps-my"), listed) if isinstance(text, str) and text), "")
    names = (_text(name.strip(), MAX_ITEM_CHARACTERS) for name in named[:MAX_APPS_CHARACTERS].split(","))
    return _in_order({name for name in names if name is not None})


def _devices(_row: Row, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = info.get("devices")
    devices = (device for device in listed if isinstance(device, dict)) if isinstance(listed, list) else iter(())
    return [
        {name: _text(device.get(name), MAX_ITEM_CHARACTERS) for name in ("text", "app")}
        for device in islice(devices, MAX_ITEMS)
    ]


_NUMBERS: Final = ("e164", "num", "ext", "number")
_EMAILS: Final = ("email", "h323-email")
_GROUPS: Final = ("grps", "groups", "grp")
_LONGEST: Final[Mapping[str, int]] = {
    **dict.fromkeys(("h323", "sip", "dn", "cn", "loc", "pbx", "node", "domain", "config"), MAX_TEXT_CHARACTERS),
    **dict.fromkeys((*_NUMBERS, *_EMAILS, *_GROUPS, "emails", "devices"), MAX_ITEM_CHARACTERS),
    **dict.fromkeys(("apps", "apps-my"), MAX_APPS_CHARACTERS),
}
"""How many characters of a text are looked at, by the names that are published."""

_TAKES: Final[Mapping[str, frozenset[str] | None]] = {
    **dict.fromkeys(("h323", "sip", "dn", "cn", "loc", "pbx", "node", "domain")),
    **dict.fromkeys(_NUMBERS, frozenset[str]()),
    **dict.fromkeys((*_EMAILS, "emails"), frozenset(["email"])),
    **dict.fromkeys(_GROUPS, frozenset(["name"])),
}
"""What a list under each of these names may hold beside texts: objects with one of these; ``None``: it is no list."""

_WHO: Final = frozenset(("h323", "sip", "dn", "cn", "emails", *_NUMBERS, *_EMAILS))
"""Any of these tells who an account belongs to."""

_MOST: Final = (1 << 64) - 1
"""Of a number: what JSON brings as a whole number at all."""

_CONTROL: Final = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0))) | dict.fromkeys(map(ord, "\t\n\r"), " ")
"""Control characters go; those that part words leave a blank."""

_h323_in = _first("h323", "sip")

_FINDERS: Final[dict[str, Callable[[Row, Mapping[str, Any]], Any]]] = {
    "guid": lambda row, _info: clean_guid(row.account_guid),
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

_EMPTY: Final[dict[str, Any]] = {
    **{name: [] for name in ("numbers", "emails", "groups", "apps", "devices")},
    "hidden": False,
}

_MASKED_ITEMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "groups": {"name": "", "active": True},
    "devices": {"text": "", "app": None},
}
"""The one item of a masked list of objects; the mask goes into its first text."""

_MAX_NAME_CHARACTERS: Final = 40
_MAX_NAMES_AT_ONCE: Final = 100
_MAX_NAMES_TOLD: Final = 5
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
