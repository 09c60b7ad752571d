"""Serves the page and what machines ask: ``/``, ``/status``, ``/livez``, ``/readyz``, ``/metrics``, ``/schema/``.

Everything here only looks; what steers goes by ``ops.control_socket``. Nothing on the page comes from anywhere else.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from functools import cache
from http import HTTPStatus
from importlib import resources
from typing import Any, Final

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from bridge.clock import utc_now
from bridge.errors import BadConfig, StoreUnusable
from bridge.logs import get_logger
from bridge.observability import report
from bridge.observability.status import BridgeStatus
from bridge.observability.web import changes
from bridge.observability.web.access import AccessControl
from bridge.observability.web.connection_limits import ANSWER_SECONDS, Visitor, VisitorLimiter, VisitorLimits
from bridge.observability.web.history import STEP, History
from bridge.security.forwarded import Proxies
from bridge.store.records import KeptEvent

BACKLOG: Final = 16
"""Connections that are taken in at one turn of the loop, before any of them is looked at."""

MAX_HEADERS: Final = 64

RECENT: Final = 50
"""Changes on the page."""

RECALLED: Final = 20_000
"""Changes of former runs from which the charts begin."""

log = get_logger(__name__)

CONTENT_TYPES: Final = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "account-bridge",
}


async def _nothing(_limit: int) -> Sequence[Any]:
    return ()


@dataclass(frozen=True, slots=True)
class Views:
    """What can be looked at beside the board."""

    recent: Callable[[int], Awaitable[Sequence[KeptEvent]]] = _nothing
    """The last changes, the newest first."""
    flow: Callable[[int], Awaitable[Sequence[tuple[datetime, datetime | None]]]] = _nothing
    """When the last changes were made, and when confirmed."""
    metrics: Callable[[], tuple[str, bytes]] | None = None
    """For Prometheus: content type and body."""
    documents: Mapping[str, bytes] = field(default_factory=dict)
    """JSON under ``/schema/``, by name."""


@asynccontextmanager
async def serve(  # noqa: PLR0913 - where, for whom, and what
    board: BridgeStatus,
    *,
    host: str,
    port: int,
    token: str | None = None,
    hosts: Sequence[str] = (),
    proxies: Sequence[str] = (),
    is_introduced: bool = False,
    room: VisitorLimits = VisitorLimits(),  # noqa: B008 - frozen, so sharing it is safe
    views: Views = Views(),
    sample_seconds: float = STEP.total_seconds(),
) -> AsyncIterator[int]:
    """Serve *board* while inside; yields the port.

    With *token* everything but ``/livez`` and ``/readyz`` wants it, as ``Authorization: Bearer`` or once as
    ``?token=``. Of *proxies* is believed from where somebody comes; *is_introduced*: by the PROXY protocol.

    Raises:
        BadConfig: the address cannot be listened on.
        ValueError: the token is too short to keep anybody out.

    """
    gate, history = AccessControl(token, hosts), History(board)
    crowd = VisitorLimiter(asyncio.get_running_loop().time, room, Proxies(proxies))
    application = web.Application(middlewares=[_guarded(gate, crowd)])
    application.add_routes([*_open_routes(board, gate), *_routes(board, history, views)])
    application.on_response_prepare.append(_with_headers)
    # No request has a body: none is unpacked, which a bomb would want, nor waited for.
    runner = web.AppRunner(
        application,
        access_log=None,
        shutdown_timeout=2,
        auto_decompress=False,
        lingering_time=0,
        max_headers=MAX_HEADERS,
    )
    await runner.setup()
    sampling = asyncio.create_task(_keep_sampling(history, views, sample_seconds), name="sample")
    try:
        site = _Site(runner, host, port, crowd, is_introduced=is_introduced)
        try:
            await site.start()
        except OSError as problem:
            raise BadConfig(
                f"the status page cannot listen on {host}:{port}: {problem.strerror}. Set status.port to a free one"
            ) from problem
        yield runner.addresses[0][1]
    finally:
        sampling.cancel()
        await asyncio.wait([sampling])
        await runner.cleanup()


class _Site(web.BaseSite):
    """Listens, and has the crowd look at everybody."""

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, crowd: VisitorLimiter, *, is_introduced: bool
    ) -> None:
        super().__init__(runner)
        self._place = (host, port)
        self._crowd = crowd
        self._is_introduced = is_introduced

    @property
    def name(self) -> str:
        return f"http://{self._place[0]}:{self._place[1]}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be listened on.

        """
        await super().start()
        answering = self._runner.server
        if answering is None:
            raise RuntimeError("the runner is not set up")
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Visitor(self._crowd, answering(), is_introduced=self._is_introduced),
            *self._place,
            backlog=BACKLOG,
            reuse_address=True,
        )


