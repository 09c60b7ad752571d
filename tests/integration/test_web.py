import asyncio
import contextlib
import gzip
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from bridge.errors import BadConfig, StoreUnusable
from bridge.observability.component_status import Level
from bridge.observability.metrics import exposition
from bridge.observability.status import BridgeStatus
from bridge.observability.web import connection_limits, server
from bridge.observability.web.server import HEADERS, Views, serve
from bridge.security.rate import Share
from bridge.store.records import KeptEvent
from tests.support.boards import board as board_at
from tests.support.boards import wait

TOKEN = "pl4nted-s3cret-of-the-page"
LOCAL = "127.0.0.1"


@pytest.fixture
def board() -> BridgeStatus:
    return board_at(datetime.now(UTC))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


async def test_ready_is_200_while_changes_flow_and_503_while_not(
    board: BridgeStatus, http: aiohttp.ClientSession
) -> None:
    async with serve(board, host=LOCAL, port=0) as port:
        url = f"http://{LOCAL}:{port}/readyz"
        assert (await http.get(url)).status == 200
        board.broker.failed("no connection to the broker", Level.WARN, datetime.now(UTC))
        answer = await http.get(url)
        assert answer.status == 503
        assert "no connection to the broker" in await answer.text()
        assert (await http.get(f"http://{LOCAL}:{port}/livez")).status == 200, "alive all the same"


async def test_alive_is_503_once_a_task_is_stuck(board: BridgeStatus, http: aiohttp.ClientSession) -> None:
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
    path: str, board: BridgeStatus, http: aiohttp.ClientSession
) -> None:
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port:
        url = f"http://{LOCAL}:{port}{path}"
        assert (await http.get(url)).status == 401
        assert (await http.get(url, headers={"Authorization": "Bearer wrong-ü"})).status == 401
        assert (await http.get(url, headers={"Authorization": f"Bearer {TOKEN}"})).status in {200, 404}
        assert await (await http.get(f"http://{LOCAL}:{port}/readyz")).text() == "ok\n", "and no names without it"


async def test_a_browser_asks_for_the_token_and_keeps_a_cookie(
    board: BridgeStatus, http: aiohttp.ClientSession
) -> None:
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port:
        url = f"http://{LOCAL}:{port}/"
        answer = await http.get(url)
        assert (answer.status, 'name="token"' in await answer.text()) == (401, True)
        assert (await http.get(url, params={"token": "wrong"})).status == 401
        answer = await http.get(url, params={"token": TOKEN})
        assert (answer.status, str(answer.url)) == (200, url), "the token does not stay in the address"
        assert (await http.get(f"{url}status")).status == 200


async def test_a_page_from_elsewhere_cannot_read_it_under_a_name_of_its_own(
    board: BridgeStatus, http: aiohttp.ClientSession
) -> None:
    for token in (None, TOKEN):
        admission = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with serve(board, host=LOCAL, port=0, hosts=["bridge.example"], token=token) as port:
            url = f"http://{LOCAL}:{port}/status"
            answer = await http.get(url, headers={"Host": "evil.example", **admission})
            assert (answer.status, "status.hosts" in await answer.text()) == (421, True)
            for name in ("localhost", "bridge.example:80", LOCAL):
                assert (await http.get(url, headers={"Host": name, **admission})).status == 200


@pytest.mark.parametrize("path", ["/", "/status", "/livez", "/nowhere", "/page.css", "/icon.svg", "/charts.js"])
async def test_every_answer_is_locked_down(path: str, board: BridgeStatus, http: aiohttp.ClientSession) -> None:
    async with serve(board, host=LOCAL, port=0) as port:
        answer = await http.get(f"http://{LOCAL}:{port}{path}")
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy, "nothing from anywhere else"


async def test_bytes_that_are_no_text_in_a_header_are_a_wrong_token(board: BridgeStatus) -> None:
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(LOCAL, port)
        writer.write(
            b"GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n"
        )
        assert b" 401 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_what_prometheus_and_subscribers_ask_for(board: BridgeStatus, http: aiohttp.ClientSession) -> None:
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
    board: BridgeStatus, http: aiohttp.ClientSession
) -> None:
    async def recent(_limit: int) -> Sequence[KeptEvent]:
        raise StoreUnusable("the store cannot be read")

    async with serve(board, host=LOCAL, port=0, views=Views(recent)) as port:
        answer = await http.get(f"http://{LOCAL}:{port}/changes")
        assert (answer.status, await answer.text()) == (503, "the store cannot be read\n")
        assert (await http.get(f"http://{LOCAL}:{port}/status")).status == 200


