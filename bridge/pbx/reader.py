"""Reads a PBX's accounts over a connection on which somebody has logged in: ``Walker`` decides what to ask, and when.

A message is dealt with in the turn of the event loop in which it came, and the next question leaves before anything is
done with its row, let alone before that is durable: a walk is bound by the round trip to the PBX and nothing else.
What was read and not committed is read again after a crash, and the mirror swallows it.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from time import thread_time
from typing import Final, NoReturn

from websockets.exceptions import ConnectionClosed

from bridge.errors import BridgeError, PbxBrokeProtocol, PbxUnreachable
from bridge.logs import get_logger
from bridge.model import Cursor
from bridge.pbx.rest import Rest
from bridge.pbx.turnstile import Turn, Turnstile
from bridge.pbx.walk.actions import (
    Action,
    Ask,
    CaughtUp,
    Compare,
    Doubted,
    EpochBegan,
    Pace,
    Reached,
    RowRead,
    Say,
    Sighted,
    WalkBegan,
    WalkEnded,
)
from bridge.pbx.walk.walker import Phase, Walker
from bridge.pbx.websocket import TOO_BIG, WebSocket
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Answer, Conversation, Event

WalkEvent = RowRead | Sighted | EpochBegan | CaughtUp | WalkBegan | WalkEnded | Compare | Doubted
"""What a source hands on."""

Deliver = Callable[[WalkEvent], Awaitable[None]]
"""Takes the next thing, and may let us wait, which stops the reading."""

TryDeliver = Callable[[WalkEvent], bool]
"""The same without waiting: takes the next thing if there is room for it, and returns whether it did."""


READING: Final = "reading"
WAITING_FOR_TURN: Final = "waiting for its turn, while others are read"
"""The states of a source that is connected; in the second one nothing of its list is read yet."""

_TO_SAY: Final = (Ask, Say)
_TELLING: Final = (RowRead, Sighted)

log = get_logger(__name__)


def _nobody_waits() -> None:
    """Wake nobody."""


class Reader:
    """Reads one connection after the other.

    *peer* is what sentences call the other end, *on_event* hears everything that comes, before it is acted upon. With a
    *turnstile* no list is read from its start without a turn; *on_state* is told ``READING`` or ``WAITING_FOR_TURN``.
    """

    def __init__(  # noqa: PLR0913 - what may be said about reading
        self,
        peer: str,
        pace: Pace,
        *,
        on_noise: Callable[[str], None] = lambda _reason: None,
        on_event: Callable[[Event], None] = lambda _event: None,
        turnstile: Turnstile | None = None,
        on_state: Callable[[str], None] = lambda _state: None,
    ) -> None:
        self._turnstile = turnstile
        self._on_state = on_state
        self._peer = peer
        self._pace = pace
        self._on_noise = on_noise
        self._on_event = on_event
        self._is_walk_wanted = False
        self._wake: Callable[[], None] = _nobody_waits
        self._reached: Reached | None = None
        """What the connection before came to."""
        self._rest = Rest(turnstile.crowd if turnstile is not None else None)

    def __repr__(self) -> str:
        return f"<Reader of {self._peer}>"

    def request_walk(self) -> None:
        """Have the list read from its start once more, beside the live cursor, as soon as that is at rest."""
        self._is_walk_wanted = True
        self._wake()

    async def read(  # noqa: PLR0913, PLR0917 - a connection, how far it has come, and where it leads
        self,
        socket: WebSocket,
        conversation: Conversation,
        early: Sequence[Event],
        since: Cursor,
        deliver: Deliver,
        try_deliver: TryDeliver | None = None,
    ) -> NoReturn:
        """Read on from *since* until the connection is of no more use; *early* came before, and *deliver* may wait.

        *try_deliver* is asked first, and *deliver* gets what it has no room for.

        Raises:
            PbxUnreachable: nobody answers.
            PbxBrokeProtocol: what came makes no sense.
            PbxRefusedRequest: the PBX answers questions with errors.
            ConnectionClosed: it broke.
            Exception: what *deliver* or *try_deliver* raised; those of the reading itself are ``contained``.

        """
        has_turn = self._turnstile is None
        walker = Walker(since, self._pace, chance=random.random, reached=self._reached, has_turn=has_turn)
        reading = _Reading(
            socket,
            conversation,
            walker,
            deliver=deliver,
            try_deliver=try_deliver,
            on_event=self._heard,
            peer=self._peer,
            turnstile=self._turnstile,
            on_state=self._on_state,
            rest=self._rest,
        )
        self._wake = reading.wake
        self._on_state(READING)
        try:
            with contained(self._peer):
                reading.begin(early)
            while True:
                if self._is_walk_wanted:
                    self._is_walk_wanted = False
                    with contained(self._peer):
                        reading.want_walk()
                with contained(self._peer):
                    reading.take_turn()
                await reading.go_on()
        except ConnectionClosed as closed:
            if socket.is_stalled:
                raise PbxUnreachable(f"{self._peer} does not take what we send") from closed
            raise
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

    Messages and the passing of time are dealt with where they happen. What that leads to is handed on there, too; what
    finds no room is left for ``go_on``, and until that is done the connection holds further messages back.
    """

    def __init__(  # noqa: PLR0913 - a connection, how far it has come, and where it leads
        self,
        socket: WebSocket,
        conversation: Conversation,
        walker: Walker,
        *,
        deliver: Deliver,
        try_deliver: TryDeliver | None,
        on_event: Callable[[Event], None],
        peer: str,
        turnstile: Turnstile | None,
        on_state: Callable[[str], None],
        rest: Rest,
    ) -> None:
        self._turnstile = turnstile
        self._on_state = on_state
        self._turn: Turn | None = None
        self._is_admitted = False
        """True once the walker knows of the turn."""
        self._is_waiting = False
        self._socket = socket
        self._conversation = conversation
        self._walker = walker
        self._deliver = deliver
        self._try_deliver = try_deliver
        self._on_event = on_event
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._news = asyncio.Event()
        """Set when there is something for ``go_on``."""
        self._left: deque[WalkEvent] = deque()
        """What found no room."""
        self._problem: Exception | None = None
        """What ends the reading."""
        self._timer: asyncio.TimerHandle | None = None
        self._rest = rest
        self._resting: asyncio.TimerHandle | None = None

    def begin(self, early: Sequence[Event]) -> None:
        """Ask the first question, and take what came *early*."""
        self._carry_out(self._walker.begin(self._now()))
        for event in early:
            self._carry_out(self._walker.heard(event, self._now()))
        self._socket.listen(self._take, self.wake)

    def end(self) -> None:
        """Deal with nothing more. What frames took of which nothing came is owed on the next connection."""
        self._socket.hold()
        self._rest.due(self._socket.take_spent(), self._now(), is_answer=False)
        for handle in (self._timer, self._resting):
            if handle is not None:
                handle.cancel()
        if self._turn is not None:
            self._turn.leave()

    async def go_on(self) -> None:
        """Wait for what cannot be done at once, and do it."""
        await self._news.wait()
        self._news.clear()
        await self._deliver_left()
        if self._problem is not None:
            raise self._problem
        if self._resting is not None:
            return
        self._socket.go_on()
        if self._left:
            return
        self._mind_the_time()
        if self._socket.is_over and self._problem is None:
            raise self._socket.end

    async def _deliver_left(self) -> None:
        while self._left:
            if self._turn is not None:
                self._turn.is_held_up = True
            await self._deliver(self._left[0])
            self._left.popleft()
        if self._turn is not None:
            self._turn.is_held_up = False
            self._turn.progress(self._now())

    def want_walk(self) -> None:
        """Have the list read from its start once more."""
        self._carry_out(self._walker.want_walk(self._now()))

    def take_turn(self) -> None:
        """Begin with what waited for its turn, if that has come."""
        if self._turn is not None and self._turn.is_admitted and not self._is_admitted:
            self._is_admitted = True
            self._carry_out(self._walker.take_turn(self._now()))

    def _mind_the_turn(self) -> None:
        """Ask for a turn where one is needed, and give it back where it is not."""
        if self._turnstile is None:
            return
        is_needed = self._walker.needs_turn
        if is_needed and self._turn is None:
            self._turn = self._turnstile.join(self.wake)
        elif not is_needed and self._turn is not None:
            self._turn.leave()
            self._turn, self._is_admitted = None, False
            self._walker.give_turn_back()
        is_waiting = self._walker.phase is Phase.WAITING
        if is_waiting is not self._is_waiting:
            self._is_waiting = is_waiting
            self._on_state(WAITING_FOR_TURN if is_waiting else READING)

    def wake(self) -> None:
        """Have ``go_on`` look what there is to do."""
        self._news.set()

    def _take(self, data: bytes) -> None:
        began_at = thread_time()
        try:
            event = self._conversation.receive(data)
            self._on_event(event)
            actions = self._walker.heard(event, self._now())
            self._carry_out(actions)
            if self._turn is not None and isinstance(event, Answer):
                self._turn.progress(self._now())
        except Exception as problem:  # noqa: BLE001 - raised where somebody waits for it
            self._stop_at(_planned(problem, self._peer))
            return
        spent = self._socket.take_spent() + thread_time() - began_at
        is_answer = isinstance(event, Answer)
        is_news = is_answer and any(isinstance(action, _TELLING) for action in actions)  # and not the last row again
        if pause := self._rest.due(spent, self._now(), is_answer=is_answer, is_news=is_news):
            self._socket.hold()
            self._resting = self._loop.call_later(pause, self._is_rested)

    def _is_rested(self) -> None:
        self._resting = None
        self.wake()

    def _time_passed(self) -> None:
        self._timer = None
        if self._left or self._problem is not None:
            return
        try:
            self._carry_out(self._walker.pass_time(self._now()))
        except Exception as problem:  # noqa: BLE001 - the same
            self._stop_at(_planned(problem, self._peer))

    def _stop_at(self, problem: Exception) -> None:
        self._problem = problem
        self._socket.hold()
        self.wake()

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Ask):
                self._socket.send(self._conversation.ask(action.cursor))
            elif isinstance(action, Say):
                self._socket.send(self._conversation.say(action.message))
        self._mind_the_turn()
        try:
            for action in actions:
                if not isinstance(action, _TO_SAY) and (
                    self._left or self._try_deliver is None or not self._try_deliver(action)
                ):
                    self._left.append(action)
        except Exception as problem:  # noqa: BLE001 - of whoever takes things, who gets it back as it is
            self._stop_at(problem)
            return
        if self._left:
            self._socket.hold()
            self.wake()
        else:
            self._mind_the_time()

    def _mind_the_time(self) -> None:
        """Have the walker told of the time when it wants to; later than that is moved only when it comes."""
        wake_at = self._walker.wake_at
        if self._timer is not None:
            if self._timer.when() <= wake_at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(wake_at, self._time_passed)


