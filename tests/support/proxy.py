"""A TCP proxy between two parts of the world that can be made to fail in the ways in which networks do."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

CHUNK_BYTES = 1 << 16
DIAL_SECONDS = 5.0


@dataclass(eq=False)
class _Pipe:
    """One connection that goes through: *near* is who dialled, *far* whom it wanted."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter | None = None
    is_silent: bool = False
    """Whatever comes is read and forgotten."""
    left_open: asyncio.StreamWriter | None = None
    """The end that is not told that the other is gone."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        self.gone.set()
        for end in (self.near, self.far):
            if end is not None:
                end.transport.abort()


class Proxy:
    """Listens on ``port`` and passes everything on to a target, until told otherwise; used by ``async with``.

    Of several *target_ports* each new connection goes to the next one at which somebody listens.
    """

    def __init__(self, *target_ports: int, seed: int = 0) -> None:
        self.port = 0
        self._target_ports = deque(target_ports)
        self._chance = random.Random(f"proxy {seed}")  # noqa: S311 - where to cut, no secret
        self._pipes: set[_Pipe] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_black_hole = self._is_refusing = False
        self._delay_seconds = 0.0
        self._drip_seconds = 0.0
        self._cut: asyncio.Event | None = None
        self._chunks_left: int | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * DIAL_SECONDS)  # each ends with its connection

    @property
    def connections(self) -> int:
        return len(self._pipes)

    def reset(self) -> None:
        """Cut every connection, and pass everything on from now on."""
        self._is_black_hole = self._is_refusing = False
        self._delay_seconds = self._drip_seconds = 0.0
        self._cut = self._chunks_left = None
        for pipe in list(self._pipes):
            pipe.abort()

    def cut_mid_frame(self) -> asyncio.Event:
        """Let through a part of what the dialling end sends next and cut the connection; set once that is done."""
        self._cut = asyncio.Event()
        return self._cut

    def black_hole(self) -> None:
        """Swallow everything in both directions, on new connections too; nobody is told. Ended by ``reset``."""
        self._is_black_hole = True
        for pipe in self._pipes:
            pipe.is_silent = True

    def refuse(self) -> None:
        """Cut every connection, and each new one at once. Ended by ``reset``."""
        self.reset()
        self._is_refusing = True

    def freeze_after(self, chunks: int) -> None:
        """Pass on so many more chunks of the dialling ends, and then take nothing more, until ``reset``."""
        self._chunks_left = chunks

    @property
    def is_frozen(self) -> bool:
        return self._chunks_left == 0

    def delay(self, seconds: float) -> None:
        """Pass on everything so much later; ``delay(0)`` ends that and loses nothing."""
        self._delay_seconds = seconds

    def drip(self, seconds: float) -> None:
        """Pass on a byte at a time, one in so many seconds, until ``reset``."""
        self._drip_seconds = seconds

    def half_open(self, left_open: Literal["near", "far"]) -> None:
        """Cut every connection at one end only: the one that is *left_open* is not told. Ended by ``reset``."""
        for pipe in list(self._pipes):
            pipe.is_silent = True
            pipe.left_open, gone = (pipe.near, pipe.far) if left_open == "near" else (pipe.far, pipe.near)
            if gone is not None:
                gone.transport.abort()

    async def until(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Wait until *is_so* of the connections, and return whether it came to that in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not is_so():
                    await asyncio.sleep(0.01)
                return True
        return False

    async def until_given_up(self, seconds: float) -> bool:
        """Wait until nobody waits any more for an answer that was swallowed, and return whether that was in time."""
        return await self.until(lambda: not any(pipe.is_silent for pipe in self._pipes), seconds)

    async def _accepted(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        pipe = _Pipe(near, is_silent=self._is_black_hole)
        self._pipes.add(pipe)
        try:
            if self._is_refusing:
                return
            if pipe.is_silent:
                await self._pump(pipe, reader, None)
                return
            async with asyncio.timeout(DIAL_SECONDS):
                answers, pipe.far = await self._dial()
            pumps = [
                asyncio.create_task(self._pump(pipe, reader, pipe.far)),
                asyncio.create_task(self._pump(pipe, answers, near)),
            ]
            try:
                await asyncio.wait(pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
        except OSError:
            pass  # nobody listens there, so nobody does here
        finally:
            pipe.abort()
            self._pipes.discard(pipe)
            self._tasks.discard(task)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for _ in range(len(self._target_ports)):
            self._target_ports.rotate(-1)
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", self._target_ports[0])
        raise ConnectionRefusedError

    async def _pump(self, pipe: _Pipe, reader: asyncio.StreamReader, to: asyncio.StreamWriter | None) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._chunks_left == 0:
                    await pipe.gone.wait()
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                if pipe.is_silent or to is None:
                    continue
                if self._cut is not None and to is pipe.far and len(data) > 1:
                    await self._cut_within(data, to)
                    break
                if self._drip_seconds:
                    await self._drip(data, to)
                else:
                    to.write(data)
                if self._chunks_left and to is pipe.far:
                    self._chunks_left -= 1
                await to.drain()
        source = pipe.far if to is pipe.near else pipe.near
        if pipe.left_open is None or pipe.left_open is source:  # the end of the one that was left open ends it all
            pipe.abort()

    async def _drip(self, data: bytes, to: asyncio.StreamWriter) -> None:
        for byte in data:
            if to.is_closing():
                return
            to.write(bytes([byte]))
            await asyncio.sleep(self._drip_seconds)

    async def _cut_within(self, data: bytes, to: asyncio.StreamWriter) -> None:
        cut, self._cut = self._cut, None
        to.write(data[: self._chance.randrange(1, len(data))])
        with suppress(OSError):
            await to.drain()
        if cut is not None:
            cut.set()
