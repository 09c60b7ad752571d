"""Serves the board over HTTP: ``/livez``, ``/readyz`` and ``/status``."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import orjson
from aiohttp import web

from bridge.errors import BadConfig
from bridge.model import SourceName
from bridge.status import Board

CLIENT_HEADER: Final = "X-Account-Bridge"
"""What our own commands send with a request that changes something."""


@asynccontextmanager
async def serve(
    board: Board,
    *,
    host: str,
    port: int,
    token: str | None = None,
    resync: Callable[[SourceName, bool], bool] = lambda _name, _accept: False,
) -> AsyncIterator[int]:
    """Serve *board* while inside; yields the port. With *token*, ``/status`` wants ``Authorization: Bearer``.

    ``POST /resync/NAME`` calls *resync* with the name and whether deletions are accepted.

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

    async def walk(request: web.Request) -> web.Response:
        # A page in somebody's browser can send a POST here, but not with this header.
        if CLIENT_HEADER not in request.headers or (token is not None and not _carries(request, token)):
            return web.Response(status=401, text="this is for the command account-bridge resync\n")
        name = SourceName(request.match_info["name"])
        if not resync(name, request.query.get("accept_deletions") == "yes"):
            known = ", ".join(board.sources)
            return web.Response(status=404, text=f"no PBX of this bridge is called {name!r}; there is {known}\n")
        return web.Response(status=202, text="a full walk begins as soon as the PBX is reached\n")

    async def live(_request: web.Request) -> web.Response:
        return web.Response(text="the event loop turns\n")

    application = web.Application()
    routes: list[tuple[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
        ("/status", status),
        ("/readyz", ready),
        ("/livez", live),
    ]
    application.add_routes([*(web.get(path, handler) for path, handler in routes), web.post("/resync/{name}", walk)])
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
