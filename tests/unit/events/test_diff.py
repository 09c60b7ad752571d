from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.events.diff import compare, compare_repair
from bridge.events.normalize import OPTIONAL_FIELDS, Projection, Rules
from bridge.model import AccountGuid, ChangeKind, Cursor, Mirrored, Reason, Row, Token
from tests.support.rows import HQ, SECRETS, cursor, row

RULES = Rules(key=b"k" * 32)
EVERYTHING = Rules(key=b"k" * 32, projection=Projection.of(include=OPTIONAL_FIELDS))


def judged(told: Row, before: Mirrored | None = None, rules: Rules = RULES, *, is_initial: bool = False) -> Any:
    return compare(told, before, source=HQ, rules=rules, is_initial=is_initial)


secret_names = st.sampled_from(
    ["pwd", "password", "pseudo", "m-key", "phone-config", "digest", "turnPwd", "future-key"]
)


@given(st.dictionaries(secret_names, st.text("abcdef", min_size=12, max_size=20), min_size=1))
def test_no_secret_gets_out_whatever_its_name(secrets: dict[str, str]) -> None:
    told = row("erika", 1, info=secrets)
    judgement = judged(told, rules=EVERYTHING)
    shown = orjson.dumps([judgement.change.account, judgement.remember.account]).decode() + repr(told)
    assert not [secret for secret in [*secrets.values(), *SECRETS.values()] if secret in shown]


def test_the_first_row_of_an_account_creates_it() -> None:
    change = judged(row("erika", 1)).change
    assert (change.kind, change.revision, change.changed, change.reason) == (ChangeKind.CREATED, 1, (), None)


def test_the_same_row_again_changes_nothing() -> None:
    known = judged(row("erika", 1)).remember
    assert judged(row("erika", 1), known).change is None


def test_new_numbers_are_a_change_even_where_no_published_field_differs() -> None:
    change = judged(row("erika", 2), judged(row("erika", 1)).remember).change
    assert (change.kind, change.changed, change.previous, change.revision) == (ChangeKind.UPDATED, [], {}, 2)


def test_skip_unchanged_drops_those_and_remembers_the_numbers() -> None:
    rules = Rules(key=b"k", skip_unchanged=True)
    judgement = judged(row("erika", 2), judged(row("erika", 1), rules=rules).remember, rules)
    assert judgement.change is None
    assert judgement.remember.cursor == cursor(2)
    assert judgement.remember.revision == 1


def test_an_update_tells_what_changed_and_what_it_was() -> None:
    change = judged(row("erika", 2, dn="Erika M."), judged(row("erika", 1, dn="Erika")).remember).change
    assert (change.changed, change.previous) == (["display_name"], {"display_name": "Erika"})


def test_a_new_epoch_with_the_same_content_is_no_change() -> None:
    known = judged(row("erika", 9)).remember
    judgement = judged(row("erika", 1, guid=Token('"new"')), known)
    assert judgement.change is None
    assert judgement.remember.cursor == cursor(1, guid=Token('"new"'))


def test_a_new_epoch_with_other_content_is_a_change() -> None:
    known = judged(row("erika", 9)).remember
    assert judged(row("erika", 1, guid=Token('"new"'), dn="other"), known).change.changed == ["display_name"]


@pytest.mark.parametrize("usn", [5, 4, 6])
def test_other_content_is_a_change_whatever_the_numbers_say(usn: int) -> None:
    first = judged(row("erika", 5, dn="one"))
    again = judged(row("erika", usn, dn="two"), first.remember)
    assert (again.change.kind, again.change.changed, again.change.revision) == (
        ChangeKind.UPDATED,
        ["display_name"],
        2,
    )


def test_fail_over_and_back_ends_with_what_the_pbx_says_last() -> None:
    """The second PBX has its own numbers, and on return the first one has those it had before."""
    state = judged(row("erika", 5, dn="here")).remember
    names = []
    for told in (
        row("erika", 5, dn="there", guid=Token('"b"')),
        row("erika", 5, dn="here"),
        row("erika", 5, dn="here"),
    ):
        judgement = judged(told, state)
        state = judgement.remember
        names.append(judgement.change and judgement.change.account["display_name"])
    assert names == ["there", "here", None]


def test_an_account_is_initial_until_its_source_was_caught_up_and_created_from_then_on() -> None:
    assert judged(row("erika", 1), is_initial=True).change.kind is ChangeKind.INITIAL
    assert judged(row("erika", 1)).change.kind is ChangeKind.CREATED
    repaired = compare_repair(row("erika", 1), None, source=HQ, rules=RULES, is_initial=True).change
    assert repaired is not None
    assert repaired.kind is ChangeKind.INITIAL


def test_only_what_appears_is_initial() -> None:
    known = judged(row("erika", 1), is_initial=True).remember
    updated = judged(row("erika", 2, dn="new"), known, is_initial=True)
    deleted = judged(row("erika", 3, is_deleted=True), updated.remember, is_initial=True)
    back = judged(row("erika", 4), deleted.remember, is_initial=True)
    assert [judgement.change.kind for judgement in (updated, deleted, back)] == [
        ChangeKind.UPDATED,
        ChangeKind.DELETED,
        ChangeKind.CREATED,
    ]
    assert back.change.reason is Reason.RESTORED


def without_numbers(account: str) -> Row:
    return Row(Cursor(), AccountGuid(account), account, None, is_deleted=True)


