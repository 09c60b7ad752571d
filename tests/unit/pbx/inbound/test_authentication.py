import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import FileUnusable
from bridge.pbx.inbound.authentication import App, Authenticator, Verdict
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import is_proven
from bridge.pbx.wire.parser import read_message
from tests.support.dialling import PASSWORD, login_of

CAPTURED = json.loads((Path(__file__).parents[3] / "data/login-digests-of-pbxs-that-dial.json").read_text("utf-8"))
CHALLENGE = "0123456789abcdef"


def read(text: str) -> m.AppLogin:
    login = read_message(text)
    assert isinstance(login, m.AppLogin)
    return login


def captured(vector: dict[str, Any], **changes: Any) -> m.AppLogin:
    told = {name: vector[name] for name in ("app", "domain", "sip", "guid", "dn", "digest")}
    return read(json.dumps({"mt": "AppLogin", **told, "info": json.loads(vector["info"]), **changes}))


def judge_of(vector: dict[str, Any]) -> Authenticator:
    return Authenticator([App(vector["sip"], vector["domain"], lambda: vector["password"])])


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
    from bridge.pbx.wire.login import login_digest  # noqa: PLC0415 - used once

    digest = login_digest(
        app="", sip="app", info=written if spaced else compact, challenge=CHALLENGE, password=PASSWORD
    )
    assert (
        Authenticator([App("app", None, lambda: PASSWORD)]).judge(replace(login, digest=digest), CHALLENGE).verdict
        == "good"
    )


