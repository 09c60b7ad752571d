import json

import pytest

from bridge.model import Cursor
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import login_digest
from bridge.pbx.wire.protocol import Conversation, Party
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.session import Close, Connection, Reply
from tests.support.pbx_reader import Caller, inside


def pbx_like(*words: str) -> Pbx:
    return Pbx(accounts=1, modes=Modes.parse(words), password="s3cret")


def results(said: list[dict[str, object]]) -> list[dict[str, object]]:
    return [message for message in said if message["mt"] == "AppLoginResult"]


def test_the_right_password_opens() -> None:
    caller = Caller(pbx_like())
    assert caller.log_in() == [{"mt": "AppLoginResult", "ok": True}]
    assert caller.connection.is_in


@pytest.mark.parametrize("word", ["refusal-bare", "refusal-false", "refusal-text", "refusal-late", "refusal-close"])
def test_the_wrong_password_is_refused_in_the_mode_s_form(word: str) -> None:
    pbx = pbx_like(word)
    caller = Caller(pbx)
    said = caller.log_in("wrong")
    assert not caller.connection.is_in
    assert pbx.oracle.load.refusals == 1
    if word == "refusal-close":
        assert (said, caller.closed_with) == ([], 1000)
    else:
        assert len(said) == 1
        assert said[0].get("ok") is not True
        assert ("errorText" in said[0]) is (word == "refusal-text")
        assert ("ok" in said[0]) is (word in {"refusal-false", "refusal-text"})
        assert (caller.delays[-1] > 0) is (word == "refusal-late")


def test_another_app_is_refused() -> None:
    pbx = pbx_like()
    caller = Caller(pbx)
    challenge = caller.say(mt="AppChallenge")[0]["challenge"]
    digest = login_digest(app="other", challenge=challenge, password=pbx.password)
    assert "ok" not in caller.say(mt="AppLogin", app="other", digest=digest)[0]


def test_a_challenge_counts_once() -> None:
    pbx = pbx_like()
    caller = Caller(pbx)
    challenge = caller.say(mt="AppChallenge")[0]["challenge"]
    login = {"mt": "AppLogin", "app": pbx.app, "digest": login_digest(app=pbx.app, challenge=challenge, password="no")}
    caller.say(**login)
    login["digest"] = login_digest(app=pbx.app, challenge=challenge, password=pbx.password)
    assert "ok" not in caller.say(**login)[0]


def test_challenges_differ() -> None:
    pbx = pbx_like()
    assert len({Caller(pbx).say(mt="AppChallenge")[0]["challenge"] for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("word", "kind"), [("challenge-hex", str), ("challenge-digits", str), ("challenge-number", int)]
)
def test_a_challenge_looks_like_the_mode_says_and_opens_all_the_same(word: str, kind: type) -> None:
    caller = inside(pbx_like(word))
    challenge = caller.heard[0]["challenge"]
    assert type(challenge) is kind
    assert len(str(challenge)) == 16


@pytest.mark.parametrize(("word", "opens"), [("login-lenient", True), ("login-strict", False)])
def test_a_login_may_leave_fields_out_where_the_pbx_is_lenient(word: str, *, opens: bool) -> None:
    """The vendor's sample sends little more than the digest."""
    pbx = pbx_like(word)
    caller = Caller(pbx)
    challenge = caller.say(mt="AppChallenge")[0]["challenge"]
    digest = login_digest(app=pbx.app, challenge=challenge, password=pbx.password)
    (result,) = caller.say(mt="AppLogin", app=pbx.app, digest=digest)
    assert (result.get("ok") is True) is opens


@pytest.mark.parametrize("info", [{}, {"cn": "Jürgen/Müller", "z": 1, "a": [1, "é"]}])
def test_info_belongs_to_the_proof(info: dict[str, object]) -> None:
    pbx = pbx_like()
    caller = Caller(pbx)
    challenge = caller.say(mt="AppChallenge")[0]["challenge"]
    written = json.dumps(info, ensure_ascii=False, separators=(",", ":"))
    digest = login_digest(app=pbx.app, challenge=challenge, password=pbx.password, info=written)
    (result,) = caller.say(mt="AppLogin", app=pbx.app, digest=digest, info=info)
    assert result["ok"] is True


def test_questions_before_the_login_end_the_connection() -> None:
    pbx = pbx_like()
    caller = Caller(pbx)
    caller.ask()
    assert caller.closed_with == 1008
    assert "before the login" in pbx.oracle.mistakes[0]


def test_a_new_password_is_asked_for_at_the_next_login() -> None:
    pbx = pbx_like()
    caller = inside(pbx)
    pbx.password_change("other")
    assert caller.ask()
    assert "ok" not in Caller(pbx).log_in("s3cret")[0]
    assert Caller(pbx).log_in("other")[0]["ok"] is True


def test_sending_the_session_key_is_a_mistake() -> None:
    pbx = pbx_like()
    Caller(pbx).log_in(key="0123")
    assert "session key" in pbx.oracle.mistakes[0]


def test_logging_in_as_a_user_is_a_mistake() -> None:
    pbx = pbx_like()
    caller = Caller(pbx)
    challenge = caller.say(mt="AppChallenge")[0]["challenge"]
    digest = login_digest(app=pbx.app, sip="erika", challenge=challenge, password=pbx.password)
    caller.say(mt="AppLogin", app=pbx.app, sip="erika", digest=digest)
    assert "as a user" in pbx.oracle.mistakes[0]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("pbxinfo-none", []),
        ("pbxinfo-after", ["AppLoginResult", "PbxInfo"]),
        ("pbxinfo-early", ["PbxInfo", "AppChallengeResult", "AppLoginResult"]),
        ("pbxinfo-repeated", ["AppLoginResult", "PbxInfo", "PbxInfo"]),
        ("appinfo-after", ["AppLoginResult", "AppInfo"]),
    ],
)
def test_a_pbx_introduces_itself_in_the_mode_s_way(word: str, told: list[str]) -> None:
    heard = [message["mt"] for message in inside(pbx_like(word)).heard]
    assert heard[-len(told) :] == told or (told == [] and "PbxInfo" not in heard)


