"""What the vendor's own clients sent, word for word, to our pretend PBX and to our door; see ``tests/data/README.md``.

The challenge is the one they were given then, so that their digests are good. What stands in a question or an answer
because of what was said before (``guid``, ``usn``, ``ausn``, the ``src`` of our question) is that of today.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from bridge.pbx.inbound.authentication import App, Authenticator, Verdict
from bridge.pbx.inbound.identity import Identity
from bridge.pbx.wire.login import is_proven, login_digest
from bridge.pbx.wire.messages import AppLogin
from bridge.pbx.wire.parser import read_message
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import serve
from tests.support.dialling import PASSWORD, Door, answer_of, until

RECORDED = json.loads((Path(__file__).parents[1] / "data/vendor-clients.json").read_text("utf-8"))
TO_THE_DOOR = RECORDED["to the door"]
REASONS = {"unknown app": Verdict.UNKNOWN_APP, "user": Verdict.USER}
CURSOR = ("guid", "usn", "ausn")

Recording = dict[str, Any]


def title(recording: Recording) -> str:
    return f"{recording['client']} as {recording['logs in as']}"


def those(outcome: str) -> list[Recording]:
    return [recording for recording in TO_THE_DOOR if recording["outcome"] == outcome]


def renewed(text: str, **values: Any) -> str:
    """Return *text* as its client would have written it with *values*, except where it told nothing."""
    message = json.loads(text)
    assert written(message) == text
    return written({name: values.get(name, told) if told is not None else None for name, told in message.items()})


def login_in(recording: Recording) -> dict[str, Any]:
    return dict(next(message for text in recording["sent"] if (message := json.loads(text))["mt"] == "AppLogin"))


def has_colon_in_login(recording: Recording) -> bool:
    return any(json.loads(text).get("dn", "").count(":") for text in recording["sent"])


def without_colon(recording: Recording) -> Recording:
    """Return the same, but for a colon in the name for people, and signed anew: the door takes no login with one."""
    login = login_in(recording)
    before = written(login)
    assert before in recording["sent"], "or it would not be what the client sent"
    login["dn"] = login["dn"].replace(":", "")
    signed = {name: login[name] for name in ("app", "domain", "sip", "guid", "dn")}
    info = written(login["info"]) if "info" in login else None
    login["digest"] = login_digest(**signed, info=info, challenge=recording["challenge"], password=PASSWORD)
    return {**recording, "sent": [written(login) if text == before else text for text in recording["sent"]]}


def written(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


@asynccontextmanager
async def dialled(url: str, recording: Recording) -> AsyncIterator[ClientConnection]:
    compression = "deflate" if "Sec-WebSocket-Extensions" in recording["headers"] else None
    origin = recording["headers"].get("Origin")
    async with connect(url, compression=compression, origin=origin, proxy=None, user_agent_header=None) as socket:
        yield socket


async def said_until_judged(socket: ClientConnection, recording: Recording) -> tuple[dict[str, Any], list[str]]:
    """Send all up to the login; return how it was judged and what is left to be sent."""
    left = list(recording["sent"])
    while True:
        text = left.pop(0)
        await socket.send(text)
        answer = await answer_of(socket)
        if json.loads(text)["mt"] == "AppLogin":
            return answer, left


@pytest.mark.parametrize("recording", RECORDED["to the pretend PBX"], ids=title)
async def test_the_vendors_clients_log_in_to_the_pretend_pbx_and_read_it_to_its_end(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    pbx = Pbx(accounts=3, app="app", password=PASSWORD)
    monkeypatch.setattr(pbx, "new_challenge", lambda: recording["challenge"])
    read: list[str] = []
    async with serve(pbx) as served, dialled(served.url, recording) as socket:
        judged, questions = await said_until_judged(socket, recording)
        assert judged == {"mt": "AppLoginResult", "ok": True}
        cursor: dict[str, Any] = {}
        for question in questions:
            await socket.send(renewed(question, **cursor))
            answer = await answer_of(socket)
            assert answer["mt"] == "AccountInfoResult"
            assert answer.get("src") == json.loads(question).get("src")
            cursor |= {name: answer[name] for name in CURSOR if name in answer}
            read += [answer["account-guid"]] if "account-guid" in answer else []
    walks = sum(json.loads(question).get("guid") is None for question in questions)
    assert sorted(read) == sorted([*pbx.truth()] * walks)


@pytest.mark.parametrize("recording", [each for each in TO_THE_DOOR if has_colon_in_login(each)], ids=title)
def test_a_colon_in_the_name_for_people_is_all_that_is_wrong_with_them(recording: Recording) -> None:
    """They sign it as we do; but with one the digest could be of another login."""
    (text,) = (text for text in recording["sent"] if json.loads(text)["mt"] == "AppLogin")
    login = read_message(text)
    assert isinstance(login, AppLogin)
    assert is_proven(login, challenge=recording["challenge"], password=PASSWORD)
    judge = Authenticator([App("app", None, lambda: PASSWORD)])
    assert judge.judge(login, recording["challenge"]).verdict is Verdict.AMBIGUOUS


@pytest.mark.parametrize("recording", [without_colon(each) for each in those("in")], ids=title)
async def test_where_they_log_in_as_the_app_object_the_door_lets_them_in_and_reads_them_to_the_end(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.pbx.inbound.server.new_challenge", lambda: recording["challenge"])
    async with Door().open() as door, dialled(door.url, recording) as socket:
        judged, left = await said_until_judged(socket, recording)
        assert judged == {"mt": "AppLoginResult", "ok": True}
        answers = [text for text in left if json.loads(text)["mt"] == "AccountInfoResult"]
        small_talk = [json.loads(text) for text in left if text not in answers]
        for text in small_talk:
            await socket.send(written(text))
        replied: list[str] = []
        while answers:
            asked = await answer_of(socket)
            if asked["mt"] == "AccountInfo":
                await socket.send(renewed(answers.pop(0), src=asked["src"]))
            else:
                replied.append(asked["src"])
        [told] = [message for message in small_talk if message["mt"] == "PbxInfo"]
        accounts = ["account-1", "account-2", "account-3"]
        await until(lambda: door.accounts(Identity(told["domain"], told["pbx"])) == accounts)
        assert replied == [message["src"] for message in small_talk if message["mt"] == "AppInfo"]
        assert door.refusals == {}


@pytest.mark.parametrize(
    "recording", [without_colon(each) for outcome in REASONS for each in those(outcome)], ids=title
)
async def test_where_they_log_in_as_anybody_else_it_does_not(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their digests are good, for they know the password. But ``sip`` names no App object, or somebody else's."""
    monkeypatch.setattr("bridge.pbx.inbound.server.new_challenge", lambda: recording["challenge"])
    async with Door().open() as door, dialled(door.url, recording) as socket:
        assert await said_until_judged(socket, recording) == ({"mt": "AppLoginResult"}, [])
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
        assert list(door.refusals) == [REASONS[recording["outcome"]]]
        assert not door.sources


@pytest.mark.parametrize("recording", those("browser"), ids=title)
async def test_and_a_page_in_a_browser_gets_no_word_in(recording: Recording) -> None:
    async with Door().open() as door:
        with pytest.raises(InvalidStatus, match="403"):
            async with dialled(door.url, recording):
                pass
        assert list(door.refusals) == ["a browser"]
