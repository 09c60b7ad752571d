import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import PbxBrokeProtocol
from bridge.model import Cursor, Token
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import is_proven, login_digest
from bridge.pbx.wire.parser import read_message
from bridge.pbx.wire.protocol import Conversation, ConversationState, Party

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
valid_text = st.text(st.characters(exclude_categories=["Cs"]))
"""As orjson reads it: without half a surrogate pair."""
MESSAGE_TYPES = [
    "AppChallenge", "AppChallengeResult", "AppLogin", "AppLoginResult", "PbxInfo", "AppInfo", "AppInfoResult",
    "CheckBuild", "CheckBuildResult", "KeepAlive", "AccountInfo", "AccountInfoResult", "AccountInfoDel", "Error",
]  # fmt: skip
PROPERTIES = [
    "api", "src", "guid", "usn", "ausn", "account-guid", "account-h323", "info", "deleted", "update", "error",
    "errorText", "ok", "challenge", "app", "domain", "digest", "apis", "url",
]  # fmt: skip


def result(**properties: Any) -> m.Message:
    return read_message(json.dumps({"mt": "AccountInfoResult", **properties}))


@given(st.binary() | st.text())
def test_no_bytes_whatsoever_make_reading_fail(data: bytes | str) -> None:
    assert isinstance(read_message(data), m.Message)


@given(st.sampled_from(MESSAGE_TYPES), st.dictionaries(st.sampled_from(PROPERTIES), json_values))
def test_no_properties_whatsoever_make_reading_fail(mt: str, properties: dict[str, Any]) -> None:
    assert isinstance(read_message(json.dumps({"mt": mt, **properties})), m.Message)


def raw_object(pairs: Iterable[tuple[str, str]]) -> str:
    return f"{{{','.join(f'{name}:{value}' for name, value in pairs)}}}"


numbers = st.sampled_from(["1e999", "-0", "1.50", "123456789012345678901234567890", "9" * 5000, "NaN", "1E400"])
strings = st.sampled_from(['""', '"\\ud800"', '"\\udc00x"', '"\\u0000"', '"ü"', '"\\\\ud800"']) | st.text().map(
    json.dumps
)
raw_values = st.recursive(
    numbers | strings | st.sampled_from(["null", "true", "1"]) | st.integers(1, 1200).map(lambda n: "[" * n + "]" * n),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]")
        | st.lists(st.tuples(strings, inner), max_size=3).map(raw_object)
    ),
    max_leaves=6,
)


