import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.changelist import Before, Entry
from bridge.simulator.modes import CursorType, Json, Modes
from bridge.simulator.people import Record
from bridge.simulator.writing import head, number_text, row, styled, without_account, write_number

ERIKA = Record("aa00", "erika", "Erika", 'Erika "E" \\ Ä/', "403", (), (("Support", True),), "5ec2e7", "hq")
PLACE = ("example.com", "hq")


@pytest.mark.parametrize("kind", CursorType)
@given(number=st.integers(0, 10**9))
def test_a_number_can_be_read_as_it_was_written(kind: CursorType, number: int) -> None:
    assert write_number(json.loads(number_text(number, kind)), kind) == number


@pytest.mark.parametrize("kind", CursorType)
@pytest.mark.parametrize("value", ["", "x", "007x", " 7", "+7", "-", 1.5, True, None, [], {}, "٣", "0x1f", "1_0"])
def test_what_was_never_written_is_no_number(kind: CursorType, value: Any) -> None:
    assert write_number(value, kind) is None


@pytest.mark.parametrize("style", Json)
def test_every_style_is_the_same_json(style: Json) -> None:
    text = row(Entry(1, 7, 1, ERIKA), Modes(json=style), head=head("q", Modes()), guid="g", place=PLACE)
    read = json.loads(text)
    plain = json.loads(row(Entry(1, 7, 1, ERIKA), Modes(), head=head("q", Modes()), guid="g", place=PLACE))
    assert {name: value for name, value in read.items() if not name.startswith("x-")} == plain
    assert read["info"]["dn"] == ERIKA.dn


def test_escaped_json_escapes_even_slashes() -> None:
    assert styled('{"a":"Ä/"}', Modes(json=Json.ESCAPED)).count("\\") == 2


def test_a_row_is_written_once_for_all_who_see_the_same() -> None:
    entry, modes = Entry(1, 7, 1, ERIKA), Modes()
    row(entry, modes, head="{", guid="g", place=PLACE)
    written = entry.written
    row(entry, modes, head="{", guid="g", place=PLACE)
    assert entry.written is written
    row(entry, Modes.parse(["cursor-hex"]), head="{", guid="g", place=PLACE)
    assert entry.written is not written


def test_a_row_names_the_guid_where_it_is_news_or_always() -> None:
    entry = Entry(1, 7, 1, ERIKA)
    for modes, is_guid_new, told in (
        (Modes(), False, None),
        (Modes(), True, "g"),
        (Modes.parse(["rowguid-present"]), False, "g"),
    ):
        text = row(entry, modes, head=head(None, modes), guid="g", place=PLACE, is_guid_new=is_guid_new)
        assert json.loads(text).get("guid") == told


def test_a_partial_row_has_only_what_differs_from_before() -> None:
    before = Before(Record("aa00", "erika", "Erika", "Old", "403", (), (("Support", True),), "5ec2e7", "hq"), 6, 1)
    entry, modes = Entry(1, 7, 1, ERIKA, before=before), Modes.parse(["info-delta"])
    text = row(entry, modes, head=head(None, modes), guid="g", place=PLACE, is_whole=False)
    assert json.loads(text)["info"] == {"dn": ERIKA.dn}


@pytest.mark.parametrize(
    ("word", "told"), [("optional-absent", {}), ("optional-null", {"usn": None}), ("optional-empty", {"usn": ""})]
)
def test_a_missing_property_is_written_as_the_mode_says(word: str, told: dict[str, Any]) -> None:
    modes = Modes.parse([word])
    message = json.loads(without_account(head(None, modes), {"guid": "g"}, modes))
    assert {name: message[name] for name in ("usn",) if name in message} == told