def _open_routes(board: BridgeStatus, gate: AccessControl) -> list[web.RouteDef]:
    """Return what anybody may ask: whether it is well, and the empty page. With a token no names are told here."""

    async def ready(_request: web.Request) -> web.Response:
        now = utc_now()
        told = [board.level(now)] if gate.has_token else report.sentences(board, now)
        status = HTTPStatus.OK if board.is_ready(now) else HTTPStatus.SERVICE_UNAVAILABLE
        return web.Response(status=status, text="\n".join(told) + "\n")

    async def live(_request: web.Request) -> web.Response:
        is_alive, words = report.liveness(board)
        if not is_alive and gate.has_token:
            words = "a task is stuck"
        return web.Response(status=HTTPStatus.OK if is_alive else HTTPStatus.SERVICE_UNAVAILABLE, text=f"{words}\n")

    return [
        web.get("/livez", live),
        web.get("/readyz", ready),
        web.get("/page.css", _file("page.css")),
        web.get("/icon.svg", _file("icon.svg")),
    ]


def _routes(board: BridgeStatus, history: History, views: Views) -> list[web.RouteDef]:
    async def status(_request: web.Request) -> web.Response:
        return _json(report.as_json(board, utc_now()))

    async def past(request: web.Request) -> web.Response:
        return _json(history.as_json(is_day=request.query.get("span") == "day"))

    async def recent(_request: web.Request) -> web.Response:
        try:
            return _json(changes.as_json(await views.recent(RECENT)))
        except StoreUnusable as problem:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{problem}\n")

    async def metrics(_request: web.Request) -> web.Response:
        if views.metrics is None:
            raise web.HTTPNotFound(text="no metrics here\n")
        content_type, body = views.metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def schemas(_request: web.Request) -> web.Response:
        return _json({"documents": [f"/schema/{name}" for name in sorted(views.documents)]})

    async def schema(request: web.Request) -> web.Response:
        body = views.documents.get(request.match_info["name"])
        if body is None:
            raise web.HTTPNotFound(text="there is no such document; /schema/ lists them\n")
        return web.Response(body=body, content_type="application/json")

    return [
        web.get("/", _file("page.html")),
        web.get("/page.js", _file("page.js")),
        web.get("/charts.js", _file("charts.js")),
        web.get("/status", status),
        web.get("/history", past),
        web.get("/changes", recent),
        web.get("/metrics", metrics),
        web.get("/schema/", schemas),
        web.get("/schema/{name}", schema),
    ]


OPEN: Final = frozenset({"/livez", "/readyz", "/page.css", "/icon.svg"})