@contextmanager
def contained(peer: str) -> Iterator[None]:
    """Let what goes wrong inside be the trouble of this connection and of nobody else, with a traceback in the log.

    Raises:
        PbxBrokeProtocol: instead of any exception that nobody planned, RecursionError and MemoryError included.

    """
    try:
        yield
    except Exception as problem:
        planned = _planned(problem, peer)
        if planned is problem:
            raise
        raise planned from problem


def _planned(problem: Exception, peer: str) -> Exception:
    """Return what ends the reading because of *problem*."""
    if isinstance(problem, (BridgeError, ConnectionClosed)):
        return problem
    log.error("source.message_failed", peer=peer, exc_info=problem)
    return PbxBrokeProtocol(
        f"something that {peer} said could not be dealt with ({type(problem).__name__}); the log has more"
    )


def find_reason(closed: ConnectionClosed) -> str:
    """Return how a connection ended, in words."""
    frame = closed.rcvd or closed.sent
    if frame is None:
        return "cut without a goodbye"
    if frame.code == TOO_BIG and not frame.reason.startswith("a message in"):
        return "a message was larger than max_message_bytes"
    if closed.rcvd is None and frame.reason:
        return f"closed with code {frame.code}, because of {frame.reason}"
    return f"closed with code {frame.code}"
