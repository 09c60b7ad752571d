"""The pretend PBX over real WebSockets, spoken to by a plain client."""

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bridge.simulator import scenario
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import PATH, Served, call, serve

PATIENCE_SECONDS = 10.0


def pbx_like(*words: str, accounts: int = 5) -> Pbx:
    return Pbx(accounts=accounts, modes=Modes.parse(words), password="pw")


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        heard: dict[str, Any] = json.loads(await socket.recv())
        return heard


async def say(socket: ClientConnection, **content: Any) -> None:
    await socket.send(json.dumps(content))


async def ask(socket: ClientConnection, **cursor: Any) -> dict[str, Any]:
    await say(socket, mt="AccountInfo", api="PbxAccountApi", src="1", **cursor)
    return await hear(socket)


@asynccontextmanager
async def inside(served: Served, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(served.url, compression=None, proxy=None, **options) as socket:
        await say(socket, mt="AppChallenge")
        challenge = (await hear(socket))["challenge"]
        proof = f"{served.pbx.app}:::::{challenge}:{served.pbx.password}"
        await say(socket, mt="AppLogin", app=served.pbx.app, digest=hashlib.sha256(proof.encode()).hexdigest())
        assert (await hear(socket))["ok"] is True
        yield socket


async def read_all(socket: ClientConnection) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return all accounts, and where reading ended."""
    guid = (await ask(socket))["guid"]
    accounts: dict[str, dict[str, Any]] = {}
    cursor = {"guid": guid}
    while "account-guid" in (row := await ask(socket, **cursor)):
        accounts[row["account-guid"]] = row
        cursor = {"guid": guid, "usn": row["usn"], "ausn": row["ausn"]}
    return accounts, cursor


async def test_all_accounts_can_be_read() -> None:
    pbx = pbx_like(accounts=50)
    async with serve(pbx) as served, inside(served) as socket:
        accounts, _ = await read_all(socket)
    assert accounts.keys() == pbx.truth().keys()
    assert not pbx.oracle.mistakes
    assert not pbx.connections


async def test_a_held_answer_leaves_when_something_changes() -> None:
    pbx = pbx_like("idle-hold", accounts=1)
    async with serve(pbx) as served, inside(served) as socket:
        guid = (await ask(socket))["guid"]
        row = await ask(socket, guid=guid)
        await say(socket, mt="AccountInfo", api="PbxAccountApi", guid=guid, usn=row["usn"], ausn=row["ausn"])
        await say(socket, mt="CheckBuild")  # its answer shows that the question before was taken, and held
        assert (await hear(socket))["mt"] == "CheckBuildResult"
        renamed = pbx.rename(pbx.pick())
        assert (await hear(socket))["account-guid"] == renamed


@pytest.mark.parametrize("path", ["/", "/PBX1/APPS/websocket", PATH + "s"])
async def test_only_the_vendor_s_path_is_served(path: str) -> None:
    async with serve(pbx_like()) as served:
        with pytest.raises(InvalidStatus) as refusal:
            await connect(served.url.removesuffix(PATH) + path, proxy=None)
    assert refusal.value.response.status_code == 404


@pytest.mark.parametrize("path", ["/more", "?x=y"])
async def test_what_follows_the_path_does_not_matter(path: str) -> None:
    async with serve(pbx_like()) as served, connect(served.url + path, proxy=None) as socket:
        await say(socket, mt="AppChallenge")
        assert (await hear(socket))["mt"] == "AppChallengeResult"


@pytest.mark.parametrize(("code", "received"), [(1006, None), (1001, 1001)])
async def test_connections_can_be_dropped_with_and_without_a_goodbye(code: int, received: int | None) -> None:
    async with serve(pbx_like()) as served, inside(served) as socket:
        served.drop_connections(code)
        with pytest.raises(ConnectionClosed) as closed:
            await hear(socket)
    assert (closed.value.rcvd.code if closed.value.rcvd else None) == received


async def test_a_hung_box_takes_questions_and_says_nothing() -> None:
    pbx = pbx_like()
    async with serve(pbx) as served, inside(served) as socket:
        served.stop_answering()
        await say(socket, mt="AccountInfo", api="PbxAccountApi", src="lost")
        pong = await socket.ping()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await pong  # so the question has arrived
        served.start_answering()
        assert (await ask(socket))["src"] == "1"


async def test_a_long_round_trip_of_one_does_not_keep_another_waiting() -> None:
    loop = asyncio.get_running_loop()
    async with serve(pbx_like(), round_trip_seconds=0.2) as served:
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(_log_in_and_ask(served))
        took = loop.time() - began
    one_after_the_other = 20 * 3 * 0.2
    assert 3 * 0.2 <= took < one_after_the_other / 2


async def _log_in_and_ask(served: Served) -> None:
    async with inside(served) as socket:
        await ask(socket)


async def test_questions_under_way_at_the_same_time_are_noticed() -> None:
    pbx = pbx_like()
    async with serve(pbx, round_trip_seconds=0.1) as served, inside(served) as socket:
        for _ in range(3):
            await say(socket, mt="AccountInfo", api="PbxAccountApi", src="1")
        for _ in range(3):
            await hear(socket)
    assert pbx.oracle.load.max_parallel_probes == 3


async def test_a_message_may_come_in_fragments() -> None:
    pbx = pbx_like("frames-fragmented")
    async with serve(pbx) as served, inside(served) as socket:
        guid = (await ask(socket))["guid"]
        await say(socket, mt="AccountInfo", api="PbxAccountApi", guid=guid)
        fragments = [fragment async for fragment in socket.recv_streaming()]
    assert len(fragments) > 3
    assert "account-guid" in json.loads("".join(map(str, fragments)))


async def test_accounts_change_as_often_as_asked_for() -> None:
    pbx = pbx_like()
    changed = asyncio.Event()

    def look() -> None:
        if len(pbx.oracle.mutations) >= 20:
            changed.set()

    pbx.on_change.append(look)
    async with serve(pbx, changes_per_second=200), asyncio.timeout(PATIENCE_SECONDS):
        await changed.wait()
    done = len(pbx.oracle.mutations)
    await asyncio.sleep(0)
    assert len(pbx.oracle.mutations) == done


async def test_a_scenario_is_played_while_the_pbx_is_served() -> None:
    pbx = pbx_like()
    played = scenario.parse("x", '[[step]]\ndo = "touch"\n[[step]]\nafter_rows = 3\ndo = "delete"\n')
    async with serve(pbx, scenario=played) as served, inside(served) as socket:
        await read_all(socket)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await served.scenario_over()
    assert [mutation.what for mutation in pbx.oracle.mutations] == ["touch", "delete"]


async def test_a_mistake_in_a_scenario_is_not_lost() -> None:
    played = scenario.parse("x", '[[step]]\ndo = "vm_rollback"\n')
    with pytest.raises(scenario.BadScenario, match="take_snapshot"):
        async with serve(pbx_like(), scenario=played) as served, asyncio.timeout(PATIENCE_SECONDS):
            await served.scenario_over()


async def test_it_can_be_served_with_tls() -> None:
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    async with serve(pbx_like(), ssl_context=theirs) as served, inside(served, ssl=ours) as socket:
        assert served.url.startswith("wss://")
        assert "guid" in await ask(socket)


async def test_a_watchdog_s_bite_cuts_the_connection() -> None:
    pbx = pbx_like()
    async with serve(pbx) as served, inside(served) as socket:
        pbx.reboot()
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        async with inside(served) as another:
            assert "guid" in await ask(another)


async def test_a_pbx_may_dial_the_bridge() -> None:
    pbx = pbx_like()
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def bridge(socket: ServerConnection) -> None:
        answers = {
            "AppChallenge": '{"mt":"AppChallengeResult","challenge":"0123456789abcdef"}',
            "AppLogin": '{"mt":"AppLoginResult","ok":true}',
            "PbxInfo": '{"mt":"AccountInfo","api":"PbxAccountApi","src":"7"}',
        }
        async for text in socket:
            message = json.loads(text)
            heard.put_nowait(message)
            if message["mt"] in answers:
                await socket.send(answers[message["mt"]])

    async with serve_websockets(bridge, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with call(pbx, f"ws://127.0.0.1:{port}/hq"), asyncio.timeout(PATIENCE_SECONDS):
            told = [await heard.get() for _ in range(5)]
    assert [message["mt"] for message in told] == [
        "AppChallenge",
        "AppLogin",
        "PbxInfo",
        "AppInfo",
        "AccountInfoResult",
    ]
    assert told[4]["guid"] == pbx.epoch_guid
