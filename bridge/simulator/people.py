"""The people of a pretend PBX: names, numbers, groups, and what a PBX tells of them in ``info``.

The same seed makes the same people. Everything that ought to stay inside a PBX (passwords, keys, private numbers) is
in there too, each value containing ``MARK``, so that a test can prove that none of it ever comes out.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bridge.simulator.modes import Shape

MARK: Final = "5ec2e75ec2e7"
"""Part of every planted secret, and of nothing else; hexadecimal, since real ones are, and too long for chance."""


def planted(chance: random.Random) -> str:
    """Return a secret of 48 hexadecimal digits, the mark in front."""
    return MARK + f"{chance.getrandbits(144):036x}"


_FIRST: Final = (  # noqa: SIM905 - as a list of literals it would be a page long
    "Erika Max Jürgen Anna Lukas Søren Zoë José Łukasz François Ayşe Björn Chloé Dorothée Émile Fatma Günther Hélène "
    "İbrahim Jana Käthe Léa Márta Noël Olena Paweł Renée Sílvia Tomáš Ursula Václav Wiebke Gökçe Özlem Åsa Ines"
).split()
_LAST: Final = (  # noqa: SIM905 - the same
    "Mustermann Müller Schmidt Schröder Weiß Groß Jäger O'Connor Nowak Horváth Dvořák García Lefèvre Öztürk Sørensen "
    "Åkerström Kowalska Novotná Rossi Silva Petrović Papadopoulos Nguyen Fischer Strauß König Böhm Vogel Krüger Çelik"
).split()
_ODD = (
    ("مريم", "الفارسي"),
    ("נועה", "לוי"),
    ("<b>Bobby</b>", "Tables'); --"),
    ("Ann 🎧", "Hotline ☎️"),
    ("&amp;", '"Quoted" \\ Back/slash'),
    ("Zero\u200bWidth", "Line\u2028Break"),
    ("X" * 40, "Y" * 200),
    ("山田", "太郎"),
)
_GROUPS = ("Support", "Sales", "Einkauf", "Geschäftsführung", "Empfang", "Night shift", "EMEA", "Lager/Süd")
_PLAIN = str.maketrans("äöüßáàâçéèêëíîïñóôøśšúûýžłřěčďťňğışćåă", "aousaaaceeeeiiinooossuuyzlrecdtngiscaa")


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a PBX at one moment."""

    guid: str
    h323: str
    cn: str
    dn: str
    e164: str
    emails: tuple[str, ...]
    groups: tuple[tuple[str, bool], ...]
    """Name, and whether the member is active in it."""
    secret: str
    loc: str
    node: str = "root"
    config: str = "Config User"
    kind: str = "user"
    """``user``, or another kind of object that may be listed as an account."""
    touched: int = 0
    """How often it was saved without anything visible having changed."""


def make_guid(chance: random.Random) -> str:
    """Return a guid as innovaphone boxes make them: 32 hexadecimal digits that end in a MAC address."""
    return f"{chance.getrandbits(80):020x}" + f"009033{chance.getrandbits(24):06x}"


