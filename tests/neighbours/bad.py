"""A PBX that is well or bad in one way at a time: ``python -m tests.neighbours.bad CERTIFICATE KEY``.

Prints its port and then takes the name of a way from each line of its input; with each, every connection is cut. It is
a process of its own, so that what it does costs the other PBXs no more than the bridge makes of it.
"""

import asyncio
import json
import logging
import random
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import Any, Final

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from bridge.simulator.modes import Modes
from bridge.simulator.pbx import CUT, Pbx
from bridge.simulator.session import Close, Connection

APP, PASSWORD = "app", "pl4nted-s3cret"
WELL: Final = "well"
MANY: Final = 20_000
HELD: Final = 5_000
FULL_BYTES: Final = 1 << 20
"""Of what waits to be sent, before more is made."""

GUID: Final = "0123456789abcdef0123456789abcdef"
ODD_TEXT: Final = "\u0000\u0007\u001b[31m\u202e\u2028" * 20
DEEP: Final = "[" * 400 + "]" * 400
WIDE: Final = ",".join(map(str, range(140_000)))
"""With everything around it a little below the limit of 1 MiB a message."""

ODD: Final = (
    json.dumps(
        {
            "cn": ODD_TEXT,
            "dn": "\ud800" + ODD_TEXT,
            "e164": ODD_TEXT,
            "emails": [{"email": f"{number}@{ODD_TEXT}"} for number in range(300)],
            "groups": [{"name": f"group {number}", "mode": "active"} for number in range(10_000)],
        }
    )[:-1]
    + f',"huge":{"9" * 300},"tiny":1e-4000}}'
)
LARGE: Final = [{"name": f"{number} " + "Ü" * 250, "mode": "active"} for number in range(256)]

Question = dict[str, Any]


def row(  # noqa: PLR0913 - what a row has
    question: Question | None, number: int, account: str, info: str, *, usn: int | None = None, guid: str = GUID
) -> str:
    """Return one account as the PBX delivers it; *info* is JSON. Without a question it comes unasked."""
    told = {"mt": "AccountInfoResult", "api": "PbxAccountApi", "guid": guid, "account-guid": account}
    told |= {
        "usn": f"{number if usn is None else usn}",
        "ausn": f"{number if usn is None else usn}",
        "account-h323": account[:20],
    }
    if question is not None and "src" in question:
        told["src"] = question["src"]
    return f'{json.dumps(told)[:-1]},"info":{info}}}'


def person(number: int) -> str:
    return json.dumps({"cn": f"P {number}", "dn": f"name {number}", "e164": str(number % 1000)})


