"""The way to a PBX that dials: one that is to be observed is asked on whatever connection it made last."""

import asyncio
from collections.abc import Callable
from typing import Final, Self

from bridge.errors import PbxUnreachable
from bridge.events.wording import quoted
from bridge.model import SourceName
from bridge.ops.observe.line import SourceContact
from bridge.pbx.inbound.connection import MakeTap
from bridge.pbx.inbound.identity import Visit
from bridge.pbx.inbound.source import InboundConnection

DIAL_SECONDS: Final = 300.0
"""How long a PBX is waited for. How often one tries to dial is not documented."""

MAX_OTHERS: Final = 100
"""PBXs that were sent away and are told of, each once."""


class InboundLine:
    """The way to the PBX whose source is called *name*; others that dial are sent away, and *tell* is told of them.

    *tap* makes what hears along on a connection.
    """

    def __init__(
        self,
        name: SourceName,
        tap: MakeTap,
        tell: Callable[[str], None],
        *,
        dial_seconds: float = DIAL_SECONDS,
    ) -> None:
        self._name = name
        self._tap = tap
        self._tell = tell
        self._dial_seconds = dial_seconds
        self._guid: str | None = None
        """Of the App object of the one that is observed; another one may have the same name, a standby PBX for one."""
        self._others: set[str] = set()
        self._newest: InboundConnection | None = None
        self._dialled = asyncio.Event()

    async def source_for(self, visit: Visit) -> Self:
        """Return ourselves, for the listener.

        Raises:
            PbxUnreachable: another PBX has dialled.

        """
        identity = visit.identity
        named = f"PBX {quoted(identity.pbx)} of {quoted(identity.domain)} has dialled; it is {identity.source}"
        if identity.source == self._name:
            self._guid = visit.guid.lower() if self._guid is None else self._guid
            if visit.guid.lower() == self._guid:
                return self
            named = f"another {named}, too, from {visit.address}"
        if named not in self._others and len(self._others) < MAX_OTHERS:
            self._others.add(named)
            self._tell(f"{named}, and sent away")
        raise PbxUnreachable(f"only {self._name} is observed")

    def attach(self, call: InboundConnection) -> None:
        """Have *call* asked from now on; an older connection is given up, since a PBX that dials again has lost it."""
        if self._newest is not None:
            self._newest.replace()
        call.let_hear(self._tap)
        self._newest = call
        self._dialled.set()

    async def open(self) -> SourceContact:
        """Return the connection that the PBX has made since the last time; without one, hang up and wait for it.

        Raises:
            PbxUnreachable: it has not dialled.

        """
        try:
            async with asyncio.timeout(self._dial_seconds):
                if not self._dialled.is_set() and self._newest is not None:
                    await _hung_up(self._newest)
                if not self._dialled.is_set():
                    self._tell("waiting for the PBX to dial")
                await self._dialled.wait()
        except TimeoutError:
            raise PbxUnreachable(
                f"{self._name} has not dialled for {self._dial_seconds:g} s. Does its App object have this address, "
                "and is there no bridge that it dials instead?"
            ) from None
        self._dialled.clear()
        call = self._newest
        assert call is not None  # noqa: S101 - it has dialled
        return SourceContact(lambda: _hung_up(call), call.socket, call.conversation, list(call.early))

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


async def _hung_up(call: InboundConnection) -> None:
    call.over.set()
    await asyncio.wait([call.socket.gone])
