"""Thousands of strangers at the door of a running bridge while a PBX is served: ``python -m tests.hostile``.

Each stranger is one connection that misbehaves in one of the ways below, from one of many addresses of this machine
(127.0.0.0/8), in the clear or by TLS. Meanwhile a pretend PBX is dialled in, changes accounts, loses its connection now
and then and dials again. Printed at the end: how the strangers fared, how long changes took to the broker, and what the
bridge held of memory and file descriptors before, at most, and after.

Then four sieges, of a bridge each: more than a thousand half-sent requests and guesses at the page of one that may
have 1024 file descriptors; somebody who knows the password of the App object and claims the names of other PBXs; frames
that say nothing; and a crowd from 64 addresses while PBXs dial and the page is asked. All of it is printed as a table.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import aio_pika

from bridge.pbx.inbound.server import TIDY_SECONDS
from bridge.pbx.wire.login import login_digest
from bridge.security.tls import Trust, client_context
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import keep_calling
from tests.support.crowding import ADDRESSES, CrowdFigures, crowded
from tests.support.dialled_site import PASSWORD, DialledSite, dialled_site, pbx_called
from tests.support.dialling import login_of
from tests.support.process import Command
from tests.support.rabbit import PrivateBroker
from tests.support.sieges import InsiderFigures, PageFigures, page_besieged, status_of, taken_in

LATER_DESCRIPTORS: Final = 1
"""The connection that looks after the queues begins some time after the start."""

PATIENCE_SECONDS: Final = 1.5
"""Of a stranger, who goes then and makes room for the next."""

CHANGES_PER_SECOND: Final = 10
UPGRADE: Final = (
    b"GET /pbx/app HTTP/1.1\r\nHost: bridge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)

Chance = random.Random


def frame(payload: bytes, head: int = 0x81, length: int | None = None) -> bytes:
    """Return one masked frame, which may lie about its length."""
    size = len(payload) if length is None else length
    if size < 126:
        told = bytes([head, 0x80 | size])
    elif size < 1 << 16:
        told = bytes([head, 0xFE]) + struct.pack("!H", size)
    else:
        told = bytes([head, 0xFF]) + struct.pack("!Q", size)
    return told + bytes(4) + payload  # a mask of zeros changes nothing


@dataclass
class Stranger:
    """One connection, open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    chance: Chance

    async def say(self, data: bytes) -> None:
        if self.reader.at_eof() or self.writer.is_closing():
            raise ConnectionResetError("hung up on")
        self.writer.write(data)
        await self.writer.drain()

    async def upgrade(self, more: bytes = b"") -> bytes:
        await self.say(UPGRADE + more + b"\r\n")
        return await self.reader.readuntil(b"\r\n\r\n")

    async def challenge(self) -> str:
        await self.upgrade()
        await self.say(frame(b'{"mt":"AppChallenge"}'))
        size = (await self.reader.readexactly(2))[1] & 0x7F
        return str(json.loads(await self.reader.readexactly(size))["challenge"])


async def silence(_: Stranger) -> None:
    """Say nothing."""


async def garbage(stranger: Stranger) -> None:
    await stranger.say(stranger.chance.randbytes(2000))


async def half_a_request(stranger: Stranger) -> None:
    """Slow-loris: a header line now and then."""
    await stranger.say(UPGRADE)
    for number in range(20):
        await asyncio.sleep(0.1)
        await stranger.say(b"X-%d: y\r\n" % number)


async def endless_headers(stranger: Stranger) -> None:
    await stranger.say(UPGRADE)
    for _ in range(1000):
        await stranger.say(b"X: " + b"y" * 5000 + b"\r\n")


async def a_browser(stranger: Stranger) -> None:
    await stranger.upgrade(b"Origin: https://evil.example\r\n")


