import json
from pathlib import Path
from typing import Any

import pytest

from bridge.pbx.wire import messages as m
from bridge.pbx.wire.login import digests_match, login_digest
from bridge.pbx.wire.parser import read_message

DATA = Path(__file__).parents[3] / "data"
VENDOR = json.loads((DATA / "login-digests.json").read_text("utf-8"))
CAPTURED = json.loads((DATA / "login-digests-of-pbxs-that-dial.json").read_text("utf-8"))


@pytest.mark.parametrize("vector", [*VENDOR, *CAPTURED], ids=lambda vector: f"{vector['app']}-{vector['digest'][:6]}")
def test_every_vector_we_know_gives_its_digest(vector: dict[str, Any]) -> None:
    told = {name: value for name, value in vector.items() if name != "digest"}
    assert digests_match(login_digest(**told), vector["digest"])


@pytest.mark.parametrize("vector", CAPTURED, ids=lambda vector: vector["app"])
def test_info_survives_being_read_and_written_again(vector: dict[str, Any]) -> None:
    """A callee checks the digest over what it read: the bytes must come back as they were sent."""
    login = {name: vector[name] for name in ("app", "domain", "sip", "guid", "dn", "digest")}
    read = read_message(json.dumps({"mt": "AppLogin", **login, "info": json.loads(vector["info"])}))
    assert isinstance(read, m.AppLogin)
    assert read.info == vector["info"]


def test_names_beyond_ascii_and_slashes_are_hashed_as_they_are() -> None:
    digest = login_digest(
        app="pbxadminapi", challenge="0123456789abcdef", password="pwd", info='{"cn":"Jürgen Müller/Sales"}'
    )
    assert digest == "cf4eb9933b760ed2bb52af31c614aee2412c26a832fa9dd83ac03f56b997adee"


def test_an_empty_info_is_not_the_same_as_none() -> None:
    given = {"app": "a", "challenge": "c", "password": "p"}
    assert login_digest(**given) != login_digest(**given, info="{}")


@pytest.mark.parametrize("other", ["", "A" * 64, "ä" * 64, "\ud800"])
def test_comparing_with_anything_a_stranger_sent_is_just_false(other: str) -> None:
    assert not digests_match("a" * 63 + "b", other.encode("utf-8", "replace").decode())
