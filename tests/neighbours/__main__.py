"""One PBX of 50 is bad in every way we can think of, and the others must not feel it: ``python -m tests.neighbours``.

Phases without and with trouble alternate in one run; each way is held against the quiet phases before and behind it.
Measured is the time from a change at a sound PBX until a consumer has its event. A way above the limit is played again,
since machines scatter, and all that was measured of it counts together. The bad PBX has a process of its own and needs
the same cores as everybody, so what is above the limit is also played to another bridge that reads it alone: what that
costs the sound ones is the machine's share, and the limit holds against it. At the end every change of the sound PBXs
must have arrived exactly once and in order; what was in flight when the broker refused somebody's event may come once
more, marked and with the same id. Exit codes: 0 nobody felt it, 1 somebody did.
"""

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aio_pika
import click

from tests.benchmark.figures import percentile
from tests.neighbours.bad import ANSWERS, OTHERS, UNASKED, WELL
from tests.neighbours.site import BAD, BAD_WAITS, EXCHANGE, FENCE, Site, StandstillError, is_read, site

LIMIT: Final = 1.5
RECOVERY_SECONDS: Final = 90.0
"""A refused login is tried again after a minute."""

ARRIVAL_SECONDS: Final = 60.0

WARM_SECONDS: Final = 5.0
"""What is loaded and made at the first changes is nobody's trouble."""

TOO_LARGE: Final = "events too large for the broker"

Trouble = Callable[[Site], AbstractAsyncContextManager[None]]


@dataclass
class Measured:
    """What a way did to the others, in milliseconds, and what the status said of the bad one."""

    way: str
    during: list[float] = field(default_factory=list)
    around: list[float] = field(default_factory=list)
    elsewhere: list[float] = field(default_factory=list)
    """While the same was done to another bridge of this machine; nothing unless it was worth measuring."""
    times: int = 0
    status: str = ""

    @property
    def ratio(self) -> float:
        return percentile(self.during, 0.99) / percentile(self.around, 0.99)

    @property
    def share(self) -> float:
        """Return what is left of the ratio without the machine's share."""
        return min(self.ratio, percentile(self.during, 0.99) / percentile(self.elsewhere or self.around, 0.99))

    def line(self) -> str:
        figures = [percentile(of, at) for of in (self.around, self.during) for at in (0.5, 0.99)]
        told = "".join(f"{figure:>8.0f}" for figure in figures)
        apart = f"{self.share:>7.2f}" if self.elsewhere else f"{'':>7}"
        again = f" (played {self.times} times)" if self.times > 1 else ""
        return f"{self.way + again:<54}{told}{self.ratio:>7.2f}{apart}  {self.status}"


def played(way: str) -> Trouble:
    """Return the trouble that the bad PBX makes by itself."""

    @asynccontextmanager
    async def trouble(place: Site) -> AsyncIterator[None]:
        place.become(way)
        try:
            yield
        finally:
            place.become(WELL)

    return trouble


@asynccontextmanager
async def unroutable(place: Site) -> AsyncIterator[None]:
    queue = await place.channel.get_queue(BAD_WAITS)
    await queue.unbind(EXCHANGE, f"{BAD}.#")
    try:
        yield
    finally:
        await queue.bind(EXCHANGE, f"{BAD}.#")


@asynccontextmanager
async def full(place: Site) -> AsyncIterator[None]:
    arguments: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = await place.channel.declare_queue("bad.full", arguments=arguments)
    await queue.bind(EXCHANGE, f"{BAD}.#")
    try:
        yield
    finally:
        await queue.delete(if_empty=False, if_unused=False)


def file_trouble(of: Callable[[Site], Path], spoil: Callable[[Path], object]) -> Trouble:
    @asynccontextmanager
    async def trouble(place: Site) -> AsyncIterator[None]:
        file = of(place)
        content, mode = file.read_bytes(), file.stat().st_mode
        spoil(file)
        place.become(WELL)  # which cuts its connections, so that the file is needed
        try:
            yield
        finally:
            if file.is_dir():
                file.rmdir()
            file.write_bytes(content)
            file.chmod(mode)

    return trouble


def becomes_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@asynccontextmanager
async def fenced(place: Site) -> AsyncIterator[None]:
    """Let another bridge take the fence while ours is started anew."""
    place.may_change.clear()
    try:
        await arrival(place)
        await place.stop_bridge()
        other = await aio_pika.connect(place.broker.url)
        await (await other.channel()).declare_queue(FENCE, durable=False, exclusive=True)
        await place.start_bridge()
        await place.until("the bad one does not wait", lambda status: status["sources"][BAD]["fenced"], 40)
    finally:
        place.may_change.set()
    await asyncio.sleep(WARM_SECONDS)
    try:
        yield
    finally:
        await other.close()
        await place.until("the bad one does not go on", lambda status: not status["sources"][BAD]["fenced"], 40)


PLAYED: Final = (*OTHERS[:-2], *UNASKED, *ANSWERS, *OTHERS[-2:])
"""By the bad PBX itself."""

TROUBLES: Final[dict[str, Trouble]] = {
    **{way: played(way) for way in PLAYED[:-2]},
    "unroutable": unroutable,
    "a queue for it alone is full and refuses": full,
    "the password file is empty": file_trouble(lambda place: place.password_file, lambda file: file.write_bytes(b"")),
    "the password file is missing": file_trouble(lambda place: place.password_file, Path.unlink),
    "the password file is a folder": file_trouble(lambda place: place.password_file, becomes_a_folder),
    "the CA file is missing": file_trouble(lambda place: place.ca_file, Path.unlink),
    "the CA file is garbage": file_trouble(lambda place: place.ca_file, lambda file: file.write_bytes(b"\x00\xff")),
    "another bridge holds its fence": fenced,
    **{way: played(way) for way in PLAYED[-2:]},
}
"""In the order in which they are played."""


