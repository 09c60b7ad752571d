"""Before and after of an account, made into changes: what is new in a row, what to remember, and what to tell."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bridge.events.normalize import Projection, Rules, clean_guid, digest, read_account
from bridge.model import AccountChange, ChangeKind, Mirrored, Published, Reason, Row, SourceName, value


@value
class Diff:
    """What a row means: what to remember, and what to tell, if anything."""

    remember: Mirrored
    change: AccountChange | None = None


def compare(row: Row, before: Mirrored | None, *, source: SourceName, rules: Rules, is_initial: bool = False) -> Diff:
    """Compare *row* with what was known *before*, and with nothing else.

    Where a published field differs it is a change, whatever the numbers say. Where none does, new numbers within the
    epoch (guid) of what was known are one as well; otherwise the PBX repeats itself, and its numbers are remembered.
    With *is_initial* an account that appears was there before anybody looked.
    """
    after = _after(row, before, rules)
    if before is None or before.is_deleted:
        return _appeared(row, after, source, is_initial=is_initial)
    if row.is_deleted:
        return _changed(after, ChangeKind.DELETED, source, Reason.REPORTED)
    return _compare_accounts(before, after, source, rules)


def compare_repair(
    row: Row, before: Mirrored | None, *, source: SourceName, rules: Rules, is_initial: bool = False
) -> Diff:
    """Judge a row that a full walk proved and no live row explains: the PBX changed it behind our back.

    Only real differences are changes.
    """
    after = _after(row, before, rules)
    if before is None or before.is_deleted:
        return _appeared(row, after, source, is_initial=is_initial)
    return _compare_accounts(before, after, source, rules, is_repetition=True)


def compare_missing(known: Mirrored, *, source: SourceName) -> Diff:
    """Judge an account that proven full walks did not see: it is deleted, and its last known state is told."""
    return _changed(replace(known, is_deleted=True), ChangeKind.DELETED, source, Reason.MISSING)


def compare_retired(known: Mirrored, *, source: SourceName) -> Diff:
    """Judge an account of a PBX that is followed no more under this name: the first and last of its lineage."""
    return _changed(replace(known, is_deleted=True, revision=0), ChangeKind.DELETED, source)


def compare_renamed(known: Mirrored, *, source: SourceName) -> Diff:
    """Judge an account of a PBX that goes on as *source*: there it is told for the first time."""
    return _changed(replace(known, revision=0), ChangeKind.INITIAL, source)


def _appeared(row: Row, after: Mirrored, source: SourceName, *, is_initial: bool) -> Diff:
    # A row that tells nothing but a guid may be a deletion as well: no reason to believe in an account.
    if row.is_deleted or (row.h323 is None and row.info is None):
        return Diff(replace(after, is_deleted=True))
    if after.revision:
        return _changed(after, ChangeKind.CREATED, source, Reason.RESTORED)
    return _changed(after, ChangeKind.INITIAL if is_initial else ChangeKind.CREATED, source)


def _compare_accounts(
    before: Mirrored, after: Mirrored, source: SourceName, rules: Rules, *, is_repetition: bool = False
) -> Diff:
    has_same_numbers = after.cursor == before.cursor
    is_told_otherwise = rules.is_new and _told(before) != _told(after)
    if after.digest == before.digest:
        if (
            is_told_otherwise
        ):  # by our doing: no field of the account differs, and nothing that is kept back is told again
            return _changed(after, ChangeKind.UPDATED, source)
        if has_same_numbers:
            return Diff(before)
    changed = _difference(before.account, after.account, rules.projection)
    is_repetition |= has_same_numbers or after.cursor.guid != before.cursor.guid
    if not changed and (is_repetition or rules.skip_unchanged) and not is_told_otherwise:
        return Diff(after)
    previous = {name: before.account.get(name) for name in changed}
    return _changed(after, ChangeKind.UPDATED, source, changed=changed, previous=previous)


def _told(known: Mirrored) -> Mapping[str, Any]:
    """Return what is told of an account, its guid aside, of which another spelling is the same guid."""
    return {name: value for name, value in known.account.items() if name != "guid"}


def _after(row: Row, before: Mirrored | None, rules: Rules) -> Mirrored:
    if before is not None and row.is_deleted:
        guid, told, known = clean_guid(row.account_guid), before.digest, before.account
    else:
        known = read_account(row, None if before is None else before.account, rules)
        guid, told = known["guid"], digest(row, rules.key)
    return Mirrored(guid, row.cursor, told, known, 0 if before is None else before.revision, row.is_deleted)


def _changed(  # noqa: PLR0913 - the parts of a change
    after: Mirrored,
    kind: ChangeKind,
    source: SourceName,
    reason: Reason | None = None,
    *,
    changed: Sequence[str] = (),
    previous: Published | None = None,
) -> Diff:
    revision, cursor, account = after.revision + 1, after.cursor, after.account
    change = AccountChange(source, kind, account, changed, previous or {}, revision, cursor, reason)
    return Diff(Mirrored(after.account_guid, cursor, after.digest, account, revision, after.is_deleted), change)


def _difference(before: Published, after: Published, projection: Projection) -> list[str]:
    # A field that was not published before (the configuration changed) has no former value to differ from. Another
    # spelling of the guid is the same guid.
    return [name for name in projection.fields if name != "guid" and name in before and before[name] != after.get(name)]
