"""An enemy's PBX within reach of what tests use: observed, or read by a bridge, in no time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bridge.ops.observe.observation import Observation, conclude_from
from bridge.ops.observe.probing import Observer, Plan
from bridge.pbx.recording.frames import Recording
from bridge.simulator.session import Close, Reply
from tests.support.enemy import PERSONS, Enemy, Line
from tests.support.observing import PretendLine


class EnemyConnection:
    """One connection, in the form of those of the pretend PBX."""

    wake_at = None

    def __init__(self, pbx: Enemy, **_options: Any) -> None:
        self._line = Line(pbx)

    def begin(self, now: float) -> list[Reply | Close]:
        del now
        return self._taken()

    def receive(self, text: str, now: float) -> list[Reply | Close]:
        del now
        self._line.hear(text)
        return self._taken()

    def tick(self, now: float) -> list[Reply | Close]:
        del now
        return self._taken()

    def closed(self, now: float) -> None:
        del now
        self._line.gone()

    def _taken(self) -> list[Reply | Close]:
        out, self._line.out = self._line.out, []
        return [Close(what, wait) if isinstance(what, int) else Reply(what, wait) for wait, what in out]


@asynccontextmanager
async def served_enemy(pbx: Enemy) -> AsyncIterator[str]:
    """Serve *pbx* while inside, and yield its URL."""

    async def talk(socket: ServerConnection) -> None:
        line = Line(pbx)
        with suppress(ConnectionClosed):
            async for text in socket:
                line.hear(str(text))
                out, line.out = line.out, []
                for wait, what in out:
                    await asyncio.sleep(wait)
                    await (socket.close(what, PERSONS[0]) if isinstance(what, int) else socket.send(what))
        line.gone()

    async with serve(talk, "127.0.0.1", 0) as door:
        yield f"ws://127.0.0.1:{door.sockets[0].getsockname()[1]}/PBX0/APPS/websocket"


async def observed_enemy(pbx: Enemy, *, acts: bool = False, plan: Plan | None = None) -> tuple[Observation, Recording]:
    """Return what an observation of *pbx* finds out, and its recording."""

    async def act(name: str, _words: str) -> bool:
        await asyncio.sleep(0)
        pbx.act(name)
        return True

    of_the_same_form: Any = pbx
    connect: Any = EnemyConnection
    line = PretendLine(of_the_same_form, connect=connect)
    await Observer(line, line.notebook, plan or Plan(), operator=act if acts else None).run()
    observation = conclude_from(line.notebook.frames)
    return observation, Recording(line.notebook.header, line.notebook.frames)


def words_for(observation: Observation, unknown: str) -> Sequence[str]:
    """Return the words that were found for one open question."""
    return [word for finding in observation.findings if finding.unknown == unknown for word in finding.words]
