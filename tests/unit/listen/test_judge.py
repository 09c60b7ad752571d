import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import FileUnusable
from bridge.listen.judge import App, Judge, Verdict
from bridge.wire import messages as m
from bridge.wire.login import is_proven
from bridge.wire.reading import read_message
from tests.support.dialling import PASSWORD, login_of

CAPTURED = json.loads((Path(__file__).parents[2] / "data/login-digests-of-pbxs-that-dial.json").read_text("utf-8"))
CHALLENGE = "0123456789abcdef"


def read(text: str) -> m.AppLogin:
    login = read_message(text)
    assert isinstance(login, m.AppLogin)
    return login


def captured(vector: dict[str, Any], **changes: Any) -> m.AppLogin:
    told = {name: vector[name] for name in ("app", "domain", "sip", "guid", "dn", "digest")}
    return read(json.dumps({"mt": "AppLogin", **told, "info": json.loads(vector["info"]), **changes}))


def judge_of(vector: dict[str, Any]) -> Judge:
    return Judge([App(vector["sip"], vector["domain"], lambda: vector["password"])])


@pytest.mark.parametrize("vector", CAPTURED, ids=lambda vector: vector["sip"])
def test_logins_that_real_pbxs_sent_are_good(vector: dict[str, Any]) -> None:
    assert judge_of(vector).judge(captured(vector), vector["challenge"]).verdict is Verdict.GOOD


@pytest.mark.parametrize("vector", CAPTURED, ids=lambda vector: vector["sip"])
@pytest.mark.parametrize("changes", [
    {"app": "other"},
    {"guid": "0" * 32},
    {"dn": "somebody else"},
    {"digest": "0" * 64},
    {"digest": ""},
    {"digest": "ä"},
    {"info": {"appobj": "go", "pbx": "pbx-other"}},
    {"info": None},
])  # fmt: skip
def test_and_not_once_anything_in_them_is_altered(vector: dict[str, Any], changes: dict[str, Any]) -> None:
    assert judge_of(vector).judge(captured(vector, **changes), vector["challenge"]).verdict is Verdict.WRONG_PASSWORD


@pytest.mark.parametrize("vector", CAPTURED, ids=lambda vector: vector["sip"])
def test_nor_for_another_challenge_or_domain_or_app(vector: dict[str, Any]) -> None:
    judge = judge_of(vector)
    assert judge.judge(captured(vector), "0" * 16).verdict is Verdict.WRONG_PASSWORD
    assert judge.judge(captured(vector, domain="other.box"), vector["challenge"]).verdict is Verdict.UNKNOWN_APP
    assert judge.judge(captured(vector, sip="other", info={}), vector["challenge"]).verdict is Verdict.UNKNOWN_APP


@pytest.mark.parametrize("spaced", [False, True])
def test_info_may_be_signed_as_it_was_sent_or_in_its_compact_form(*, spaced: bool) -> None:
    """A PBX may escape what we would not, and put blanks where the digest has none."""
    written = '{"appobj": "app", "pbx": "p", "dn": "M\\u00fcller", "n": 1.50}'
    compact = '{"appobj":"app","pbx":"p","dn":"Müller","n":1.5}'
    login = read(f'{{"mt":"AppLogin","info" : {written} ,"sip":"app"}}')
    assert (login.info, login.info_as_sent) == (compact, written)
    from bridge.wire.login import login_digest  # noqa: PLC0415 - used once

    digest = login_digest(
        app="", sip="app", info=written if spaced else compact, challenge=CHALLENGE, password=PASSWORD
    )
    assert Judge([App("app", None, lambda: PASSWORD)]).judge(replace(login, digest=digest), CHALLENGE).verdict == "good"


def test_the_entry_of_a_domain_shuts_out_the_general_one() -> None:
    """A password that is set for one domain must not be good for it together with another one."""
    judge = Judge([App("app", None, lambda: "general"), App("app", "Example.com", lambda: "special")])
    for password, domain, verdict in (
        ("special", "example.com", Verdict.GOOD),
        ("general", "example.com", Verdict.WRONG_PASSWORD),
        ("general", "other.com", Verdict.GOOD),
        ("special", "other.com", Verdict.WRONG_PASSWORD),
    ):
        login = read(login_of(CHALLENGE, password=password, domain=domain))
        assert judge.judge(login, CHALLENGE).verdict is verdict, (password, domain)


@pytest.mark.parametrize("sip", ["erika.mustermann", ""])
def test_a_user_whom_the_pbx_vouches_for_is_not_the_pbx(sip: str) -> None:
    """Whoever may open the app gets a login signed with its password, and could tell us of accounts of their making."""
    login = read(login_of(CHALLENGE, sip=sip))
    assert Judge([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.USER


def test_a_user_called_like_the_app_of_another_object_is_not_the_pbx() -> None:
    login = read(login_of(CHALLENGE, info={"appobj": "other", "pbx": "p"}))
    assert Judge([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.USER


def test_a_password_file_that_is_gone_refuses_and_stops_nobody() -> None:
    def gone() -> str:
        raise FileUnusable("gone")

    assert Judge([App("app", None, gone)]).judge(read(login_of(CHALLENGE)), CHALLENGE).verdict is Verdict.NO_PASSWORD


@pytest.mark.parametrize("text", [
    '{"mt":"AppLogin","info":' + "[" * 900 + "]" * 900 + "}",
    '{"mt":"AppLogin","info":{"n":' + "9" * 5000 + "}}",
    '{"mt":"AppLogin","info":{"a":1},"info":{"a":2},"sip":"app"}',
])  # fmt: skip
def test_odd_infos_are_read_or_unreadable_and_never_good(text: str) -> None:
    message = read_message(text.encode())
    if isinstance(message, m.AppLogin):
        assert Judge([App("app", None, lambda: PASSWORD)]).judge(message, CHALLENGE).verdict != Verdict.GOOD
    else:
        assert isinstance(message, m.Unreadable)


def test_of_two_infos_the_one_that_is_read_is_the_one_that_is_signed() -> None:
    login = read('{"mt":"AppLogin","info":{"pbx":"one"},"info": {"pbx":"two"}}')
    assert (login.info, login.info_as_sent) == ('{"pbx":"two"}', '{"pbx":"two"}')


@pytest.mark.parametrize("name", ["x:example.com:app:y:z", "Erika:::app::"])
def test_a_user_whose_name_has_colons_cannot_pass_it_off_as_the_app_object(name: str) -> None:
    """The digest joins the fields by colons, so one that the PBX signed for a user is good for fields cut elsewhere."""
    signed = json.loads(login_of(CHALLENGE, sip="erika", dn=name))
    information = json.dumps(signed.pop("info"), separators=(",", ":"))
    joined = ":".join([signed["app"], signed["domain"], signed["sip"], signed["guid"], signed["dn"], information])
    before, after = joined.split(":app:", 1)
    app, domain = before.rsplit(":", 1)
    guid, dn = after.split(":", 1)
    cut = {"app": app, "domain": domain, "sip": "app", "guid": guid, "dn": dn, "digest": signed["digest"]}
    login = read(json.dumps({"mt": "AppLogin", **cut}))
    assert is_proven(login, challenge=CHALLENGE, password=PASSWORD), "or there is nothing to refuse"
    assert Judge([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.AMBIGUOUS
