"""How the commands talk to a running bridge: HTTP over a socket file beside its store.

Whoever may open that file (mode 0600) may steer the bridge; nobody else can reach it, no token is needed, and it works
where the status page is off.
"""

import asyncio
import difflib
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import orjson
from aiohttp import web

from bridge import logs
from bridge.clock import utc_now
from bridge.delivery.leaving import Retired
from bridge.errors import BadConfig, BridgeError, Fatal, NobodyAnswers
from bridge.model import AccountGuid, SourceName
from bridge.observability.report import as_json, liveness
from bridge.observability.status import BridgeStatus
from bridge.runtime.reloaded import Reloaded
from bridge.store.records import Forgotten, Parked

DEADLINE_SECONDS: Final = 30
"""For an answer of the bridge; letting many events go takes a moment."""

_MAX_PATH_BYTES: Final = 103
"""Of a socket file, on every system we know."""

log = logs.get_logger(__name__)


class Steered(Protocol):
    """What a running bridge can be told to do."""

    board: BridgeStatus

    async def walk(self, name: SourceName, *, accept_deletions: bool) -> bool:
        """Walk a PBX from its start; False where there is none of that name."""

    async def pause(self, name: SourceName, reason: str) -> bool:
        """Read a PBX no more; False where there is none of that name."""

    async def resume(self, name: SourceName) -> bool:
        """Read a PBX again; False where there is none of that name, or it was not paused."""

    async def admit(self, name: SourceName) -> bool:
        """Say yes to a new PBX that waits, or to what is odd about a known one; False where there is none like that."""

    async def forget(self, guid: AccountGuid) -> Forgotten:
        """Take the personal data of an account out of the store, unless events of it are to be sent yet."""

    async def parked(self) -> Sequence[Parked]:
        """Return the events that the broker refused for good."""

    async def retire(self, name: SourceName, *, tells_deletions: bool) -> Retired:
        """Let go of a PBX that is not followed; raises ``BridgeError`` with the reason why that cannot be."""

    async def retry(self, position: int) -> bool:
        """Send a parked event once more; False where there is none at *position*."""

    async def discard(self, position: int, reason: str) -> bool:
        """Never send a parked event; False where there is none at *position*."""


class Reloading(Protocol):
    """What reads the configuration of a running bridge again."""

    async def reload(self) -> Reloaded:
        """Take over what can be; raises ``BadConfig`` with every mistake, and changes nothing then."""


@asynccontextmanager
async def serve(bridge: Steered, path: Path, reloader: Reloading | None = None) -> AsyncIterator[None]:
    """Listen on the socket file *path* while inside; only where its name is too long, say so and do without.

    With *reloader* the bridge can be told to read its configuration again.

    Raises:
        BadConfig: something else is in its place, perhaps a link.

    """
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        log.warning(
            "control.unavailable", path=str(path), problem="its name is too long; give store.url a shorter path"
        )
        yield
        return
    listening = _bound(path)
    application = web.Application(middlewares=[_refusals])
    application.add_routes(_routes(bridge))
    if reloader is not None:
        application.add_routes(_reloading(reloader))
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2)
    try:
        await runner.setup()
        await web.SockSite(runner, listening).start()
        yield
    finally:
        await runner.cleanup()
        _remove(path)


