"""The door for PBXs that dial: WebSocket, challenge, login, and then over to the source of that PBX.

Whoever has not logged in gets little: a deadline, small messages, nothing but the login itself, no compression, no
browser (a page would send its Origin), and the same answer after the same time whatever was wrong.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Final, Protocol, TypeVar

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bridge.errors import BridgeError, FileUnusable, PbxBrokeProtocol
from bridge.logs import get_logger
from bridge.pbx.inbound.admission import Claim, ConnectionLimiter, Ticket
from bridge.pbx.inbound.authentication import Authenticator, Verdict, new_challenge
from bridge.pbx.inbound.connection import AcceptedWebSocket, HeldTap
from bridge.pbx.inbound.identity import Visit, claimed, confirmed
from bridge.pbx.inbound.listening_socket import ACCEPTS_A_TURN, ListeningSocket
from bridge.pbx.inbound.memory import give_back, keep_buffers_small, spare_what_stays
from bridge.pbx.inbound.refusals import RefusalLog
from bridge.pbx.inbound.source import InboundConnection
from bridge.pbx.websocket import GOING_AWAY, LOGIN_BYTES, NOT_ALLOWED, OUR_FAULT, TOO_BIG, Allowance
from bridge.pbx.wire import messages as m
from bridge.pbx.wire.protocol import Conversation, Event, Party
from bridge.security.forwarded import Proxies
from bridge.security.tls import ServerCertificate, peers_fingerprint

REQUEST_BYTES: Final = 1 << 14
"""Of HTTP before the WebSocket is open; of headers the library takes 128."""

STRANGERS_FRAMES: Final = 32
"""Before the login is good, of every kind: it takes the request for a WebSocket, and two."""

REFUSAL_SECONDS: Final = 1.0
"""From a login to its refusal, whatever the reason."""

INTRODUCTION_SECONDS: Final = 5.0
"""How long to wait for PbxInfo, which follows the login; the login itself says most of it."""

MAX_EARLY: Final = 16
"""Messages between login and PbxInfo, of ``LOGIN_BYTES`` in all."""

INTRODUCTION_FRAMES: Final = 256
"""The same in frames, with what may stand behind PbxInfo before we have read that."""

CLOSE_SECONDS: Final = 2.0
PING_SECONDS: Final = 40.0
MAX_UNANSWERED_PINGS: Final = 3
CERTIFICATE_CHECK_SECONDS: Final = 5.0

TIDY_SECONDS: Final = 1.0
TIDY_STRANGERS: Final = 50

NOT_WEBSOCKET: Final = (1002, 1007)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen, and how patiently."""

    host: str
    port: int
    path: str
    """Without a slash at its end; everything below it is served as well."""
    login_seconds: float = 10.0
    """For the TLS handshake, for the opening of the WebSocket, and for the login, each."""
    max_message_bytes: int = 1 << 20
    """After the login."""
    is_introduced: bool = False
    """Proxies say by the PROXY protocol from where somebody dials, and not by headers."""


class Attachable(Protocol):
    """What a connection is for."""

    def attach(self, call: InboundConnection) -> None:
        """Use *call* from now on, until it is over."""


