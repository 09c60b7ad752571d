"""An account change as a CloudEvent and back; agrees with ``schemas/account-changed.v1.schema.json``.

CloudEvents 1.0, structured mode: the whole event is one JSON object in the message body.

The id is the name of the event's place: lineage, source and sequence; a certificate's that of lineage, source and walk.
It is given once, with the outbox row, as the bytes are, so it cannot name two things, whatever the PBX does with its
own numbers. The events of a snapshot have ids of their own.

What comes from outside is read here and nowhere else: every number has bounds, so that an event that nobody meant
cannot stand in the way of all later ones, and whatever is wrong is ``BadEvent``.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring
from typing import Any, Final, NotRequired, TypedDict, cast
from uuid import NAMESPACE_URL, uuid5

import orjson

from bridge.errors import BadEvent
from bridge.events.normalize import MAX_GUID_CHARACTERS as MAX_TOLD_CHARACTERS
from bridge.events.normalize import clean_guid
from bridge.model import (
    AccountChange,
    AccountGuid,
    Certificate,
    ChangeKind,
    Cursor,
    Published,
    Reason,
    SourceName,
    Token,
)

APP_ID: Final = "pbx-account-bridge"
CONTENT_TYPE: Final = "application/cloudevents+json"
ID_HEADER: Final = "x-deduplication-header"
"""What the de-duplication plugin of RabbitMQ looks at."""
DOUBT_HEADER: Final = "x-redelivered-by-bridge"
TRACE_HEADER: Final = "traceparent"
"""W3C Trace Context."""
ACCOUNT_CHANGED: Final = "pbx.account.changed"
ACCOUNT_CHANGED_SCHEMA: Final = "urn:pbx-account-bridge:account-changed:1"

SOURCE_VERIFIED: Final = "pbx.source.verified"
SOURCE_VERIFIED_SCHEMA: Final = "urn:pbx-account-bridge:source-verified:1"

LINEAGE: Final = re.compile(r"[0-9]{8}T[0-9]{9}Z-[0-9a-f]{4}")
"""When it was born, in UTC to the millisecond, and four hex digits: as wide as every other, so text order is age."""

MAX_REVISION: Final = 2**53 - 1
"""The greatest number that every JSON reader gets exactly (RFC 8259, section 6)."""

MAX_GUID_CHARACTERS: Final = 1024

_NAMESPACE: Final = uuid5(NAMESPACE_URL, "urn:pbx-account-bridge:event")
_NAMED: Final = hashlib.sha1(_NAMESPACE.bytes, usedforsecurity=False)
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The first digit of the fourth group, by what the hash has there (RFC 9562, section 4.1)."""
_SOURCE_PREFIX: Final = "/pbx/"
_SOURCE: Final = re.compile(r"/pbx/([a-z0-9][a-z0-9-]*)")
_SEQUENCE: Final = re.compile(r"[0-9]{20}")
_MAX_SEQUENCE: Final = 2**63 - 1


class Group(TypedDict):
    """A group that an account is in."""

    name: str
    active: bool
    """False where the member has left it for the moment."""


class Device(TypedDict):
    """A device of an account."""

    text: str | None
    app: str | None


class Account(TypedDict):
    """An account as it is published, so that a type checker finds a field that is not there.

    What an operator excludes (``publish.exclude``) is not there either, and what is masked is a text ``masked:…``, or a
    list of one.
    """

    guid: str
    h323: str | None
    display_name: str | None
    common_name: str | None
    numbers: list[str]
    emails: list[str]
    groups: list[Group]
    pbx: str | None
    node: str | None
    domain: str | None
    apps: NotRequired[list[str]]
    template: NotRequired[str | None]
    hidden: NotRequired[bool]
    devices: NotRequired[list[Device]]


class Previous(TypedDict, total=False):
    """What the fields in ``changed`` were before."""

    h323: str | None
    display_name: str | None
    common_name: str | None
    numbers: list[str]
    emails: list[str]
    groups: list[Group]
    pbx: str | None
    node: str | None
    domain: str | None
    apps: list[str]
    template: str | None
    hidden: bool
    devices: list[Device]