def test_a_deletion_in_words_counts_every_time_with_and_without_numbers() -> None:
    state, revision = judged(row("erika", 1)).remember, 1
    for gone in (row("erika", 2, is_deleted=True), without_numbers("erika")) * 2:
        deleted = judged(gone, state)
        assert (deleted.change.kind, deleted.change.reason, deleted.change.revision) == (
            ChangeKind.DELETED,
            Reason.REPORTED,
            revision + 1,
        )
        assert judged(gone, deleted.remember).change is None, "told twice"
        back = judged(row("erika", 1), deleted.remember)
        assert (back.change.kind, back.change.revision) == (ChangeKind.CREATED, revision + 2)
        state, revision = back.remember, back.change.revision


told_rows = st.builds(
    row,
    st.just("erika"),
    st.integers(1, 3),
    dn=st.sampled_from(["x", "y"]),
    pwd=st.sampled_from(["p", "q"]),
    guid=st.sampled_from([Token('"a"'), Token('"b"')]),
    is_deleted=st.booleans(),
) | st.just(without_numbers("erika"))


@given(st.lists(told_rows, max_size=12), st.booleans())
def test_whatever_is_told_the_changes_lead_to_what_was_told_last(rows: list[Row], is_skipping: bool) -> None:  # noqa: FBT001 - a case
    """A subscriber that applies them has the state the PBX told; revisions have no gaps; a repetition is nothing."""
    rules = Rules(key=b"k", skip_unchanged=is_skipping)
    state: Mirrored | None = None
    applied: dict[str, Any] | None = None
    revision = 0
    for told in rows:
        judgement = judged(told, state, rules)
        state, change = judgement.remember, judgement.change
        if change is not None:
            assert change.revision == revision + 1
            revision = change.revision
            applied = None if change.kind is ChangeKind.DELETED else dict(change.account)
        assert (applied is None) == told.is_deleted
        if applied is not None:
            assert applied["display_name"] == told.info["dn"] if told.info else True
        assert judged(told, state, rules).change is None
    assert state is None or state.revision == revision


def test_a_difference_only_in_what_is_not_published_is_remembered_silently() -> None:
    known = judged(row("erika", 5, pwd="one")).remember
    judgement = judged(row("erika", 5, pwd="two"), known)
    assert judgement.change is None
    assert judgement.remember.digest != known.digest


def test_a_reported_deletion_tells_the_last_known_state() -> None:
    known = judged(row("erika", 1, dn="Erika")).remember
    change = judged(row("erika", 2, dn="", is_deleted=True), known).change
    assert (change.kind, change.reason) == (ChangeKind.DELETED, Reason.REPORTED)
    assert change.account["display_name"] == "Erika"


def test_a_deletion_told_twice_is_one_deletion() -> None:
    deleted = judged(row("erika", 2, is_deleted=True), judged(row("erika", 1)).remember).remember
    assert judged(row("erika", 3, is_deleted=True), deleted).change is None


def test_a_deletion_of_an_account_never_seen_is_no_event() -> None:
    judgement = judged(row("erika", 2, is_deleted=True))
    assert judgement.change is None
    assert judgement.remember.is_deleted


def test_a_deleted_account_that_returns_is_told_as_restored_and_its_revisions_go_on() -> None:
    deleted = judged(row("erika", 2, is_deleted=True), judged(row("erika", 1)).remember).remember
    change = judged(row("erika", 3), deleted).change
    assert (change.kind, change.reason, change.revision) == (ChangeKind.CREATED, Reason.RESTORED, 3)


def test_what_a_row_leaves_out_stays_as_it_was() -> None:
    known = judged(row("erika", 1, dn="Erika")).remember
    bare = Row(cursor(2), AccountGuid("erika"), None, None)
    account = judged(bare, known).remember.account
    assert (account["display_name"], account["h323"]) == ("Erika", "erika")


def test_a_row_that_tells_nothing_is_no_reason_to_believe_in_an_account() -> None:
    """Some PBXs may say in this way that an account is gone."""
    bare = Row(cursor(2), AccountGuid("erika"), None, None)
    unknown = judged(bare)
    deleted = judged(row("erika", 2, is_deleted=True), judged(row("erika", 1)).remember).remember
    assert unknown.change is None
    assert judged(bare, deleted).change is None
    appeared = judged(row("erika", 3), unknown.remember).change
    assert appeared is not None
    assert (appeared.kind, appeared.reason, appeared.revision) == (ChangeKind.CREATED, None, 1)


def test_two_spellings_of_a_guid_are_no_difference() -> None:
    known = judged(row("AB-CD", 1, dn="x", cn="y")).remember
    told = row("abcd", 2, dn="x", cn="y")
    assert "guid" not in judged(told, known).change.changed


def test_a_masked_field_shows_that_it_changed_and_nothing_else() -> None:
    rules = Rules(key=b"k", projection=Projection.of(mask=["numbers", "common_name"]))
    known = judged(row("erika", 1, e164="403"), rules=rules).remember
    change = judged(row("erika", 2, e164="404"), known, rules).change
    assert change.changed == ["numbers"]
    assert b"40" not in orjson.dumps(change.previous) or "masked:" in change.previous["numbers"][0]
    assert change.account["common_name"].startswith("masked:")
    assert change.account["numbers"][0].startswith("masked:")


def test_a_field_published_for_the_first_time_is_no_change_of_the_account() -> None:
    known = judged(row("erika", 1, config="T1")).remember
    assert judged(row("erika", 2, config="T1"), known, EVERYTHING).change.changed == []


def test_info_nested_beyond_all_measure_still_has_a_digest() -> None:
    nested: Any = []
    for _ in range(900):
        nested = [nested]
    assert judged(row("erika", 1, odd=nested)).change is not None
