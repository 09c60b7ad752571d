import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import PbxBrokeProtocol
from bridge.pbx.inbound.identity import Identity, claimed, confirmed
from bridge.pbx.wire.messages import AppLogin, PbxInfo

NAMES = st.text(max_size=60)


@given(NAMES, NAMES)
def test_the_name_of_a_source_is_good_for_routing_keys_and_settings(domain: str, pbx: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", Identity(domain, pbx).source)


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_two_pbxs_never_share_a_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (Identity(*one).source == Identity(*other).source) == (Identity(*one) == Identity(*other))


def test_a_system_name_is_the_same_in_capitals_and_nothing_else_is() -> None:
    """A PBX that writes it in another way is no second PBX; a letter that only looks alike makes another name."""
    assert Identity("EXAMPLE.com", "hq") == Identity("example.com", "hq")
    assert Identity("EXAMPLE.com", "hq").source == Identity("example.com", "hq").source
    assert Identity("example.com", "HQ").source != Identity("example.com", "hq").source
    assert Identity("\u212ampany.com", "hq").source != Identity("kmpany.com", "hq").source
    claim = claimed(AppLogin("x", "d", domain="EXAMPLE.com", info='{"pbx":"one"}'))
    assert confirmed(claim, PbxInfo("example.COM", "one")) == Identity("example.com", "one")


@pytest.mark.parametrize(("one", "other"), [
    (("a-b", "c"), ("a", "b-c")),
    (("a.b", "c"), ("a-b", "c")),
    (("", "x"), ("x", "")),
    (("a" * 60, "x"), ("a" * 60, "y")),
])  # fmt: skip
def test_names_that_look_alike_differ(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert Identity(*one).source != Identity(*other).source


def test_a_name_is_readable_and_stays_the_same() -> None:
    """It is part of routing keys: another one would be another source to every subscriber."""
    assert Identity("fritz.box", "pbx-main").source == "fritz-box-pbx-main-3ab89af788"


def test_the_login_says_who_it_is_and_pbxinfo_has_to_agree() -> None:
    claim = claimed(AppLogin("x", "d", domain="example.com", info='{"pbx":"one"}'))
    assert confirmed(claim, None) == Identity("example.com", "one")
    assert confirmed(claim, PbxInfo("example.com", "one")) == Identity("example.com", "one")
    for other in (PbxInfo("example.com", "two"), PbxInfo("other.com", "one")):
        with pytest.raises(PbxBrokeProtocol, match="another PBX"):
            confirmed(claim, other)


def test_what_one_of_them_leaves_out_the_other_may_tell() -> None:
    assert confirmed(Identity("example.com", ""), PbxInfo("", "one")) == Identity("example.com", "one")


@pytest.mark.parametrize("info", [None, "{}", "[]", '{"pbx":5}', '"text"'])
def test_a_pbx_without_a_name_is_nobody(info: str | None) -> None:
    with pytest.raises(PbxBrokeProtocol, match="neither"):
        confirmed(claimed(AppLogin("x", "d", domain="example.com", info=info)), None)


def test_a_name_has_its_limits() -> None:
    with pytest.raises(PbxBrokeProtocol, match="more than 200"):
        confirmed(Identity("example.com", "x" * 201), None)
    for identity in (Identity("example\0.com", "x"), Identity("example.com", "x\0")):
        with pytest.raises(PbxBrokeProtocol, match=r"U\+0000"):
            confirmed(identity, None)