async def test_the_charts_get_points_from_the_start(board: BridgeStatus, http: aiohttp.ClientSession) -> None:
    async with serve(board, host=LOCAL, port=0, sample_seconds=0.01) as port, asyncio.timeout(10):
        while len((await (await http.get(f"http://{LOCAL}:{port}/history")).json())["changes"]) < 3:
            await asyncio.sleep(0.01)
        day = await (await http.get(f"http://{LOCAL}:{port}/history?span=day")).json()
        assert day["step_seconds"] == 300


async def test_an_address_that_is_taken_is_named(board: BridgeStatus) -> None:
    async with serve(board, host=LOCAL, port=0) as port:
        with pytest.raises(BadConfig, match="cannot listen on"):
            async with serve(board, host=LOCAL, port=port):
                pass


async def half_a_request(port: int, address: str = LOCAL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(LOCAL, port, local_addr=(address, 0))
    writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\nX: ")
    await writer.drain()
    return reader, writer


async def is_open(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(0.2):
            await reader.read(1)
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False
    return False


async def test_whoever_does_not_finish_a_request_is_hung_up_on(
    board: BridgeStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "HEADER_SECONDS", 0.3)
    async with serve(board, host=LOCAL, port=0) as port, asyncio.timeout(10):
        for reader, writer in (await asyncio.open_connection(LOCAL, port), await half_a_request(port)):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()


async def test_a_connection_that_asks_no_more_and_one_that_reads_no_answer_end(
    board: BridgeStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_SECONDS", 0.3)
    views = Views(documents={"large": b"x" * 50_000_000})
    async with serve(board, host=LOCAL, port=0, views=views) as port, asyncio.timeout(10):
        for path, wanted in ((b"/livez", 0), (b"/schema/large", 50_000_000)):
            reader, writer = await asyncio.open_connection(LOCAL, port)
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(0.8)
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while data := await reader.read(1 << 16):
                    got += len(data)
            assert got < wanted or not wanted
            writer.close()


async def test_visitors_who_only_hold_connections_make_room_for_those_who_ask(
    board: BridgeStatus, http: aiohttp.ClientSession
) -> None:
    async with serve(
        board, host=LOCAL, port=0, token=TOKEN, room=connection_limits.VisitorLimits(total=20, per_address=8)
    ) as port:
        url = f"http://{LOCAL}:{port}"
        assert (await http.get(f"{url}/status", headers={"Authorization": f"Bearer {TOKEN}"})).status == 200
        held = [await half_a_request(port) for _ in range(12)]
        held += [await half_a_request(port, f"127.0.1.{number}") for number in range(1, 41)]
        await asyncio.sleep(0.1)
        states = [await is_open(reader) for reader, _ in held]
        assert sum(states) <= 20
        for path, status in (("/livez", 200), ("/readyz", 200), ("/status", 401)):
            async with aiohttp.ClientSession() as other:
                assert (await other.get(f"{url}{path}")).status == status
        assert (await http.get(f"{url}/status", headers={"Authorization": f"Bearer {TOKEN}"})).status == 200
        for _, writer in held:
            writer.close()


async def test_each_wrong_token_makes_the_next_one_from_there_wait_longer(
    board: BridgeStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "FIRST_PAUSE_SECONDS", 0.05)
    async with serve(board, host=LOCAL, port=0, token=TOKEN, proxies=[LOCAL]) as port:

        async def took(token: str, address: str, status: int) -> float:
            headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
            async with aiohttp.ClientSession() as each:
                began = asyncio.get_running_loop().time()
                assert (await each.get(f"http://{LOCAL}:{port}/status", headers=headers)).status == status
                return asyncio.get_running_loop().time() - began

        for _ in range(4):
            await took("wrong", "192.0.2.1", 401)
        assert await took("wrong", "192.0.2.1", 401) >= 0.4
        assert await took(TOKEN, "192.0.2.1", 200) >= 0.8, "the right one, too, or a guess could be seen to be wrong"
        assert await took(TOKEN, "192.0.2.1", 200) < 0.4, "a right one forgives"
        assert await took("wrong", "192.0.2.2", 401) < 0.4, "somebody else behind the same proxy"


@pytest.mark.parametrize(("headers", "is_secure"), [
    ({"X-Forwarded-Proto": "https"}, True),
    ({"Forwarded": "for=192.0.2.1;proto=https"}, True),
    ({"X-Forwarded-Proto": "http"}, False),
    ({}, False),
])  # fmt: skip
async def test_behind_tls_the_cookie_goes_by_tls_only(
    headers: dict[str, str], *, is_secure: bool, board: BridgeStatus
) -> None:
    for proxies in ([LOCAL], []):
        async with (
            serve(board, host=LOCAL, port=0, token=TOKEN, proxies=proxies) as port,
            aiohttp.ClientSession() as each,
        ):
            url = f"http://{LOCAL}:{port}/?token={TOKEN}"
            answer = await each.get(url, headers=headers, allow_redirects=False)
            assert ("Secure" in answer.headers["Set-Cookie"]) is (is_secure and bool(proxies))


async def test_a_proxy_that_is_known_introduces_whom_it_lets_through(board: BridgeStatus) -> None:
    async def first_line(port: int, head: bytes, source: str) -> bytes:
        reader, writer = await asyncio.open_connection(LOCAL, port, local_addr=(source, 0))
        for part in (head[:7], head[7:]):
            writer.write(part)
            await asyncio.sleep(0.05)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        try:
            return await reader.readline()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    head = b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n"
    async with serve(board, host=LOCAL, port=0, proxies=["127.0.0.9"], is_introduced=True) as port, asyncio.timeout(10):
        assert b" 200 " in await first_line(port, head, "127.0.0.9")
        assert await first_line(port, b"", "127.0.0.9") == b"", "it has to"
        assert b" 200 " in await first_line(port, b"", "127.0.0.8"), "others do not"
        assert b" 400 " in await first_line(port, head, "127.0.0.8"), "and are not believed"


async def test_no_page_is_served_with_a_token_that_can_be_guessed(board: BridgeStatus) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        async with serve(board, host=LOCAL, port=0, token=""):
            pass


GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /livez HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(("head", "more"), [
    (GET + b"X: ", b"y" * 1000),
    (GET, b"X: y\r\n" * 100),
    (POST + b"Content-Length: 99999999\r\n\r\n", b"z" * 1000),
    (POST + b"Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n", b"z" * 1000),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 100),
    (GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", bytes(1000)),
], ids=["a header", "headers", "a body", "a body asked for", "chunks", "frames"])  # fmt: skip
async def test_whoever_sends_more_than_a_request_is_hung_up_on(head: bytes, more: bytes, board: BridgeStatus) -> None:
    async with serve(board, host=LOCAL, port=0) as port, asyncio.timeout(20):
        _, writer = await asyncio.open_connection(LOCAL, port)
        writer.write(head)
        with pytest.raises(ConnectionError):
            for _ in range(10_000):
                writer.write(more)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()


async def test_nothing_is_unpacked(board: BridgeStatus) -> None:
    """Sixteen kilobytes can be of a hundred thousand times that."""
    bomb = gzip.compress(bytes(8 << 20))
    assert len(bomb) < connection_limits.REQUEST_BYTES
    async with serve(board, host=LOCAL, port=0) as port, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(LOCAL, port)
        tracemalloc.start()
        try:
            writer.write(POST + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb)
            assert b" 405 " in await reader.readline()
            assert tracemalloc.get_traced_memory()[1] < 2 << 20
        finally:
            tracemalloc.stop()
            writer.close()


@pytest.mark.parametrize("token", [TOKEN, None])
async def test_whoever_asks_too_often_under_another_name_is_hung_up_on(
    board: BridgeStatus, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setattr(connection_limits, "EACH", Share(6, 0.001))
    async with (
        serve(board, host=LOCAL, port=0, token=token) as port,
        asyncio.timeout(20),
        aiohttp.ClientSession() as stranger,
    ):

        async def ask() -> int:
            async with stranger.get(f"http://{LOCAL}:{port}/livez", headers={"Host": "evil.example"}) as answer:
                return answer.status

        assert [await ask() for _ in range(5)] == [421] * 5, "and the connection counts, too"
        for _ in range(3):
            with pytest.raises(aiohttp.ClientError):
                await ask()


async def test_whoever_asks_too_often_without_a_token_is_hung_up_on_and_nobody_else(
    board: BridgeStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "EACH", Share(6, 0.001))
    async with serve(board, host=LOCAL, port=0, token=TOKEN) as port, asyncio.timeout(20):

        async def ask(address: str, times: int, **more: str) -> int:
            connector = aiohttp.TCPConnector(local_addr=(address, 0))
            async with aiohttp.ClientSession(connector=connector) as each:
                for number in range(times):
                    try:
                        async with each.get(f"http://{LOCAL}:{port}/livez", headers=more) as answer:
                            assert answer.status == 200
                    except aiohttp.ClientError:
                        return number
            return times

        assert await ask("127.0.0.2", 50) == 5, "and the connection counts, too"
        assert await ask("127.0.0.2", 50) == 0, "nor may it connect"
        assert await ask("127.0.0.3", 5) == 5

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.4", 0))) as each:
            for _ in range(50):
                bearer = {"Authorization": f"Bearer {TOKEN}"}
                assert (await each.get(f"http://{LOCAL}:{port}/status", headers=bearer)).status == 200
