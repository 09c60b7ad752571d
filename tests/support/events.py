"""Account changes as the bridge would publish them, for tests of those who receive them."""

from datetime import UTC, datetime, timedelta

from bridge import cloudevents
from bridge.cloudevents import AccountChanged
from bridge.model import AccountChange, ChangeKind, Cursor, SourceName, Token

BEGIN = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def change(
    account: str = "anna",
    revision: int = 1,
    *,
    usn: int | None = None,
    source: str = "hq",
    kind: ChangeKind | None = None,
) -> AccountChange:
    """Return a change of *account*; what the PBX numbers *usn* is told by the same id wherever it is told."""
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


def body(told: AccountChange, *, lineage: str = "aaaaaaaa", sequence: int = 1, time: datetime | None = None) -> bytes:
    """Return the message that tells it, a second later for each revision unless *time* is given."""
    return cloudevents.encode(
        told,
        identity=cloudevents.event_id(told),
        sequence=sequence,
        lineage=lineage,
        time=time or BEGIN + timedelta(seconds=told.revision),
    )


def event(  # noqa: PLR0913 - what makes one event differ from another
    account: str = "anna",
    revision: int = 1,
    *,
    usn: int | None = None,
    lineage: str = "aaaaaaaa",
    time: datetime | None = None,
    kind: ChangeKind | None = None,
) -> AccountChanged:
    """Return the event as a consumer sees it."""
    return cloudevents.decode(body(change(account, revision, usn=usn, kind=kind), lineage=lineage, time=time))
