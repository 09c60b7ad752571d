import time
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.events.normalize import (
    FIELDS,
    MAX_GUID_CHARACTERS,
    MAX_ITEM_CHARACTERS,
    MAX_ITEMS,
    MAX_KNOWN_UNEXPECTED,
    MAX_TEXT_CHARACTERS,
    OPTIONAL_FIELDS,
    Projection,
    Rules,
    Unexpected,
    account_key,
    clean_guid,
    digest,
    is_usual,
    read_account,
    unknown_names,
)
from bridge.model import AccountGuid, Cursor, Row, Token
from tests.support.rows import GUID, SECRETS

RULES = Rules(key=b"k" * 32)
EVERYTHING = Rules(key=b"k" * 32, projection=Projection.of(include=OPTIONAL_FIELDS))

SHAPES: dict[str, dict[str, Any]] = {
    "login info": {
        "appobj": "acct-bridge",
        "pbx": "master",
        "cn": "Erika Mustermann",
        "groups": ["support", "sales"],
        "apps": [{"name": "users", "dn": "Users"}, {"name": "phone", "dn": "Phone"}],
    },
    "user object": {
        "domain": "example.com",
        "sip": "erika.mustermann",
        "guid": "e4917b",
        "dn": "Mustermann, Erika",
        "num": "202",
        "email": "erika@example.com",
        "prefix": {"intl": "000"},
    },
    "users table": {
        "guid": "2a4d",
        "h323": "erika.mustermann",
        "cn": "Erika Mustermann",
        "dn": "Mustermann, Erika",
        "e164": "403",
        "node": "master",
        "loc": "pbx-main",
        "config": "Config User",
        "hide": True,
        "apps-my": "users,phone",
        "emails": [{"email": "erika@example.com"}],
        "grps": [{"name": "Support", "mode": "active", "dyn": "out"}],
        "devices": [{"hw": "IP222-2f-68-8a", "text": "Desk", "app": "phone"}],
        **SECRETS,
    },
    "admin object": {"cn": "Erika Mustermann", "ext": "403", "grp": [{"name": "Support"}], "email": "e@example.com"},
}


def published(info: dict[str, Any], *, rules: Rules = EVERYTHING) -> Any:
    told = Row(Cursor(GUID, Token("1"), Token("1")), AccountGuid("guid-1"), "erika.mustermann", info)
    return read_account(told, None, rules)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_plausible_shape_becomes_the_same_account(shape: str) -> None:
    account = published(SHAPES[shape])
    assert set(account) == {*FIELDS, *OPTIONAL_FIELDS}
    assert account["guid"] == "guid-1"
    assert account["h323"] == "erika.mustermann"


def test_the_users_table_fills_every_field() -> None:
    assert published(SHAPES["users table"]) == {
        "guid": "guid-1",
        "h323": "erika.mustermann",
        "display_name": "Mustermann, Erika",
        "common_name": "Erika Mustermann",
        "numbers": ["403"],
        "emails": ["erika@example.com"],
        "groups": [{"name": "Support", "active": False}],
        "pbx": "pbx-main",
        "node": "master",
        "domain": None,
        "apps": ["phone", "users"],
        "template": "Config User",
        "hidden": True,
        "devices": [{"text": "Desk", "app": "phone"}],
    }


def test_groups_come_in_one_order_whatever_the_order_they_were_sent_in() -> None:
    """Otherwise a PBX that shuffles its lists would make changes out of nothing."""
    assert published({"groups": ["b", "a"]})["groups"] == published({"groups": ["a", "b"]})["groups"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from([*SHAPES["users table"], *SHAPES["user object"], *SHAPES["login info"], "grp", "ext"])


@given(st.dictionaries(names, json_values))
def test_any_info_becomes_an_account_that_can_be_written_as_json(info: dict[str, Any]) -> None:
    assert set(orjson.loads(orjson.dumps(published(info)))) == {*FIELDS, *OPTIONAL_FIELDS}


def test_an_excluded_field_is_not_there_at_all_and_guid_cannot_be_excluded() -> None:
    rules = Rules(key=b"k", projection=Projection.of(exclude=["emails", "guid"]))
    assert "emails" not in published(SHAPES["users table"], rules=rules)
    assert published(SHAPES["users table"], rules=rules)["guid"] == "guid-1"


def test_unknown_names_are_reported_without_their_values() -> None:
    assert unknown_names({"pwd": "x", "shoe-size": "43", "n" * 99: 1, "bad\nname": 1}) == {"shoe-size", "n" * 40}


dirty = st.text(
    alphabet=st.one_of(st.characters(), st.sampled_from("\0\x1f\x85\u0301\u0327\ud800\udfffe\u1e9bİß~- ")), max_size=40
)
everything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | dirty | st.integers(min_value=10**300, max_value=10**310),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(dirty | names, inner, max_size=6),
    max_leaves=20,
)
infos = st.dictionaries(
    names | st.sampled_from(["apps", "emails", "devices", "grps", "number", "loc"]) | dirty, everything
)


