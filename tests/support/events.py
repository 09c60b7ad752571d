"""Account changes as the bridge would publish them, for tests of those who receive them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from bridge.events import cloudevents
from bridge.events.checksum import checksum
from bridge.events.cloudevents import AccountChanged, SourceVerified
from bridge.events.normalize import account_key
from bridge.model import AccountChange, AccountGuid, Certificate, ChangeKind, Cursor, SourceName, Token

BEGIN = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
LINEAGE = "20261123T190002418Z-9f3c"
LATER_LINEAGE = "20261124T080000000Z-0a1b"


def change(
    account: str = "anna",
    revision: int = 1,
    *,
    usn: int | None = None,
    source: str = "hq",
    kind: ChangeKind | None = None,
) -> AccountChange:
    """Return a change of *account*, which the PBX numbers *usn*."""
    name = f"{account} {usn or revision}"
    token = Token(str(usn or revision))
    return AccountChange(
        source=SourceName(source),
        kind=kind or (ChangeKind.CREATED if revision == 1 else ChangeKind.UPDATED),
        account={"guid": account, "h323": account, "display_name": name},
        changed=["display_name"],
        previous={},
        revision=revision,
        cursor=Cursor(Token('"g"'), token, token),
    )


def body(told: AccountChange, *, lineage: str = LINEAGE, sequence: int = 1, time: datetime | None = None) -> bytes:
    """Return the message that tells it, a second later for each revision unless *time* is given."""
    return cloudevents.encode(
        told,
        identity=cloudevents.event_id(lineage, told.source, sequence),
        sequence=sequence,
        lineage=lineage,
        time=time or BEGIN + timedelta(seconds=told.revision),
    )


def event(  # noqa: PLR0913 - what makes one event differ from another
    account: str = "anna",
    revision: int = 1,
    *,
    usn: int | None = None,
    lineage: str = LINEAGE,
    source: str = "hq",
    kind: ChangeKind | None = None,
) -> AccountChanged:
    """Return the event as a consumer sees it."""
    told = change(account, revision, usn=usn, source=source, kind=kind)
    return cloudevents.decode(body(told, lineage=lineage))


def certificate_body(  # noqa: PLR0913 - what makes one certificate differ from another
    *,
    lineage: str = LINEAGE,
    source: str = "hq",
    walk: int = 1,
    sequence: int = 1,
    completes: bool = True,
    present: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    """Return the message that tells the certificate of a walk; *present* has the revisions of accounts."""
    certificate = Certificate(
        SourceName(source),
        walk,
        BEGIN,
        BEGIN,
        accounts=len(present),
        repaired=0,
        deleted=0,
        held=0,
        absent=0,
        sequence=sequence,
        completes_lineage=completes,
        checksum=checksum((lineage, account_key(AccountGuid(guid)), revision) for guid, revision in present.items()),
    )
    identity = cloudevents.certificate_id(certificate, lineage)
    return cloudevents.encode_certificate(certificate, identity=identity, lineage=lineage)


def verified(
    *,
    lineage: str = LINEAGE,
    source: str = "hq",
    completes: bool = True,
    present: Mapping[str, int] = MappingProxyType({}),
) -> SourceVerified:
    """Return the certificate as a consumer sees it."""
    told = certificate_body(lineage=lineage, source=source, completes=completes, present=present)
    return cloudevents.decode_certificate(told)