def test_an_introduction_names_the_api_unless_it_does_not() -> None:
    assert "PbxAccountApi" in inside(pbx_like("pbxinfo-after")).heard[-1]["apis"]
    assert "PbxAccountApi" not in inside(pbx_like("pbxinfo-unlisted")).heard[-1]["apis"]
    assert "version" not in inside(pbx_like("pbxinfo-bare")).heard[-1]


def test_a_second_connection_is_welcome_refused_or_replaces_the_first() -> None:
    pbx = pbx_like("second-allowed")
    inside(pbx)
    inside(pbx)
    pbx = pbx_like("second-refused")
    first = inside(pbx)
    assert "ok" not in Caller(pbx).log_in()[0]
    first.hang_up()
    inside(pbx)
    pbx = pbx_like("second-replaces")
    first = inside(pbx)
    inside(pbx)
    first.wait()
    assert first.closed_with == 1000


def test_a_pbx_that_calls_logs_in_and_introduces_itself() -> None:
    """The bridge's own end of the conversation must find every message in its place."""
    pbx = pbx_like()
    connection = Connection(pbx, calls=True)
    conversation = Conversation(Party.BRIDGE, caller=Party.PBX)
    said = connection.begin(0.0)
    answers = [
        '{"mt":"AppChallengeResult","challenge":"0123456789abcdef"}',
        '{"mt":"AppLoginResult","ok":true}',
    ]
    heard: list[object] = []
    for reply in said:
        assert isinstance(reply, Reply)
        heard.append(conversation.receive(reply.text))
    conversation.say(m.AppChallengeResult("0123456789abcdef"))
    (proof,) = connection.receive(answers[0], 1.0)
    assert isinstance(proof, Reply)
    login = conversation.receive(proof.text)
    assert isinstance(login, m.AppLogin)
    told = {name: getattr(login, name) for name in ("app", "domain", "sip", "guid", "dn", "info")}
    assert login.digest == login_digest(**told, challenge="0123456789abcdef", password="s3cret")
    conversation.say(m.LoginAccepted())
    introduction = [
        conversation.receive(reply.text) for reply in connection.receive(answers[1], 2.0) if isinstance(reply, Reply)
    ]
    assert [type(event) for event in introduction] == [m.PbxInfo, m.AppInfo]
    (answer,) = connection.receive(conversation.ask(Cursor()), 3.0)
    assert isinstance(answer, Reply)
    assert json.loads(answer.text)["guid"] == pbx.epoch_guid


def test_a_pbx_that_calls_and_is_refused_hangs_up() -> None:
    connection = Connection(pbx_like(), calls=True)
    connection.begin(0.0)
    connection.receive('{"mt":"AppChallengeResult","challenge":"1"}', 0.0)
    assert connection.receive('{"mt":"AppLoginResult"}', 0.0) == [Close(1000)]