def delivered(info: Any, guid: str = "guid-1", h323: str | None = "erika") -> Row:
    return Row(Cursor(GUID, Token("1"), Token("1")), AccountGuid(guid), h323, info)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts_in(inner)


def as_info(account: dict[str, Any]) -> dict[str, Any]:
    """Return the info of which *account* would have been made, in the form of a row of the users table."""
    told = {"dn": "display_name", "cn": "common_name", "e164": "numbers", "emails": "emails", "loc": "pbx"}
    told |= {"node": "node", "domain": "domain", "apps": "apps", "config": "template", "hide": "hidden"}
    groups = [{"name": group["name"], "dyn": "in" if group["active"] else "out"} for group in account["groups"]]
    return {name: account[field] for name, field in told.items()} | {"grps": groups, "devices": account["devices"]}


@given(infos, dirty, dirty)
def test_whatever_comes_leaves_clean_bounded_and_as_it_would_leave_again(
    info: dict[str, Any], guid: str, h323: str
) -> None:
    account: Any = read_account(delivered(info, guid, h323), None, EVERYTHING)
    orjson.dumps(account)
    for text in texts_in(account):
        assert unicodedata.is_normalized("NFC", text)
        assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)
        assert len(text) <= MAX_TEXT_CHARACTERS
    again: Any = read_account(delivered(as_info(account), account["guid"], account["h323"]), None, EVERYTHING)
    assert again == account
    assert account_key(account["guid"]) == account_key(AccountGuid(guid))
    digest(delivered(info, guid, h323), b"k")


@given(dirty, dirty)
def test_two_guids_stay_two_and_a_key_stays_what_it_is(one: str, other: str) -> None:
    for guid in (one, other, one * 40):
        assert clean_guid(clean_guid(guid)) == clean_guid(guid)
        assert len(clean_guid(guid)) <= MAX_GUID_CHARACTERS
        assert account_key(AccountGuid(account_key(AccountGuid(guid)))) == account_key(AccountGuid(guid))
    if clean_guid(one) == clean_guid(other):
        assert unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def test_nothing_that_is_too_much_is_published_and_its_name_is_told_once() -> None:
    many = [f"{number:06}" for number in range(2 * MAX_ITEMS)]
    row = delivered(
        {
            "e164": many,
            "emails": [f"{number}@example.com" for number in many],
            "grps": [{"name": number} for number in reversed(many)],
            "apps-my": ",".join(many) * 20,
            "devices": [{"text": "x" * 1000}] * 1000,
            "dn": "x" * 2000,
            "cn": "well",
        },
        "g" * 1000,
        "h" * 2000,
    )
    account: Any = read_account(row, None, EVERYTHING)
    assert account["numbers"] == many[:MAX_ITEMS]
    assert [group["name"] for group in account["groups"]] == many[:MAX_ITEMS], "the same ones in whatever order"
    assert len(account["emails"]) == len(account["devices"]) == MAX_ITEMS
    assert len(account["apps"]) <= MAX_ITEMS
    assert (len(account["display_name"]), len(account["h323"])) == (MAX_TEXT_CHARACTERS, MAX_TEXT_CHARACTERS)
    assert len(account["devices"][0]["text"]) == MAX_ITEM_CHARACTERS
    unexpected = Unexpected()
    told = ["account-guid", "account-h323", "apps-my", "devices", "dn", "e164", "emails", "grps"]
    assert unexpected.cut_in(row) == told
    assert not unexpected.cut_in(row)
    assert not unexpected.cut_in(delivered(SHAPES["users table"]))


def test_names_that_nobody_knows_are_told_once_and_not_without_end() -> None:
    unexpected = Unexpected()
    told: list[str] = []
    for number in range(50):
        told += unexpected.unknown_in(delivered({f"{number}-{name}": 1 for name in range(200)}))
    assert len(told) == len(set(told)) == MAX_KNOWN_UNEXPECTED
    assert not unexpected.unknown_in(delivered({"more": 1}))


@pytest.mark.parametrize(
    ("info", "told"),
    [
        ({"dn": {"text": "Erika"}, "cn": "Erika"}, ["dn in another form"]),
        ({"dn": ["Erika"], "cn": "Erika", "e164": 403.5}, ["dn in another form", "e164 in another form"]),
        ({"cn": "Erika", "num": [{"value": "403"}]}, ["num in another form"]),
        ({"cn": "Erika", "emails": {"email": "e@x"}}, ["emails in another form"]),
        ({"cn": "Erika", "emails": [{"address": "e@x"}]}, ["emails in another form"]),
        ({"cn": "Erika", "grps": "support"}, ["grps in another form"]),
        ({"user": {"dn": "Erika"}, "domain": "x"}, ["info without a name or number, but with “user”"]),
    ],
)
def test_what_nobody_can_read_of_an_account_is_told_once_until_that_is_forgotten(
    info: dict[str, Any], told: list[str]
) -> None:
    """Otherwise an account without its name would pass for one that has none."""
    unexpected = Unexpected()
    assert unexpected.unread_in(delivered(info)) == told
    assert not unexpected.unread_in(delivered(info))
    assert unexpected.unread == told
    unexpected.forget_unread()
    assert unexpected.unread_in(delivered(info)) == told