raw_messages = st.builds(
    lambda mt, pairs: raw_object([('"mt"', json.dumps(mt)), *((json.dumps(name), value) for name, value in pairs)]),
    st.sampled_from([*MESSAGE_TYPES, "AccountDelete"]),
    st.lists(st.tuples(st.sampled_from(PROPERTIES), raw_values), max_size=8),
)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A message as some firmware might write it, and then with bytes lost, doubled or turned over."""
    data = bytearray(draw(raw_messages).encode())
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["lose", "double", "turn"])):
            case "lose":
                del data[at : at + draw(st.integers(1, 20))]
            case "double":
                data[at:at] = data[at : at + 30]
            case "turn" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@settings(max_examples=200, deadline=None)
@given(spoilt())
def test_whatever_a_pbx_writes_is_read_and_what_we_would_say_to_it_can_be_written(data: bytes) -> None:
    match read_message(data):
        case m.AccountRow(row=row):
            json.loads(m.AccountInfo("s", row.cursor).to_json())
        case m.NoAccount(cursor=cursor):
            json.loads(m.AccountInfo("s", cursor).to_json())
        case m.AppInfo(app=app, src=src):
            json.loads(m.AppInfoResult(app, src).to_json())
        case m.AppLogin() as login:
            assert not is_proven(login, challenge="c", password="p")
        case m.AppChallengeResult(challenge=challenge):
            login_digest(app="a", challenge=challenge, password="p")


@settings(deadline=None)
@given(state=st.sampled_from(ConversationState), is_asked=st.booleans(), data=spoilt())
def test_whatever_a_pbx_writes_either_has_its_place_or_breaks_the_protocol(
    *,
    state: ConversationState,
    is_asked: bool,
    data: bytes,
) -> None:
    conversation = Conversation(Party.BRIDGE, caller=Party.BRIDGE)
    conversation.state = ConversationState.READY
    if is_asked:
        conversation.ask(Cursor())
    conversation.state = state
    with suppress(PbxBrokeProtocol):
        conversation.receive(data)


def test_a_login_has_so_many_properties_and_no_more() -> None:
    many = "".join(f',"k{number}":1' for number in range(101))
    assert isinstance(read_message(f'{{"mt":"AppLogin","info":{{}}{many}}}'), m.Unreadable)
    assert isinstance(read_message('{"mt":"AppLogin","info":{}' + ',"info":{}' * 101 + "}"), m.Unreadable)


@pytest.mark.parametrize("name", ["guid", "usn", "ausn", "account-guid"])
@pytest.mark.parametrize("spoilt", [b"a\xff", b"a\\ud800"])
def test_what_tells_one_thing_from_another_is_not_guessed(name: str, spoilt: bytes) -> None:
    content = b'{"mt":"AccountInfoResult","guid":"a","usn":"1","ausn":"1","account-guid":"b","info":{}}'
    key = b'"' + name.encode() + b'":"'
    written = re.sub(key + b'[^"]*', lambda _: key + spoilt, content)
    assert isinstance(read_message(content), m.AccountRow)
    assert read_message(written) == m.Unreadable(f"AccountInfoResult: {name} is no valid text")
    other = written.replace(b'"AccountInfoResult"', b'["AccountInfoResult"]')
    assert read_message(other) == m.Unreadable("no message type (mt)")


@pytest.mark.parametrize("depth", [10, 300, 1000, 100_000])
def test_nesting_of_any_depth_is_read_or_refused(depth: int) -> None:
    assert isinstance(read_message('{"mt":"AccountInfoResult","info":' + "[" * depth + "]" * depth + "}"), m.Message)


@pytest.mark.parametrize(
    "token",
    ['"42"', '"007"', "42", "0", "-1", "9007199254740993", "18446744073709551616", "123456789012345678901234567890",
     "1.50", "1e3", '"\\"quoted\\\\"', '"ünïcode"', '" "'],
)  # fmt: skip
def test_cursor_parts_are_echoed_character_by_character(token: str) -> None:
    read = read_message(f'{{"mt":"AccountInfoResult","account-guid":"x","usn":{token},"ausn":{token}}}'.encode())
    assert isinstance(read, m.AccountRow)
    asked = m.AccountInfo("s", read.row.cursor).to_json()
    assert f'"usn":{token}' in asked
    assert f'"ausn":{token}' in asked
    assert "guid" not in asked, "what the PBX left out is left out"


@given(valid_text.filter(bool) | st.integers(-(2**63), 2**64 - 1) | st.booleans())
def test_a_cursor_part_is_kept_as_orjson_writes_it(value: str | int) -> None:
    """Stores of running bridges have them like that, and the cursor moves only from where it was left."""
    read = read_message(orjson.dumps({"mt": "AccountInfoResult", "account-guid": "x", "usn": value}))
    assert isinstance(read, m.AccountRow)
    assert read.row.cursor.usn == orjson.dumps(value).decode()


@settings(max_examples=200, deadline=None)
@given(spoilt(), valid_text)
def test_a_question_is_written_as_orjson_writes_it(data: bytes, src: str) -> None:
    """It is put together by hand; what the PBX gets is what it would get from a dict."""
    read = read_message(data)
    cursor = read.row.cursor if isinstance(read, m.AccountRow) else getattr(read, "cursor", Cursor())
    members = {"guid": cursor.guid, "usn": cursor.usn, "ausn": cursor.ausn}
    told = {name: orjson.Fragment(token) for name, token in members.items() if token is not None}
    question = {"mt": "AccountInfo", "api": m.API, "src": src, **told}
    assert m.AccountInfo(src, cursor).to_json() == orjson.dumps(question).decode()


@given(st.text(min_size=1) | st.integers())
def test_any_text_or_number_comes_back_as_the_same_value(value: str | int) -> None:
    read = result(**{"account-guid": "x", "usn": value})
    assert isinstance(read, m.AccountRow)
    echoed = json.loads(m.AccountInfo("s", read.row.cursor).to_json())["usn"]
    encodable = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else value
    assert (echoed, type(echoed)) == (encodable, type(value))


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_cursor_part_without_a_value_is_left_out_of_the_next_question(nothing: str | None) -> None:
    read = result(**{"account-guid": "x", "guid": nothing, "usn": "1", "ausn": nothing})
    assert isinstance(read, m.AccountRow)
    assert read.row.cursor == Cursor(None, Token('"1"'), None)


@pytest.mark.parametrize("value", [True, [], {}, [1], {"a": 1}])
def test_a_cursor_part_that_is_no_scalar_makes_the_message_unreadable(value: Any) -> None:
    if value is True:
        assert isinstance(result(**{"account-guid": True}), m.Unreadable)
    else:
        assert isinstance(result(**{"account-guid": "x", "usn": value}), m.Unreadable)


@pytest.mark.parametrize("none", [{}, {"account-guid": None}, {"account-guid": ""}])
def test_no_account_is_no_account_in_every_spelling(none: dict[str, Any]) -> None:
    assert isinstance(result(guid="g", **none), m.NoAccount)


@pytest.mark.parametrize(
    "properties",
    [{"deleted": True}, {"del": True}, {"update": "del"}, {"update": "DELETED"}],
)
def test_a_deletion_said_in_words_is_a_deletion(properties: dict[str, Any]) -> None:
    read = result(**{"account-guid": "x", "usn": "1", **properties})
    assert isinstance(read, m.AccountRow)
    assert read.row.is_deleted


@pytest.mark.parametrize("properties", [{}, {"deleted": False}, {"update": "add"}, {"info": {}}, {"account-h323": ""}])
def test_what_is_not_said_in_words_is_no_deletion(properties: dict[str, Any]) -> None:
    read = result(**{"account-guid": "x", "usn": "1", **properties})
    assert isinstance(read, m.AccountRow)
    assert not read.row.is_deleted


@pytest.mark.parametrize("properties", [{"error": 5}, {"errorText": "no"}, {"error": {"a": 1}}, {"err": [1]}])
def test_an_error_is_never_taken_for_having_nothing_further(properties: dict[str, Any]) -> None:
    assert isinstance(result(**properties), m.RequestError)


@pytest.mark.parametrize("info", [None, [], "", " ", {}, "{}", "null", "[]", [{}], [None]])
def test_info_that_tells_nothing_is_none(info: Any) -> None:
    read = result(**{"account-guid": "x", "usn": "1", "info": info})
    assert isinstance(read, m.AccountRow)
    assert (read.row.info, read.row.unread) == (None, "")


@pytest.mark.parametrize("wrap", [json.dumps, lambda info: [info], lambda info: json.dumps([info])])
def test_info_as_a_text_or_in_a_list_is_the_object_in_it(wrap: Any) -> None:
    info = {"cn": "Jürgen", "e164": "403"}
    read = result(**{"account-guid": "x", "usn": "1", "info": wrap(info)})
    assert isinstance(read, m.AccountRow)
    assert (read.row.info, read.row.unread) == (info, "")


@pytest.mark.parametrize(
    ("info", "form"),
    [
        ("text", "a text that is no JSON"),
        ("<user cn='Erika'/>", "a text that is no JSON"),
        ("[" * 100_000, "a text that is no JSON"),
        ('"text"', "a JSON text with a text"),
        (5, "a number"),
        (True, "true or false"),
        ([{"cn": "Erika"}, {"e164": "403"}], "a list"),
        ([[{"cn": "Erika"}]], "a list"),
        ('[{"name": "cn"}, {"name": "dn"}]', "a JSON text with a list"),
    ],
)
def test_info_that_nobody_can_read_is_not_the_same_as_none(info: Any, form: str) -> None:
    """Whoever publishes an account without its names has to know that there were some."""
    for mt in ("AccountInfoResult", "AccountInfoDel"):
        read = result(mt=mt, **{"account-guid": "x", "usn": "1", "info": info})
        assert isinstance(read, m.AccountRow)
        assert (read.row.info, read.row.unread) == (None, form)


def test_what_stands_in_an_info_is_no_message() -> None:
    """Of an account nothing is left out because its info has a text that was mended where a message must have none."""
    info = '{"mt": "AppInfo", "guid": "\\ud800", "dn": "Erika"}'
    found = read_message(orjson.dumps({"mt": "AccountInfoResult", "account-guid": "a1", "info": info}))
    assert isinstance(found, m.AccountRow)
    assert found.row.info is not None
    assert found.row.info["dn"] == "Erika"


def test_a_name_cut_in_the_middle_of_a_character_is_still_read() -> None:
    data = '{"mt":"AccountInfoResult","account-guid":"x","usn":"1","info":{"dn":"Mülle'.encode() + b'\xc3"}}'
    read = read_message(data)
    assert isinstance(read, m.AccountRow)
    assert read.row.info == {"dn": "Mülle\N{REPLACEMENT CHARACTER}"}


def test_the_login_needs_ok_to_be_true_and_nothing_else() -> None:
    said = {"true": True, "1": 1, "yes": "yes", "false": False, "nothing": None}
    read = {name: read_message(json.dumps({"mt": "AppLoginResult", "ok": ok})) for name, ok in said.items()}
    assert [name for name, message in read.items() if message == m.LoginAccepted()] == ["true"]


def test_a_challenge_that_is_a_number_is_read_as_its_digits() -> None:
    assert read_message('{"mt":"AppChallengeResult","challenge":1234}') == m.AppChallengeResult("1234")


def test_other_apis_are_ignored_and_the_vendors_slip_is_not() -> None:
    assert isinstance(result(api="RCC"), m.Other)
    assert isinstance(result(api="PbxImpersonation"), m.NoAccount)


@pytest.mark.parametrize(
    "message",
    [
        m.AppChallenge(), m.AppChallengeResult("0123"), m.AppLogin("app", "d" * 64, info='{"cn":"x"}'),
        m.LoginAccepted(), m.LoginRefused("no"),
        m.PbxInfo("example.com", "hq", ("PbxAccountApi",), "16r1"), m.AppInfo("app", "s"),
        m.AppInfoResult("app", "s"), m.CheckBuild("u"), m.CheckBuildResult(), m.KeepAlive(),
        m.AccountInfo("s", Cursor(Token('"g"'), Token("1"), Token('"2"'))), m.NoAccount(Cursor(Token('"g"')), "s"),
        m.RequestError("no", "s"),
    ],
    ids=lambda message: type(message).__name__,
)  # fmt: skip
def test_every_message_reads_back_what_it_writes(message: m.Message) -> None:
    assert read_message(message.to_json()) == message