class Bad:
    """The PBX, and what it does at present."""

    def __init__(self) -> None:
        modes = Modes.parse(["idle-hold"])
        self.small = Pbx(accounts=50, app=APP, password=PASSWORD, modes=modes, name="bad", seed=99, remember=1000)
        self.large = Pbx(accounts=MANY, app=APP, password=PASSWORD, modes=modes, name="bad", seed=98, remember=1000)
        self.way = WELL
        self.numbers = count(1_000_000)
        self.held = 0
        self.chance = random.Random(15)  # noqa: S311 - what garbage is made of
        self.inner = 0
        """The port that speaks WebSocket by TLS."""
        self.transports: set[asyncio.BaseTransport] = set()

    @property
    def pbx(self) -> Pbx:
        return self.large if self.way == "20 000 changes at once" else self.small

    def become(self, way: str) -> None:
        self.way, self.held = way, 0
        self.small.password = "another pl4nted-s3cret" if way == "refuses the login" else PASSWORD
        for transport in list(self.transports):
            transport.abort()  # type: ignore[attr-defined]

    # Before TLS

    async def accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.transports.add(writer.transport)
        try:
            with suppress(OSError, ConnectionError):
                await self._carry(reader, writer)
        finally:
            self.transports.discard(writer.transport)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self.way:
            case "hangs up at once":
                return
            case "accepts and never speaks":
                while await reader.read(1 << 16):
                    continue
            case "garbage instead of TLS":
                while not writer.is_closing():
                    writer.write(self.chance.randbytes(1000))
                    await writer.drain()
                    await asyncio.sleep(0.01)
            case "one byte a second, in TLS":
                writer.write(b"\x16")
                for byte in b"\x03\x03\x40\x00" + bytes(1 << 14):
                    await asyncio.sleep(1)
                    writer.write(bytes([byte]))
            case _:
                answers, far = await asyncio.open_connection("127.0.0.1", self.inner)
                ways = [asyncio.create_task(_pump(reader, far)), asyncio.create_task(_pump(answers, writer))]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    far.transport.abort()
                    for task in ways:
                        task.cancel()

    # The conversation

    async def talk(self, socket: ServerConnection) -> None:  # noqa: C901 - a conversation
        now = asyncio.get_running_loop().time
        connection, woken = Connection(self.pbx), asyncio.Event()
        connection.on_wake = woken.set

        async def say(replies: Any) -> None:
            for reply in replies:
                if isinstance(reply, Close) and reply.code == CUT:
                    socket.transport.abort()
                elif isinstance(reply, Close):
                    await socket.close(reply.code)
                else:
                    await socket.send(reply.text)

        async def speak() -> None:
            while True:
                await woken.wait()
                woken.clear()
                await say(connection.tick(now()))

        tasks = [asyncio.create_task(speak())]
        try:
            async for data in socket:
                was_in = connection.is_in
                question = json.loads(data)
                if was_in and question.get("mt") == "AccountInfo" and self.way in ANSWERS:
                    await ANSWERS[self.way](self, socket, question)
                else:
                    await say(connection.receive(data, now()))
                if connection.is_in and not was_in and self.way in UNASKED:
                    tasks.append(asyncio.create_task(UNASKED[self.way](self, socket)))
        except ConnectionClosed:
            pass  # it may
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            connection.closed(now())

    async def live(self) -> None:
        """Do what happens to the PBX as a whole, and change somebody now and then."""
        while True:
            await asyncio.sleep(0.25)
            match self.way:
                case "set back four times a second":
                    before = self.small.take_snapshot()
                    self.small.change_display_name(self.small.pick())
                    await asyncio.sleep(0.1)
                    self.small.vm_rollback(before)
                case "reboots four times a second":
                    self.small.reboot()
                case "another guid four times a second":
                    self.small.new_epoch()
                case "20 000 changes at once":
                    pass
                case _:
                    self.small.change_display_name(self.small.pick(), f"bad {next(self.numbers)}")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


# Instead of an answer


async def nothing(_bad: Bad, _socket: ServerConnection, _question: Question) -> None: ...


async def new_account(bad: Bad, socket: ServerConnection, question: Question) -> None:
    number = next(bad.numbers)
    await socket.send(row(question, number, f"{number:032x}", person(number)))


async def same_row(_bad: Bad, socket: ServerConnection, question: Question) -> None:
    await socket.send(row(question, 7, f"{7:032x}", person(7)))


async def wide(bad: Bad, socket: ServerConnection, question: Question) -> None:
    number = next(bad.numbers)
    info = f'{{"dn":"wide {number}","deep":{DEEP},"wide":[{WIDE}]}}'
    await socket.send(row(question, number, f"{number % 20:032x}", info))


async def odd(bad: Bad, socket: ServerConnection, question: Question) -> None:
    number = next(bad.numbers)
    await socket.send(row(question, number, f"{number % 20:032x}", ODD))


async def backwards(bad: Bad, socket: ServerConnection, question: Question) -> None:
    number = next(bad.numbers)
    await socket.send(row(question, number, f"{number % 20:032x}", person(number), usn=10**9 - number))


async def another_guid(bad: Bad, socket: ServerConnection, question: Question) -> None:
    number = next(bad.numbers)
    await socket.send(row(question, number, f"{number % 20:032x}", person(number), guid=f"{number:032x}"))


async def errors(_bad: Bad, socket: ServerConnection, question: Question) -> None:
    told = {"mt": "AccountInfoResult", "api": "PbxAccountApi", "src": question.get("src"), "error": 17}
    await socket.send(json.dumps(told))