@dataclass(frozen=True, slots=True)
class AccountChanged:
    """The event as a consumer sees it."""

    event_id: str
    """The same for every delivery of this change, and of nothing else."""
    source: SourceName
    kind: ChangeKind
    account: Account
    changed: tuple[str, ...]
    previous: Previous
    revision: int
    """Counts the changes of this account from 1, without gaps."""
    sequence: int
    """Counts the changes of this source from 1, without gaps; in a snapshot, that of the last change."""
    lineage: str
    """A generation of what the bridge knows of this source; later ones are greater, as text. Revisions and sequences
    count within one and start again in the next."""
    time: datetime
    """When the bridge learnt of the change, in UTC."""
    reason: Reason | None
    cursor: Mapping[str, Any]
    """The PBX's own numbers: guid, usn, ausn. Opaque. What is no number and no clean text, or longer than a
    guid may be, is told as a text."""

    @property
    def account_guid(self) -> AccountGuid:
        """The account this is about."""
        return AccountGuid(self.account["guid"])


@dataclass(frozen=True, slots=True)
class SourceVerified:
    """The certificate as a consumer sees it: a full walk was proven complete, and nothing was missing then."""

    event_id: str
    source: SourceName
    sequence: int
    """Of the last account change it covers."""
    lineage: str
    time: datetime
    """When the walk was proven, in UTC."""
    walk: int
    started: datetime
    verified: datetime
    accounts: int
    """Present, all of them as published."""
    repaired: int
    """Had changed without the PBX telling."""
    deleted: int
    """Deleted because proven walks did not see them."""
    held: int
    """Would have been deleted, had they not been too many to do so unasked."""
    absent: int
    """Not seen by this walk and not deleted (yet)."""
    completes_lineage: bool
    """True for the first proven walk of a lineage: accounts of this source with an older lineage are gone."""
    checksum: int | None = None
    """Of the present accounts and their revisions, to compare one's own with; ``None``: an earlier version made it."""


def event_id(lineage: str, source: SourceName, sequence: int) -> str:
    """Return the id of the account change with this place: a UUID that no other one can have."""
    return _uuid5(orjson.dumps([lineage, source, sequence]))


def _uuid5(name: bytes) -> str:
    """Return what ``str(uuid5(_NAMESPACE, name))`` does in a third of the time, for every change that is made."""
    named = _NAMED.copy()
    named.update(name)
    digest = named.hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANTS[digest[16]]}{digest[17:20]}-{digest[20:32]}"


def snapshot_id(change: AccountChange, lineage: str, run: str) -> str:
    """Return the id of the event that tells the state of an account in the snapshot *run*.

    Not that of the change which led to it: a subscriber that gets the state first and the change later has to apply
    both, or else what it got in between would stand.
    """
    parts = [change.source, lineage, "snapshot", run, change.account["guid"], change.revision]
    return str(uuid5(_NAMESPACE, orjson.dumps(parts).decode()))


def routing_key(change: AccountChange) -> str:
    """Return ``<source>.account.<change>``, so that ``#.account.created`` is a useful binding."""
    return change.source + ".account." + change.kind


def encode(change: AccountChange, *, identity: str, sequence: int, lineage: str, time: datetime) -> bytes:
    """Return the event as UTF-8 JSON. *identity* is its ``event_id`` or ``snapshot_id``, *time* must be aware.

    Put together from text, since names of our own need no quoting: 24 000 instructions, by way of a dict 28 000.
    """
    account, changed, previous, why = change.account, change.changed, change.previous, change.reason
    guid = encode_basestring(account["guid"])  # it writes what orjson does
    moment = orjson.dumps(time, option=orjson.OPT_UTC_Z).decode()
    before = (
        f'{{"specversion":"1.0","id":"{identity}","source":"{_SOURCE_PREFIX}{change.source}","type":"{ACCOUNT_CHANGED}",'
        f'"subject":{guid},"time":{moment},"datacontenttype":"application/json",'
        f'"dataschema":"{ACCOUNT_CHANGED_SCHEMA}","sequence":"{str(sequence).zfill(20)}","lineage":"{lineage}",'
        f'"partitionkey":{guid},"data":{{"change":"{change.kind}","account":'
    )
    fields = orjson.dumps(changed).decode() if changed else "[]"
    values = orjson.dumps(previous).decode() if previous else "{}"
    reason = "" if why is None else f',"reason":"{why}"'
    numbers = _numbers(change.cursor)[1:]
    behind = f',"changed":{fields},"previous":{values},"revision":{change.revision},"cursor":{{{numbers}}}{reason}}}}}'
    return before.encode() + orjson.dumps(account) + behind.encode()


