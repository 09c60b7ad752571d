"""Fences: an exclusive queue for each source, so that no two bridges publish for the same one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import aiormq.exceptions as amqp
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import ChannelFrame
from pamqp import commands

from bridge.broker.connection import step
from bridge.broker.topology import Topology
from bridge.errors import FenceHeld, TopologyMismatch
from bridge.model import SourceName

FENCES_AT_ONCE: Final = 256
"""Declared in one write, with one answer. A broker declares about 300 in a second, so the deadline holds for each."""


async def hold_fence(connection: AbstractConnection, name: str, topology: Topology) -> None:
    """Declare an exclusive queue that lives as long as *connection*: no second writer gets past it.

    Without it, messages that the broker still holds of a connection that died could land behind those of the next one.

    Raises:
        FenceHeld: another connection holds it; waiting helps if that one is dying.
        BrokerUnreachable: no answer in time.
        TopologyMismatch: this user may not declare it.

    """
    for held in (await hold_fences(connection, [name], topology)).values():
        raise held


async def hold_fences(
    connection: AbstractConnection, names: Sequence[str], topology: Topology
) -> Mapping[str, FenceHeld]:
    """Declare several of them, see ``hold_fence``: many in one write and with one answer.

    Returns those that another connection holds; all others are held by this one.

    Raises:
        BrokerUnreachable: no answer in time.
        TopologyMismatch: this user may not declare one of them.

    """
    held: dict[str, FenceHeld] = {}
    for start in range(0, len(names), FENCES_AT_ONCE):
        held |= await _hold_some(connection, names[start : start + FENCES_AT_ONCE], topology)
    return held


async def _hold_some(
    connection: AbstractConnection, names: Sequence[str], topology: Topology
) -> Mapping[str, FenceHeld]:
    """Declare *names* together; of a refusal the broker does not say whose it is, so that each half is asked then."""
    half = len(names) // 2
    try:
        async with step(connection, "the fences" if half else f"the fence {names[0]}", topology) as channel:
            await _declare_fences(channel, names)
    except TopologyMismatch as problem:
        if half:
            first = await _hold_some(connection, names[:half], topology)
            return {**first, **await _hold_some(connection, names[half:], topology)}
        if not isinstance(problem.__cause__, amqp.ChannelLockedResource):
            raise
        held = FenceHeld(
            f"another connection publishes for this source (it holds the queue {names[0]}): either our own last one, "
            "whose end the broker will notice soon, or a second bridge for the same PBX, which must be stopped"
        )
        held.__cause__ = problem
        return {names[0]: held}
    return {}


async def _declare_fences(channel: AbstractChannel, names: Sequence[str]) -> None:
    underlay: Any = await channel.get_underlay_channel()  # its queue is not in the library's abstract class
    *others, last = names
    if others:
        frames = [commands.Queue.Declare(queue=name, durable=False, exclusive=True, nowait=True) for name in others]
        await underlay.write_queue.put(ChannelFrame.marshall(underlay.number, frames))
    # The broker takes what a channel says one by one, so that this answer is for all. Of a refusal it says nothing but
    # that it closes the channel.
    await channel.declare_queue(last, durable=False, exclusive=True)


class LateFences:
    """The fences that *connection* holds: of sources, each taken before the first event of its source is sent.

    *name_fence* names them; without it there are none.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        topology: Topology,
        name_fence: Callable[[SourceName], str] | None,
    ) -> None:
        self._connection = connection
        self._topology = topology
        self._name_fence = name_fence
        self._taken: set[SourceName] = set()
        self._fenced: dict[SourceName, FenceHeld] = {}

    def __repr__(self) -> str:
        return f"<LateFences {len(self._taken)} taken, {len(self._fenced)} not>"

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources whose fence another connection held when it was asked for last, and what to say of that."""
        return self._fenced

    def missing(self, sources: Iterable[SourceName]) -> Sequence[SourceName]:
        """Return those of *sources* whose fence has to be taken before anything of them may be sent."""
        return [] if self._name_fence is None else [source for source in sources if source not in self._taken]

    async def take(self, sources: Sequence[SourceName]) -> None:
        """Take the fences of *sources*, which were missing; those that another connection holds are in ``fenced``.

        Raises:
            BrokerUnreachable: there was no answer in time.
            TopologyMismatch: this user may not declare one of them.

        """
        if self._name_fence is None:
            return
        names = {source: self._name_fence(source) for source in sources}
        held = await hold_fences(self._connection, list(names.values()), self._topology)
        for source, name in names.items():
            if name in held:
                self._fenced[source] = held[name]
            else:
                self._fenced.pop(source, None)
                self._taken.add(source)

    async def release(self, sources: Sequence[SourceName]) -> None:
        """Give back the fences of *sources*, as far as they are held: another connection may take them now.

        Raises:
            BrokerUnreachable: there was no answer in time.

        """
        held = [source for source in sources if source in self._taken]
        for source in sources:
            self._taken.discard(source)
            self._fenced.pop(source, None)
        if self._name_fence is None or not held:
            return
        async with step(self._connection, "giving fences back", self._topology) as channel:
            for source in held:
                await channel.queue_delete(self._name_fence(source))