async def nonsense(_bad: Bad, socket: ServerConnection, _question: Question) -> None:
    await socket.send('{"mt":')


async def drip(_bad: Bad, socket: ServerConnection, _question: Question) -> None:
    socket.transport.write(b"\x81\x7e" + struct.pack("!H", 5000))
    while not socket.transport.is_closing():
        await asyncio.sleep(1)
        socket.transport.write(b"{")


async def held_behind_one(bad: Bad, socket: ServerConnection, question: Question) -> None:
    """One account that the broker refuses, so that all that follows of it is held."""
    if bad.held < HELD:
        bad.held += 1
        info = {"dn": f"name {bad.held}", **({"groups": LARGE} if bad.held == 1 else {})}
        await socket.send(row(question, next(bad.numbers), "f" * 32, json.dumps(info)))


async def too_large(bad: Bad, socket: ServerConnection, question: Question) -> None:
    """Many accounts that the broker refuses, one every tenth of a second."""
    await asyncio.sleep(0.1)
    number = next(bad.numbers)
    await socket.send(row(question, number, f"{number:032x}", json.dumps({"dn": f"{number}", "groups": LARGE})))


# Unasked


async def _flood(socket: ServerConnection, make: Callable[[], bytes]) -> None:
    while not socket.transport.is_closing():
        while socket.transport.get_write_buffer_size() > FULL_BYTES:
            await asyncio.sleep(0.002)
        socket.transport.write(make())
        await asyncio.sleep(0)


async def pings(_bad: Bad, socket: ServerConnection) -> None:
    await _flood(socket, lambda: b"\x89\x04ping" * 1000)


async def empty_frames(_bad: Bad, socket: ServerConnection) -> None:
    await _flood(socket, lambda: b"\x01\x00" + b"\x00\x00" * 1000)


async def pushes(bad: Bad, socket: ServerConnection) -> None:
    def some() -> bytes:
        frames = b""
        for _ in range(50):
            number = next(bad.numbers)
            text = row(None, number, f"{number % 50:032x}", person(number)).encode()
            frames += b"\x81\x7e" + struct.pack("!H", len(text)) + text
        return frames

    await _flood(socket, some)


ANSWERS: Final[dict[str, Callable[[Bad, ServerConnection, Question], Awaitable[None]]]] = {
    "silent after the login": nothing,
    "a list without an end": new_account,
    "the same row for ever": same_row,
    "1 MB a message, 400 deep": wide,
    "control characters, huge lists": odd,
    "a list that runs backwards": backwards,
    "another guid with each row": another_guid,
    "an error to each question": errors,
    "no JSON": nonsense,
    "one byte a second": drip,
    "5 000 held behind one refused": held_behind_one,
    "events too large for the broker": too_large,
}
UNASKED: Final[dict[str, Callable[[Bad, ServerConnection], Coroutine[Any, Any, None]]]] = {
    "a flood of pings": pings,
    "a flood of empty frames": empty_frames,
    "a storm of pushes": pushes,
}
OTHERS: Final = (
    "hangs up at once",
    "accepts and never speaks",
    "garbage instead of TLS",
    "one byte a second, in TLS",
    "set back four times a second",
    "reboots four times a second",
    "another guid four times a second",
    "20 000 changes at once",
    "refuses the login",
)
"""Ways that concern the whole connection, or the whole PBX."""


async def serve(certificate: str, key: str) -> None:
    """Serve until the input ends."""
    for name in ("asyncio", "websockets"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a bridge that hangs up on this one is no news
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    bad = Bad()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    server = serve_websockets(
        bad.talk, "127.0.0.1", 0, ssl=context, compression=None, ping_interval=None, close_timeout=1, max_size=1 << 16
    )
    async with server as inner, await asyncio.start_server(bad.accepted, "127.0.0.1", 0) as front:
        bad.inner = inner.sockets[0].getsockname()[1]
        print(front.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - whoever started it waits for that
        living = asyncio.create_task(bad.live())
        while line := await commands.readline():
            bad.become(line.decode().strip())
        living.cancel()
        bad.become(WELL)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