def _numbers(cursor: Cursor) -> str:
    """Return the members of *cursor* as they are published: clean, not too long, and different where they were.

    Only the PBX gets them back as they came.
    """
    members = cursor.members
    # All other characters that cannot be printed are written with a backslash.
    is_clean = members.isascii() and "\\" not in members and "\x7f" not in members
    if is_clean and len(members) <= MAX_TOLD_CHARACTERS and ":true" not in members and ":false" not in members:
        return members
    return Cursor(*(token and _clean_token(token) for token in (cursor.guid, cursor.usn, cursor.ausn))).members


def _clean_token(token: Token) -> Token:
    value = orjson.loads(token) if token.startswith('"') else token
    clean = clean_guid(value)
    return token if clean == value and token not in {"true", "false"} else Token(orjson.dumps(clean).decode())


def without_person(body: bytes) -> bytes:
    """Return the bytes of an account change without anything about the person: for the records, never to be sent."""
    event = orjson.loads(body)
    event["data"] |= {"account": {"guid": event["data"]["account"]["guid"]}, "previous": {}}
    return orjson.dumps(event)


def certificate_id(certificate: Certificate, lineage: str) -> str:
    """Return the id of the event that tells *certificate*."""
    return _uuid5(orjson.dumps([certificate.source, lineage, "walk", certificate.walk]))


def certificate_key(certificate: Certificate) -> str:
    """Return its routing key, ``<source>.source.verified``."""
    return f"{certificate.source}.source.verified"


def encode_certificate(certificate: Certificate, *, identity: str, lineage: str) -> bytes:
    """Return the event that tells *certificate*. Its sequence is that of the last account event it covers."""
    event = {
        "specversion": "1.0",
        "id": identity,
        "source": f"{_SOURCE_PREFIX}{certificate.source}",
        "type": SOURCE_VERIFIED,
        "subject": certificate.source,
        "time": certificate.verified_at,
        "datacontenttype": "application/json",
        "dataschema": SOURCE_VERIFIED_SCHEMA,
        "sequence": f"{certificate.sequence:020}",
        "lineage": lineage,
        "data": {
            "walk": certificate.walk,
            "started": certificate.started_at,
            "verified": certificate.verified_at,
            "accounts": certificate.accounts,
            "repaired": certificate.repaired,
            "deleted": certificate.deleted,
            "held": certificate.held,
            "absent": certificate.absent,
            "completes_lineage": certificate.completes_lineage,
            "checksum": certificate.checksum,
        },
    }
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)


