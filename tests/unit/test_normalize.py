from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.model import AccountGuid, Cursor, Row, Token
from bridge.normalize import FIELDS, OPTIONAL_FIELDS, Projection, Rules, account_of, unknown_names
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
    return account_of(told, None, rules)


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