async def compression(stranger: Stranger) -> None:
    await stranger.upgrade(b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
    await stranger.say(frame(stranger.chance.randbytes(100), head=0xC1))


async def half_a_frame(stranger: Stranger) -> None:
    await stranger.upgrade()
    await stranger.say(frame(b"{", length=5000))


async def a_giant_frame(stranger: Stranger) -> None:
    await stranger.upgrade()
    await stranger.say(frame(b"x" * 1000, length=1 << 40))


async def a_large_message(stranger: Stranger) -> None:
    await stranger.upgrade()
    for _ in range(40):
        await stranger.say(frame(b"x" * 10_000, head=0x01))


async def pings(stranger: Stranger) -> None:
    await stranger.upgrade()
    for _ in range(500):
        await stranger.say(frame(b"ping", head=0x89))


async def a_mebibyte_of_pings(stranger: Stranger) -> None:
    await stranger.upgrade()
    for _ in range(16):
        await stranger.say(frame(b"", head=0x89) * ((1 << 16) // 6))


async def no_text(stranger: Stranger) -> None:
    await stranger.upgrade()
    await stranger.say(frame(b"\xff\xfe\xfd"))


async def no_login(stranger: Stranger) -> None:
    await stranger.upgrade()
    await stranger.say(frame(b'{"api":"PbxAccountApi","mt":"AccountInfo","src":"1"}'))


async def deep_json(stranger: Stranger) -> None:
    await stranger.challenge()
    await stranger.say(frame(b'{"mt":"AppLogin","info":' + b"[" * 30_000))


async def a_bad_password(stranger: Stranger) -> None:
    challenge = await stranger.challenge()
    await stranger.say(frame(login_of(challenge, password="guess").encode()))


async def an_unknown_app(stranger: Stranger) -> None:
    challenge = await stranger.challenge()
    await stranger.say(frame(login_of(challenge, app=f"app\n{stranger.chance.random()}", password="guess").encode()))


async def a_users_login(stranger: Stranger) -> None:
    challenge = await stranger.challenge()
    await stranger.say(frame(login_of(challenge, sip="erika.mustermann").encode()))


async def a_name_cut_at_its_colons(stranger: Stranger) -> None:
    """What the PBX signed for a user whose name has colons, cut so that the App object stands in the right place."""
    challenge = await stranger.challenge()
    signed = json.loads(login_of(challenge, sip="erika", dn="x:example.com:app:y:z"))
    information = json.dumps(signed.pop("info"), separators=(",", ":"))
    joined = ":".join([signed["app"], signed["domain"], signed["sip"], signed["guid"], signed["dn"], information])
    before, after = joined.split(":app:", 1)
    app, domain = before.rsplit(":", 1)
    guid, dn = after.split(":", 1)
    cut = {"app": app, "domain": domain, "sip": "app", "guid": guid, "dn": dn, "digest": signed["digest"]}
    await stranger.say(frame(json.dumps({"mt": "AppLogin", **cut}).encode()))


async def a_name_with_the_guid_in_it(stranger: Stranger) -> None:
    """The same for a user called ``app:<guid>``, who has the PBX sign a challenge with an end of an info in it."""
    challenge = await stranger.challenge()
    told = {"app": "x", "domain": "example.com", "sip": "app", "guid": "0" * 32, "dn": "e" * 32}
    information = '{"appobj":"app","pbx":"main","a":1}'
    digest = login_digest(**told, info=information, challenge=challenge, password=PASSWORD)
    fields = json.dumps({"mt": "AppLogin", **told, "digest": digest})[:-1]
    await stranger.say(frame(f'{fields},"info":{information}}}'.encode()))


async def a_look_alike(stranger: Stranger) -> None:
    challenge = await stranger.challenge()
    name = stranger.chance.choice(["APP", "aPp", "\uff41pp", "app\u200b"])
    await stranger.say(frame(login_of(challenge, sip=name, info={"appobj": name, "pbx": "main"}).encode()))


async def after_the_challenge_silence(stranger: Stranger) -> None:
    await stranger.challenge()


WAYS: Final[tuple[Callable[[Stranger], Awaitable[None]], ...]] = (
    silence,
    garbage,
    half_a_request,
    endless_headers,
    a_browser,
    compression,
    half_a_frame,
    a_giant_frame,
    a_large_message,
    pings,
    a_mebibyte_of_pings,
    no_text,
    no_login,
    deep_json,
    a_bad_password,
    an_unknown_app,
    a_users_login,
    a_name_cut_at_its_colons,
    a_name_with_the_guid_in_it,
    a_look_alike,
    after_the_challenge_silence,
)


@dataclass
class Held:
    """What a process holds."""

    descriptors: int
    memory_mb: float


def held_by(process: int) -> Held:
    status = Path(f"/proc/{process}/status").read_text()
    memory = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
    return Held(len(list(Path(f"/proc/{process}/fd").iterdir())), round(int(memory) / 1024, 1))


@dataclass
class Figures:
    """What came of it."""

    strangers: int = 0
    seconds: float = 0.0
    before: Held | None = None
    at_most: Held = field(default_factory=lambda: Held(0, 0.0))
    after: Held | None = None
    ends: dict[str, int] = field(default_factory=dict)
    """How connections of strangers ended."""
    changes: int = 0
    """Of accounts, while strangers came."""
    delivered: int = 0
    """Of those, at the broker."""
    latency_ms: dict[str, float] = field(default_factory=dict)
    """From a change to its delivery, outages included."""
    logins: int = 0
    """Of the PBX, which lost its connection now and then."""
    log_lines: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """At the door, by reason."""
    forged_logins_let_in: int = 0
    page: PageFigures | None = None
    insider: InsiderFigures | None = None
    flood: dict[str, float] = field(default_factory=dict)
    crowd: CrowdFigures | None = None


async def misbehave(port: int, way: Callable[[Stranger], Awaitable[None]], chance: Chance, addresses: int) -> str:
    """Be one stranger, and return how it ended; *addresses*: of so many, 0: of 45 000."""
    context = client_context(Trust(is_blind=True)) if chance.random() < 0.5 else None
    address = f"127.{chance.randint(1, 3)}.{chance.randint(1, 60)}.{chance.randint(1, 250)}"
    if addresses:
        address = f"127.4.0.{chance.randint(1, addresses)}"
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(address, 0))
    except (OSError, TimeoutError):
        return "not let in"
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await way(Stranger(reader, writer, chance))
            while await reader.read(1 << 16):
                continue
    except TimeoutError:
        return "went by itself"
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError):
        return "hung up on"
    else:
        return "hung up on"
    finally:
        writer.transport.abort()


async def attack(port: int, count: int, at_once: int, addresses: int = 0) -> dict[str, int]:
    """Be all strangers, so many at once, and return how often their connections ended in which way."""
    numbers, ends = iter(range(count)), Counter[str]()
    print("they come", file=sys.stderr, flush=True)  # noqa: T201 - for who waits for it

    async def some() -> None:
        for number in numbers:
            chance = random.Random(number)  # noqa: S311 - a case
            ends[await misbehave(port, WAYS[number % len(WAYS)], chance, addresses)] += 1

    await asyncio.gather(*(some() for _ in range(at_once)))
    return dict(ends)


async def attacked(port: int, count: int, at_once: int) -> dict[str, int]:
    """Do the same from a process of its own, so that only the bridge is slowed by it."""
    arguments = ("--count", str(count), "--at-once", str(at_once), "--attack", str(port))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.hostile", *arguments), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return dict(json.loads(printed))


async def keep_changing(pbx: Pbx, made: dict[str, float]) -> None:
    """Rename people, and drop the PBX's connection now and then."""
    while True:
        name = f"name {len(made)}"
        made[name] = time.monotonic()
        pbx.change_display_name(pbx.pick(), name)
        if len(made) % 50 == 0:
            pbx.drop_connections()
        await asyncio.sleep(1 / CHANGES_PER_SECOND)


async def keep_looking(process: int, most: Held) -> None:
    while True:
        now = held_by(process)
        most.descriptors = max(most.descriptors, now.descriptors)
        most.memory_mb = max(most.memory_mb, now.memory_mb)
        await asyncio.sleep(0.05)


async def keep_consuming(place: DialledSite, arrived: dict[str, float]) -> None:
    async with await aio_pika.connect(place.broker.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(place.queue, passive=True)
        async with queue.iterator(no_ack=True) as messages:
            async for message in messages:
                account = json.loads(message.body)["data"]["account"]
                arrived.setdefault(account["display_name"], time.monotonic())


async def until(is_so: Callable[[], bool], seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not is_so():
                await asyncio.sleep(0.1)
    return is_so()


async def play(folder: Path, broker: PrivateBroker, *, count: int, at_once: int) -> Figures:
    """Run it all and return the figures."""
    figures, made, arrived = Figures(), dict[str, float](), dict[str, float]()
    pbx = pbx_called("main", 100)
    async with dialled_site(folder, broker) as place, place.bridge() as bridge:
        consuming = asyncio.create_task(keep_consuming(place, arrived))
        calling = asyncio.create_task(keep_calling(pbx, place.url, ssl_context=place.context, pause_seconds=0.2))
        assert await until(lambda: len(arrived) >= 90, 60), bridge.printed  # some have the same name
        await attacked(place.port, len(WAYS) * 4, at_once)  # what is loaded at first use is no leak
        await quiet(bridge, 3)
        figures.before = held_by(bridge.number)
        began = time.monotonic()
        looking = asyncio.create_task(keep_looking(bridge.number, figures.at_most))
        changing = asyncio.create_task(keep_changing(pbx, made))
        figures.ends = await attacked(place.port, count, at_once)
        figures.strangers = sum(figures.ends.values())
        figures.seconds = round(time.monotonic() - began, 1)
        changing.cancel()
        told = {record.dn for record in pbx.truth().values()} & made.keys()
        await until(lambda: told <= arrived.keys(), 60)
        await quiet(bridge, 30, figures.before.descriptors + LATER_DESCRIPTORS)
        await asyncio.sleep(2 * TIDY_SECONDS)  # what they left is swept up by then
        figures.after = held_by(bridge.number)
        figures.changes, figures.delivered = len(told), len(told & arrived.keys())
        waits = sorted(1000 * (arrived[name] - made[name]) for name in made if name in arrived)
        figures.latency_ms = {
            name: round(waits[int(share * (len(waits) - 1))], 1)
            for name, share in (("median", 0.5), ("p99", 0.99), ("most", 1.0))
        }
        figures.logins = pbx.oracle.load.logins
        for task in (consuming, calling, changing, looking):
            task.cancel()
        await asyncio.wait([consuming, calling, changing, looking])
        figures.log_lines = len(bridge.logs("listen"))
        figures.refused = dict((await status_of(place))["door"]["refusals"])
        let_in = [line for line in bridge.logs("listen.logged_in") if line.get("address", "127.0.0.1") != "127.0.0.1"]
        figures.forged_logins_let_in = len(let_in)
        assert not pbx.oracle.mistakes
        assert await asyncio.to_thread(bridge.terminate) == 0
    return figures


async def besieged(folder: Path, broker: PrivateBroker, figures: Figures, *, names: int, flood_bytes: int) -> None:
    """Have the page besieged, then somebody come with the password, then frames that say nothing."""
    for part in ("page", "insider", "flood"):
        (folder / part).mkdir()
        async with dialled_site(folder / part, broker) as place:
            if part == "page":
                figures.page = await page_besieged(place)
            elif part == "insider":
                figures.insider = await taken_in(place, names)
            elif flood_bytes:
                figures.flood = await flooded(place, flood_bytes)


async def amid_a_crowd(folder: Path, broker: PrivateBroker, *, rounds: int, seconds: float) -> CrowdFigures:
    """Have others dial and ask while a crowd comes."""
    for part in ("here", "elsewhere"):
        (folder / part).mkdir()
    async with (
        dialled_site(folder / "here", broker) as place,
        dialled_site(folder / "elsewhere", broker) as other,
    ):
        return await crowded(place, other, rounds=rounds, seconds=seconds)


def table(figures: Figures) -> str:
    """Return the figures for people: what was tried, what it came to, what it may come to."""
    before, after = figures.before or Held(0, 0.0), figures.after or Held(0, 0.0)
    rows: list[tuple[str, object, str]] = [
        (f"{figures.strangers} strangers in {len(WAYS)} ways: changes delivered / made meanwhile",
         f"{figures.delivered} / {figures.changes}", "all"),
        ("  change to delivery, p99, outages of the PBX included, ms", figures.latency_ms.get("p99"), "-"),
        ("  forged logins let in", figures.forged_logins_let_in, "0"),
        ("  memory more, most / after, MB",
         f"{figures.at_most.memory_mb - before.memory_mb:.1f} / {after.memory_mb - before.memory_mb:.1f}", "20 / 10"),
        ("  file descriptors more afterwards", after.descriptors - before.descriptors, f"<= {LATER_DESCRIPTORS}"),
        ("  log lines", figures.log_lines, "< 100"),
    ]  # fmt: skip
    if (page := figures.page) is not None:
        rows += [
            (f"{page.half_requests} half-sent requests at the page: descriptors held", page.descriptors, "< 250"),
            ("  a PBX dials / livez / health check meanwhile, s",
             f"{page.pbx_seconds} / {page.livez_seconds} / {page.health_check_seconds}", "answered"),
            (f"{page.guesses} guesses at the token in 5 s: looked at", page.guesses_looked_at, "< 240"),
            ("  the right token from elsewhere meanwhile, s", page.status_seconds, "answered"),
        ]  # fmt: skip
    if (insider := figures.insider) is not None:
        rows += [
            (f"{insider.new_names} new names with a right password: let in", insider.let_in, "<= 100 an hour"),
            ("  the System Name in capitals is", insider.in_capitals, "the same PBX"),
            ("  the name of a connected PBX, with another guid", insider.takeover, "a warning"),
        ]
    if flood := figures.flood:
        rows += [
            ("8 x 1 MiB of empty pings: longest silence without / with, s",
             f"{flood['silent_seconds_at_most_before']} / {flood['silent_seconds_at_most']}", "+ 0.5"),
            ("  memory more, MB", flood["memory_mb_more"], "< 20"),
        ]  # fmt: skip
    if (crowd := figures.crowd) is not None:
        shown = [f"{told['p50']} / {told['p99']}" for told in (*crowd.dial_ms, *crowd.status_ms)]
        rows += [
            (f"crowd from {ADDRESSES} addresses, {crowd.refused} refused, {crowd.turned_away} of them unseen:", "", ""),
            ("  a PBX dials: nobody comes | elsewhere | here, p50 / p99 ms", " | ".join(shown[:3]), "-"),
            ("  the page answers: the same", " | ".join(shown[3:]), "-"),
            *((f"  p99 ratio, {name}", ratio, "<= 1.5" if "elsewhere" in name else "-")
              for name, ratio in crowd.ratios.items()),
            ("  CPU of the bridge in the three, share of a core", crowd.bridge_cpu, "-"),
            ("  memory more at most, MB", round(crowd.memory_mb[1] - crowd.memory_mb[0], 1), "<= 20"),
            ("  of the others came to nothing", crowd.failed, "0"),
        ]  # fmt: skip
    width = max(len(what) for what, _, _ in rows)
    return "\n".join(f"{what:<{width}}  {came!s:<40}  {wanted}".rstrip() for what, came, wanted in rows)


async def flooded(place: DialledSite, size: int) -> dict[str, float]:
    """Have eight strangers send *size* bytes of empty pings each; return how long the bridge was silent for at most."""
    waits: list[float] = []

    async def keep_dialling() -> None:
        while True:
            began = time.monotonic()
            reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
            try:
                writer.write(UPGRADE + b"\r\n")
                with contextlib.suppress(OSError):
                    await reader.read(1 << 16)
            finally:
                writer.transport.abort()
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.02)

    async def send(address: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port, local_addr=(address, 0))
        try:
            writer.write(UPGRADE + b"\r\n" + frame(b"", head=0x89) * (size // 6))
            with contextlib.suppress(OSError):
                while await reader.read(1 << 16):
                    continue
        finally:
            writer.transport.abort()

    for key in ("CERTIFICATE_FILE", "KEY_FILE"):
        del place.environment[f"BRIDGE_LISTEN_{key}"]
    place.environment["BRIDGE_LISTEN_INSECURE"] = "true"
    async with place.bridge() as bridge:
        before = held_by(bridge.number)
        dialling = asyncio.create_task(keep_dialling())
        await asyncio.sleep(2)
        calm = max(waits)
        waits.clear()
        began = time.monotonic()
        async with asyncio.timeout(120):
            await asyncio.gather(*(send(f"127.3.0.{number}") for number in range(1, 9)))
        took = time.monotonic() - began
        await asyncio.sleep(1)
        dialling.cancel()
        await asyncio.wait([dialling])
        after = held_by(bridge.number)
        bridge.kill()
    return {
        "silent_seconds_at_most_before": round(calm, 3),
        "silent_seconds_at_most": round(max(waits), 3),
        "flood_seconds": round(took, 1),
        "memory_mb_more": round(after.memory_mb - before.memory_mb, 1),
    }


async def quiet(bridge: Command, seconds: float, descriptors: int = 0) -> None:
    """Wait until no more descriptors are held than before, or so long."""
    await until(lambda: held_by(bridge.number).descriptors <= descriptors, seconds)


def main() -> None:
    """Play it on a broker of its own, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="strangers in all")
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--names", type=int, default=130, help="new PBXs that somebody with the password claims to be")
    parser.add_argument("--flood-bytes", type=int, default=1 << 20, help="of empty pings, from each of eight; 0: none")
    parser.add_argument("--crowd-seconds", type=float, default=12, help="of each of nine phases; 0: no crowd")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--addresses", type=int, default=0, help="of the strangers; 0: thousands")
    parser.add_argument("--attack", type=int, metavar="PORT", help="only be the strangers, at a door that is there")
    chosen = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of every stranger that was hung up on
    if chosen.attack is not None:
        print(json.dumps(asyncio.run(attack(chosen.attack, chosen.count, chosen.at_once, chosen.addresses))))  # noqa: T201 - its output
        return
    with tempfile.TemporaryDirectory() as folder, PrivateBroker() as broker:
        figures = asyncio.run(play(Path(folder), broker, count=chosen.count, at_once=chosen.at_once))
        asyncio.run(besieged(Path(folder), broker, figures, names=chosen.names, flood_bytes=chosen.flood_bytes))
        if chosen.crowd_seconds:
            figures.crowd = asyncio.run(amid_a_crowd(Path(folder), broker, rounds=3, seconds=chosen.crowd_seconds))
    print(json.dumps(asdict(figures), indent=2) if chosen.json else table(figures))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
