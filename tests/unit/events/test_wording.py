import pytest

from bridge.events.wording import MAX_TEXT_CHARACTERS, brief, choose_name, clean, differences, headline, shown
from bridge.model import ChangeKind, Reason


@pytest.mark.parametrize(
    ("kind", "reason", "changed", "words"),
    [
        (ChangeKind.INITIAL, None, (), "there at the first reading"),
        (ChangeKind.CREATED, None, (), "new account"),
        (ChangeKind.CREATED, Reason.RESTORED, (), "is back"),
        (ChangeKind.DELETED, Reason.REPORTED, (), "deleted"),
        (ChangeKind.DELETED, Reason.MISSING, (), "gone from the PBX"),
        (ChangeKind.UPDATED, None, (), "touched, nothing published differs"),
        (ChangeKind.UPDATED, None, ("numbers",), "new extension"),
        (ChangeKind.UPDATED, None, ("numbers", "groups"), "new extension, groups changed"),
        (ChangeKind.UPDATED, None, ("numbers", "groups", "emails", "node"), "new extension, groups changed and 2 more"),
        (ChangeKind.UPDATED, None, ("shoe_size",), "shoe_size changed"),
    ],
)
def test_a_change_is_told_in_a_few_words(
    kind: ChangeKind, reason: Reason | None, changed: tuple[str, ...], words: str
) -> None:
    assert headline(kind, reason, changed) == words


def test_an_account_is_called_by_the_best_name_it_has() -> None:
    assert choose_name({"display_name": None, "common_name": "", "h323": "erika", "guid": "g"}) == "erika"
    assert choose_name({"guid": "g"}) == "g"
    assert choose_name({}) == "?"


def test_a_difference_is_short_texts() -> None:
    assert differences(["display_name"], {}, {"guid": "a"}) == [], "it was forgotten"
    (found,) = differences(["display_name"], {"display_name": "A"}, {"display_name": None})
    assert found == ("display name", "A", "none")
    assert brief([]) == "none"
    assert brief([{"name": "Support", "active": False}, {"text": "phone"}]) == "Support (out), phone"


def test_what_a_terminal_would_obey_is_replaced() -> None:
    assert clean("a\x1b[31mb") == "a\N{REPLACEMENT CHARACTER}[31mb"


@pytest.mark.parametrize("mark", ["\x00", "\x1b", "\n", "\u202e", "\u2066", "\x85"])
def test_what_would_turn_the_line_around_is_taken_out(mark: str) -> None:
    assert shown(f"a{mark}b") == "a b"


@pytest.mark.parametrize("name", ["<b>Erika</b>", "👩‍👩‍👧 Familie", "شركة الاتصالات", "José"])
def test_awkward_names_stay_as_they_are(name: str) -> None:
    assert shown(name) == name


def test_a_long_text_is_shortened() -> None:
    assert shown("x" * 65536) == "x" * (MAX_TEXT_CHARACTERS - 1) + "…"
