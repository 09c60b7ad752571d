"""The schemas are the contract: whatever we produce fits them, and they may only grow."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.rabbitmq import RabbitMQMessage, from_rabbitmq_event
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from bridge.delivery.ingest import ingest
from bridge.events import cloudevents
from bridge.events.normalize import FIELDS, OPTIONAL_FIELDS, Projection, Rules
from bridge.model import AccountGuid, Certificate, Cursor, Row, Token
from bridge.pbx.wire import messages as m
from bridge.store.sqlite.store import SqliteStore
from tests.support.events import LINEAGE
from tests.support.outbox import unsent
from tests.support.rows import GUID, HQ, batch, row

ROOT = Path(__file__).parents[2]
SCHEMAS = {path.name: json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "schemas").glob("*.schema.json"))}
RELEASED = ROOT / "tests" / "data" / "released"
NOW = datetime(2026, 11, 23, 20, 31, 7, 123456, tzinfo=UTC)
EVERYTHING = Rules(key=b"k", projection=Projection.of(include=OPTIONAL_FIELDS))


def check(name: str, content: Any) -> None:
    Draft202012Validator(SCHEMAS[name], format_checker=FormatChecker()).validate(content)


def list_events(store: SqliteStore) -> list[bytes]:
    return [found.body for found in unsent(store.exchange)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_value_of_several_types_is_written_as_strict_validators_want_it(name: str) -> None:
    """Ajv with ``strict: true`` refuses a list of types, unless it is one type and null."""
    lists = [each for each in _inner(SCHEMAS[name]) if isinstance(each.get("type"), list)]
    assert [each for each in lists if len(each["type"]) != 2 or "null" not in each["type"]] == []


def _inner(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _inner(each)


texts = st.none() | st.text(max_size=20)
infos = st.fixed_dictionaries(
    {},
    optional={
        "dn": texts,
        "cn": texts,
        "e164": texts,
        "emails": st.lists(st.fixed_dictionaries({"email": st.text(min_size=1, max_size=9)}), max_size=2),
        "grps": st.lists(
            st.fixed_dictionaries({"name": st.text(min_size=1, max_size=5), "dyn": st.sampled_from(["in", "out"])}),
            max_size=3,
        ),
        "devices": st.lists(st.fixed_dictionaries({"text": texts, "app": texts}), max_size=2),
        "apps-my": texts,
        "hide": st.booleans(),
        "loc": texts,
    },
)
rows = st.builds(
    lambda account, usn, info, deleted: Row(
        Cursor(GUID, Token(str(usn)), Token('"0"')), AccountGuid(account), account, info, deleted
    ),
    st.sampled_from(["a", "b"]),
    st.integers(1, 9),
    infos,
    st.booleans(),
)


@given(st.lists(rows, min_size=1, max_size=8))
def test_every_event_fits_its_schema_and_is_read_by_the_official_library(
    tmp_path_factory: pytest.TempPathFactory, told: list[Row]
) -> None:
    with SqliteStore(tmp_path_factory.mktemp("contract") / "bridge.db") as store:
        ingest(store, batch(*told), rules=EVERYTHING, now=NOW)
        for body in list_events(store):
            event = json.loads(body)
            check("account-changed.v1.schema.json", event)
            assert set(event["data"]["account"]) <= {*FIELDS, *OPTIONAL_FIELDS}
            assert set(event["data"]["changed"]) == set(event["data"]["previous"]) <= set(event["data"]["account"])
            official = from_rabbitmq_event(RabbitMQMessage({}, cloudevents.CONTENT_TYPE, body))
            assert official.get_id() == event["id"]
            assert official.get_time() == NOW
            assert official.get_extension("sequence") == event["sequence"]
            ours = cloudevents.decode(body)
            assert (ours.event_id, ours.time, ours.account) == (event["id"], NOW, event["data"]["account"])


def test_every_field_that_may_be_published_is_in_the_schema() -> None:
    """Others are allowed there, for later versions: so an event that has one fits all the same."""
    told = SCHEMAS["account-changed.v1.schema.json"]["$defs"]["account"]["properties"]
    assert told.keys() == {*FIELDS, *OPTIONAL_FIELDS}


def test_a_certificate_fits_its_schema() -> None:
    certificate = Certificate(HQ, 3, NOW, NOW, 412, 0, 0, 0, 0, 1234, checksum=2**32 - 1)
    body = cloudevents.encode_certificate(
        certificate, identity=cloudevents.certificate_id(certificate, LINEAGE), lineage=LINEAGE
    )
    check("source-verified.v1.schema.json", json.loads(body))
    assert from_rabbitmq_event(RabbitMQMessage({}, cloudevents.CONTENT_TYPE, body)).get_type() == "pbx.source.verified"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("account-info.schema.json", m.AccountInfo("s")),
        ("account-info.schema.json", m.AccountInfo("s", Cursor(GUID, Token("123456789012345678901"), Token('"2"')))),
        ("account-info-result.schema.json", m.AccountRow(row("a", 1), "s")),
        ("account-info-result.schema.json", m.NoAccount(Cursor(GUID))),
        ("app-login.schema.json", m.AppChallenge()),
        ("app-login.schema.json", m.AppLogin("app", "0" * 64, info="{}")),
        ("app-login-result.schema.json", m.AppChallengeResult("0123")),
        ("app-login-result.schema.json", m.LoginAccepted()),
        ("app-login-result.schema.json", m.LoginRefused("no")),
    ],
)
def test_every_protocol_message_fits_its_schema(schema: str, message: m.Message) -> None:
    check(schema, json.loads(message.to_json()))


def test_the_schema_refuses_what_is_no_event() -> None:
    with pytest.raises(ValidationError):
        check("account-changed.v1.schema.json", {"specversion": "1.0"})


@pytest.mark.parametrize("released", sorted(RELEASED.glob("*.json")), ids=lambda path: path.name)
def test_a_released_schema_only_grows(released: Path) -> None:
    """Whoever wrote a consumer against it must not notice the next version."""
    assert breaks(json.loads(released.read_text("utf-8")), SCHEMAS[released.name]) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda schema: schema["required"].remove("id"),
        lambda schema: schema["properties"].pop("lineage"),
        lambda schema: schema["properties"]["data"]["properties"]["change"]["enum"].append("moved"),
        lambda schema: schema["properties"]["data"]["properties"]["revision"].update(type="string"),
        lambda schema: schema["$defs"]["account"]["properties"]["numbers"]["items"].update(type="object"),
        lambda schema: schema["properties"]["sequence"].update(pattern="^[0-9]+$"),
        lambda schema: schema["properties"]["data"]["properties"]["cursor"]["properties"]["usn"].update(
            anyOf=[{"type": "string"}, {"type": "object"}]
        ),
    ],
)
def test_an_edit_that_breaks_a_consumer_is_noticed(edit: Any) -> None:
    released = SCHEMAS["account-changed.v1.schema.json"]
    edited = json.loads(json.dumps(released))
    edit(edited)
    assert breaks(released, edited)


def _types_listed(schema: Any) -> Any:
    """Return *schema* with the types of a value as a list, where it says of each that the value may be that."""
    choices = schema.get("anyOf") if isinstance(schema, Mapping) else None
    if not choices or any(set(each) != {"type"} for each in choices):
        return schema
    return {"type": [each["type"] for each in choices]} | {key: schema[key] for key in schema if key != "anyOf"}


def breaks(before: Any, after: Any, path: str = "") -> list[str]:
    """Return what a consumer of *before* would stumble over in *after*."""
    if not isinstance(before, Mapping):
        return [] if before == after else [f"{path}: {before!r} became {after!r}"]
    found = []
    before, after = _types_listed(before), _types_listed(after)
    for name, value in before.items():
        here = f"{path}/{name}"
        if name in {"description", "title"}:
            continue
        if not isinstance(after, Mapping) or name not in after:
            found.append(f"{here} is gone")
        elif name == "required":
            found += [f"{here}: {lost} may be missing now" for lost in set(value) - set(after[name])]
        elif name in {"enum", "type"}:
            allowed_before, allowed_after = (
                set([one] if isinstance(one, str) else one) for one in (value, after[name])
            )
            found += [f"{here}: {new} is new" for new in allowed_after - allowed_before]
        else:
            found += breaks(value, after[name], here)
    return found
