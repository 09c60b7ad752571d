"""Rows as a PBX might deliver them, for tests that do not care where they come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.model import AccountGuid, Batch, Cursor, Row, SourceName, Token

HQ = SourceName("hq")
GUID = Token('"9e107d9d372bb6826bd81d3542a419d6"')

SECRETS = {"pwd": "0123456789abcdef0123456789abcdef", "pseudo": "<pseudo m-key='4711-secret'/>"}


def cursor(usn: int | None = None, *, guid: Token = GUID) -> Cursor:
    """Return a cursor whose usn and ausn are both *usn*."""
    token = None if usn is None else Token(f'"{usn}"')
    return Cursor(guid, token, token)


def row(
    account: str,
    usn: int,
    *,
    guid: Token = GUID,
    is_deleted: bool = False,
    info: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Row:
    """Return a row of the users table; *info* and *fields* add to it or override."""
    told = {"cn": account.title(), "dn": account, "e164": "403", "loc": "hq", **SECRETS, **(info or {}), **fields}
    return Row(cursor(usn, guid=guid), AccountGuid(account), account, told, is_deleted)


def batch(*rows: Row, since: Cursor | None = None) -> Batch:
    """Return *rows* as one batch that begins at *since*, by default at the very start."""
    return Batch(HQ, since or Cursor(), rows[-1].cursor, rows)


def chain(batches: Sequence[Sequence[Row]]) -> list[Batch]:
    """Return batches that follow each other."""
    made: list[Batch] = []
    for rows in batches:
        made.append(batch(*rows, since=made[-1].until if made else None))
    return made
