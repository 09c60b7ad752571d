import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from bridge.errors import BadConfig, StoreUnusable
from bridge.metrics import exposition
from bridge.model import KeptEvent
from bridge.status import Board, Level
from bridge.web.server import HEADERS, Views, serve
from tests.support.boards import board as board_at
from tests.support.boards import wait

TOKEN = "pl4nted-s3cret-of-the-page"
LOCAL = "127.0.0.1"


@pytest.fixture
def board() -> Board:
    return board_at(datetime.now(UTC))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


async def test_ready_is_200_while_changes_flow_and_503_while_not(board: Board, http: aiohttp.ClientSession) -> None:
    async with serve(board, host=LOCAL, port=0) as port:
        url = f"http://{LOCAL}:{port}/readyz"
        assert (await http.get(url)).status == 200
        board.broker.fails("no connection to the broker", Level.WARN, datetime.now(UTC))
        answer = await http.get(url)
        assert answer.status == 503
        assert "no connection to the broker" in await answer.text()
        assert (await http.get(f"http://{LOCAL}:{port}/livez")).status == 200, "alive all the same"


async def test_alive_is_503_once_a_task_is_stuck(board: Board, http: aiohttp.ClientSession) -> None:
    board.watch("publish", timedelta(seconds=60))
    wait(board, timedelta(seconds=61))
    async with serve(board, host=LOCAL, port=0) as port:
        answer = await http.get(f"http://{LOCAL}:{port}/livez")
        assert (answer.status, "'publish' has made no progress" in await answer.text()) == (503, True)
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port:
        answer = await http.get(f"http://{LOCAL}:{port}/livez")
        assert (answer.status, await answer.text()) == (503, "a task is stuck\n"), "and no names without the token"


@pytest.mark.parametrize("path", ["/status", "/history", "/changes", "/metrics", "/schema/", "/schema/x", "/page.js"])
async def test_nothing_is_shown_without_the_token_where_there_is_one(
    path: str, board: Board, http: aiohttp.ClientSession
) -> None:
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port:
        url = f"http://{LOCAL}:{port}{path}"
        assert (await http.get(url)).status == 401
        assert (await http.get(url, headers={"Authorization": "Bearer wrong-ü"})).status == 401
        assert (await http.get(url, headers={"Authorization": f"Bearer {TOKEN}"})).status in {200, 404}
        assert await (await http.get(f"http://{LOCAL}:{port}/readyz")).text() == "ok\n", "and no names without it"


async def test_a_browser_asks_for_the_token_and_keeps_a_cookie(board: Board, http: aiohttp.ClientSession) -> None:
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port:
        url = f"http://{LOCAL}:{port}/"
        answer = await http.get(url)
        assert (answer.status, 'name="token"' in await answer.text()) == (401, True)
        assert (await http.get(url, params={"token": "wrong"})).status == 401
        answer = await http.get(url, params={"token": TOKEN})
        assert (answer.status, str(answer.url)) == (200, url), "the token does not stay in the address"
        assert (await http.get(f"{url}status")).status == 200


async def test_a_page_from_elsewhere_cannot_read_it_under_a_name_of_its_own(
    board: Board, http: aiohttp.ClientSession
) -> None:
    async with serve(board, host=LOCAL, port=0, hosts=["bridge.example"]) as port:
        url = f"http://{LOCAL}:{port}/status"
        answer = await http.get(url, headers={"Host": "evil.example"})
        assert (answer.status, "status.hosts" in await answer.text()) == (421, True)
        for name in ("localhost", "bridge.example:80", LOCAL):
            assert (await http.get(url, headers={"Host": name})).status == 200


@pytest.mark.parametrize("path", ["/", "/status", "/livez", "/nowhere", "/page.css", "/icon.svg", "/charts.js"])
async def test_every_answer_is_locked_down(path: str, board: Board, http: aiohttp.ClientSession) -> None:
    async with serve(board, host=LOCAL, port=0) as port:
        answer = await http.get(f"http://{LOCAL}:{port}{path}")
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy, "nothing from anywhere else"


async def test_bytes_that_are_no_text_in_a_header_are_a_wrong_token(board: Board) -> None:
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(LOCAL, port)
        writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n")
        assert b" 401 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_what_prometheus_and_subscribers_ask_for(board: Board, http: aiohttp.ClientSession) -> None:
    views = Views(metrics=exposition(board), documents={"asyncapi.json": b"{}"})
    async with serve(board, host=LOCAL, port=0, views=views) as port:
        url = f"http://{LOCAL}:{port}"
        answer = await http.get(f"{url}/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert "account_bridge_ready 1.0" in await answer.text()
        assert await (await http.get(f"{url}/schema/")).json() == {"documents": ["/schema/asyncapi.json"]}
        assert await (await http.get(f"{url}/schema/asyncapi.json")).json() == {}
        assert (await http.get(f"{url}/schema/nothing")).status == 404
        assert (await http.post(f"{url}/status")).status == 405, "here one only looks"


async def test_a_store_that_cannot_be_read_spoils_only_the_list_of_changes(
    board: Board, http: aiohttp.ClientSession
) -> None:
    async def recent(_limit: int) -> Sequence[KeptEvent]:
        raise StoreUnusable("the store cannot be read")

    async with serve(board, host=LOCAL, port=0, views=Views(recent)) as port:
        answer = await http.get(f"http://{LOCAL}:{port}/changes")
        assert (answer.status, await answer.text()) == (503, "the store cannot be read\n")
        assert (await http.get(f"http://{LOCAL}:{port}/status")).status == 200


async def test_the_charts_get_points_from_the_start(board: Board, http: aiohttp.ClientSession) -> None:
    async with serve(board, host=LOCAL, port=0, sample_seconds=0.01) as port, asyncio.timeout(10):
        while len((await (await http.get(f"http://{LOCAL}:{port}/history")).json())["changes"]) < 3:
            await asyncio.sleep(0.01)
        day = await (await http.get(f"http://{LOCAL}:{port}/history?span=day")).json()
        assert day["step_seconds"] == 300


async def test_an_address_that_is_taken_is_named(board: Board) -> None:
    async with serve(board, host=LOCAL, port=0) as port:
        with pytest.raises(BadConfig, match="cannot listen on"):
            async with serve(board, host=LOCAL, port=port):
                pass
