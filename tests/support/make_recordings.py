"""Writes ``tests/data/recordings`` anew: ``python -m tests.support.make_recordings``; see the page there."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bridge.pbx.recording.notebook import Notebook
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.server import PATH
from bridge.simulator.server import serve as serve_pbx
from tests.support.observing import KEY, doing, observed

FOLDER = Path(__file__).parents[1] / "data" / "recordings"
SCRIPT = Path(__file__).parent / "vendor_example.mjs"
WORDS = (
    *("idle-guid", "idle-bare", "idle-repeat", "idle-silent", "idle-hold", "guid-session", "guid-boot", "ord-indep"),
    *("cursor-huge", "del-none", "push-row", "err-mt"),
)
ACCOUNTS = 12


async def of_pretend(word: str) -> None:
    """Observe a pretend PBX, with an operator who does what he is asked to."""
    pbx = Pbx(accounts=ACCOUNTS, seed=7, modes=Modes.parse([word]))
    observation, recording = await observed(pbx, operator=doing(pbx))
    notebook = Notebook(Pseudonyms(KEY), lambda: 0.0)
    notebook.frames = list(recording.frames)
    write(f"pretend-{word}", notebook, observation.words)


async def of_vendor_example() -> None:
    """Listen to what the vendor's example and a pretend PBX say to each other."""
    loop = asyncio.get_running_loop()
    notebook = Notebook(Pseudonyms(KEY), loop.time)
    notebook.header = replace(notebook.header, made_by="relay")
    pbx = Pbx(accounts=ACCOUNTS, seed=7, app="app", password="demo")

    async def relay(service: ServerConnection) -> None:
        tap = notebook.connection()
        async with connect(served.url) as box:

            async def answers() -> None:
                async for text in box:
                    tap.received(str(text).encode())
                    await service.send(text)

            answering = asyncio.create_task(answers())
            with suppress(ConnectionClosed):
                async for text in service:
                    tap.sent(str(text))
                    await box.send(text)
            answering.cancel()
        tap.ended(1000, is_ours=True)

    async with serve_pbx(pbx) as served, serve(relay, "127.0.0.1", 0) as door:
        port = door.sockets[0].getsockname()[1]
        url = f"ws://127.0.0.1:{port}{PATH}"
        command = ("node", "--experimental-websocket", "--no-warnings", str(SCRIPT), "service", url, "app", "demo")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(1 + ACCOUNTS):
            await process.stdout.readline()
        while pbx.oracle.load.questions < ACCOUNTS + 2:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        process.kill()
        await process.wait()
    write("vendor-example", notebook, ())


def write(name: str, notebook: Notebook, modes: Sequence[str]) -> None:
    """Write what *notebook* has."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.jsonl").write_text("".join(notebook.lines(modes)), "utf-8")


async def main() -> None:
    for word in WORDS:
        await of_pretend(word)
    await of_vendor_example()


if __name__ == "__main__":
    asyncio.run(main())
