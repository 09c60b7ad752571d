import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import BadEvent
from bridge.events import cloudevents
from bridge.events.checksum import checksum
from bridge.events.cloudevents import AccountChanged, SourceVerified, decode, decode_certificate
from bridge.events.normalize import clean_guid
from bridge.model import AccountChange, ChangeKind, Cursor, Reason, SourceName, Token
from tests.support.events import LATER_LINEAGE, LINEAGE, body, certificate_body, change

NAMESPACE = uuid5(NAMESPACE_URL, "urn:pbx-account-bridge:event")
HQ = SourceName("hq")
ZONE = timezone(timedelta(hours=5, minutes=30))
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TWICE = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))


@given(st.integers(0, 2**63 - 1), st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True))
def test_an_id_is_the_name_based_uuid_of_the_place_of_the_event(sequence: int, source: str) -> None:
    """RFC 9562, version 5, as any other program would make it."""
    identity = cloudevents.event_id(LINEAGE, SourceName(source), sequence)
    assert identity == str(uuid5(NAMESPACE, orjson.dumps([LINEAGE, source, sequence]).decode()))
    assert UUID(identity).version == 5


def test_two_places_never_have_one_id_whatever_happened_there() -> None:
    """The PBX's numbers may come again, and so may the content; the place does not."""
    places = [(lineage, source, n) for lineage in (LINEAGE, LATER_LINEAGE) for source in ("hq", "h") for n in range(99)]
    assert len({cloudevents.event_id(lineage, SourceName(source), n) for lineage, source, n in places}) == len(places)


@pytest.mark.parametrize("kind", ChangeKind)
def test_what_was_encoded_is_decoded(kind: ChangeKind) -> None:
    told = change("anna", 7, kind=kind)
    event = decode(body(told, sequence=12))
    assert (event.kind, event.account, event.changed, event.revision) == (kind, told.account, ("display_name",), 7)
    assert (event.source, event.sequence, event.lineage) == (HQ, 12, LINEAGE)
    assert event.event_id == cloudevents.event_id(LINEAGE, HQ, 12)
    assert cloudevents.routing_key(told) == f"hq.account.{kind}"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TOKENS = st.none() | (st.integers(0, 2**53) | TEXTS).map(lambda value: Token(orjson.dumps(value).decode()))
FIELDS = st.dictionaries(TEXTS, st.none() | st.booleans() | TEXTS | st.lists(TEXTS, max_size=2), max_size=3)


@given(
    guid=TEXTS.filter(bool).map(clean_guid),
    told=st.tuples(FIELDS, FIELDS, st.builds(Cursor, TOKENS, TOKENS, TOKENS)),
    kind=st.sampled_from(ChangeKind),
    reason=st.none() | st.sampled_from(Reason),
    numbers=st.tuples(st.integers(1, 2**53 - 1), st.integers(1, 2**63 - 1)),
    time=st.datetimes(timezones=st.sampled_from([UTC, ZONE])),
)
def test_an_event_is_written_as_a_json_encoder_would_write_it(  # noqa: PLR0913, PLR0917 - what an event is made of
    guid: str,
    told: tuple[dict[str, Any], dict[str, Any], Cursor],
    kind: ChangeKind,
    reason: Reason | None,
    numbers: tuple[int, int],
    time: datetime,
) -> None:
    """Byte for byte: a consumer takes the short way with what is written so."""
    (fields, previous, cursor), (revision, sequence) = told, numbers
    account = {**fields, "guid": guid}
    change = AccountChange(HQ, kind, account, list(previous), previous, revision, cursor, reason)
    written = cloudevents.encode(change, identity="id", sequence=sequence, lineage=LINEAGE, time=time)
    data = {
        "change": kind,
        "account": account,
        "changed": list(previous),
        "previous": previous,
        "revision": revision,
        "cursor": orjson.loads(written)["data"]["cursor"],  # of which there are tests of their own
    }
    event = {
        "specversion": "1.0",
        "id": "id",
        "source": "/pbx/hq",
        "type": cloudevents.ACCOUNT_CHANGED,
        "subject": guid,
        "time": time,
        "datacontenttype": "application/json",
        "dataschema": cloudevents.ACCOUNT_CHANGED_SCHEMA,
        "sequence": f"{sequence:020}",
        "lineage": LINEAGE,
        "partitionkey": guid,
        "data": data if reason is None else {**data, "reason": reason},
    }
    assert written == orjson.dumps(event, option=orjson.OPT_UTC_Z)


