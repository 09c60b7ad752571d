import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from bridge.observability.web.access import AccessControl

TOKEN = "pl4nted-s3cret-of-the-page"


def asked(path: str = "/", **headers: str) -> web.Request:
    return make_mocked_request("GET", path, headers={"Host": "localhost:8080", **headers})


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "10.1.2.3", "LOCALHOST"]
)
def test_plain_addresses_and_localhost_are_known(host: str) -> None:
    assert AccessControl(None).knows(asked(Host=host))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "a b", ""])
def test_a_name_made_to_point_here_is_not(host: str) -> None:
    """DNS rebinding: the browser believes to talk to evil.example."""
    assert not AccessControl(None).knows(asked(Host=host))


def test_a_name_that_was_configured_is_known() -> None:
    assert AccessControl(None, ["Bridge.example"]).knows(asked(Host="bridge.example:8080"))


def test_with_a_token_the_name_counts_as_well() -> None:
    """A page from elsewhere must not get at the cookie, nor use a browser to guess."""
    assert not AccessControl(TOKEN).knows(asked(Host="evil.example"))
    assert AccessControl(TOKEN, ["bridge"]).knows(asked(Host="bridge:8080"))


@pytest.mark.parametrize("token", ["", " " * 20, "short", "fifteen-letters", "padded-to-16    "])
def test_a_token_that_can_be_guessed_opens_no_page(token: str) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        AccessControl(token)


def test_without_a_token_everybody_may_look() -> None:
    assert AccessControl(None).admits(asked())


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Bearer wrong", "Bearer wrong-ü", TOKEN[:-1]])
def test_a_wrong_token_is_not_admitted(given: str) -> None:
    assert not AccessControl(TOKEN).admits(asked(Authorization=given))


def test_the_right_token_is() -> None:
    assert AccessControl(TOKEN).admits(asked(Authorization=f"Bearer {TOKEN}"))


def test_a_browser_brings_it_once_and_comes_back_with_a_cookie_that_is_not_the_token() -> None:
    gate, response = AccessControl(TOKEN), web.Response()
    assert gate.brings_token(asked(f"/?token={TOKEN}"))
    assert not gate.brings_token(asked("/?token=wrong"))
    gate.remember(response, is_secure=False)
    (cookie,) = response.cookies.values()
    assert TOKEN not in cookie.OutputString()
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    back = asked(Cookie=f"{cookie.key}={cookie.value}")
    assert gate.admits(back)
    assert not AccessControl("another token of the page").admits(back)
