"""An account change as a CloudEvent and back; agrees with ``schemas/account-changed.v1.schema.json``.

CloudEvents 1.0, structured mode: the whole event is one JSON object in the message body.

The id is made of the PBX's own numbers, so the same change has the same id whoever works it out, even after the bridge
lost its store. The bytes of an event are made once, with its outbox row, and never again.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import orjson

from bridge.errors import BadEvent
from bridge.model import AccountChange, AccountGuid, Certificate, ChangeKind, Published, Reason, SourceName, Token

CONTENT_TYPE: Final = "application/cloudevents+json"
ACCOUNT_CHANGED: Final = "pbx.account.changed"
ACCOUNT_CHANGED_SCHEMA: Final = "urn:pbx-account-bridge:account-changed:1"

SOURCE_VERIFIED: Final = "pbx.source.verified"
SOURCE_VERIFIED_SCHEMA: Final = "urn:pbx-account-bridge:source-verified:1"

_NAMESPACE: Final = uuid5(NAMESPACE_URL, "urn:pbx-account-bridge:event")
_SOURCE_PREFIX: Final = "/pbx/"
_NUMBERS: Final = re.compile(rb'"sequence":"\d{20}","lineage":"[^"]*"')
_REVISION: Final = re.compile(rb'"revision":\d+,"cursor":')
"""As ``encode`` writes them; no text in an event can look like these, since its quotes would be escaped."""


@dataclass(frozen=True, slots=True)
class AccountChanged:
    """The event as a consumer sees it."""

    event_id: str
    """The same for every delivery of this change: what an inbox remembers."""
    source: SourceName
    kind: ChangeKind
    account: Published
    changed: tuple[str, ...]
    previous: Published
    revision: int
    """Counts the changes of this account from 1, without gaps."""
    sequence: int
    """Counts the events of this source from 1, without gaps."""
    lineage: str
    """Of the bridge's store: revisions and sequences count within one lineage and start again in the next."""
    time: datetime
    """When the bridge learnt of the change."""
    reason: Reason | None
    cursor: Mapping[str, Any]
    """The PBX's own numbers: guid, usn, ausn. Opaque."""

    @property
    def account_guid(self) -> AccountGuid:
        """The account this is about."""
        return AccountGuid(self.account["guid"])


def event_id(lineage: str, source: SourceName, sequence: int) -> str:
    """Return the id of the event at this place: it can be given once, since places are."""
    return _uuid5(orjson.dumps([lineage, source, sequence]))


def _uuid5(name: bytes) -> str:
    """Return what ``str(uuid5(_NAMESPACE, name))`` does in half the time, for every change that is made."""
    digest = hashlib.sha1(_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def snapshot_id(change: AccountChange, lineage: str, run: str) -> str:
    """Return the id of the event that tells the state of an account in the snapshot *run*.

    Not that of the change which led to it: a subscriber that gets the state first and the change later has to apply
    both, or else what it got in between would stand.
    """
    parts = [change.source, lineage, "snapshot", run, change.account["guid"], change.revision]
    return str(uuid5(_NAMESPACE, orjson.dumps(parts).decode()))


def routing_key(change: AccountChange) -> str:
    """Return ``<source>.account.<change>``, so that ``#.account.created`` is a useful binding."""
    return f"{change.source}.account.{change.kind}"


def encode(change: AccountChange, *, identity: str, sequence: int, lineage: str, time: datetime) -> bytes:
    """Return the event as UTF-8 JSON. *identity* is its ``event_id``, *time* must be aware."""
    data: dict[str, Any] = {
        "change": change.kind,
        "account": change.account,
        "changed": change.changed,
        "previous": change.previous,
        "revision": change.revision,
        "cursor": _cursor(change),
    }
    if change.reason is not None:
        data["reason"] = change.reason
    event = {
        "specversion": "1.0",
        "id": identity,
        "source": f"{_SOURCE_PREFIX}{change.source}",
        "type": ACCOUNT_CHANGED,
        "subject": change.account["guid"],
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": ACCOUNT_CHANGED_SCHEMA,
        "sequence": f"{sequence:020}",
        "lineage": lineage,
        "partitionkey": change.account["guid"],
        "data": data,
    }
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)


def renumbered(body: bytes, *, lineage: str, sequence: int, revision: int) -> bytes:
    """Return the bytes of an account change with other numbers, and nothing else about it touched.

    Not by way of ``decode``: a PBX's own numbers need not survive that.
    """
    told = _NUMBERS.sub(b'"sequence":"%020d","lineage":"%s"' % (sequence, lineage.encode()), body, count=1)
    return _REVISION.sub(b'"revision":%d,"cursor":' % revision, told, count=1)


def without_person(body: bytes) -> bytes:
    """Return the bytes of an account change without anything about the person: for the records, never to be sent."""
    event = orjson.loads(body)
    event["data"] |= {"account": {"guid": event["data"]["account"]["guid"]}, "previous": {}}
    return orjson.dumps(event)


def numbers_in(bodies: Iterable[bytes], lineage: str) -> Mapping[str, int]:
    """Return the highest sequence of each source among the events of *lineage*; what is none of ours is passed over."""
    highest: dict[str, int] = {}
    for body in bodies:
        with suppress(ValueError, KeyError, TypeError):
            event = orjson.loads(body)
            if event["lineage"] == lineage:
                source = str(event["source"]).removeprefix(_SOURCE_PREFIX)
                highest[source] = max(highest.get(source, 0), int(event["sequence"]))
    return highest


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
        },
    }
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)


def decode(body: bytes) -> AccountChanged:
    """Return the event in a message body. Properties this version does not know are ignored.

    Raises:
        BadEvent: it is not an account change, or of a version this one cannot read.

    """
    try:
        event = orjson.loads(body)
        if event["type"] != ACCOUNT_CHANGED or event["dataschema"] != ACCOUNT_CHANGED_SCHEMA:
            raise BadEvent(
                f"an event of type {event['type']!r} and schema {event['dataschema']!r}, not an account change"
            )
        data = event["data"]
        return AccountChanged(
            event_id=_text(event["id"]),
            source=SourceName(_text(event["source"]).removeprefix(_SOURCE_PREFIX)),
            kind=ChangeKind(data["change"]),
            account=_with_guid(data["account"]),
            changed=tuple(data["changed"]),
            previous=dict(data["previous"]),
            revision=int(data["revision"]),
            sequence=int(event["sequence"]),
            lineage=_text(event["lineage"]),
            time=datetime.fromisoformat(event["time"]),
            reason=Reason(data["reason"]) if data.get("reason") else None,
            cursor=dict(data["cursor"]),
        )
    except (KeyError, TypeError, ValueError) as problem:
        raise BadEvent(f"not an account change of this version: {type(problem).__name__} {problem}") from problem


def _cursor(change: AccountChange) -> dict[str, Any]:
    tokens: tuple[tuple[str, Token | None], ...] = (
        ("guid", change.cursor.guid),
        ("usn", change.cursor.usn),
        ("ausn", change.cursor.ausn),
    )
    return {name: orjson.Fragment(token) for name, token in tokens if token is not None}


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a text is missing")
    return value


def _with_guid(account: Mapping[str, Any]) -> Published:
    _text(account["guid"])
    return dict(account)
