"""The proxy that stands for a bad network: each way of failing has to be what it says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Literal, TypeVar

import pytest

from tests.support.proxy import Proxy

Result = TypeVar("Result")
SILENCE_SECONDS = 0.2
"""Nothing is to come: a machine that is slow cannot make this fail."""


async def soon(wanted: Awaitable[Result]) -> Result:
    async with asyncio.timeout(10):
        return await wanted


class Far:
    """A server that says everything back."""

    def __init__(self) -> None:
        self.heard = b""
        self.closed = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.closed += 1
            writer.close()


class Near:
    """Clients, all hung up in the end."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await soon(asyncio.open_connection("127.0.0.1", self._proxy.port))
        self._writers.append(writer)
        return reader, writer

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and make sure that somebody answers."""
        reader, writer = await self.connect()
        writer.write(b"hello")
        assert await soon(reader.readexactly(5)) == b"hello"
        return reader, writer

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


@asynccontextmanager
async def between() -> AsyncIterator[tuple[Near, Proxy, Far]]:
    far = Far()
    server = await asyncio.start_server(far.talk, "127.0.0.1", 0)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        near = Near(proxy)
        yield near, proxy, far
        await near.hang_up()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await soon(reader.read(100)) == b""
    except ConnectionError:
        return True


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


async def is_silent(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            await reader.read(100)
    except TimeoutError:
        return True
    return False


async def test_a_cut_lets_a_part_through_and_ends_both_ends() -> None:
    async with between() as (near, proxy, far):
        _, writer = await near.dial()
        cut = proxy.cut_mid_frame()
        writer.write(b"0123456789")
        await soon(cut.wait())
        await until(lambda: far.closed == 1)
        heard = far.heard.removeprefix(b"hello")
        assert b"0123456789".startswith(heard)
        assert len(heard) < 10
        await near.dial()


async def test_a_black_hole_swallows_on_old_and_new_connections_and_a_reset_ends_it() -> None:
    async with between() as (near, proxy, far):
        reader, writer = await near.dial()
        proxy.black_hole()
        writer.write(b"lost")
        fresh_reader, fresh_writer = await near.connect()
        fresh_writer.write(b"lost")
        assert await is_silent(reader)
        assert await is_silent(fresh_reader)
        assert far.heard == b"hello"
        assert not await proxy.until_given_up(SILENCE_SECONDS)
        proxy.reset()
        assert await ended(reader)
        assert await ended(fresh_reader)
        await near.dial()


async def test_a_black_hole_notices_who_gives_up() -> None:
    async with between() as (near, proxy, _):
        _, writer = await near.dial()
        proxy.black_hole()
        writer.close()
        assert await proxy.until_given_up(10)


@pytest.mark.parametrize("left_open", ["near", "far"])
async def test_of_a_half_open_connection_one_end_knows_and_the_other_does_not(
    left_open: Literal["near", "far"],
) -> None:
    async with between() as (near, proxy, far):
        reader, writer = await near.dial()
        proxy.half_open(left_open)
        if left_open == "near":
            await until(lambda: far.closed == 1)
            writer.write(b"lost")
            assert await is_silent(reader)
            proxy.reset()
            assert await ended(reader)
        else:
            assert await ended(reader)
            assert far.closed == 0
            proxy.reset()
            await until(lambda: far.closed == 1)
        assert far.heard == b"hello"


async def test_a_delay_loses_nothing() -> None:
    async with between() as (near, proxy, far):
        reader, writer = await near.dial()
        proxy.delay(0.05)
        began = asyncio.get_running_loop().time()
        writer.write(b"later")
        assert await soon(reader.readexactly(5)) == b"later"
        assert asyncio.get_running_loop().time() - began >= 0.1, "there and back"
        proxy.delay(0)
        assert far.heard == b"hellolater"


async def test_where_nobody_listens_the_proxy_hangs_up() -> None:
    async with Proxy(1) as proxy:
        near = Near(proxy)
        reader, _ = await near.connect()
        assert await ended(reader)
        await near.hang_up()
        await until(lambda: not proxy.connections)


async def test_of_several_targets_each_connection_goes_to_the_next_at_which_somebody_listens() -> None:
    first, second = Far(), Far()
    servers = [await asyncio.start_server(far.talk, "127.0.0.1", 0) for far in (first, second)]
    async with servers[0], servers[1], Proxy(*(server.sockets[0].getsockname()[1] for server in servers)) as proxy:
        near = Near(proxy)
        for _ in range(4):
            await near.dial()
        assert (first.heard, second.heard) == (b"hellohello", b"hellohello")
        servers[0].close()
        for _ in range(2):
            await near.dial()
        assert second.heard == b"hello" * 4
        await near.hang_up()