@web.middleware
async def _refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Tell who asked why the bridge does not do it; what ends the bridge is told by its log."""
    try:
        return await handler(request)
    except BadConfig as problem:
        told = f"{problem}\n".encode(errors="replace")  # a file in it may be called anything
        return web.Response(status=HTTPStatus.UNPROCESSABLE_ENTITY, body=told, content_type="text/plain")
    except Fatal:
        raise
    except BridgeError as problem:
        return _missing(str(problem))


def _bound(path: Path) -> socket.socket:
    if not is_socket_or_nothing(path):
        raise BadConfig(f"{path} is no socket but something else, perhaps a link, that somebody put there. Remove it")
    _remove(path)  # that of a bridge that was killed: the lock on the store says that there is no other
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(os.fspath(path))
    finally:
        os.umask(before)
    return listening


def is_socket_or_nothing(path: Path) -> bool:
    """Tell whether nothing else is in the place of a socket file; a link to one is something else."""
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return True  # and whoever opens it hears why it cannot be


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _routes(bridge: Steered) -> list[web.RouteDef]:
    async def live(_request: web.Request) -> web.Response:
        is_alive, words = liveness(bridge.board)
        return web.Response(status=HTTPStatus.OK if is_alive else HTTPStatus.SERVICE_UNAVAILABLE, text=f"{words}\n")

    async def status(_request: web.Request) -> web.Response:
        return _json(as_json(bridge.board, utc_now()))

    async def resync(request: web.Request) -> web.Response:
        name = SourceName(request.match_info["name"])
        if not await bridge.walk(name, accept_deletions=request.query.get("accept_deletions") == "yes"):
            return _missing(no_pbx(name, known(bridge.board)))
        return web.Response(text="a full walk begins as soon as the PBX is reached\n")

    async def recent(_request: web.Request) -> web.Response:
        return web.Response(text="".join(f"{line}\n" for line in logs.recent()))

    async def forget(request: web.Request) -> web.Response:
        forgotten = await bridge.forget(AccountGuid(request.match_info["guid"]))
        for part in bridge.board.sources.values():
            part.last_change = None  # it may have the name
        return _json(forgotten)

    async def admit(request: web.Request) -> web.Response:
        name = SourceName(request.match_info["name"])
        if not await bridge.admit(name):
            waiting = () if bridge.board.listener is None else bridge.board.listener.waiting
            return _missing(not_waiting(name, waiting))
        return web.Response(text=f"{admitted(name)}\n")

    return [
        web.get("/livez", live),
        web.post("/admit/{name}", admit),
        web.get("/status", status),
        web.post("/resync/{name}", resync),
        web.get("/logs", recent),
        web.post("/forget/{guid}", forget),
        *_recording(bridge),
        *_retiring(bridge),
        *_pausing(bridge),
        *_parking(bridge),
    ]


def _recording(bridge: Steered) -> list[web.RouteDef]:
    async def recorded(_request: web.Request) -> web.Response:
        return _json([name for name, part in bridge.board.sources.items() if part.recording is not None])

    async def recording(request: web.Request) -> web.Response:
        name = SourceName(request.match_info["name"])
        part = bridge.board.sources.get(name)
        if part is None or part.recording is None:
            return _missing(f"nothing that {name} said is kept")
        # Thousands of frames take seconds, which the event loop has not.
        return web.Response(text=await asyncio.to_thread("".join, part.recording()))

    return [web.get("/recordings", recorded), web.get("/recordings/{name}", recording)]


def _retiring(bridge: Steered) -> list[web.RouteDef]:
    async def retire(request: web.Request) -> web.Response:
        name, tells = SourceName(request.match_info["name"]), request.query.get("deletions") == "tell"
        if "unsent" in request.query:
            return _missing("what is being sent cannot be discarded: stop the bridge first")
        return _json(await bridge.retire(name, tells_deletions=tells))

    return [web.post("/retire/{name}", retire)]


def _reloading(reloader: Reloading) -> list[web.RouteDef]:
    async def reload(_request: web.Request) -> web.Response:
        return _json(await reloader.reload())

    return [web.post("/reload", reload)]


def _pausing(bridge: Steered) -> list[web.RouteDef]:
    async def pause(request: web.Request) -> web.Response:
        name = SourceName(request.match_info["name"])
        if not await bridge.pause(name, request.query.get("reason", "")):
            return _missing(no_pbx(name, known(bridge.board)))
        return web.Response(text=f"{paused(name)}\n")

    async def resume(request: web.Request) -> web.Response:
        name = SourceName(request.match_info["name"])
        is_done = await bridge.resume(name)
        if not is_done and name not in known(bridge.board):
            return _missing(no_pbx(name, known(bridge.board)))
        return web.Response(text=f"{resumed(name) if is_done else not_paused(name)}\n")

    return [web.post("/pause/{name}", pause), web.post("/resume/{name}", resume)]


def _parking(bridge: Steered) -> list[web.RouteDef]:
    async def parked(_request: web.Request) -> web.Response:
        return _json([parked_as_json(found) for found in await bridge.parked()])

    async def retry(request: web.Request) -> web.Response:
        position = int(request.match_info["position"])
        is_found = await bridge.retry(position)
        return web.Response(text=f"{retried(position)}\n") if is_found else _missing(not_parked(position))

    async def discard(request: web.Request) -> web.Response:
        position = int(request.match_info["position"])
        if not await bridge.discard(position, request.query.get("reason", "")):
            return _missing(not_parked(position))
        return web.Response(text=f"event {position} is discarded\n")

    return [
        web.get("/parked", parked),
        web.post(r"/parked/{position:[0-9]{1,18}}/retry", retry),
        web.post(r"/parked/{position:[0-9]{1,18}}/discard", discard),
    ]


def known(board: BridgeStatus) -> Collection[str]:
    """Return the PBXs that can be asked about: also those of other bridges that share the store."""
    return board.sources.keys() if board.cluster is None else {**board.cluster.holders, **board.sources}.keys()


def no_pbx(name: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that no PBX has."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"no PBX of this bridge is called {name!r}; there is {', '.join(known) or 'none'}" + (
        f". Did you mean {close[0]!r}?" if close else ""
    )


def paused(name: str) -> str:
    """Return what pausing means for the PBX of that name."""
    return (
        f"{name} is paused: its PBX is not asked any more, also after a restart. What was read is still sent, and the "
        f"PBX keeps what changes. To go on: account-bridge resume {name}"
    )


def retried(position: int, when: str = "") -> str:
    """Return what becomes of the parked event with this number, and *when*; empty: at once."""
    return (
        f"event {position} is sent once more{when and f' {when}'}, at the end of what waits and under a new number; "
        "should it be refused again, account-bridge parked lists it by that"
    )


def resumed(name: str) -> str:
    """Return what resuming means for the PBX of that name."""
    return f"{name} is read again, from where it was paused"


def not_paused(name: str) -> str:
    """Return the sentence for a PBX that was not paused."""
    return f"{name} was not paused; nothing changed"


def admitted(name: str) -> str:
    """Return what a yes means for the PBX of that name."""
    return f"{name} is let in, as it dials now; if it waited, it is read as soon as it dials again"


def not_waiting(name: str, waiting: Iterable[str]) -> str:
    """Return the sentence for a name that no PBX has which waits or has dialled before."""
    names = ", ".join(waiting) or "none"
    return f"no PBX called {name!r} waits for a yes, nor has one of that name dialled before; waiting: {names}"


def not_parked(position: int) -> str:
    """Return the sentence for a position where nothing is parked."""
    return f"no event is parked at position {position}; account-bridge parked lists those that are"


def parked_as_json(parked: Parked) -> dict[str, Any]:
    """Return a parked event as people and programs read it; of its body only what it is about, and its size."""
    event = orjson.loads(parked.body)
    account = event["data"].get("account", {})
    return {
        "position": parked.position,
        "refused_by": parked.refused_by,
        "event": parked.event_id,
        "source": parked.source,
        "sequence": parked.sequence,
        "routing_key": parked.routing_key,
        "subject": event["subject"],
        "name": account.get("display_name") or account.get("h323"),
        "bytes": len(parked.body),
        "created_at": parked.created_at,
        "parked_at": parked.parked_at,
        "reason": parked.reason,
        "waiting": parked.waiting,
    }


async def ask(path: Path, method: str, target: str, **query: str) -> bytes:
    """Return what the running bridge answers to a request for *target*.

    Raises:
        NobodyAnswers: no bridge runs on this store.
        BadConfig: the configuration that it was to read has mistakes.
        BridgeError: with the words of its refusal, or because something else is in the place of the socket.

    """
    if not is_socket_or_nothing(path):
        raise BridgeError(f"{path} is no socket but something else, perhaps a link, that somebody put there. Remove it")
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(os.fspath(path)),
                timeout=aiohttp.ClientTimeout(total=DEADLINE_SECONDS),
            ) as session,
            session.request(method, f"http://bridge{target}", params=query) as answer,
        ):
            body = await answer.read()
            if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY:
                raise BadConfig(body.decode(errors="replace").strip())
            if answer.status >= HTTPStatus.BAD_REQUEST:
                raise BridgeError(body.decode(errors="replace").strip())
            return body
    except (aiohttp.ClientError, OSError) as problem:
        if isinstance(problem, TimeoutError):
            raise BridgeError(
                f"the bridge did not answer within {DEADLINE_SECONDS} s; its log may say why"
            ) from problem
        if not isinstance(problem, aiohttp.ClientConnectionError | OSError):
            raise BridgeError(f"what the bridge at {path} answers cannot be understood: {problem}") from problem
        raise NobodyAnswers(
            f"no bridge answers at {path}. Is it running, with this store (store.url, or --config FILE)?"
        ) from problem


def _missing(sentence: str) -> web.Response:
    return web.Response(status=HTTPStatus.NOT_FOUND, text=f"{sentence}\n")


def _json(content: object) -> web.Response:
    body = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z)
    return web.Response(body=body, content_type="application/json")
