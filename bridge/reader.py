"""Reads a PBX's accounts over a connection on which somebody has logged in: ``Walker`` decides what to ask, and when.

The next question leaves as soon as a row is read, before that row is durable: a walk is bound by the round trip to the
PBX and nothing else. What was read and not committed is read again after a crash, and the mirror swallows it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from websockets.exceptions import ConnectionClosed

from bridge.errors import PbxUnreachable
from bridge.fast_lane import FastLane
from bridge.model import Cursor
from bridge.walk.decisions import (
    Action,
    Ask,
    CaughtUp,
    Compare,
    Deliver,
    Doubted,
    EpochBegan,
    Pace,
    Reached,
    Say,
    Sighted,
    WalkBegan,
    WalkEnded,
)
from bridge.walk.walker import Walker
from bridge.wire import messages as m
from bridge.wire.protocol import Conversation, Event

Heard = Deliver | Sighted | EpochBegan | CaughtUp | WalkBegan | WalkEnded | Compare | Doubted
"""What a source hands on."""

HandOn = Callable[[Heard], Awaitable[None]]
"""Takes the next thing, and may let us wait, which stops the reading."""

AtOnce = Callable[[Heard], bool]
"""The same without waiting: takes the next thing if there is room for it, and returns whether it did."""


_TO_SAY: Final = (Ask, Say)


def _nobody_waits() -> None:
    """Wake nobody."""


class Reader:
    """Reads one connection after the other.

    *peer* is what sentences call the other end, *on_event* hears everything that comes, before it is acted upon.
    """

    def __init__(
        self,
        peer: str,
        pace: Pace,
        *,
        on_noise: Callable[[str], None] = lambda _reason: None,
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._peer = peer
        self._pace = pace
        self._on_noise = on_noise
        self._on_event = on_event
        self._is_walk_wanted = False
        self._wake: Callable[[], None] = _nobody_waits
        self._reached: Reached | None = None
        """What the connection before came to."""

    def __repr__(self) -> str:
        return f"<Reader of {self._peer}>"

    def request_walk(self) -> None:
        """Have the list read from its start once more, beside the live cursor, as soon as that is at rest."""
        self._is_walk_wanted = True
        self._wake()

    async def read(  # noqa: PLR0913, PLR0917 - a connection, how far it has come, and where it leads
        self,
        socket: FastLane,
        conversation: Conversation,
        early: Sequence[Event],
        since: Cursor,
        hand_on: HandOn,
        at_once: AtOnce | None = None,
    ) -> NoReturn:
        """Read on from *since* until the connection is of no more use; *early* came before, and *hand_on* may wait.

        With *at_once* most of what comes takes the fast lane.

        Raises:
            PbxUnreachable: nobody answers.
            PbxBrokeProtocol: what came makes no sense.
            PbxRefusedRequest: the PBX answers questions with errors.
            ConnectionClosed: it broke.

        """
        walker = Walker(since, self._pace, chance=random.random, reached=self._reached)
        reading = _Reading(
            socket,
            conversation,
            walker,
            hand_on=hand_on,
            at_once=at_once,
            on_event=self._heard,
            peer=self._peer,
            send_seconds=self._pace.answer_timeout,
        )
        self._wake = reading.wake
        try:
            await reading.begin(early)
            while True:
                if self._is_walk_wanted:
                    self._is_walk_wanted = False
                    await reading.want_walk()
                await reading.go_on()
        finally:
            reading.end()
            self._wake = _nobody_waits
            self._reached = walker.reached

    def _heard(self, event: Event) -> None:
        if isinstance(event, m.Unreadable):
            self._on_noise(event.reason)
        self._on_event(event)


class _Reading:
    """One connection being read.

    While it waits in ``recv`` and nothing is in hand, messages take the fast lane. There the same is done with them as
    behind ``recv``, except what would have to wait; that is left for ``go_on``, and the lane is closed meanwhile.
    """

    def __init__(  # noqa: PLR0913 - a connection, how far it has come, and where it leads
        self,
        socket: FastLane,
        conversation: Conversation,
        walker: Walker,
        *,
        hand_on: HandOn,
        at_once: AtOnce | None,
        on_event: Callable[[Event], None],
        peer: str,
        send_seconds: float,
    ) -> None:
        self._socket = socket
        self._conversation = conversation
        self._walker = walker
        self._hand_on = hand_on
        self._at_once = at_once
        self._on_event = on_event
        self._peer = peer
        self._send_seconds = send_seconds
        self._now = asyncio.get_running_loop().time
        self._waiting: asyncio.Timeout | None = None
        """While ``go_on`` waits."""
        self._is_lane_open = False
        """While it does so with nothing in hand."""
        self._left: list[Heard] = []
        """What came by the fast lane and found no room."""
        self._problem: Exception | None = None
        """What came of a message of the fast lane."""

    async def begin(self, early: Sequence[Event]) -> None:
        """Ask the first question, and take what came *early*."""
        await self._carry_out(self._walker.begin(self._now()))
        for event in early:
            await self._carry_out(self._walker.heard(event, self._now()))
        if self._at_once is not None:
            self._socket.on_text = self._took_at_once

    def end(self) -> None:
        """Listen no more."""
        self._socket.on_text = None

    async def go_on(self) -> None:
        """Carry out what the next message asks for, or the time."""
        data: bytes | None = None
        self._is_lane_open = True
        try:
            async with asyncio.timeout_at(self._walker.wake_at) as self._waiting:
                data = await self._socket.recv(decode=False)
        except TimeoutError:
            pass
        finally:
            self._is_lane_open = False
            self._waiting = None
        if self._problem is not None:
            raise self._problem
        left, self._left = self._left, []
        await self._carry_out(left)
        await self._carry_out(self._walker.pass_time(self._now()) if data is None else self._understood(data))

    async def want_walk(self) -> None:
        """Have the list read from its start once more."""
        await self._carry_out(self._walker.want_walk(self._now()))

    def wake(self) -> None:
        """Wait no longer."""
        if self._waiting is not None:
            with suppress(RuntimeError):  # it has just ended by itself
                self._waiting.reschedule(self._now())

    def _understood(self, data: bytes) -> Sequence[Action]:
        event = self._conversation.receive(data)
        self._on_event(event)
        return self._walker.heard(event, self._now())

    async def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, _TO_SAY):
                await self._send(self._text_of(action))
        for action in actions:
            if not isinstance(action, _TO_SAY):
                await self._hand_on(action)

    async def _send(self, text: str) -> None:
        if self._socket.is_clear:  # so this will not wait, and needs no deadline, which costs 5 µs
            await self._socket.send(text)
            return
        try:
            async with asyncio.timeout(self._send_seconds):
                await self._socket.send(text)
        except TimeoutError:
            raise PbxUnreachable(f"{self._peer} does not take what we send") from None

    def _text_of(self, action: Ask | Say) -> str:
        if isinstance(action, Ask):
            return self._conversation.ask(action.cursor)
        return self._conversation.say(action.message)

    def _took_at_once(self, data: bytes) -> bool:
        waiting, at_once = self._waiting, self._at_once
        # A wait that has just ended cannot be moved any more, and what comes now comes behind what it ended for.
        self._is_lane_open &= waiting is not None and not waiting.expired() and self._socket.is_clear
        if waiting is None or at_once is None or not self._is_lane_open:
            return False
        try:
            heard: list[Heard] = []
            for action in self._understood(data):
                if isinstance(action, _TO_SAY):
                    self._socket.send_at_once(self._text_of(action))
                else:
                    heard.append(action)
            for thing in heard:
                if self._left or not at_once(thing):
                    self._left.append(thing)
        except Exception as problem:  # noqa: BLE001 - raised again where the others are
            self._problem = problem
        if self._left or self._problem is not None:
            self._is_lane_open = False
            self.wake()
        elif (wake_at := self._walker.wake_at) < (waiting.when() or float("inf")):
            waiting.reschedule(wake_at)
        return True


def reason_of(closed: ConnectionClosed) -> str:
    """Return how a connection ended, in words."""
    frame = closed.rcvd or closed.sent
    if frame is None:
        return "cut without a goodbye"
    if frame.code == 1009:  # noqa: PLR2004 - RFC 6455: message too big
        return "a message was larger than max_message_bytes"
    return f"closed with code {frame.code}"
