import base64
import hashlib
import json
import urllib.parse
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.events.normalize import _KNOWN_NAMES
from bridge.pbx.recording import names
from bridge.pbx.recording.frames import Frame, Header, disguised, write
from bridge.pbx.recording.pseudonyms import DROPPED, Pseudonyms
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.parser import read_message

PSEUDONYMS = Pseudonyms(b"k" * 32)

PERSONS = ("Erika", "Mustermann", "erika.mustermann", "4711205", "+49 40 1234567", "erika@acme.example", "Jürgen Groß")
SECRETS = ("pl4nted-s3cret", "0123456789abcdef0123", "hunter2")
PLANTED = (*PERSONS, *SECRETS)


def told(content: Any) -> Any:
    return json.loads(PSEUDONYMS.frame(json.dumps(content)))


def forms(value: str) -> set[str]:
    """Return how somebody who searches would look for *value*."""
    data = value.encode()
    hashes = {hash_of(data).hexdigest() for hash_of in (hashlib.md5, hashlib.sha1, hashlib.sha256)}
    escaped = json.dumps(value)[1:-1]
    plain = {value, escaped, base64.b64encode(data).decode(), urllib.parse.quote(value), data.hex(), value[::-1]}
    return {form.lower() for form in plain | hashes}


def where_planted(value: str) -> st.SearchStrategy[Any]:
    """Return frames that have *value* in every place where something can stand."""
    texts = st.sampled_from(
        [
            value,
            f"Call {value} now",
            f"https://{value}@host.example/a/{value}?who={value}",
            f"mailto:{value}@acme.example",
            base64.b64encode(value.encode()).decode(),
            json.dumps({"cn": value, value: {"pwd": value}}),
            f'<pseudo name="{value}"/>',
            f"{value}\u2028{value}",
        ]
    )
    members = st.sampled_from([*sorted(names.MEMBERS), value, f"x-{value}", "unknown"])
    number = int("".join(c for c in value if c.isdecimal()) or "4711205")
    leaves = texts | st.sampled_from([number, -number, number + 0.25, number << 70, True, None])
    inner = st.recursive(
        leaves, lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(members, deeper, max_size=4), max_leaves=8
    )
    # A number under usn stays: a count of changes. Whatever else stands there does not.
    row = st.dictionaries(members.filter(lambda name: name not in {"usn", "ausn"}), inner, min_size=1, max_size=6)
    row |= st.builds(lambda text, rest: {**rest, "usn": text, "ausn": {"a": text}}, texts.filter(has_letters), row)
    return row | inner


def has_letters(text: str) -> bool:
    return any(letter.isalpha() and letter not in "abcdef" for letter in text)


@st.composite
def frames(draw: st.DrawFn) -> tuple[str, str]:
    value = draw(st.sampled_from(PLANTED))
    text = json.dumps(draw(where_planted(value)), ensure_ascii=draw(st.booleans()))
    return value, draw(st.sampled_from([text, text[:-1], f"{value} {text}", value, f"{{{value}: 1"]))


@given(frames())
@example(
    ("Erika", '{"mt":"Erika","api":"Erika","src":"Erika","update":"Erika","version":"Erika","Erika":{"Erika":[]}}')
)
def test_nobody_who_searches_a_recording_finds_a_person_or_a_secret(planted: tuple[str, str]) -> None:
    value, text = planted
    lines = "".join(write(Header("test", PSEUDONYMS.key_id), [Frame(0.5, 1, "message", "pbx", text)], PSEUDONYMS))
    seen = lines.lower()
    decoded = json.loads(lines.splitlines()[1])["text"].lower()
    for form in forms(value):
        assert form not in seen
        assert form not in decoded
    digits = "".join(c for c in value if c.isdecimal())
    assert len(digits) < 4 or digits not in seen


def test_texts_of_one_length_class_are_equally_long() -> None:
    """So that a name cannot be told by its length."""
    lengths = {len(PSEUDONYMS.text(name)) for name in ("Bo", "Erika", "Ayşe Öztürk")}
    assert lengths == {12}
    assert len(PSEUDONYMS.text("x" * 13)) == len(PSEUDONYMS.text("x" * 24)) == 24


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=30), max_size=5))
def test_the_same_is_replaced_by_the_same_and_something_else_by_something_else(texts: dict[str, str]) -> None:
    for one in texts.values():
        for other in texts.values():
            if one.strip() and other.strip():
                assert (PSEUDONYMS.text(one) == PSEUDONYMS.text(other)) == (one == other)


def test_another_key_makes_something_else_of_everything() -> None:
    other = Pseudonyms(b"o" * 32)
    assert other.text("Erika") != PSEUDONYMS.text("Erika")
    assert other.key_id != PSEUDONYMS.key_id


@pytest.mark.parametrize("guid", ["0123456789abcdef0123456789abcdef", "01234567-89AB-CDEF-0123-456789ABCDEF"])
def test_two_spellings_of_a_guid_stay_that(guid: str) -> None:
    plain = PSEUDONYMS.text("0123456789abcdef0123456789abcdef")
    assert PSEUDONYMS.text(guid).replace("-", "").lower() == plain
    assert PSEUDONYMS.text(guid).isupper() == guid.isupper()


