"""What ``check`` finds: each part tried for real, one line each, with the remedy where it does not work."""

import asyncio
import errno
import shlex
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit

from aio_pika.abc import AbstractConnection

from bridge.broker.admin import depth, describe_server, may_publish
from bridge.broker.connection import connect, permission_command
from bridge.broker.declare import declare, verify
from bridge.broker.fence import hold_fence
from bridge.broker.topology import Topology
from bridge.clock import utc_now
from bridge.config.pbx_tables import ListenTable, PbxTable
from bridge.config.settings import Settings
from bridge.consumer.connection import Inflow
from bridge.errors import BridgeError, BrokerUnreachable, PbxNotTrusted, StoreInUse, TopologyMismatch
from bridge.model import Cursor
from bridge.observability.component_status import Level
from bridge.observability.source_status import SourceStatus
from bridge.pbx.reader import WalkEvent
from bridge.pbx.walk.actions import CaughtUp, RowRead
from bridge.runtime.from_settings import build_limits, build_store_place, build_topology
from bridge.runtime.wiring import build_source, needs_streams
from bridge.security.tls import Trust, fingerprint_of, presented_certificate
from bridge.security.validity import valid_until
from bridge.store.places import PostgresPlace
from bridge.store.records import Backlog

REACH_SECONDS: Final = 5.0
"""For looking a host up, and for connecting to it."""

CLOCK_MARGIN: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    what: str
    level: Level
    words: str

    @property
    def is_well(self) -> bool:
        """False where it does not work."""
        return self.level is not Level.ERROR


async def run_checks(settings: Settings) -> AsyncIterator[Finding]:
    """Try the store, every PBX and the broker, and yield what came of each."""
    yield Finding("configuration", Level.OK, f"{len(settings.pbx)} PBX, exchange {settings.rabbitmq.exchange}")
    for sentence in settings.insecurities():
        yield Finding("security", Level.WARN, sentence)
    troubles = list(settings.troubles())
    troubled = {who for who, _ in troubles}
    for who, words in troubles:
        yield Finding(who, Level.ERROR, words)
    yield _clock(settings)
    yield _store(settings)
    for finding in _database(settings):
        yield finding
    if settings.listen is not None:
        yield await _listening(settings.listen)
    for pbx in settings.pbx:
        parts = urlsplit(pbx.full_url)
        way = await _reached(
            f"PBX {pbx.name}", parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)
        )
        yield way
        if way.is_well and f"PBX {pbx.name}" not in troubled:
            yield await _pbx(pbx)
    if "broker" in troubled:
        return
    async for finding in _broker(settings):
        yield finding
    if settings.rabbitmq.writes_log:
        yield await _log(settings)


def _store(settings: Settings) -> Finding:
    try:
        place = build_store_place(settings.store)
        store = place.store()
        backlog, restored = Backlog(), ""
        words = f"{place} is open in a running bridge"
        with suppress(StoreInUse), store:
            backlog, restored = store.backlog, store.restored
            words = f"{place} can be written; {backlog.rows} events wait to be sent"
    except BridgeError as problem:
        return Finding("store", Level.ERROR, str(problem))
    full = build_limits(settings).reached(backlog, store.figures().free_bytes, is_full=False)
    remarks = [remark for remark in (restored, full) if remark]
    return Finding("store", Level.WARN if remarks else Level.OK, "; ".join([words, *remarks]))


def _database(settings: Settings) -> list[Finding]:
    """Look at how the server of the store is set up, where that is none of SQLite."""
    try:
        place = build_store_place(settings.store)
        if not isinstance(place, PostgresPlace):
            return []
        server, remarks = place.check()
    except BridgeError:  # told by what tried the store
        return []
    found = [Finding("database", Level.ERROR if one.is_fatal else Level.WARN, one.words) for one in remarks]
    return found or [Finding("database", Level.OK, f"{server} is set up well")]


async def _pbx(pbx: PbxTable) -> Finding:
    what, part = f"PBX {pbx.name}", SourceStatus(since=utc_now())
    started = perf_counter()
    words = ""

    async def first_answer(heard: WalkEvent) -> None:
        nonlocal words
        took = f"{(perf_counter() - started) * 1000:.0f} ms"
        if isinstance(heard, RowRead):
            words = f"logged in as {pbx.app}; the first account came after {took}"
        elif isinstance(heard, CaughtUp):
            words = f"logged in as {pbx.app}; after {took} it has no account to tell of"
        if words:
            raise _Enough

    try:
        source = build_source(pbx, part)
        with suppress(_Enough):
            await source.read(Cursor(), first_answer)
    except PbxNotTrusted as problem:
        return Finding(what, Level.ERROR, f"{problem}{await _shown_by([pbx.full_url], 443, pbx.trust)}")
    except BridgeError as problem:
        return Finding(what, Level.ERROR, str(problem))
    if part.unobserved:
        return Finding(what, Level.WARN, f"{words}. {part.unobserved}")
    return Finding(what, Level.OK, words)


