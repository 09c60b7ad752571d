import pytest

from bridge.simulator.modes import Modes
from bridge.simulator.pbx import CUT, Pbx
from tests.support.pbx_reader import Caller, inside


def pbx_like(*words: str, accounts: int = 3) -> Pbx:
    return Pbx(accounts=accounts, seed=5, modes=Modes.parse(words))


def test_a_connection_may_have_modes_of_its_own() -> None:
    pbx = pbx_like()
    odd, usual = inside(pbx, modes=Modes.parse(["src-dropped"])), inside(pbx)
    assert "src" not in odd.ask()[0]
    assert "src" in usual.ask()[0]
    odd.connection.behave(None)
    usual.connection.behave(Modes.parse(["src-dropped"]))
    assert "src" in odd.ask()[0]
    assert "src" not in usual.ask()[0]


def test_keep_alives_are_answered_sent_or_demanded() -> None:
    answering = inside(pbx_like("keepalive-answered"))
    assert answering.say(mt="KeepAlive") == [{"mt": "KeepAlive"}]
    assert inside(pbx_like()).say(mt="KeepAlive") == []
    sending = inside(pbx_like("keepalive-sent"))
    assert sending.wait(30) == []
    assert sending.wait(31) == [{"mt": "KeepAlive"}]
    demanding = inside(pbx_like("keepalive-required"))
    demanding.wait(61)
    assert demanding.closed_with == CUT


def test_a_build_check_is_answered() -> None:
    assert Caller(pbx_like()).say(mt="CheckBuild", url="https://x/y") == [{"mt": "CheckBuildResult"}]


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"mt":7}', '{"mt":"Whatever"}', "\ud800"])
def test_nonsense_is_ignored(text: str) -> None:
    assert inside(pbx_like()).say_text(text) == []