async def arrival(place: Site) -> None:
    """Wait until everything that was made has arrived; what does not in time is for the count at the end."""
    until = time.monotonic() + ARRIVAL_SECONDS
    while place.outstanding() and time.monotonic() < until:
        await asyncio.sleep(0.05)


async def told_of_bad(place: Site) -> str:
    """Return what the status says of the bad one at present."""
    status = await place.status()
    part = status["sources"][BAD]
    mine = [problem["words"] for problem in status["problems"] if problem["where"] == BAD]
    parked = [f"{part['parked']} events parked, {status['held']} held"] if part["parked"] else []
    words = "; ".join([*mine, *parked]) or part["doing"]
    return f"{part['level']}: {' '.join(words.split())[:110]}"


async def play(place: Site, names: list[str], *, quiet_seconds: float, trouble_seconds: float) -> list[Measured]:
    """Play the ways one after another, those above the limit again, and return what was measured."""
    measured = {name: Measured(name) for name in names}
    await asyncio.sleep(WARM_SECONDS)
    await first_too_large(place)
    quiet = await calm(place, quiet_seconds)
    for _ in range(3):
        due = [each for each in measured.values() if not each.times or each.share > LIMIT]
        for each in due:
            say(f"{each.way} …")
            async with TROUBLES[each.way](place):
                began = time.monotonic()
                await asyncio.sleep(trouble_seconds)
                each.status = await told_of_bad(place)
                ended = time.monotonic()
            before, quiet = quiet, await calm(place, quiet_seconds)
            each.during += place.waits(began, ended)
            each.around += [wait for since, until in (before, quiet) for wait in place.waits(since, until)]
            each.times += 1
            if each.ratio > LIMIT and each.way in PLAYED:
                each.elsewhere += await at_another(place, each.way, trouble_seconds)
                quiet = await calm(place, quiet_seconds)
            say(each.line())
    return list(measured.values())


async def first_too_large(place: Site) -> None:
    """Let the broker refuse an event: that ends a session, once: how large one may be is known then."""
    place.become(TOO_LARGE)
    began = time.monotonic()
    await place.until("nothing is parked", lambda status: status["sources"][BAD]["parked"], 30)
    await asyncio.sleep(1)
    place.become(WELL)
    await arrival(place)
    longest = max(place.waits(began, time.monotonic()))
    say(f"the first event too large for the broker costs one session; the longest wait meanwhile: {longest:.0f} ms")


async def at_another(place: Site, way: str, seconds: float) -> list[float]:
    """Play *way* to a bridge that reads nobody else, and return how long changes at ours took meanwhile."""
    place.elsewhere.become(way)
    try:
        began = time.monotonic()
        await asyncio.sleep(seconds)
        ended = time.monotonic()
    finally:
        place.elsewhere.become(WELL)
    await arrival(place)
    return place.waits(began, ended)


async def calm(place: Site, seconds: float) -> tuple[float, float]:
    """Let the bad one recover, then measure without trouble; return from when to when that was."""
    await place.until("the bad one is not read again", is_read, RECOVERY_SECONDS)
    await asyncio.sleep(1)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    ended = time.monotonic()
    await arrival(place)
    return began, ended


async def run(folder: Path, names: list[str], *, is_quick: bool, changes_per_second: float) -> int:
    """Play everything, print the table, and return how many rules were broken."""
    quiet_seconds, trouble_seconds = (3.0, 4.0) if is_quick else (5.0, 9.0)
    async with site(folder, changes_per_second=changes_per_second) as place:
        measured = await play(place, names, quiet_seconds=quiet_seconds, trouble_seconds=trouble_seconds)
        place.may_change.clear()
        await arrival(place)
        broken = [f"{each.way}: the others felt it, {each.share:.2f}" for each in measured if each.share > LIMIT]
        broken += place.mistakes()
        click.echo(f"{'milliseconds from a change to its delivery':<54}{'quiet':>12}{'trouble':>16}")
        click.echo(f"{'':<54}{'p50':>8}{'p99':>8}{'p50':>8}{'p99':>8}{'ratio':>7}{'apart':>7}  status of the bad one")
        for each in measured:
            click.echo(each.line())
        click.echo(
            f"{len(place.made)} changes of {len(place.pbxs)} sound PBXs, {place.again} delivered again and marked so "
            f"(in flight when an event ended the session), {len(place.mistakes())} PBXs with a fault"
        )
    for sentence in broken:
        say(sentence)
    return len(broken)


def say(words: str) -> None:
    """Tell people how it goes."""
    print(f"neighbours: {words}", file=sys.stderr, flush=True)  # noqa: T201 - its output


@click.command(help="Make one PBX of 50 bad in every way there is, and measure what the others feel.")
@click.option("--quick", "is_quick", is_flag=True, help="A few minutes.")
@click.option("--way", "names", multiple=True, type=click.Choice(list(TROUBLES)), help="Only this one, and others.")
@click.option("--changes-per-second", default=0.5, show_default=True, help="Of each sound PBX.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave store and logs there.")
def main(*, is_quick: bool, names: tuple[str, ...], changes_per_second: float, keep: Path | None) -> None:
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what is done to the broker on purpose is no news
    with tempfile.TemporaryDirectory(prefix="neighbours-") as temporary:
        folder = Path(temporary) if keep is None else keep.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        playing = run(folder, list(names or TROUBLES), is_quick=is_quick, changes_per_second=changes_per_second)
        try:
            broken = asyncio.run(playing)
        except StandstillError as problem:
            say(str(problem))
            broken = 1
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