@pytest.mark.parametrize("info", [*SHAPES.values(), {"grps": []}, {"appobj": "x"}, {"dn": None, "e164": 403, "x": 1}])
def test_every_form_that_is_known_is_read(info: dict[str, Any]) -> None:
    assert not Unexpected().unread_in(delivered(info))


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "anna", "x" * 256, "x" * 257]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "email", "text", "x"]), inner, max_size=3)
        | inner.map(lambda item: [item] * 257)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["h323", "dn", "e164", "email", "emails", "grps", "groups", "devices", "apps", "forks", "hide", "z"]
)


LOOKED_AT = (
    *("h323", "sip", "dn", "loc", "pbx", "node", "domain", "config", "e164", "num", "ext", "number"),
    *("email", "h323-email", "emails", "grps", "groups", "grp", "devices", "apps", "apps-my", "forks"),
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=5),
    st.sampled_from(["anna", "a" * 129]),
    st.sampled_from([None, "x" * 1025]),
)
def test_of_an_account_that_is_usual_there_is_nothing_to_tell(
    info: dict[str, Any], guid: str, h323: str | None
) -> None:
    row = replace(delivered(info), account_guid=AccountGuid(guid), h323=h323)
    unexpected = Unexpected()
    told = [*unexpected.unread_in(row), *unexpected.unknown_in(row), *unexpected.cut_in(row)]
    assert not (is_usual(row) and told)


@pytest.mark.parametrize("name", LOOKED_AT)
@pytest.mark.parametrize("item", [{}, {"x": 1}, {"name": "a"}, {"email": "a"}, {"text": "a"}, [], 1.5, "a", "x" * 257])
def test_whatever_is_in_a_list_is_told_as_if_it_were_looked_at_thrice(name: str, item: object) -> None:
    """Each kind of item under each name: what is odd in one place is usual in another."""
    row, unexpected = delivered({"cn": "Erika", name: [item]}), Unexpected()
    assert not (is_usual(row) and (unexpected.unread_in(row) or unexpected.cut_in(row)))


@pytest.mark.parametrize("info", [info for name, info in SHAPES.items() if name == "users table"])
def test_an_account_of_the_users_table_is_usual(info: dict[str, Any]) -> None:
    """Or each would be looked at three times more."""
    assert is_usual(delivered(info))


class Watched(list[Any]):
    """Counts how often one of its items was looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.looks += 1
            yield item


@pytest.mark.parametrize("name", ["e164", "num", "emails", "email", "grps", "groups", "apps", "devices"])
@pytest.mark.parametrize(
    "shape", [lambda n: f"{n}@x", lambda _n: "same@x", lambda n: {"name": f"{n}", "email": f"{n}@x"}]
)
def test_nothing_in_a_list_is_looked_at_more_than_a_few_times(name: str, shape: Any) -> None:
    listed = Watched(shape(number) for number in range(20_000))
    row = delivered({name: listed})
    read_account(row, None, EVERYTHING)
    Unexpected().cut_in(row)
    Unexpected().unread_in(row)
    assert listed.looks <= 3 * len(listed)


@pytest.mark.parametrize(
    "value",
    [
        lambda n: {"e164": [f"{number:05d}" for number in range(n)]},
        lambda n: {"grps": [{"name": f"{number:05d}"} for number in range(n)]},
        lambda n: {"apps-my": ",".join(map(str, range(n)))},
        lambda n: {"apps": [f"{number}" for number in range(n)]},
        lambda n: {"dn": "a" + "\u0301\u0327" * n},
        lambda n: {f"name {number}": number for number in range(n)},
    ],
)
def test_the_work_grows_with_the_message_and_no_faster(value: Any) -> None:
    """Measured in CPU time, between a message and one sixteen times as large: the square would be 256 times as much."""

    def cost(count: int) -> float:
        row = delivered(value(count))
        best = float("inf")
        for _ in range(5):
            begun = time.thread_time()
            read_account(row, None, EVERYTHING)
            unexpected = Unexpected()
            unexpected.cut_in(row)
            unexpected.unread_in(row)
            unexpected.unknown_in(row)
            digest(row, b"k")
            best = min(best, time.thread_time() - begun)
        return best

    assert cost(32_000) < 80 * max(cost(2_000), 0.0002)


def test_a_member_nested_beyond_measure_hides_no_change_of_the_others() -> None:
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    one, other = (delivered({"deep": deep, "e164": [number], "big": 10**30}) for number in ("1", "2"))
    assert digest(one, b"k") != digest(other, b"k")