class Listener:
    """Lets PBXs in. *source_for* returns what a PBX that has logged in is for, or raises a ``BridgeError``."""

    def __init__(  # noqa: PLR0913 - its parts
        self,
        place: ListenAddress,
        *,
        judge: Authenticator,
        gate: ConnectionLimiter,
        source_for: Callable[[Visit], Awaitable[Attachable]],
        certificate: ServerCertificate | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        self.port = place.port
        """The one that is listened on, once it is."""
        self.record = RefusalLog(lambda: asyncio.get_running_loop().time())
        self._place = place
        self._judge = judge
        self._gate = gate
        self._source_for = source_for
        self._certificate = certificate
        self._proxies = proxies or Proxies()
        self._socket: ListeningSocket
        self._answering: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Listener on port {self.port}, {self._gate!r}>"

    def certificate_trouble(self, now: datetime) -> str:
        """Return what is wrong with the certificate that PBXs are shown, as sentences; empty where nothing is."""
        return "" if self._certificate is None else self._certificate.trouble(now)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen while inside.

        Raises:
            BadConfig: the address cannot be listened on.

        """
        place = self._place
        keep_buffers_small()
        spare_what_stays()
        self._socket = ListeningSocket(
            place.host,
            place.port,
            self._gate,
            self.record.refused,
            self._proxies,
            is_introduced=place.is_introduced,
        )
        self.port = self._socket.getsockname()[1]
        tls = None if self._certificate is None else self._certificate.context
        server = await asyncio.get_running_loop().create_server(
            self._accepted,
            sock=self._socket,
            backlog=ACCEPTS_A_TURN,
            ssl=tls,
            ssl_handshake_timeout=place.login_seconds if tls is not None else None,
        )
        tasks = [asyncio.create_task(work) for work in (self._keep_renewing(), self._keep_tidy())]
        try:
            yield
        finally:
            self._socket.shut()
            await asyncio.sleep(0)
            server.close()
            for task in (*tasks, *self._answering):
                task.cancel()
            await asyncio.wait((*tasks, *self._answering))
            self._socket.hang_up()  # whoever has not got so far
            while self._answering:
                await asyncio.wait(self._answering)
            await server.wait_closed()

    def _accepted(self) -> AcceptedWebSocket:
        return AcceptedWebSocket(
            self._look_at,
            on_open=self._opened,
            allowance=Allowance(REQUEST_BYTES, LOGIN_BYTES, STRANGERS_FRAMES),
            max_message_bytes=self._place.max_message_bytes,
            open_seconds=self._place.login_seconds,
            close_seconds=CLOSE_SECONDS,
        )

    def _opened(self, socket: AcceptedWebSocket) -> None:
        ticket = self._socket.ticket(socket.transport.get_extra_info("socket").fileno())
        if ticket is None:
            socket.abort()  # it was gone before its turn came
            return
        ticket.drop = socket.abort  # that of the socket alone is not noticed while nothing is read
        task = asyncio.create_task(self._answer(socket, ticket))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _look_at(self, socket: AcceptedWebSocket, request: Request) -> Response | None:
        """Refuse what cannot be a PBX before any WebSocket is opened."""
        address = socket.address
        refusal = self._look_at_proxied(socket, request) if self._is_counted_here(address) else None
        if refusal is not None:
            return refusal
        path = request.path.partition("?")[0]
        if "Origin" in request.headers:
            self.record.refused("a browser", address)
            return socket.server.reject(HTTPStatus.FORBIDDEN, "Not for browsers.\n")
        if path != self._place.path and not path.startswith(f"{self._place.path}/"):
            self.record.refused("another path", address)
            return socket.server.reject(HTTPStatus.NOT_FOUND, "Nothing is here.\n")
        return None

    def _is_counted_here(self, peer: str) -> bool:
        """Tell whether only the headers say from where a connection of *peer* comes."""
        return not self._place.is_introduced and self._proxies.trust(peer)

    def _look_at_proxied(self, socket: AcceptedWebSocket, request: Request) -> Response | None:
        """Count a connection with where its proxy says that it comes from, or with the proxy if that says nothing."""
        origin = self._proxies.origin(
            socket.address,
            forwarded=request.headers.get_all("Forwarded"),
            x_forwarded_for=request.headers.get_all("X-Forwarded-For"),
        )
        ticket = self._socket.ticket(socket.transport.get_extra_info("socket").fileno())
        if ticket is None or (self._gate.may_come(origin, time.monotonic()) and self._gate.comes_from(ticket, origin)):
            return None
        self.record.refused("too many connections", origin)
        return socket.server.reject(HTTPStatus.TOO_MANY_REQUESTS, "Too many connections.\n")

    async def _answer(self, socket: AcceptedWebSocket, ticket: Ticket) -> None:
        code = NOT_ALLOWED
        try:
            call = await self._logged_in(socket, ticket)
            source = await self._source_for(Visit(call.identity, ticket.address, call.guid))
            source.attach(call)
            code = await _kept(call)
        except _LoginRefused:
            pass
        except asyncio.CancelledError:
            code = GOING_AWAY
            raise
        except ConnectionClosed as closed:
            self.record.refused(_how(closed), ticket.address)
        except TimeoutError:
            self.record.refused("no login in time", ticket.address)
        except BridgeError as problem:
            self.record.refused(str(problem), ticket.address)
        except Exception:
            log.exception("listen.failed", address=ticket.address)
            code = OUR_FAULT
        finally:
            await socket.close(code)

    async def _logged_in(self, socket: AcceptedWebSocket, ticket: Ticket) -> InboundConnection:
        """Let a PBX log in.

        Raises:
            _LoginRefused: its login is not good, as it was told.
            PbxBrokeProtocol: it does anything but log in, or says two things about who it is.
            TimeoutError: it takes too long.
            ConnectionClosed: it hung up.

        """
        conversation = Conversation(Party.BRIDGE, caller=Party.PBX)
        challenge = new_challenge()
        async with asyncio.timeout(self._place.login_seconds):
            _only(m.AppChallenge, conversation.receive(await socket.receive()))
            socket.send(conversation.say(m.AppChallengeResult(challenge)))
            login = _only(m.AppLogin, conversation.receive(await socket.receive()))
        now = asyncio.get_running_loop().time
        due = self._gate.judged_at(ticket, now(), read_claim(login))
        if due is not None:
            await _hold(socket, due)
        asked_at = now()
        fingerprint = peers_fingerprint(socket.transport.get_extra_info("ssl_object"))
        if due is None or not self._is_good(login, challenge, fingerprint, ticket, asked_at):
            if due is None:
                self.record.refused("too many attempts", ticket.address)
            with suppress(PbxBrokeProtocol, ConnectionClosed, TimeoutError):  # whoever does not want to know
                await _hold(socket, asked_at + REFUSAL_SECONDS)
                socket.send(conversation.say(m.LoginRefused()))
            raise _LoginRefused
        socket.trust(INTRODUCTION_FRAMES)
        socket.tap = HeldTap()
        socket.send(conversation.say(m.LoginAccepted()))
        early: list[Event] = []
        info = await _introduction(socket, conversation, early)
        socket.trust()
        return InboundConnection(confirmed(claimed(login), info), socket, conversation, early, info, guid=login.guid)

    def _is_good(
        self, login: m.AppLogin, challenge: str, fingerprint: bytes | None, ticket: Ticket, now: float
    ) -> bool:
        judgement = self._judge.judge(login, challenge, fingerprint)
        if judgement.verdict is Verdict.GOOD:
            self._gate.logged_in(ticket, read_claim(login))
            return True
        known = {} if judgement.app is None else {"app": judgement.app.name}
        self.record.refused(judgement.verdict, ticket.address, **known)
        self._gate.failed(ticket, now, read_claim(login))
        return False

    async def _keep_tidy(self) -> None:
        seen = 0
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            if self._gate.strangers - seen >= TIDY_STRANGERS:
                seen = self._gate.strangers
                give_back()

    async def _keep_renewing(self) -> None:
        told = ""
        while self._certificate is not None:
            await asyncio.sleep(CERTIFICATE_CHECK_SECONDS)
            try:
                if self._certificate.refresh():
                    log.info("listen.certificate_renewed")
                told = ""
            except FileUnusable as problem:
                if str(problem) != told:
                    told = str(problem)
                    log.warning("listen.certificate_unusable", problem=told, meanwhile="the former one stays in use")


def read_claim(login: m.AppLogin) -> Claim:
    """Return whom a login speaks for, as the gate keeps it; nothing where it has no guid, which a stranger cannot know.

    The claim counts for something only once it was proven.
    """
    identity = claimed(login)
    return (identity.domain, identity.pbx, login.guid.lower()) if login.guid else ()


class _LoginRefused(Exception):  # noqa: N818 - never leaves this module
    """The other end was told so already."""


Expected = TypeVar("Expected", bound=m.Message)


def _only(kind: type[Expected], event: Event) -> Expected:
    """Return *event* if it is the one message that has a place here; small talk has none before a login."""
    if not isinstance(event, kind):
        raise PbxBrokeProtocol(f"something else than {kind.mt} before the login")
    return event


async def _hold(socket: AcceptedWebSocket, until: float) -> None:
    """Let time pass, unless the other end goes."""
    await asyncio.wait([socket.gone], timeout=max(0.0, until - asyncio.get_running_loop().time()))
    if not socket.gone.done():
        return
    raise PbxBrokeProtocol("hung up before it was answered")


async def _introduction(socket: AcceptedWebSocket, conversation: Conversation, early: list[Event]) -> m.PbxInfo | None:
    """Wait for PbxInfo, and keep in *early* what comes before; ``None`` where it does not come."""
    left = LOGIN_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(INTRODUCTION_SECONDS):
            while len(early) < MAX_EARLY:
                data = await socket.receive()
                left -= len(data)
                if left < 0:
                    raise PbxBrokeProtocol("it says too much before it says who it is")
                event = conversation.receive(data)
                if isinstance(event, m.PbxInfo):
                    return event
                early.append(event)
    return None


async def _kept(call: InboundConnection) -> int:
    """Keep the connection of a PBX until it is of no more use, and return what the PBX is to be told then."""
    pinging = asyncio.create_task(_keep_pinging(call.socket))
    try:
        await call.until_over()
    finally:
        call.over.set()
        pinging.cancel()
        await asyncio.wait([pinging])
    return call.code


async def _keep_pinging(socket: AcceptedWebSocket) -> None:
    """Drop a connection that answered pings and does so no longer. Whether PBXs answer any is not documented."""
    has_answered, unanswered = False, 0
    while unanswered < MAX_UNANSWERED_PINGS:
        before = socket.pongs
        socket.ping()
        await asyncio.sleep(PING_SECONDS)
        is_answered = socket.pongs > before
        has_answered |= is_answered
        unanswered = 0 if is_answered else unanswered + 1
    if has_answered:
        log.warning("listen.half_open", problem="the PBX answered pings and does so no longer")
        socket.abort()


def _how(closed: ConnectionClosed) -> str:
    """Return how a connection ended before its login, in one of few words, since a stranger chose it."""
    if closed.sent is not None and closed.sent.code == NOT_ALLOWED:
        return "more frames than a login has"
    if closed.sent is not None and closed.sent.code == TOO_BIG:
        return "a message that is too large"
    if closed.sent is not None and closed.sent.code in NOT_WEBSOCKET:
        return "frames that are no WebSocket"
    return "hung up before the login"
