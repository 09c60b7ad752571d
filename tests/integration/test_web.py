from collections.abc import AsyncIterator
from datetime import UTC, datetime

import aiohttp
import pytest

from bridge.errors import BadConfig
from bridge.status import Board, Level, Part, SourcePart
from bridge.web.server import serve


@pytest.fixture
def board() -> Board:
    now = datetime.now(UTC)
    made = Board("0.1.0", now, Part(now), {"hq": SourcePart(now)})
    made.broker.does("connected", Level.OK, now)
    made.sources["hq"].does("up to date", Level.OK, now)
    return made


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_ready_is_200_while_changes_flow_and_503_while_not(board: Board, http: aiohttp.ClientSession) -> None:
    async with serve(board, host="127.0.0.1", port=0) as port:
        url = f"http://127.0.0.1:{port}/readyz"
        assert (await http.get(url)).status == 200
        board.broker.fails("no connection to the broker", Level.WARN, datetime.now(UTC))
        answer = await http.get(url)
        assert answer.status == 503
        assert "no connection to the broker" in await answer.text()
        assert (await http.get(f"http://127.0.0.1:{port}/livez")).status == 200, "alive all the same"


async def test_status_is_json_and_behind_the_token_where_there_is_one(
    board: Board, http: aiohttp.ClientSession
) -> None:
    async with serve(board, host="127.0.0.1", port=0, token="s3cret") as port:
        url = f"http://127.0.0.1:{port}/status"
        assert (await http.get(url)).status == 401
        assert (await http.get(url, headers={"Authorization": "Bearer wrong-ü"})).status == 401
        answer = await http.get(url, headers={"Authorization": "Bearer s3cret"})
        assert (await answer.json())["sources"]["hq"]["doing"] == "up to date"
        assert await (await http.get(f"http://127.0.0.1:{port}/readyz")).text() == "ok\n", "and no names without it"


async def test_an_address_that_is_taken_is_named(board: Board) -> None:
    async with serve(board, host="127.0.0.1", port=0) as port:
        with pytest.raises(BadConfig, match="cannot listen on"):
            async with serve(board, host="127.0.0.1", port=port):
                pass