def _guarded(gate: AccessControl, crowd: VisitorLimiter) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        visitor = crowd.visitor(request.transport)
        if visitor is not None:
            visitor.expect_within(ANSWER_SECONDS)
        if not gate.knows(request):
            _hang_up_on_a_crowd(request, visitor, crowd)
            return web.Response(
                status=HTTPStatus.MISDIRECTED_REQUEST,
                text=f"this page is not known as {request.host!r}. If that is its name, add it to status.hosts\n",
            )
        if request.path in OPEN:
            _hang_up_on_a_crowd(request, visitor, crowd)
            return await handler(request)
        brings = await _brought(request, visitor, gate, crowd)
        if brings is _Brings.ADMISSION:
            return await handler(request)
        if brings is _Brings.TOKEN:
            response = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "/"})
            gate.remember(response, is_secure=request.secure or _is_https(request, crowd.proxies))
            return response
        _hang_up_on_a_crowd(request, visitor, crowd)
        if request.path == "/":
            return web.Response(status=HTTPStatus.UNAUTHORIZED, body=_content("login.html"), content_type="text/html")
        return web.Response(
            status=HTTPStatus.UNAUTHORIZED,
            text="a token is needed: Authorization: Bearer …\n",
            headers={"WWW-Authenticate": "Bearer"},
        )

    return guard


class _Brings(Enum):
    ADMISSION = auto()
    TOKEN = auto()
    """In the address, which is how a browser brings it once."""
    NOTHING = auto()


async def _brought(
    request: web.Request, visitor: Visitor | None, gate: AccessControl, crowd: VisitorLimiter
) -> _Brings:
    """Return what the request brings; where wrong tokens came from there before, it waits until that is looked at."""
    is_try = gate.is_try(request)
    origin = _origin(request, visitor, crowd.proxies)
    if is_try and not await crowd.wait_to_try(origin):
        raise web.HTTPTooManyRequests(text="too many wrong tokens\n")
    brings = _Brings.NOTHING
    if gate.admits(request):
        brings = _Brings.ADMISSION
    elif request.path == "/" and gate.brings_token(request):
        brings = _Brings.TOKEN
    if is_try:
        crowd.tried(origin, is_right=brings is not _Brings.NOTHING)
    if visitor is not None and brings is _Brings.ADMISSION:
        visitor.is_admitted = True
    return brings


def _hang_up_on_a_crowd(request: web.Request, visitor: Visitor | None, crowd: VisitorLimiter) -> None:
    """End the connection of somebody who asks too often for what everybody may see; nobody reads the answer then."""
    if visitor is not None and not visitor.is_admitted and not crowd.may_come(_origin(request, visitor, crowd.proxies)):
        visitor.hang_up()


def _origin(request: web.Request, visitor: Visitor | None, proxies: Proxies) -> str:
    """Return from where somebody asks."""
    told = {
        "forwarded": request.headers.getall(hdrs.FORWARDED, ()),
        "x_forwarded_for": request.headers.getall(hdrs.X_FORWARDED_FOR, ()),
    }
    return proxies.origin("" if visitor is None else visitor.address, **told)


def _is_https(request: web.Request, proxies: Proxies) -> bool:
    told = {
        "forwarded": request.headers.getall(hdrs.FORWARDED, ()),
        "x_forwarded_proto": request.headers.getall(hdrs.X_FORWARDED_PROTO, ()),
    }
    return proxies.is_https(_peer(request), **told)


def _peer(request: web.Request) -> str:
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


async def _with_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def _keep_sampling(history: History, views: Views, seconds: float) -> None:
    try:
        history.recall(await views.flow(RECALLED), utc_now())
    except StoreUnusable as problem:
        log.info("page.begins_without_past", problem=str(problem))
    while True:
        history.sample(utc_now())
        await asyncio.sleep(seconds)


def _file(name: str) -> Handler:
    async def send(_request: web.Request) -> web.StreamResponse:
        kind = CONTENT_TYPES[name.rpartition(".")[2]]
        return web.Response(body=_content(name), content_type=kind, charset="utf-8")

    return send


@cache
def _content(name: str) -> bytes:
    return (resources.files("bridge.observability.web") / "static" / name).read_bytes()


def _json(content: object) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
    return web.Response(body=body, content_type="application/json")