def test_the_entry_of_a_domain_shuts_out_the_general_one() -> None:
    """A password that is set for one domain must not be good for it together with another one."""
    judge = Authenticator([App("app", None, lambda: "general"), App("app", "Example.com", lambda: "special")])
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
    assert Authenticator([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.USER


def test_a_user_called_like_the_app_of_another_object_is_not_the_pbx() -> None:
    login = read(login_of(CHALLENGE, info={"appobj": "other", "pbx": "p"}))
    assert Authenticator([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.USER


def test_a_password_file_that_is_gone_refuses_and_stops_nobody() -> None:
    def gone() -> str:
        raise FileUnusable("gone")

    assert (
        Authenticator([App("app", None, gone)]).judge(read(login_of(CHALLENGE)), CHALLENGE).verdict
        is Verdict.NO_PASSWORD
    )


@pytest.mark.parametrize("text", [
    '{"mt":"AppLogin","info":' + "[" * 900 + "]" * 900 + "}",
    '{"mt":"AppLogin","info":{"n":' + "9" * 5000 + "}}",
    '{"mt":"AppLogin","info":{"a":1},"info":{"a":2},"sip":"app"}',
])  # fmt: skip
def test_odd_infos_are_read_or_unreadable_and_never_good(text: str) -> None:
    message = read_message(text.encode())
    if isinstance(message, m.AppLogin):
        assert Authenticator([App("app", None, lambda: PASSWORD)]).judge(message, CHALLENGE).verdict != Verdict.GOOD
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
    assert Authenticator([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.AMBIGUOUS


GUID_OF_A_USER = "3954ae7854c96301c9dd009033400109"
PIECES = st.sampled_from(
    [
        "app",
        ":",
        "::",
        "0" * 32,
        '{"appobj":"app","pbx":"p"',
        '{"a":"',
        '"',
        "}",
        '"}',
        "{}",
        ",",
        "x",
        "APP",
        "",
        ":app:",
    ]
)
CRAFTED = st.lists(PIECES, max_size=6).map("".join)
NO_COLON = st.text(st.characters(exclude_characters=":", codec="utf-8"), max_size=8)


def cuts(joined: str) -> Iterator[m.AppLogin]:
    """Every way of cutting what was signed, up to the challenge, into fields."""
    digest = hashlib.sha256(f"{joined}:{CHALLENGE}:{PASSWORD}".encode()).hexdigest()
    tokens = joined.split(":")
    for ends in combinations(range(1, len(tokens) + 1), 5):
        begins = (0, *ends[:-1])
        parts = [":".join(tokens[begin:end]) for begin, end in zip(begins, ends, strict=True)]
        rest = tokens[ends[-1] :]
        info = ":".join(rest) if rest else None
        app, domain, sip, guid, dn = parts
        told = json.dumps({"mt": "AppLogin", "app": app, "domain": domain, "sip": sip, "guid": guid, "dn": dn})
        text = f'{told[:-1]},"digest":"{digest}"' + ("}" if info is None else f',"info":{info}}}')
        message = read_message(text.encode())
        if isinstance(message, m.AppLogin):
            yield message


@given(
    app=NO_COLON,
    domain=NO_COLON,
    sip=st.one_of(CRAFTED, NO_COLON).filter(lambda name: name != "app"),
    dn=st.one_of(CRAFTED, NO_COLON),
    cn=CRAFTED,
    challenge=CRAFTED,
)
def test_nothing_that_the_pbx_signs_for_a_user_is_the_app_however_it_is_cut(  # noqa: PLR0913, PLR0917 - what is signed
    app: str, domain: str, sip: str, dn: str, cn: str, challenge: str
) -> None:
    """A user may choose names, and has the PBX sign any challenge that ends with ours."""
    told = {"appobj": "app", "appdn": "app", "pbx": "pbx-main", "cn": cn, "apps": []}
    info = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    joined = ":".join([app, domain, sip, GUID_OF_A_USER, dn, info, *([challenge] if challenge else [])])
    judge = Authenticator([App("app", None, lambda: PASSWORD)])
    for login in cuts(joined):
        assert judge.judge(login, CHALLENGE).verdict is not Verdict.GOOD, login


@pytest.mark.parametrize(("sip", "dn", "challenge"), [
    (f"app:{'0' * 32}", '{"appobj":"app","pbx":"hq","a"', "1}"),
    (f"app:{'0' * 32}", '{"appobj":"app","pbx":"hq","a":"', '"}'),
    (f"app:{'0' * 32}:x" + ':{"appobj":"app","pbx":"hq","a":"', '"}', ""),
    (f"app:{'0' * 32}:x" + ':{"a":"', '","appobj":"app","pbx":"hq","a":1}', ""),
    (f"app:{'0' * 32}:x" + ':"', '"', ""),
])  # fmt: skip
def test_not_even_one_that_was_signed_without_info(sip: str, dn: str, challenge: str) -> None:
    """The guid of the user then stands where the App object's name for people is, or within what looks like info."""
    joined = ":".join(["x", "example.com", sip, GUID_OF_A_USER, dn, *([challenge] if challenge else [])])
    verdicts = {
        Authenticator([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict for login in cuts(joined)
    }
    assert Verdict.NO_GUID in verdicts, "or there is nothing to refuse"
    assert Verdict.GOOD not in verdicts


@pytest.mark.parametrize(("name", "sip"), [
    ("app", "APP"),
    ("Kelvin", "\u212aelvin"),
    ("straße", "STRASSE"),
    ("é", "e\u0301"),
    ("app", "app "),
    ("app", "app\0"),
])  # fmt: skip
def test_a_name_that_looks_like_the_apps_is_another_one(name: str, sip: str) -> None:
    login = read(login_of(CHALLENGE, sip=sip, info={"appobj": sip, "pbx": "p"}))
    assert Authenticator([App(name, None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.UNKNOWN_APP
    login = read(login_of(CHALLENGE, sip=sip, info={"appobj": name, "pbx": "p"}))
    assert Authenticator([App(name, None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is Verdict.USER


@pytest.mark.parametrize(("changes", "verdict"), [
    ({"dn": "a:b"}, Verdict.AMBIGUOUS),
    ({"domain": "a:b"}, Verdict.AMBIGUOUS),
    ({"guid": "no guid"}, Verdict.NO_GUID),
    ({"guid": "0" * 31}, Verdict.NO_GUID),
    ({"guid": "0" * 32 + "\n"}, Verdict.NO_GUID),
    ({"dn": "f" * 32}, Verdict.NO_GUID),
    ({"guid": ""}, Verdict.GOOD),
    ({"dn": ""}, Verdict.GOOD),
    ({"dn": "Konten für RabbitMQ"}, Verdict.GOOD),
])  # fmt: skip
def test_each_field_has_the_form_that_a_pbx_gives_it(changes: dict[str, str], verdict: Verdict) -> None:
    login = read(login_of(CHALLENGE, **changes))
    assert Authenticator([App("app", None, lambda: PASSWORD)]).judge(login, CHALLENGE).verdict is verdict


def test_an_app_may_be_bound_to_pbxs_and_to_a_certificate() -> None:
    """One password does not speak for every PBX then."""
    bound = Authenticator([App("app", None, lambda: PASSWORD, frozenset({"hq", "branch"}), b"f" * 32)])
    for pbx, fingerprint, verdict in (
        ("hq", b"f" * 32, Verdict.GOOD),
        ("branch", b"f" * 32, Verdict.GOOD),
        ("HQ", b"f" * 32, Verdict.OTHER_PBX),
        ("other", b"f" * 32, Verdict.OTHER_PBX),
        ("hq", b"g" * 32, Verdict.NO_CERTIFICATE),
        ("hq", None, Verdict.NO_CERTIFICATE),
    ):
        login = read(login_of(CHALLENGE, info={"appobj": "app", "pbx": pbx}))
        assert bound.judge(login, CHALLENGE, fingerprint).verdict is verdict, (pbx, fingerprint)
    unnamed = read(login_of(CHALLENGE, info={"appobj": "app"}))
    assert bound.judge(unnamed, CHALLENGE, b"f" * 32).verdict is Verdict.OTHER_PBX