async def _shown_by(urls: Sequence[str], usual_port: int, trust: Trust) -> str:
    """Return which certificates are shown there, for people to compare with what they know."""
    words = ""
    for url in urls:
        parts = urlsplit(url)
        shown = await presented_certificate(parts.hostname or "", parts.port or usual_port, trust.server_name)
        if shown is not None:
            until = valid_until(shown)
            if until is not None and until < utc_now():
                words += f". The certificate of {parts.hostname} expired on {until:%Y-%m-%d}"
            words += (
                f". {parts.hostname} shows a certificate with the fingerprint {fingerprint_of(shown)}; if that is the "
                "right one, which only a look at the other end can tell, pin it as fingerprint"
            )
    return words


async def _listening(listen: ListenTable) -> Finding:
    """Look whether PBXs could dial us; the certificate and its key were tried when the settings were read."""
    apps = ", ".join(app.name if app.domain is None else f"{app.name} of {app.domain}" for app in listen.app)
    words = f"{listen.url} and below, for the App object {apps}"
    try:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), listen.host, listen.port)
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            return Finding("listen", Level.OK, f"{words}; the port is in use, presumably by the running bridge")
        return Finding("listen", Level.ERROR, f"{listen.host}:{listen.port}: {problem.strerror}")
    server.close()
    await server.wait_closed()
    return Finding("listen", Level.OK, words)


class _Enough(Exception):  # noqa: N818 - ends the reading, and is no error
    pass


async def _broker(settings: Settings) -> AsyncIterator[Finding]:
    rabbitmq = settings.rabbitmq
    topology = build_topology(settings)
    for url in rabbitmq.urls:
        parts = urlsplit(url)
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
        yield await _reached("broker", parts.hostname or "", port)
    what = "broker"
    try:
        context = rabbitmq.tls.context
        async with connect(rabbitmq.urls, client_name="account-bridge check", ssl_context=context) as connection:
            yield Finding(what, Level.OK, f"logged in: {describe_server(connection)}")
            what = "topology"
            differences: Sequence[str] = ()
            if rabbitmq.declare:
                differences = await declare(connection, topology)
            else:
                await verify(connection, topology)
            done = "declared" if rabbitmq.declare else "found"
            queues = [f"{wanted.queue_type} queue {wanted.queue}" for wanted in topology.subscriptions]
            log = [f"stream {topology.log}"] * topology.is_log_bound
            yield Finding(
                what, Level.OK, f"{done}: {', '.join([f'topic exchange {topology.exchange}', *log, *queues])}"
            )
            for told in differences:
                yield Finding(what, Level.WARN, told)
            what = "permissions"
            await may_publish(connection, topology)
            yield Finding(what, Level.OK, f"may write to {topology.exchange}")
            if topology.is_log_bound:
                yield await _readable(connection, topology)
            for pbx in settings.pbx:
                yield await _fence(connection, f"{rabbitmq.exchange}.writer.{pbx.name}", topology)
            async for finding in _listeners(connection, topology):
                yield finding
    except BridgeError as problem:
        shown = ""
        if isinstance(problem.__cause__, ssl.SSLCertVerificationError):
            shown = await _shown_by([url for url in rabbitmq.urls if url.startswith("amqps:")], 5671, rabbitmq.trust)
        yield Finding(what, Level.ERROR, f"{problem}{shown}")


async def _readable(connection: AbstractConnection, topology: Topology) -> Finding:
    """Begin to read the log, since a start compares the store with it."""
    try:
        (await Inflow.begin(connection, topology.log, prefetch=1, arguments={"x-stream-offset": "last"})).stop()
    except TopologyMismatch as problem:
        command = permission_command(connection, topology)
        words = f"each start tells everything anew, since the log cannot be read: {problem}. The whole line: {command}"
        return Finding("permissions", Level.ERROR, words)
    return Finding("permissions", Level.OK, f"may read {topology.log}")


