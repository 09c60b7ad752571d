"""Fences: exclusive queues, which the broker removes when it took note of the end of their connection.

Where one bridge has a store, there is one for each source, so that no two bridges publish for the same one. Where
several share it, the database says who may; then each connection has one, and who takes over a source of a bridge that
was killed looks at that: what the broker still holds of the dead connection comes before what is new. It is no lock: it
is waited for a while, and then not any more. The order of what is new does not rest on it.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import aiormq.exceptions as amqp
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.abc import ChannelFrame
from pamqp import commands

from bridge.broker.connection import step
from bridge.broker.topology import Topology
from bridge.clock import steady
from bridge.errors import BrokerUnreachable, FenceHeld, TopologyMismatch
from bridge.logs import get_logger
from bridge.model import SourceName

FENCES_AT_ONCE: Final = 256
"""Declared in one write, with one answer. A broker declares about 300 in a second, so the deadline holds for each."""


FORMER_SECONDS: Final = 20.0
"""So long after a bridge was found to be dead its connection is waited for. On a node that is cut off from the others
the broker keeps a queue for as long as that lasts, and in some versions it is gone while the connection still works."""

AGAIN_SECONDS: Final = 2.0

log = get_logger(__name__)


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


class Sharing(Protocol):
    """What a connection needs to know where several bridges share the sources."""

    @property
    def life(self) -> str:
        """Which life of the bridge this is."""

    def name_fence(self) -> str:
        """Return the name of a queue that nobody ever had."""

    @property
    def own_fences(self) -> set[str]:
        """The queues of earlier connections of ours that may be there yet; whoever finds one gone takes it out."""

    def note_fence(self, queue: str) -> Awaitable[None]:
        """Have the others know which queue our connection holds."""

    def has_former(self, source: SourceName) -> bool:
        """Tell whether a former holder of *source* may still have messages on their way."""

    def former_fence(self, source: SourceName) -> Awaitable[tuple[str, float] | None]:
        """Return which queue such a one held, and for how many seconds it is known to be dead."""

    def clear_former(self, source: SourceName) -> Awaitable[None]:
        """Note that nothing of former holders is on its way any more."""


class FormerFences:
    """The fence of *connection*, and those of bridges whose sources we took over."""

    def __init__(self, connection: AbstractConnection, topology: Topology, sharing: Sharing) -> None:
        self._connection = connection
        self._topology = topology
        self._sharing = sharing
        self._life = sharing.life
        self._began_at = steady()
        self._fenced: dict[SourceName, FenceHeld] = {}
        self._own: Sequence[str] = sorted(sharing.own_fences)
        """The queues of our earlier connections: what those sent last comes first, too."""

    def __repr__(self) -> str:
        return f"<FormerFences {len(self._fenced)} waited for>"

    async def hold(self) -> None:
        """Take the fence of this connection, and have the others know it before anything is sent.

        Raises:
            BrokerUnreachable: there was no answer in time.
            TopologyMismatch: this user may not declare it.
            BridgeError: it could not be noted.

        """
        name = self._sharing.name_fence()
        self._sharing.own_fences.add(name)
        await hold_fence(self._connection, name, self._topology)
        await self._sharing.note_fence(name)

    @property
    def fenced(self) -> Mapping[SourceName, FenceHeld]:
        """Sources of which a former holder's connection was there when it was looked for last."""
        return self._fenced

    def missing(self, sources: Iterable[SourceName]) -> Sequence[SourceName]:
        """Return those of *sources* whose former holder has to be looked for before anything of them may be sent."""
        if self._sharing.life != self._life or self._own:
            return list(sources)
        return [source for source in sources if source in self._fenced or self._sharing.has_former(source)]

    async def take(self, sources: Sequence[SourceName]) -> None:
        """Look for the connections of the former holders of *sources*, once for each of these.

        Raises:
            BrokerUnreachable: there was no answer in time, or the others know the fence of another life of ours.
            TopologyMismatch: this user may not look.
            BridgeError: a source is not ours any more, or that could not be noted.

        """
        if self._sharing.life != self._life:
            raise BrokerUnreachable("this connection is that of a life which is over")
        if (queue := await self._find_own()) is not None:
            self._fenced |= dict.fromkeys(sources, _is_there(queue, "our own last connection"))
            return
        is_there: dict[str, bool] = {}
        for source in sources:
            self._fenced.pop(source, None)
            former = await self._sharing.former_fence(source)
            if former is not None:
                queue, seconds = former
                if queue not in is_there:
                    is_there[queue] = await self._is_there(queue)
                if is_there[queue] and seconds < FORMER_SECONDS:
                    self._fenced[source] = _is_there(queue, "the connection of the bridge that had this source before")
                    continue
                if is_there[queue]:
                    log.warning("fence.not_waited_for", source=source, queue=queue, seconds=round(seconds))
            if self._sharing.has_former(source):
                await self._sharing.clear_former(source)

    async def release(self, sources: Sequence[SourceName]) -> None:
        """Think of *sources* no more."""
        for source in sources:
            self._fenced.pop(source, None)

    async def _find_own(self) -> str | None:
        """Return the queue of an earlier connection of ours that is there yet, and that may be waited for."""
        for queue in self._own:
            if await self._is_there(queue):
                if steady() - self._began_at < FORMER_SECONDS:
                    return queue
                log.warning("fence.not_waited_for", queue=queue)
            self._sharing.own_fences.discard(queue)
            self._own = self._own[1:]
        return None

    async def _is_there(self, queue: str) -> bool:
        try:
            async with step(self._connection, f"the fence {queue}", self._topology) as channel:
                await channel.declare_queue(queue, passive=True)
        except TopologyMismatch as problem:
            if isinstance(problem.__cause__, amqp.ChannelNotFoundEntity):
                return False
            if not isinstance(problem.__cause__, amqp.ChannelLockedResource):
                raise
        return True


def _is_there(queue: str, whose: str) -> FenceHeld:
    held = FenceHeld(f"{whose} is not over yet (it holds the queue {queue}); what that sent last comes first")
    held.patience_seconds = AGAIN_SECONDS
    return held