def people(seed: int, *, loc: str, domain: str, with_odd_names: bool = False) -> Iterator[Record]:
    """Return ever more people, each with a user name and an extension of their own."""
    chance = random.Random(f"people {seed}")  # noqa: S311 - made-up names, not secrets
    number = 0
    while True:
        first, last = chance.choice(_FIRST), chance.choice(_LAST)
        if with_odd_names and number % 5 == 4:  # noqa: PLR2004 - every fifth
            first, last = _ODD[(number // 5) % len(_ODD)]
        yield person(chance, number, first, last, loc=loc, domain=domain)
        number += 1


def person(chance: random.Random, number: int, first: str, last: str, *, loc: str, domain: str) -> Record:  # noqa: PLR0913 - what makes a person
    """Return one person; *number* makes what must be unique unique."""
    h323 = f"{plain(first)}.{plain(last)}.{number}".strip(".")
    groups = sorted(chance.sample(_GROUPS, chance.randrange(3)))
    return Record(
        guid=make_guid(chance),
        h323=h323,
        cn=f"{first} {last} {number}",
        dn=f"{last}, {first}",
        e164=str(1000 + number),
        emails=(f"{h323}@{domain}",) if number % 7 else (),
        groups=tuple((name, chance.random() < 0.8) for name in groups),  # noqa: PLR2004 - most are active
        secret=planted(chance),
        loc=loc,
    )


def plain(name: str) -> str:
    """Return *name* as it would be typed into an e-mail address; empty where nothing of it can be."""
    told = name.lower().translate(_PLAIN)
    return "".join(letter for letter in told if letter.isascii() and (letter.isalnum() or letter == "-"))


def build_info(record: Record, shape: Shape, *, domain: str, pbx: str) -> dict[str, Any]:
    """Return what a PBX tells of *record* in that shape, secrets included."""
    match shape:
        case Shape.LOGIN:
            return _login_info(record, domain, pbx)
        case Shape.USER:
            return _user_object(record, domain)
        case Shape.TABLE:
            return _table_row(record)
        case Shape.OBJECT:
            return _admin_object(record, domain)


def _login_info(record: Record, domain: str, pbx: str) -> dict[str, Any]:
    return {
        "appobj": "acct-bridge",
        "appdn": "Account bridge",
        "appurl": f"https://bridge.{domain}/{domain}/bridge/acct-bridge?token={record.secret}",
        "pbx": pbx,
        "cn": record.cn,
        "unlicensed": False,
        "lics": ["UC"],
        "groups": [name for name, is_active in record.groups if is_active],
        "apps": [{"name": "users", "dn": "Users"}, {"name": "phone", "dn": "Phone"}],
        "key": record.secret,
    }


def _user_object(record: Record, domain: str) -> dict[str, Any]:
    return {
        "domain": domain,
        "sip": record.h323,
        "guid": record.guid,
        "dn": record.dn,
        "num": record.e164,
        **({"email": record.emails[0]} if record.emails else {}),
        "prefix": {"intl": "000", "ntl": "00", "subs": "0", "area": "40", "country": "49"},
        "session": {"usr": record.h323, "pwd": record.secret},
        "turnPwd": record.secret,
    }


def _table_row(record: Record) -> dict[str, Any]:
    return {
        "guid": record.guid,
        "h323": record.h323,
        "pwd": record.secret,
        "cn": record.cn,
        "dn": record.dn,
        "apps-my": "users,phone",
        "config": record.config,
        "node": record.node,
        "loc": record.loc,
        "e164": record.e164,
        "pseudo": f'<pseudo type="" m-key="{record.secret}"/>'
        if record.kind == "user"
        else f'<pseudo type="{record.kind}"/>',
        "emails": [{"email": email} for email in record.emails],
        "grps": [
            {"name": name, "mode": "active", "dyn": "in" if is_active else "out"} for name, is_active in record.groups
        ],
        "devices": [
            {"hw": f"IP222-{record.guid[-6:]}", "text": "Desk", "app": "phone", "tls": True, "pin": record.secret}
        ],
        "forks": [{"e164": f"00170{record.secret}", "delay": 5}],
    }


def _admin_object(record: Record, domain: str) -> dict[str, Any]:
    return {
        **{name: value for name, value in _table_row(record).items() if name not in {"grps", "pseudo", "emails"}},
        "text": "",
        "url": "",
        "emails": list(record.emails),
        "grp": [
            {"name": name, "mode": "active", "dyn": "in" if is_active else "out"} for name, is_active in record.groups
        ],
        "presence": [{"c": "tel:", "a": "busy", "n": f"private {record.secret}"}],
        "gws": [{"name": "dect", "ipei": record.secret, "ac": record.secret}],
        "phone": f'<phone admin-pwd="{record.secret}" domain="{domain}"/>',
        "voicemail": {"pin": record.secret},
        "uclic": True,
    }
