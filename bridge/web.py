"""Serves the board over HTTP, to look at: ``/livez``, ``/readyz`` and ``/status``. What steers goes by ``control``."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson
from aiohttp import web

from bridge.errors import BadConfig
from bridge.status import Board


@asynccontextmanager
async def serve(
    board: Board,
    *,
    host: str,
    port: int,
    token: str | None = None,
) -> AsyncIterator[int]:
    """Serve *board* while inside; yields the port. With *token*, ``/status`` wants ``Authorization: Bearer``.

    Raises:
        BadConfig: the address cannot be listened on.

    """

    async def status(request: web.Request) -> web.Response:
        if token is not None and not _carries(request, token):
            return web.Response(status=401, text="a token is needed: Authorization: Bearer …\n")
        return _json(board.as_json(datetime.now(UTC)))

    async def ready(_request: web.Request) -> web.Response:
        now = datetime.now(UTC)
        text = "\n".join(board.sentences(now) if token is None else [board.level(now)])
        return web.Response(status=200 if board.is_ready(now) else 503, text=text + "\n")

    async def live(_request: web.Request) -> web.Response:
        return web.Response(text="the event loop turns\n")

    application = web.Application()
    routes: list[tuple[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
        ("/status", status),
        ("/readyz", ready),
        ("/livez", live),
    ]
    application.add_routes(web.get(path, handler) for path, handler in routes)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as problem:
            raise BadConfig(
                f"the status page cannot listen on {host}:{port}: {problem.strerror}. Set status.port to a free one"
            ) from problem
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _carries(request: web.Request, token: str) -> bool:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(given.encode(), token.encode())


def _json(content: object) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
    return web.Response(body=body, content_type="application/json")
