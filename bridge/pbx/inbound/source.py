"""A PBX that dials us, as a source: whatever connection it made last is the one that is read."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NoReturn

from websockets.exceptions import ConnectionClosed

from bridge.clock import steady
from bridge.errors import PbxUnreachable
from bridge.model import Cursor
from bridge.pbx.inbound.connection import AcceptedWebSocket, HeldTap, MakeTap
from bridge.pbx.inbound.identity import Identity, confirmed
from bridge.pbx.reader import Deliver, Reader, TryDeliver, find_reason
from bridge.pbx.turnstile import Turnstile
from bridge.pbx.walk.actions import Pace
from bridge.pbx.websocket import GOING_AWAY, NORMAL, OUR_FAULT
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Conversation, Event

WAITING_SECONDS: Final = 60.0
"""How often we say that we still wait for a PBX to dial."""


@dataclass(slots=True)
class InboundConnection:
    """A connection on which a PBX has logged in."""

    identity: Identity
    socket: AcceptedWebSocket
    conversation: Conversation
    early: Sequence[Event] = ()
    """What came with the login."""
    info: m.PbxInfo | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it is of no more use."""
    is_replaced: bool = False
    code: int = NORMAL
    """What the PBX is told when it is over."""
    guid: str = ""
    """Of the App object in its login."""
    since: float = field(default_factory=steady)

    def let_hear(self, make: MakeTap | None) -> None:
        """Have what *make* makes hear along, also what came since the login was good; ``None`` for nobody."""
        held = self.socket.tap
        self.socket.tap = held.handed_over(make) if make is not None and isinstance(held, HeldTap) else None

    def replace(self) -> None:
        """Give it up for a newer one, without waiting for a goodbye: it may be half dead."""
        self.is_replaced = True
        self.over.set()
        self.socket.abort()

    async def until_over(self) -> None:
        """Wait until nobody reads it any more, or the PBX hangs up."""
        self.socket.gone.add_done_callback(lambda _: self.over.set())
        await self.over.wait()


class InboundSource:
    """One PBX that dials us. It is read by one task and on one connection at a time, so no two walks ever overlap.

    *on_state* is told ``waiting for the PBX to dial``, once a minute, and what the reader says; *on_event* what the PBX
    says. *tap* makes what hears along on a connection.
    """

    def __init__(  # noqa: PLR0913 - what may be said about reading
        self,
        identity: Identity,
        pace: Pace,
        *,
        on_state: Callable[[str], None] = lambda _state: None,
        on_noise: Callable[[str], None] = lambda _reason: None,
        turnstile: Turnstile | None = None,
        on_info: Callable[[m.PbxInfo], None] = lambda _info: None,
        tap: MakeTap | None = None,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self.identity = identity
        self._peer = f"PBX {identity.pbx} of {identity.domain}"
        self._reader = Reader(
            self._peer, pace, on_noise=on_noise, on_event=self._heard, turnstile=turnstile, on_state=on_state
        )
        self._on_state = on_state
        self._on_info = on_info
        self._tap = tap
        self._on_event = on_event
        self._next: InboundConnection | None = None
        self._current: InboundConnection | None = None
        self._news = asyncio.Event()
        self._is_let_go = False
        """True once nobody reads it any more, for good."""

    def __repr__(self) -> str:
        return f"<InboundSource {self.identity}, {'connected' if self.is_connected else 'away'}>"

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, read or about to be."""
        return any(call is not None and not call.over.is_set() for call in (self._current, self._next))

    def request_walk(self) -> None:
        """Have the list read from its start once more, as soon as the PBX is there and the live cursor at rest."""
        self._reader.request_walk()

    def attach(self, call: InboundConnection) -> None:
        """Read *call* from now on; an older connection is given up, since a PBX that dials again has lost it."""
        if self._is_let_go:  # while it logged in
            call.code = GOING_AWAY
            call.over.set()
            return
        for older in (self._current, self._next):
            if older is not None:
                older.replace()
        call.let_hear(self._tap)
        self._next = call
        self._news.set()
        if call.info is not None:
            self._on_info(call.info)

    def hang_up(self) -> None:
        """Give up whatever connection there is, and any that comes: the PBX dials again, whoever reads it then."""
        self._is_let_go = True
        for call in (self._current, self._next):
            if call is not None:
                call.code = GOING_AWAY
                call.over.set()

    @property
    def connected_seconds(self) -> float | None:
        """For how long it has been connected; ``None`` where it is not."""
        calls = [call for call in (self._current, self._next) if call is not None and not call.over.is_set()]
        return steady() - calls[-1].since if calls else None

    async def read(self, since: Cursor, deliver: Deliver, try_deliver: TryDeliver | None = None) -> NoReturn:
        """Wait for the PBX to dial, and read on from *since* on that connection until it is of no more use.

        Raises:
            PbxUnreachable: it hung up, does not answer, or has dialled anew.
            PbxBrokeProtocol: what came makes no sense.
            PbxRefusedRequest: the PBX answers questions with errors.

        """
        call = await self._call()
        call.code = OUR_FAULT
        try:
            await self._reader.read(call.socket, call.conversation, call.early, since, deliver, try_deliver)
        except asyncio.CancelledError:
            call.code = GOING_AWAY
            raise
        except ConnectionClosed as closed:
            if call.is_replaced:
                raise PbxUnreachable(f"{self._peer} dialled anew, and its former connection was closed") from closed
            raise PbxUnreachable(f"{self._peer} hung up: {find_reason(closed)}") from closed
        finally:
            call.over.set()
            self._current = None

    async def _call(self) -> InboundConnection:
        while self._next is None or self._next.over.is_set():
            self._on_state("waiting for the PBX to dial")
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WAITING_SECONDS):
                    await self._news.wait()
        self._current, self._next = self._next, None
        return self._current

    def _heard(self, event: Event) -> None:
        if isinstance(event, m.PbxInfo):
            confirmed(self.identity, event)
            self._on_info(event)
        self._on_event(event)
