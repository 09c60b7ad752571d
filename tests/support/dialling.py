"""A door for PBXs that dial, with nothing behind it but sources, and ways to come to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from bridge.model import Cursor
from bridge.pbx.inbound.admission import Bounds, ConnectionLimiter
from bridge.pbx.inbound.authentication import App, Authenticator
from bridge.pbx.inbound.identity import Identity, Visit
from bridge.pbx.inbound.server import ListenAddress, Listener
from bridge.pbx.inbound.source import InboundSource
from bridge.pbx.reader import WalkEvent
from bridge.pbx.walk.actions import Pace, RowRead
from bridge.pbx.wire.login import login_digest
from bridge.security.forwarded import Proxies
from bridge.security.tls import ServerCertificate

PASSWORD = "pl4nted-s3cret"
PACE = Pace(poll_interval=60, answer_timeout=5)


class Door:
    """A listener; every PBX that logs in is read at once, and what it told is kept."""

    def __init__(
        self,
        *,
        apps: list[App] | None = None,
        bounds: Bounds | None = None,
        certificate: ServerCertificate | None = None,
        proxies: tuple[str, ...] = (),
        **place: Any,
    ) -> None:
        self.gate = ConnectionLimiter(bounds or Bounds())
        self.sources: dict[Identity, InboundSource] = {}
        self.heard: dict[Identity, list[WalkEvent]] = {}
        self.infos: list[Any] = []
        self.ends: list[str] = []
        self.visits: list[Visit] = []
        self.scheme = "ws" if certificate is None else "wss"
        self._tasks: list[asyncio.Task[None]] = []
        self.listener = Listener(
            ListenAddress(**{"host": "127.0.0.1", "port": 0, "path": "/pbx", "login_seconds": 5.0, **place}),
            judge=Authenticator(apps or [App("app", None, lambda: PASSWORD)]),
            gate=self.gate,
            source_for=self._source_for,
            certificate=certificate,
            proxies=Proxies(proxies),
        )

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.listener.port}/pbx"

    @property
    def refusals(self) -> dict[str, int]:
        return dict(self.listener.record.refusals)

    def accounts(self, identity: Identity) -> list[str]:
        return [heard.row.account_guid for heard in self.heard.get(identity, []) if isinstance(heard, RowRead)]

    async def _source_for(self, visit: Visit) -> InboundSource:
        self.visits.append(visit)
        identity = visit.identity
        if identity not in self.sources:
            source = self.sources[identity] = InboundSource(identity, PACE, on_info=self.infos.append)
            self._tasks.append(asyncio.create_task(self._keep_reading(source)))
        return self.sources[identity]

    async def _keep_reading(self, source: InboundSource) -> None:
        async def deliver(heard: WalkEvent) -> None:
            self.heard.setdefault(source.identity, []).append(heard)

        while True:
            try:
                await source.read(Cursor(), deliver)
            except Exception as end:  # noqa: BLE001 - a test looks at it
                self.ends.append(str(end))

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Door"]:
        async with self.listener.listening():
            try:
                yield self
            finally:
                for task in self._tasks:
                    task.cancel()
                if self._tasks:
                    await asyncio.wait(self._tasks)

    @asynccontextmanager
    async def knock(self, path: str = "", **options: Any) -> AsyncIterator[ClientConnection]:
        async with connect(
            self.url + path, compression=None, proxy=None, ping_interval=None, close_timeout=2, **options
        ) as socket:
            yield socket


async def until(is_so: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.01)


async def answer_of(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(20):
        return dict(json.loads(await socket.recv()))


async def challenged(socket: ClientConnection) -> str:
    await socket.send('{"mt":"AppChallenge"}')
    return str((await answer_of(socket))["challenge"])


def login_of(challenge: str, *, password: str = PASSWORD, app: str = "app", **changes: Any) -> str:
    """Return the login that a PBX would send; *changes* alter it before it is signed, ``after`` those behind that."""
    after = changes.pop("after", {})
    info: dict[str, Any] | None = {"appobj": app, "appdn": app, "pbx": "pbx-main", "cn": app, "apps": []}
    told: dict[str, Any] = {"app": "x", "domain": "example.com", "sip": app, "guid": "0" * 32, "dn": app}
    if "info" in changes:
        info = changes.pop("info")
    told |= changes
    text = None if info is None else json.dumps(info, separators=(",", ":"), ensure_ascii=False)
    told["digest"] = login_digest(**told, info=text, challenge=challenge, password=password)
    if info is not None:
        told["info"] = info
    return json.dumps({"mt": "AppLogin", **told, **after}, ensure_ascii=False)


async def log_in(socket: ClientConnection, **changes: Any) -> dict[str, Any]:
    challenge = await challenged(socket)
    await socket.send(login_of(challenge, **changes))
    return await answer_of(socket)


async def introduce(socket: ClientConnection, pbx: str = "pbx-main", **more: Any) -> None:
    told = {"mt": "PbxInfo", "domain": "example.com", "pbx": pbx, "apis": ["PbxAccountApi"], **more}
    await socket.send(json.dumps(told))