@pytest.mark.parametrize(
    "others",
    [
        pytest.param((NOON, NOON.astimezone(ZONE)), id="other zones"),
        pytest.param((TWICE, TWICE.replace(fold=1)), id="an hour that comes twice"),
    ],
)
def test_a_time_is_told_whatever_was_told_before(others: tuple[datetime, datetime]) -> None:
    """The text of the last one is kept, and these are equal to Python."""
    assert others[0] == others[1]
    for time in (*others, *reversed(others)):
        written = cloudevents.encode(change(), identity="id", sequence=1, lineage=LINEAGE, time=time)
        assert b'"time":' + orjson.dumps(time, option=orjson.OPT_UTC_Z) in written


@pytest.mark.parametrize("completes", [True, False])
def test_a_certificate_is_decoded(completes: bool) -> None:  # noqa: FBT001 - a parameter
    present = {"anna": 7}
    found = decode_certificate(certificate_body(walk=3, sequence=12, completes=completes, present=present))
    assert (found.source, found.lineage, found.sequence, found.walk) == (HQ, LINEAGE, 12, 3)
    assert (found.accounts, found.completes_lineage) == (1, completes)
    assert found.checksum == checksum([(LINEAGE, "anna", 7)])
    assert found.event_id == str(uuid5(NAMESPACE, orjson.dumps(["hq", LINEAGE, "walk", 3]).decode()))


def test_a_certificate_of_an_earlier_version_has_no_checksum() -> None:
    assert decode_certificate(edited(lambda event: event["data"].pop("checksum"), certificate_body())).checksum is None


def test_either_kind_is_refused_where_the_other_is_wanted() -> None:
    with pytest.raises(BadEvent, match=r"of type 'pbx\.source\.verified'"):
        decode(certificate_body())
    with pytest.raises(BadEvent, match=r"of type 'pbx\.account\.changed'"):
        decode_certificate(body(change()))


def edited(edit: Callable[[dict[str, Any]], object], whole: bytes | None = None) -> bytes:
    event = json.loads(whole or body(change()))
    edit(event)
    return json.dumps(event).encode("utf-8", "surrogatepass")


NO_NUMBERS: list[Any] = [1e300, int("9" * 30), 1.0, True, -1, 0, None, "1", [1], 2**53, float("inf"), float("nan")]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_a_revision_has_bounds(value: Any) -> None:
    """One that nobody meant, in a row of an inbox, would stand in the way of all later ones."""
    with pytest.raises(BadEvent):
        decode(edited(lambda event: event["data"].update(revision=value)))


@pytest.mark.parametrize(
    "value",
    ["", "1", "9" * 20, "9" * 30, "-0000000000000000001", "1e300", "\u0660" * 20, 1, 1e300, True, None],
    ids=repr,
)
def test_a_sequence_is_twenty_digits(value: Any) -> None:
    with pytest.raises(BadEvent):
        decode(edited(lambda event: event.update(sequence=value)))
    with pytest.raises(BadEvent):
        decode_certificate(edited(lambda event: event.update(sequence=value), certificate_body()))


@pytest.mark.parametrize(
    "value",
    [
        *("", "9f3c21aa", "z", "20261123T190002418Z", "20261123T190002418Z-9F3C", "20261123T190002418Z-9f3c0"),
        *(
            "20261123T19000241Z-9f3c",
            f"{LINEAGE}\n",
            f" {LINEAGE}",
            "\uff12\uff10261123T190002418Z-9f3c",
            20261123,
            None,
        ),
    ],
    ids=repr,
)
def test_a_lineage_has_one_form(value: Any) -> None:
    """Of another width it would not sort by age; what sorts behind all others would be the last word for ever."""
    with pytest.raises(BadEvent):
        decode(edited(lambda event: event.update(lineage=value)))
    with pytest.raises(BadEvent):
        decode_certificate(edited(lambda event: event.update(lineage=value), certificate_body()))


@pytest.mark.parametrize("value", [1e300, int("9" * 30), 1.5, True, -1, None, "1"], ids=repr)
@pytest.mark.parametrize("name", ["walk", "accounts", "repaired", "deleted", "held", "absent", "checksum"])
def test_the_numbers_of_a_certificate_have_bounds(name: str, value: Any) -> None:
    with pytest.raises(BadEvent):
        decode_certificate(edited(lambda event: event["data"].update({name: value}), certificate_body()))


@pytest.mark.parametrize("value", [0, 1, None, "true"], ids=repr)
def test_whether_a_lineage_is_complete_is_true_or_false(value: Any) -> None:
    with pytest.raises(BadEvent):
        decode_certificate(edited(lambda event: event["data"].update(completes_lineage=value), certificate_body()))


