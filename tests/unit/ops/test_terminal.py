from datetime import UTC, datetime
from typing import Any, cast

import pytest

from bridge.events.cloudevents import Account, AccountChanged, Previous
from bridge.model import ChangeKind, Reason
from bridge.ops.terminal import event_line
from tests.support.rows import HQ

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def line(kind: ChangeKind, account: dict[str, Any], reason: Reason | None = None, **previous: Any) -> str:
    event = AccountChanged(
        event_id="x",
        source=HQ,
        kind=kind,
        account=cast("Account", {"guid": "g", **account}),
        changed=tuple(previous),
        previous=cast("Previous", previous),
        revision=1,
        sequence=1,
        lineage="0",
        time=NOW,
        reason=reason,
        cursor={},
    )
    return event_line(event).plain.split(maxsplit=1)[1]


def test_who_changed_how_is_seen_at_a_glance() -> None:
    told = line(ChangeKind.UPDATED, {"display_name": "Erika", "numbers": ["404"]}, numbers=["403"])
    assert told.split() == ["updated", "hq", "Erika", "numbers:", "403", "→", "404"]


def test_what_was_there_at_first_is_told_with_what_it_has() -> None:
    told = line(ChangeKind.INITIAL, {"display_name": "Erika", "numbers": ["404"]})
    assert told.split() == ["initial", "hq", "Erika", "404"]


def test_a_member_who_left_a_group_for_the_moment_is_shown_as_out() -> None:
    before, after = [{"name": "Support", "active": True}], [{"name": "Support", "active": False}]
    assert "groups: Support → Support (out)" in line(ChangeKind.UPDATED, {"h323": "e", "groups": after}, groups=before)


def test_a_change_without_a_published_difference_says_so() -> None:
    assert "touched" in line(ChangeKind.UPDATED, {"h323": "erika"})


@pytest.mark.parametrize(
    ("kind", "reason", "words"),
    [
        (ChangeKind.CREATED, Reason.RESTORED, "is back"),
        (ChangeKind.DELETED, Reason.MISSING, "(missing)"),
        (ChangeKind.DELETED, Reason.REPORTED, "(reported)"),
    ],
)
def test_the_reason_is_told(kind: ChangeKind, reason: Reason, words: str) -> None:
    assert words in line(kind, {"h323": "erika"}, reason)


def test_a_name_can_neither_paint_the_terminal_nor_break_the_line() -> None:
    told = line(ChangeKind.CREATED, {"display_name": "\x1b[31m[red]Er\nika\u202e", "numbers": ["\r403"]})
    assert not {"\x1b", "\n", "\r", "\u202e"} & set(told)
    assert "[red]" in told, "markup is shown, not obeyed"
