"""Whatever a PBX answers, what leaves is what it may be; from the text of the answer to the bytes of the event."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, begin_walk, delete_missing
from bridge.events import cloudevents
from bridge.events.checksum import checksum
from bridge.events.normalize import FIELDS, MAX_GUID_CHARACTERS, OPTIONAL_FIELDS, Projection, Rules, account_key
from bridge.model import Certificate
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.parser import read_message
from bridge.store.sqlite.store import SqliteStore
from tests.support.events import BEGIN
from tests.support.outbox import unsent
from tests.support.raw_answers import answers
from tests.support.rows import HQ, batch

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "account-changed.v1.schema.json").read_text("utf-8"))
FITTING = Draft202012Validator(SCHEMA, format_checker=FormatChecker())
EVERYTHING = Projection.of(include=OPTIONAL_FIELDS)
MASKED = Projection.of(include=OPTIONAL_FIELDS, mask={*FIELDS, *OPTIONAL_FIELDS} - {"guid", "hidden"})


def told(store: SqliteStore) -> list[dict[str, Any]]:
    return [json.loads(row.body) for row in unsent(store.exchange) if row.event_type == cloudevents.ACCOUNT_CHANGED]


def certify(store: SqliteStore, rules: Rules) -> Certificate:
    begin_walk(store, HQ)
    limit = DeletionLimit(walks=2)
    return delete_missing(store, HQ, WalkRecord(BEGIN), rules=rules, now=BEGIN, deletion_limit=limit)[0]


@settings(deadline=None)
@given(st.lists(answers, min_size=1, max_size=4), st.sampled_from([EVERYTHING, MASKED]))
def test_what_is_published_is_clean_and_fits_its_schema_and_the_certificate_is_about_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], projection: Projection
) -> None:
    rules = Rules(key=b"k", projection=projection)
    with SqliteStore(tmp_path_factory.mktemp("answers") / "bridge.db") as store:
        for text in texts:
            read = read_message(text)
            if isinstance(read, m.AccountRow):
                ingest(store, batch(read.row, since=store.place(HQ).cursor), rules=rules, now=BEGIN)
                assert store.place(HQ).cursor == read.row.cursor, "the PBX gets back what it wrote"
        certificate, events = certify(store, rules), told(store)
    latest = {account_key(event["subject"]): event for event in events}
    for event in events:
        FITTING.validate(event)
        cloudevents.decode(json.dumps(event).encode())
        written = json.dumps(event, ensure_ascii=False)
        assert not any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in json.loads(json.dumps(written)))
        assert "\\u00" not in written
        assert all(len(str(number)) <= MAX_GUID_CHARACTERS for number in event["data"]["cursor"].values())
    present = {key: event for key, event in latest.items() if event["data"]["change"] != "deleted"}
    revisions = [(event["lineage"], key, event["data"]["revision"]) for key, event in present.items()]
    assert (certificate.accounts, certificate.checksum) == (len(present), checksum(revisions))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('"-"', '"--"'),
        ("123456789012345678901234567890", "123456789012345678901234567891"),
        ("0.10000000000000000001", "0.10000000000000000002"),
        ('"a\\u0000"', '"a\\u0001"'),
        (f'"{"x" * 200}1"', f'"{"x" * 200}2"'),
    ],
)
def test_two_guids_are_two_accounts_however_odd_they_are(tmp_path: Path, one: str, other: str) -> None:
    rules = Rules(key=b"k")
    with SqliteStore(tmp_path / "bridge.db") as store:
        for usn, guid in enumerate((one, other), 1):
            read = read_message(f'{{"mt":"AccountInfoResult","usn":{usn},"account-guid":{guid},"account-h323":"e"}}')
            assert isinstance(read, m.AccountRow)
            ingest(store, batch(read.row, since=store.place(HQ).cursor), rules=rules, now=BEGIN)
        certificate, events = certify(store, rules), told(store)
    assert [event["data"]["change"] for event in events] == ["initial", "initial"]
    assert len({event["subject"] for event in events}) == 2
    assert certificate.accounts == 2
    assert certificate.checksum == checksum((event["lineage"], account_key(event["subject"]), 1) for event in events)


@pytest.mark.parametrize("name", ["guid", "usn", "ausn", "account-guid"])
def test_what_cannot_be_told_apart_from_another_one_is_not_read(name: str) -> None:
    """Half a character becomes a replacement, and two of those are the same."""
    read = read_message(f'{{"mt":"AccountInfoResult","usn":"1","account-guid":"x","{name}":"a\\ud800"}}')
    assert isinstance(read, m.Unreadable)
    assert name in read.reason


def test_numbers_are_published_clean_and_as_different_as_they_were(tmp_path: Path) -> None:
    """No database with JSON takes a NUL in an event; the bridge asks with the very same numbers all the same."""
    odd = ["true", '"a\\u0000"', '"a\\u0001"', f'"{"9" * 500}"', f"0.{'1' * 500}"]
    odd += ['"\\"\\\\"', '"é"', '"e\\u0301"', '"\x7f"']
    with SqliteStore(tmp_path / "bridge.db") as store:
        for usn in odd:
            read = read_message(f'{{"mt":"AccountInfoResult","usn":{usn},"account-guid":"x","account-h323":"e"}}')
            assert isinstance(read, m.AccountRow)
            assert json.loads(m.AccountInfo("s", read.row.cursor).to_json(), parse_float=str)["usn"] == json.loads(
                usn, parse_float=str, strict=False
            )
            ingest(store, batch(read.row, since=store.place(HQ).cursor), rules=Rules(key=b"k"), now=BEGIN)
        numbers = [event["data"]["cursor"]["usn"] for event in told(store)]
    assert numbers[5:8] == ['"\\', "é", "é"], "clean as they are"
    assert len({*numbers}) == len(odd) - 1
    assert all(number.isprintable() and len(number) <= MAX_GUID_CHARACTERS for number in numbers)
