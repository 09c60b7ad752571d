"""What ``check`` finds: each part tried for real, one line each, with the remedy where it does not work."""

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

from bridge.broker import connect, declare, verify
from bridge.build import needs_streams, source_of, tls, topology_of
from bridge.config import PbxTable, Settings
from bridge.errors import BridgeError, StoreInUse
from bridge.model import Cursor
from bridge.source import Heard
from bridge.status import SourcePart
from bridge.store.sqlite import SqliteStore
from bridge.walk.decisions import CaughtUp, Deliver


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    what: str
    is_well: bool
    words: str


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Try the store, every PBX and the broker, and yield what came of each."""
    yield Finding(
        "configuration", is_well=True, words=f"{len(settings.pbx)} PBX, exchange {settings.rabbitmq.exchange}"
    )
    yield _store(settings)
    for pbx in settings.pbx:
        yield await _pbx(pbx)
    yield await _broker(settings)
    if settings.rabbitmq.writes_log:
        yield await _log(settings)


def _store(settings: Settings) -> Finding:
    path = settings.store.path
    try:
        with SqliteStore(path) as store:
            waiting = f"{store.backlog.rows} events wait to be sent"
    except StoreInUse:
        return Finding("store", is_well=True, words=f"{path} is open in a running bridge")
    except BridgeError as problem:
        return Finding("store", is_well=False, words=str(problem))
    return Finding("store", is_well=True, words=f"{path} can be written; {waiting}")


async def _pbx(pbx: PbxTable) -> Finding:
    what = f"PBX {pbx.name}"
    started = perf_counter()
    words = ""

    async def first_answer(heard: Heard) -> None:
        nonlocal words
        took = f"{(perf_counter() - started) * 1000:.0f} ms"
        if isinstance(heard, Deliver):
            words = f"logged in as {pbx.app}; the first account came after {took}"
        elif isinstance(heard, CaughtUp):
            words = f"logged in as {pbx.app}; after {took} it has no account to tell of"
        if words:
            raise _Enough

    try:
        source = source_of(pbx, SourcePart(since=datetime.now(UTC)))
        with suppress(_Enough):
            await source.read(Cursor(), first_answer)
    except BridgeError as problem:
        return Finding(what, is_well=False, words=str(problem))
    return Finding(what, is_well=True, words=words)


class _Enough(Exception):  # noqa: N818 - ends the reading, and is no error
    pass


async def _broker(settings: Settings) -> Finding:
    rabbitmq = settings.rabbitmq
    topology = topology_of(settings)
    try:
        context = tls(rabbitmq.ca_file)
        async with connect(rabbitmq.urls, client_name="account-bridge check", ssl_context=context) as connection:
            await (declare if rabbitmq.declare else verify)(connection, topology)
    except BridgeError as problem:
        return Finding("broker", is_well=False, words=str(problem))
    done = "declared" if rabbitmq.declare else "found"
    queues = [wanted.queue for wanted in topology.subscriptions]
    parts = [f"exchange {topology.exchange}", *([f"stream {topology.log}"] if topology.is_log_bound else []), *queues]
    return Finding("broker", is_well=True, words=f"logged in; {done}: {', '.join(parts)}")


async def _log(settings: Settings) -> Finding:
    rabbitmq, topology = settings.rabbitmq, topology_of(settings)
    try:
        needs_streams()
        from bridge.log_publisher import provide_log  # noqa: PLC0415 - needs the extra "stream"
        from bridge.streams import connect_stream  # noqa: PLC0415 - the same

        context, name = tls(rabbitmq.ca_file), "account-bridge check"
        async with (
            connect(rabbitmq.urls, client_name=name, ssl_context=context) as amqp,
            connect_stream(rabbitmq.stream_urls, client_name=name, ssl_context=context) as streams,
        ):
            await provide_log(amqp, topology, is_declaring=rabbitmq.declare)
            # Under no name that anybody writes by: this is about permission, and about the streams being alive.
            for number, stream in enumerate(topology.log_streams):
                await streams.declare_publisher(number, name, stream)
    except BridgeError as problem:
        return Finding("log", is_well=False, words=str(problem))
    return Finding("log", is_well=True, words=f"stream port logged in; writable: {', '.join(topology.log_streams)}")