@pytest.mark.parametrize("usn", [17, 0, 2**70, "17", "000017", "1f", "ff"])
def test_counts_of_changes_stay_as_they_are(usn: Any) -> None:
    """Without their order and their types nothing could be learnt about them, and they tell of nobody."""
    assert told({"mt": "AccountInfoResult", "usn": usn, "ausn": usn}) == {
        "mt": "AccountInfoResult",
        "usn": usn,
        "ausn": usn,
    }
    assert told({"info": {"usn": 4711205}})["info"]["usn"] != 4711205


@pytest.mark.parametrize(
    "text",
    [
        '{"mt":"Memo","usn":4711205}',
        '{"mt":["AccountInfoResult"],"usn":"4711205"}',
        '[{"mt":"AccountInfoResult","usn":"4711205"}]',
        '{"mt":"AccountInfoResult","usn":4711205e0}',
        '{"mt":"AccountInfoResult","usn":4711205.0}',
        '{"mt":"AccountInfoResult","info":{"mt":"AccountInfo","usn":4711205}}',
        '{"mt":"AccountInfoResult","src":"acct-4711205"}',
    ],
)
def test_what_only_looks_like_a_count_or_a_src_of_ours_is_replaced(text: str) -> None:
    assert "4711205" not in PSEUDONYMS.frame(text)


def test_an_answer_still_belongs_to_its_question() -> None:
    question, answer = told({"mt": "AccountInfo", "src": "acct-7"}), told({"mt": "AccountInfoResult", "src": "acct-7"})
    assert question["src"] == answer["src"] != told({"mt": "AccountInfoResult", "src": "acct-8"})["src"]


def test_a_code_that_anybody_may_choose_says_nothing() -> None:
    assert disguised(Frame(0.0, 1, "closed", "pbx", code=4711), PSEUDONYMS).code == 4000
    assert disguised(Frame(0.0, 1, "closed", "pbx", code=1011), PSEUDONYMS).code == 1011


@pytest.mark.parametrize("depth", [39, 300, 900])
def test_what_is_nested_deeply_stays_a_message(depth: int) -> None:
    text = f'{{"mt":"AccountInfoResult","usn":"1","account-guid":"a","info":{{"x":{"[" * depth}1.5{"]" * depth}}}}}'
    assert isinstance(read_message(text), m.AccountRow)
    assert isinstance(read_message(PSEUDONYMS.frame(text)), m.AccountRow)


def test_a_name_within_a_mail_address_or_a_url_is_that_name() -> None:
    mail = PSEUDONYMS.text("erika@acme.example")
    assert mail == f"{PSEUDONYMS.text('erika')}@{PSEUDONYMS.text('acme.example')}"
    assert PSEUDONYMS.text("https://acme.example/erika") == (
        f"https://{PSEUDONYMS.text('acme.example')}/{PSEUDONYMS.text('erika')}"
    )


def test_type_and_structure_stay() -> None:
    content = {"a": [1, {"b": None}, True, 4.5], "info": '{"cn":"Erika"}', "e164": 4711, "text": "", "dn": {}}
    seen = told(content)
    assert [type(value) for value in seen.values()] == [list, str, int, str, dict]
    assert [type(value) for value in seen["a"]] == [int, dict, bool, float]
    assert list(json.loads(seen["info"])) == ["cn"]
    assert seen["text"] == ""


def test_secrets_are_dropped_and_nothing_but_their_type_is_left() -> None:
    content = {
        "pwd": "a",
        "turnPwd": "b",
        "m-key": 7,
        "digest": "c",
        "challenge": 123,
        "my passwords": ["d"],
        "key": {},
    }
    assert list(told(content).values()) == [DROPPED, DROPPED, 0, DROPPED, 0, [], {}]


def test_every_name_that_the_bridge_knows_stays() -> None:
    assert _KNOWN_NAMES <= names.MEMBERS


@pytest.mark.parametrize(
    "message",
    [
        '{"mt":"AccountInfoResult","guid":"g","usn":"1","ausn":"2","account-guid":"a","info":{"cn":"Erika"}}',
        '{"mt":"AccountInfoResult","guid":"g"}',
        '{"mt":"AccountDelete","account-guid":"a","usn":1,"update":"DEL"}',
        '{"mt":"AccountInfoResult","account-guid":"a","info":"[{\\"cn\\":\\"Erika\\"}]","usn":1}',
        '{"mt":"Error","src":"acct-1","errorText":"Erika is away"}',
        '{"mt":"AccountInfoResult","error":4711}',
        '{"mt":"AppChallengeResult","challenge":1234567890}',
        '{"mt":"PbxInfo","domain":"acme.example","pbx":"hq","apis":["PbxAccountApi","Other"],"version":"16r1"}',
        '{"mt":"Erika"}',
        "Erika",
        "[1]",
        "{",
        '{"mt":1}',
    ],
)
def test_a_reader_makes_the_same_of_a_frame_as_before(message: str) -> None:
    before, after = read_message(message), read_message(PSEUDONYMS.frame(message))
    assert type(before) is type(after)
    if isinstance(before, m.AccountRow) and isinstance(after, m.AccountRow):
        assert (before.row.cursor.usn, before.row.is_deleted, before.row.unread) == (
            after.row.cursor.usn,
            after.row.is_deleted,
            after.row.unread,
        )
        assert (before.row.info or {}).keys() == (after.row.info or {}).keys()
