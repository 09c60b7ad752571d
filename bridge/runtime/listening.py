"""The door for PBXs that dial, made of the settings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from bridge.clock import utc_now
from bridge.config.pbx_tables import ListenTable
from bridge.config.settings import Settings
from bridge.logs import get_logger
from bridge.model import SourceName
from bridge.observability.source_status import SourceStatus
from bridge.observability.status import ListenerStatus
from bridge.pbx.inbound.admission import Bounds, ConnectionLimiter
from bridge.pbx.inbound.authentication import App, Authenticator
from bridge.pbx.inbound.identity import Visit
from bridge.pbx.inbound.server import Attachable, ListenAddress, Listener
from bridge.runtime.bridge import Bridge
from bridge.runtime.descriptors import afford
from bridge.runtime.from_settings import build_pace
from bridge.runtime.inbound_sources import Hearing, InboundSources
from bridge.runtime.sharing import SourceSharing
from bridge.runtime.wiring import build_comparison, build_ring, build_unreadable_counter
from bridge.security.forwarded import Proxies
from bridge.security.tls import ServerCertificate
from bridge.store.records import Newcomers

KEPT_DESCRIPTORS: Final = 250
"""For the broker, the store, the page (64), commands and health checks, PBXs that we dial, and what Python needs."""

DOOR_SECONDS: Final = 1.0
"""How often the status of the door is brought up to date."""

log = get_logger(__name__)


@asynccontextmanager
async def serve_inbound(settings: Settings, bridge: Bridge) -> AsyncIterator[Listener | None]:
    """Let PBXs dial *bridge* while inside; yields ``None`` where *settings* do not want that.

    Raises:
        BadConfig: the address cannot be listened on.

    """
    listen = settings.listen
    if listen is None:
        yield None
        return
    sharing = bridge.sharing if isinstance(bridge.sharing, SourceSharing) else None
    callers = InboundSources(
        bridge,
        build_pace(listen),
        taken=bridge.dialled,
        build_hearing=partial(build_hearing, listen),
        newcomers=Newcomers(
            listen.max_new_pbxs_per_hour,
            listen.max_pbxs,
            timedelta(days=listen.forget_after_days),
            is_asking=listen.new_pbxs == "ask",
        ),
        ask_ahead=listen.ask_ahead,
        max_silence=timedelta(seconds=3 * (listen.poll_interval_seconds + listen.answer_timeout_seconds) + 120),
        sharing=sharing,
    )
    known = await bridge.callers(utc_now() - timedelta(days=listen.forget_after_days))
    callers.expect(known)
    if sharing is not None:
        sharing.listen(callers)
    gate = ConnectionLimiter(build_bounds(listen))
    for caller in known:
        if caller.address and caller.guid:
            gate.expect(caller.address, (caller.domain, caller.pbx, caller.guid.lower()))
    listener = build_listener(listen, gate, callers.source_for)
    door = bridge.board.listener = ListenerStatus(listen.url)

    async def keep_looking() -> None:
        while True:
            door.connections, door.pbxs = gate.connected, callers.connected
            door.refusals = dict(listener.record.refusals)
            door.certificate_trouble = listener.certificate_trouble(utc_now())
            await asyncio.sleep(DOOR_SECONDS)

    async with listener.listening():
        door.url = listen.model_copy(update={"port": listener.port}).url
        log.info("listen.listening", url=door.url, port=listener.port)
        looking = asyncio.create_task(keep_looking())
        try:
            yield listener
        finally:
            looking.cancel()
            await asyncio.wait([looking])


def build_bounds(listen: ListenTable) -> Bounds:
    """Return how many connections there may be: as configured, or as many as the system affords beside the rest."""
    kept = KEPT_DESCRIPTORS + listen.max_unauthenticated
    total = min(listen.max_connections, max(1, afford(listen.max_connections + kept) - kept))
    if total < listen.max_connections:
        log.warning(
            "listen.few_descriptors",
            max_connections=total,
            problem=f"the system allows too few file descriptors for {listen.max_connections} connections; raise its "
            "limit (LimitNOFILE in systemd, ulimits in compose, ulimit -n in a shell)",
        )
    return Bounds(total, listen.max_connections_per_address, listen.max_unauthenticated)


def build_listener(
    listen: ListenTable, gate: ConnectionLimiter, source_for: Callable[[Visit], Awaitable[Attachable]]
) -> Listener:
    """Return the door for PBXs that dial; *source_for* returns what one that has logged in is for."""
    return Listener(
        ListenAddress(
            listen.host,
            listen.port,
            listen.path,
            listen.login_timeout_seconds,
            listen.max_message_bytes,
            is_introduced=listen.proxy_protocol,
        ),
        judge=Authenticator(
            [App(app.name, app.domain, app.secret.reveal, frozenset(app.pbxs), app.pin) for app in listen.app]
        ),
        gate=gate,
        source_for=source_for,
        certificate=ServerCertificate(listen.certificate_file, listen.key_file, listen.client_ca_file)
        if listen.certificate_file
        else None,
        proxies=Proxies(listen.proxies),
    )


def build_hearing(listen: ListenTable, name: SourceName, part: SourceStatus) -> Hearing:
    """Return what hears the messages of a PBX that dials, and tells *part*."""
    ring = build_ring(listen.record_frames, part)
    file = None if listen.observation_dir is None else listen.observation_dir / f"{name}.json"
    return Hearing(
        build_unreadable_counter(name, part),
        build_comparison(file if file is not None and _is_there(file) else None, name, part),
        None if ring is None else lambda at: ring.connection(at=at),
    )


def _is_there(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return False
    except OSError:
        pass  # whoever reads it tells what is wrong
    return True