@pytest.mark.parametrize(
    "edit",
    [
        lambda event: event.update(source="hq"),
        lambda event: event.update(source="/pbx/"),
        lambda event: event.update(time="2026-11-23T20:00:00"),
        lambda event: event.update(time="0001-01-01T00:00:00+23:59"),
        lambda event: event.update(data=[]),
        lambda event: event["data"].update(change="moved"),
        lambda event: event["data"].update(changed="display_name"),
        lambda event: event["data"].update(changed=[1]),
        lambda event: event["data"].update(previous=[["display_name", "a"]]),
        lambda event: event["data"].update(account=[["guid", "a"]]),
        lambda event: event["data"]["account"].update(guid=""),
        lambda event: event["data"]["account"].update(guid="a\x00"),
        lambda event: event["data"]["account"].update(guid="a" * 1025),
        lambda event: event["data"]["account"].update(guid="\ud800"),
        lambda event: event["data"]["account"].update(display_name="\udfff"),
        lambda event: event.update(dataschema="urn:pbx-account-bridge:account-changed:2"),
    ],
)
def test_what_is_not_as_it_is_written_is_refused(edit: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(BadEvent):
        decode(edited(edit))


@pytest.mark.parametrize("name", ['"revision":1', '"lineage":"20261123T190002418Z-9f3c"', '"guid":"anna"'])
def test_a_name_that_comes_twice_is_refused(name: str) -> None:
    """Two readers could take it for two things."""
    with pytest.raises(BadEvent, match="twice"):
        decode(body(change()).replace(name.encode(), f"{name},{name}".encode(), 1))


@pytest.mark.parametrize("depth", [10, 250, 300, 1000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", ("{}")])
def test_what_is_nested_deeply_is_read_or_refused(depth: int, brackets: str) -> None:
    inner = "[" * depth + "]" * depth if brackets == "[]" else '{"a":' * depth + "1" + "}" * depth
    whole = body(change()).replace(b'"specversion"', f'"x":{inner},"specversion"'.encode())
    try:
        assert decode(whole).account_guid == "anna"
    except BadEvent:
        assert depth > 200


def test_what_a_later_version_adds_is_ignored() -> None:
    more = edited(lambda event: (event.update(more={"a": [1]}), event["data"].update(more=1)))
    assert decode(more) == decode(body(change()))


def test_another_encoder_may_write_it() -> None:
    """With spaces, escapes, and its names in another order."""
    event = json.loads(body(change("ä")))
    other = json.dumps(dict(reversed(event.items())), indent=1).encode()
    assert decode(other).account["guid"] == "ä"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from([1e300, int("9" * 30), -1, LINEAGE, "initial"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=9,
)
EVENTS = st.sampled_from([body(change()), certificate_body()])


def paths(node: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for step, inner in steps:
        found += paths(inner, (*here, step))
    return found


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw an event in which one thing is something else, twice there, or missing."""
    event = json.loads(draw(EVENTS))
    *inside, last = draw(st.sampled_from(paths(event)))
    node = event
    for step in inside:
        node = node[step]
    if draw(st.booleans()):
        node[last] = draw(JSON)
    else:
        del node[last]
    return json.dumps(event).encode("utf-8", "surrogatepass")


def cut(whole: bytes, start: int, end: int, other: bytes) -> bytes:
    return whole[:start] + other + whole[end:]


BROKEN = st.builds(cut, EVENTS, st.integers(0, 900), st.integers(0, 900), st.binary(max_size=9))


@given(mutated() | BROKEN | st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"")
@example(b"\xff")
@example(b"null")
@example(b"[" * 100_000)
def test_whatever_comes_is_an_event_or_a_bad_one(whole: bytes) -> None:
    for read, kind in ((decode, AccountChanged), (decode_certificate, SourceVerified)):
        try:
            found = read(whole)
        except BadEvent:
            continue
        assert isinstance(found, kind)
        if isinstance(found, AccountChanged):
            assert 1 <= found.revision <= cloudevents.MAX_REVISION
            assert type(found.revision) is int
        assert 0 <= found.sequence < 2**63
        assert cloudevents.LINEAGE.fullmatch(found.lineage)
        assert found.time.tzinfo is not None


@given(JSON | st.just({}))
def test_a_type_is_a_text_or_there_is_none(value: Any) -> None:
    try:
        assert cloudevents.read_type(json.dumps(value).encode())
    except BadEvent:
        assert not isinstance(value, dict) or not isinstance(value.get("type"), str) or not value["type"]