def decode(body: bytes) -> AccountChanged:
    """Return the account change in a message body. Properties this version does not know are ignored.

    Raises:
        BadEvent: it is not an account change, or of a version this one cannot read.

    """
    event = _parsed(body)
    try:
        _expect(event, ACCOUNT_CHANGED, ACCOUNT_CHANGED_SCHEMA)
        data = _object(event["data"])
        return AccountChanged(
            event_id=_text(event["id"]),
            source=_source(event),
            kind=ChangeKind(data["change"]),
            account=cast("Account", _with_guid(data["account"])),
            changed=_texts(data["changed"]),
            previous=cast("Previous", _object(data["previous"])),
            revision=_number(data["revision"], 1),
            sequence=_sequence(event),
            lineage=_lineage(event),
            time=_time(event["time"]),
            reason=Reason(data["reason"]) if data.get("reason") else None,
            cursor=_object(data["cursor"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        raise BadEvent(f"not an account change of this version: {type(problem).__name__} {problem}") from problem


def decode_certificate(body: bytes) -> SourceVerified:
    """Return the certificate in a message body. Properties this version does not know are ignored.

    Raises:
        BadEvent: it is not a certificate, or of a version this one cannot read.

    """
    event = _parsed(body)
    try:
        _expect(event, SOURCE_VERIFIED, SOURCE_VERIFIED_SCHEMA)
        data = _object(event["data"])
        return SourceVerified(
            event_id=_text(event["id"]),
            source=_source(event),
            sequence=_sequence(event),
            lineage=_lineage(event),
            time=_time(event["time"]),
            walk=_number(data["walk"], 1),
            started=_time(data["started"]),
            verified=_time(data["verified"]),
            accounts=_number(data["accounts"]),
            repaired=_number(data["repaired"]),
            deleted=_number(data["deleted"]),
            held=_number(data["held"]),
            absent=_number(data["absent"]),
            completes_lineage=_flag(data["completes_lineage"]),
            checksum=_number(data["checksum"]) if "checksum" in data else None,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as problem:
        raise BadEvent(f"not a certificate of this version: {type(problem).__name__} {problem}") from problem


def read_type(body: bytes) -> str:
    """Return the type of the event in a message body, for messages that do not say it themselves.

    Raises:
        BadEvent: it is no event.

    """
    found = _parsed(body).get("type")
    if not isinstance(found, str):
        raise BadEvent("not an event: it has no type")
    return found


def _parsed(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object in *body*, in which no name comes twice: two readers could take it for two things.

    Raises:
        BadEvent: it is none, or nested deeper than anybody would mean.

    """
    try:
        event: Any = orjson.loads(body)
        if orjson.dumps(event) != body:  # not as our own encoder writes it, which says a name once
            json.loads(body, object_pairs_hook=_without_doubles)
    except (TypeError, ValueError, RecursionError) as problem:
        raise BadEvent(f"not JSON: {type(problem).__name__} {problem}") from problem
    if not isinstance(event, dict):
        raise BadEvent(f"not an event: JSON of type {type(event).__name__}")
    return event


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name comes twice in an object")
    return content


def _expect(event: Mapping[str, Any], kind: str, schema: str) -> None:
    if event["type"] != kind or event["dataschema"] != schema:
        raise BadEvent(f"an event of type {event['type']!r} and schema {event['dataschema']!r}, not {kind}")


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a text is missing")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError("a list of texts is missing")
    return tuple(value)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("an object is missing")
    return value


def _number(value: object, least: int = 0) -> int:
    # A boolean is an int to Python, and to nobody else.
    if type(value) is not int or not least <= value <= MAX_REVISION:
        raise ValueError("a number is missing, or beyond its bounds")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is missing")
    return value


def _sequence(event: Mapping[str, Any]) -> int:
    sequence = int(_matching(_SEQUENCE, event["sequence"])[0])
    if sequence > _MAX_SEQUENCE:
        raise ValueError("a sequence beyond its bounds")
    return sequence


def _lineage(event: Mapping[str, Any]) -> str:
    return _matching(LINEAGE, event["lineage"])[0]


def _source(event: Mapping[str, Any]) -> SourceName:
    return SourceName(_matching(_SOURCE, event["source"])[1])


def _matching(pattern: re.Pattern[str], value: object) -> re.Match[str]:
    found = pattern.fullmatch(_text(value))
    if found is None:
        raise ValueError("a text of another form than is wanted")
    return found


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(_text(value))
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    return time.astimezone(UTC)


def _with_guid(value: object) -> Published:
    account = _object(value)
    guid = _text(account["guid"])
    if len(guid) > MAX_GUID_CHARACTERS or "\x00" in guid:
        raise ValueError("a guid that no database could keep")
    return account