async def _fence(connection: AbstractConnection, name: str, topology: Topology) -> Finding:
    try:
        await hold_fence(connection, name, topology)
    except BrokerUnreachable:
        return Finding("permissions", Level.OK, f"the queue {name} is held: a bridge publishes for this PBX at present")
    except BridgeError as problem:
        return Finding("permissions", Level.ERROR, str(problem))
    return Finding("permissions", Level.OK, f"may hold the queue {name} while publishing")


async def _listeners(connection: AbstractConnection, topology: Topology) -> AsyncIterator[Finding]:
    """Tell who would get an event. AMQP does not tell bindings, so that only configured queues are known."""
    for queue in topology.queues:
        waiting, consumers = await depth(connection, topology, queue)
        told = f"{queue}: {waiting} events wait, {consumers} consumers"
        if consumers:
            yield Finding("listeners", Level.OK, told)
        else:
            yield Finding("listeners", Level.WARN, f"{told}: start its subscriber, or let it go from [[subscriber]]")
    if not topology.queues:
        who = (
            "See who is bound: rabbitmqctl list_bindings source_name destination_name routing_key | grep "
            f"{topology.exchange}"
        )
        if topology.has_log:
            yield Finding(
                "listeners", Level.OK, f"no [[subscriber]] is configured, the log keeps everything meanwhile. {who}"
            )
        else:
            yield Finding(
                "listeners",
                Level.WARN,
                "no queue is configured and there is no log: an event that no queue takes is held back, with what "
                f"comes behind it from the same PBX. {who}",
            )


async def _reached(what: str, host: str, port: int) -> Finding:
    """Look the host up and connect to its port, so that what fails later is not the way there."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(REACH_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as problem:
        return Finding(
            what,
            Level.ERROR,
            f"DNS knows no {host}: {getattr(problem, 'strerror', None) or 'no answer in time'}. Is it spelled "
            f"right? Try: getent hosts {shlex.quote(host)}",
        )
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    started = perf_counter()
    try:
        async with asyncio.timeout(REACH_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
    except (OSError, TimeoutError) as problem:
        reason = getattr(problem, "strerror", None) or f"nothing for {REACH_SECONDS:g} s (a firewall?)"
        return Finding(
            what,
            Level.ERROR,
            f"no connection to port {port} of {host} ({', '.join(addresses)}): {reason}. Is it up, "
            "the port right, and the way open?",
        )
    took = (perf_counter() - started) * 1000
    named = "" if addresses == [host] else f"{host} is {', '.join(addresses)}; "
    return Finding(what, Level.OK, f"{named}port {port} of {host} answers after {took:.0f} ms")


def _clock(settings: Settings) -> Finding:
    """Compare the clock with the newest event: times of events, schedules and certificates depend on it."""
    now = utc_now()
    zone = f"{now.astimezone():%Y-%m-%d %H:%M:%S %Z}"
    newest = None
    with suppress(BridgeError):  # what is wrong with it is told by another finding
        place = build_store_place(settings.store)
        if place.exists():
            with place.reader() as store:
                newest = store.newest_at()
    if newest is not None and newest > now + CLOCK_MARGIN:
        return Finding(
            "clock",
            Level.ERROR,
            f"it says {zone}, but an event was made later, at {newest.astimezone():%Y-%m-%d %H:%M:%S}. Set it: "
            "timedatectl set-ntp true",
        )
    return Finding("clock", Level.OK, zone)


async def _log(settings: Settings) -> Finding:
    rabbitmq, topology = settings.rabbitmq, build_topology(settings)
    try:
        needs_streams()
        from bridge.broker.stream.connection import connect_stream  # noqa: PLC0415 - the same
        from bridge.broker.stream.publisher import provide_log  # noqa: PLC0415 - needs the extra "stream"

        context, name = rabbitmq.tls.context, "account-bridge check"
        async with (
            connect(rabbitmq.urls, client_name=name, ssl_context=context) as amqp,
            connect_stream(rabbitmq.stream_urls, client_name=name, ssl_context=context) as streams,
        ):
            differences = await provide_log(amqp, topology, is_declaring=rabbitmq.declare)
            # Under no name that anybody writes by: this is about permission, and about the streams being alive.
            for number, stream in enumerate(topology.log_streams):
                await streams.declare_publisher(number, name, stream)
    except BridgeError as problem:
        return Finding("log", Level.ERROR, str(problem))
    if differences:
        return Finding("log", Level.WARN, "; ".join(differences))
    return Finding("log", Level.OK, f"logged in at the stream port; writable: {', '.join(topology.log_streams)}")
