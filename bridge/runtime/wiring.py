"""The running bridge, put together from the settings."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from secrets import token_bytes
from typing import Any, Final

from bridge import __version__
from bridge.broker.connection import HEARTBEAT_SECONDS, connect
from bridge.broker.publisher import ExchangePublisher
from bridge.broker.queue_watch import Missed, QueueWatch
from bridge.clock import steady, utc_now
from bridge.config.pbx_tables import PbxTable
from bridge.config.settings import Settings
from bridge.config.tables import RabbitMqTable
from bridge.delivery.sink import Publisher
from bridge.errors import BadConfig, Misconfigured, Transient
from bridge.events.asyncapi import documents
from bridge.events.cloudevents import APP_ID
from bridge.logs import get_logger
from bridge.model import Numbers, OutboxRow, SourceName
from bridge.observability.component_status import ComponentStatus, Level, StreamStatus
from bridge.observability.metrics import exposition
from bridge.observability.source_status import SourceStatus
from bridge.observability.status import BridgeStatus
from bridge.observability.tracing import tracing
from bridge.observability.web.server import Views, serve
from bridge.pbx.observed import compare
from bridge.pbx.outbound import PbxSource
from bridge.pbx.recording.pseudonyms import KEY_BYTES
from bridge.pbx.recording.ring import FrameRing
from bridge.pbx.turnstile import Turnstile
from bridge.pbx.websocket import Tap
from bridge.pbx.wire.protocol import Event
from bridge.runtime.bridge import Bridge, BrokerSide, Hooks
from bridge.runtime.committer import Committed
from bridge.runtime.from_settings import (
    build_offer,
    build_options,
    build_pace,
    build_rules,
    build_store_place,
    build_topology,
)
from bridge.runtime.log_scan import Find, scan_log
from bridge.runtime.outbox_monitor import BLOCKED
from bridge.runtime.reload import Reloader
from bridge.runtime.secret_files import FileReadingSource, Files, looking
from bridge.runtime.shared_side import SHARED_HEARTBEAT_SECONDS, SharingSide, as_shared
from bridge.runtime.sharing import SourceSharing
from bridge.runtime.sinks import PUBLISHING, WRITING_LOG, StreamSink
from bridge.runtime.source_worker import SourceSpec, show_connection
from bridge.runtime.steering import SharedSteering
from bridge.security.secret import scrub
from bridge.store.records import LogContents
from bridge.store.tables.recent import RecentEvents
from bridge.store.tables.store import TableStore

_BLOCKED_WORDS: Final = (
    "The broker has a memory or disk alarm and takes nothing. The bridge waits on its connection and sends everything "
    "once the alarm ends; at the broker, rabbitmq-diagnostics alarms says what it is"
)

SOURCES_PER_PARTITION: Final = 200
"""PBXs of which a broker remembers for sure how far each was written, where several bridges write the log."""

log = get_logger(__name__)


@contextmanager
def build_bridge(
    settings: Settings,
    *,
    shadow: Publisher | None = None,
    hooks: Hooks = Hooks(),  # noqa: B008 - frozen, so sharing it is safe
) -> Iterator[Bridge]:
    """Open the store and build a bridge of what *settings* say.

    With *shadow* it hands its events to that, and has a store of its own beside the real one: no broker is touched.

    Raises:
        StoreInUse: another bridge has the store open.
        StoreUnusable: the store cannot be used.
        BadConfig: a file named in the settings cannot be used, or the log cannot be written in another way right now.

    """
    if settings.store.shared and settings.rabbitmq.writes_log and shadow is None:
        _refuse_few_partitions(settings)
    now = utc_now()
    board = BridgeStatus(
        version=__version__, started_at=now, broker=ComponentStatus(since=now), steady=steady, scrub=scrub
    )
    board.max_unsent_age = timedelta(seconds=settings.status.max_unsent_age_seconds)
    board.ready_share = settings.status.ready_share
    board.max_walk_stall = timedelta(seconds=settings.status.max_walk_stall_seconds)
    board.insecurities = list(settings.insecurities())
    board.unusable_files = settings.shown_unusable_files
    board.sources = {pbx.name: SourceStatus(since=now) for pbx in settings.pbx}
    place = build_store_place(settings.store)
    place = place if shadow is None else place.shadow()
    for done in place.prepare():
        log.warning("store.open_to_others", problem=done)
    with place.store(of_bridge=True) as store, _traced(settings, hooks) as all_hooks:
        board.locked = lambda: store.locked
        board.oldest_unsent_at = store.exchange.oldest_unpublished_at()
        watch = watch_of(settings, board)

        turnstile = Turnstile(settings.walk.max_at_once)
        dialled = dict.fromkeys(pbx.name for pbx in settings.pbx)

        def gets_on() -> None:
            board.beat(PUBLISHING)

        shared = as_shared(store)
        sharing = None if shared is None else SharingSide(shared, settings.rabbitmq.exchange)
        if shared is not None:
            board.sources.clear()  # it has none yet
        bridge = Bridge(
            store,
            []
            if shared is not None
            else [
                build_source_spec(settings, pbx, board.sources[pbx.name], store.key, turnstile) for pbx in settings.pbx
            ],
            BrokerSide(shadow)
            if shadow is not None
            else BrokerSide(
                build_publisher(settings, board.broker, watch, gets_on, dialled, sharing),
                build_stream_sink(settings, store, board, dialled, sharing),
                partial(read_log, settings, watch, lambda: store.generation, gets_on)
                if settings.rabbitmq.log_stream
                else None,
                partial(look_after, settings, watch),
                dialled,
                may_send=(lambda: True) if shared is None else lambda: shared.is_good,
            ),
            build_options(settings, store.key),
            board=board,
            hooks=all_hooks,
            turnstile=turnstile,
            is_shared=shared is not None,
        )
        if shared is not None and sharing is not None:
            sharing.offload = bridge.offload
            names = [pbx.name for pbx in settings.pbx]
            bridge.dialled = names
            steering = SharedSteering(bridge, shared)
            bridge.sharing = SourceSharing(bridge, shared, names, build_of_names(settings, bridge), steering)
        yield bridge


def _refuse_few_partitions(settings: Settings) -> None:
    """Raise a ``BadConfig`` where the broker could forget who wrote how much: it knows 255 producers of a stream."""
    wanted = -(-len(settings.pbx) // SOURCES_PER_PARTITION)
    if settings.rabbitmq.log_partitions < wanted:
        raise BadConfig(
            f"rabbitmq.log_partitions must be {wanted} at least: with store.shared each of {len(settings.pbx)} PBXs is "
            f"written under a name of its own, and a partition of the log is for {SOURCES_PER_PARTITION} of them"
        )


def get_steered(bridge: Bridge) -> "Bridge | SharedSteering":
    """Return what operators steer: *bridge*, or what asks other bridges as well."""
    return bridge.sharing.steering if isinstance(bridge.sharing, SourceSharing) else bridge


def build_of_names(settings: Settings, bridge: Bridge) -> Callable[[SourceName, SourceStatus], SourceSpec]:
    """Return what makes what is followed of a PBX of *settings*, by its name."""
    tables = {pbx.name: pbx for pbx in settings.pbx}

    def build(name: SourceName, part: SourceStatus) -> SourceSpec:
        return build_source_spec(settings, tables[name], part, bridge.key, bridge.turnstile)

    return build


@contextmanager
def _traced(settings: Settings, hooks: Hooks) -> Iterator[Hooks]:
    """Yield *hooks* that make spans as well, where the settings want that."""
    if not settings.traces.enabled:
        yield hooks
        return
    with tracing(settings.traces.endpoint, clock=utc_now, version=__version__) as tracer:

        def traced(news: Committed) -> None:
            if news.certificate is not None:
                tracer.walked(news.certificate)
            if news.changes and news.began_at is not None:
                tracer.ingested(news.source, news.identified, news.began_at)
            hooks.on_committed(news)

        def published(rows: Sequence[OutboxRow]) -> None:
            tracer.published(rows)
            hooks.on_published(rows)

        yield Hooks(traced, published)


@asynccontextmanager
async def build_page(settings: Settings, board: BridgeStatus) -> AsyncIterator[None]:
    """Serve the page about *board* while inside, unless it is switched off.

    Raises:
        BadConfig: its address cannot be listened on, or its token cannot be read.

    """
    status = settings.status
    if not status.enabled:
        yield
        return
    reader = RecentEvents(build_store_place(settings.store).reader)
    views = Views(
        reader.recent, reader.flow, exposition(board, status.max_pbxs_in_metrics), documents(build_offer(settings))
    )
    token = status.secret_token
    try:
        async with serve(
            board,
            host=status.host,
            port=status.port,
            token=token,
            hosts=status.hosts,
            proxies=status.proxies,
            is_introduced=status.proxy_protocol,
            views=views,
        ) as port:
            log.info("status.listening", url=f"http://{status.host}:{port}/", token=token is not None)
            yield
    finally:
        reader.close()


def build_source_spec(
    settings: Settings, pbx: PbxTable, part: SourceStatus, key: bytes, turnstile: Turnstile
) -> SourceSpec:
    """Return what is followed of *pbx*; *key* is the store's, and *turnstile* where it waits for its turn.

    Its reading counts as stuck after several times the longest that one step may take.
    """
    step = pbx.poll_interval_seconds + pbx.answer_timeout_seconds + pbx.connect_timeout_seconds
    return SourceSpec(
        pbx.name,
        build_source(pbx, part, turnstile),
        pbx.ask_ahead,
        rules=build_rules(settings, pbx.name, key),
        max_silence=timedelta(seconds=3 * step + 120),
    )


def build_source(pbx: PbxTable, part: SourceStatus, turnstile: Turnstile | None = None) -> FileReadingSource:
    """Return the source that reads *pbx* and tells *part* what it does; its walks wait at *turnstile*."""
    ring = build_ring(pbx.record_frames, part)
    tap = None if ring is None else ring.connection
    secret, tls = pbx.secret, pbx.tls
    files = Files(pbx.name, part, [lambda: secret.trouble, lambda: tls.trouble])
    return FileReadingSource(
        build_dialler(pbx, part, tap, turnstile, password=looking(files, secret.reveal)), tls.refresh, files
    )


def build_ring(size: int, part: SourceStatus) -> FrameRing | None:
    """Return what keeps so many frames of a PBX, and let *part* give them out; ``None`` for none."""
    ring = FrameRing(size, token_bytes(KEY_BYTES), steady) if size else None
    part.recording = None if ring is None else ring.lines
    return ring


def build_dialler(
    pbx: PbxTable,
    part: SourceStatus,
    tap: Callable[[], Tap] | None = None,
    turnstile: Turnstile | None = None,
    *,
    password: Callable[[], str] | None = None,
) -> PbxSource:
    """Return what dials *pbx*, and tells *part* what it does; *tap* returns what hears along on a new connection.

    *password* returns that instead of the settings.
    """
    return PbxSource(
        pbx.full_url,
        app=pbx.app,
        password=password or pbx.secret.reveal,
        pace=build_pace(pbx),
        connect_timeout_seconds=pbx.connect_timeout_seconds,
        max_message_bytes=pbx.max_message_bytes,
        ssl_context=pbx.tls.context,
        on_state=partial(show_connection, part),
        on_noise=build_unreadable_counter(pbx.name, part),
        turnstile=turnstile,
        tap=tap,
        on_event=build_comparison(pbx.observation_file, pbx.name, part),
    )


def build_comparison(file: Path | None, name: SourceName, part: SourceStatus) -> Callable[[Event], None]:
    """Return what holds the messages of a source against the observation in *file*, and tells *part* what is new."""

    def tell(words: str) -> None:
        part.does_unobserved(words)
        log.warning("source.unobserved", source=name, problem=words)

    part.unobserved = ""
    return compare(file, name, tell) if file is not None else lambda _event: None


def build_unreadable_counter(name: SourceName, part: SourceStatus) -> Callable[[str], None]:
    """Return what counts the messages of a source that cannot be read."""

    def hears_noise(reason: str) -> None:
        part.unreadable_messages += 1
        if (
            part.unreadable_messages & (part.unreadable_messages - 1) == 0
        ):  # the 1st, 2nd, 4th, 8th …: told, but not ten thousand times
            log.warning("source.noise", source=name, messages=part.unreadable_messages, reason=reason)

    return hears_noise


def build_reloader(settings: Settings, bridge: Bridge, load: Callable[[], Settings]) -> Reloader:
    """Return what takes over into *bridge*, made of *settings*, what ``load`` returns when it is asked for."""

    def build(pbx: PbxTable, part: SourceStatus, all_settings: Settings) -> SourceSpec:
        return build_source_spec(all_settings, pbx, part, bridge.key, bridge.turnstile)

    return Reloader(bridge, settings, load, build)


def watch_of(settings: Settings, board: BridgeStatus) -> QueueWatch:
    """Return what has the topology at the broker, and tells *board* what is unlike the settings or was deleted."""

    def differ(sentences: Sequence[str]) -> None:
        show_differences(board, "exchange", sentences)

    def miss(missed: Missed) -> None:
        board.missed[missed.queue] = missed.words

    return QueueWatch(
        build_topology(settings), is_declaring=settings.rabbitmq.declare, on_differences=differ, on_missed=miss
    )


def show_differences(board: BridgeStatus, whose: str, sentences: Sequence[str]) -> None:
    """Show on *board* what is at the broker in another form, in place of what was shown before; log what is new."""
    for told in sentences:
        if told not in board.differences.get(whose, ()):
            log.warning("topology.differs", problem=told)
    board.differences[whose] = sentences


async def look_after(settings: Settings, watch: QueueWatch) -> None:
    """Keep the queues there, for ever."""
    rabbitmq = settings.rabbitmq

    def urls() -> Sequence[str]:
        rabbitmq.tls.refresh()
        return rabbitmq.urls

    await watch.keep_looking(urls, ssl_context=rabbitmq.tls.context)


def build_publisher(  # noqa: PLR0913, PLR0917 - what a publisher needs to know
    settings: Settings,
    part: ComponentStatus,
    watch: QueueWatch,
    on_progress: Callable[[], None],
    dialled: Collection[SourceName],
    sharing: SharingSide | None = None,
) -> ExchangePublisher:
    """Return the publisher, which tells *part* what it does; *on_progress* is called while it gets on.

    *dialled* are the PBXs that are, whenever that is looked at; with *sharing* other bridges have some of them.
    """

    def does(doing: str) -> None:
        part.set_doing(doing, Level.OK if doing == "connected" else Level.WARN, utc_now())
        if doing.startswith("blocked"):
            if part.level is Level.ERROR and part.problem:
                part.passing = _BLOCKED_WORDS
            else:
                part.cause, part.problem = BLOCKED, _BLOCKED_WORDS
        log.info("broker.state", state=doing)

    def name_fence(source: SourceName) -> str:
        return f"{rabbitmq.exchange}.writer.{source}"

    rabbitmq = settings.rabbitmq
    return ExchangePublisher(
        _hosts(rabbitmq, "broker", part),
        topology=build_topology(settings),
        provide=watch.provide,
        sources=dialled if sharing is None else (),
        name_fence=name_fence,
        sharing=sharing,
        heartbeat_seconds=HEARTBEAT_SECONDS if sharing is None else SHARED_HEARTBEAT_SECONDS,
        confirm_deadline_seconds=rabbitmq.confirm_timeout_seconds,
        is_traced=settings.traces.enabled,
        ssl_context=rabbitmq.tls.context,
        on_state=does,
        on_progress=on_progress,
    )


def _hosts(rabbitmq: RabbitMqTable, name: str, part: ComponentStatus) -> Callable[[], Sequence[str]]:
    """Return what is asked for the hosts of the broker before each connection, and tells *part* about its files."""
    secrets = [secret for secret in (rabbitmq.secret, rabbitmq.stream_secret) if secret is not None]

    def trouble() -> str:
        return "; ".join(filter(None, (secret.trouble for secret in secrets)))

    def hosts() -> Sequence[str]:
        rabbitmq.tls.refresh()
        return rabbitmq.urls

    return looking(Files(name, part, [trouble, lambda: rabbitmq.tls.trouble]), hosts)


async def read_log(  # noqa: PLR0913, PLR0917 - what makes a reading
    settings: Settings,
    watch: QueueWatch,
    generation: Callable[[], str],
    on_progress: Callable[[], None],
    places: Mapping[str, tuple[int, str]],
    find: Find | None,
    given: Mapping[SourceName, Numbers],
    *,
    is_patient: bool = False,
) -> LogContents:
    """Return what the log has, read to its end from *places* on; see ``log_scan``.

    *generation* tells under which name the store writes the log itself. *on_progress* is called with every step. A
    stream port that is away holds nothing up: the last publishing id is one proof more, and asked again by the session.

    Raises:
        BridgeError: the broker cannot be asked.

    """
    rabbitmq, topology = settings.rabbitmq, build_topology(settings)
    rabbitmq.tls.refresh()
    async with connect(
        rabbitmq.urls, client_name=APP_ID, ssl_context=rabbitmq.tls.context, on_progress=on_progress
    ) as connection:
        await watch.provide(connection)
        if topology.log_partitions:
            needs_streams()
            from bridge.broker.stream.publisher import provide_log  # noqa: PLC0415 - needs the extra "stream"

            await provide_log(connection, topology, is_declaring=rabbitmq.declare)
        contents = await scan_log(
            connection,
            topology,
            places=places,
            find=find,
            given=given,
            is_patient=is_patient,
            on_progress=on_progress,
        )
    if not topology.log_partitions:
        return contents
    try:
        return replace(contents, last_position=await last_position(settings, topology.log_streams, generation()))
    except (Transient, Misconfigured) as problem:
        log.info("log.last_position_not_asked", problem=str(problem))
        return contents


async def last_position(settings: Settings, streams: Sequence[str], generation: str) -> int:
    """Return the highest publishing id that the broker has of a store of this generation; 0 where it has none.

    Raises:
        BridgeError: the broker cannot be asked.

    """
    from bridge.broker.stream.connection import connect_stream  # noqa: PLC0415 - the same
    from bridge.broker.stream.publisher import name_producer  # noqa: PLC0415 - needs the extra "stream"

    rabbitmq, name = settings.rabbitmq, f"{APP_ID} log"
    async with connect_stream(rabbitmq.stream_urls, client_name=name, ssl_context=rabbitmq.tls.context) as connection:
        return max([await connection.query_last(name_producer(generation), stream) for stream in streams])


def build_stream_sink(
    settings: Settings,
    store: TableStore,
    board: BridgeStatus,
    dialled: Collection[SourceName],
    sharing: SharingSide | None = None,
) -> StreamSink | None:
    """Return what writes the log by the stream protocol; ``None`` where the exchange feeds it, or there is none.

    *dialled* are the PBXs that are, whenever that is looked at.

    Raises:
        BadConfig: the package for it is missing, or the log was written in another way and not to its end.

    """
    rabbitmq = settings.rabbitmq
    if not rabbitmq.writes_log:
        store.end_log()
        return None
    needs_streams()
    from bridge.broker.stream.publisher import StreamPublisher, name_producer  # noqa: PLC0415 - needs the extra "stream"

    store.begin_log(rabbitmq.log_partitions)
    part = board.log = StreamStatus(since=board.started_at, oldest_unsent_at=store.log.oldest_unpublished_at())

    def does(doing: str) -> None:
        part.set_doing(doing, Level.OK if doing == "connected" else Level.WARN, utc_now())
        log.info("log.state", state=doing)

    def name_fence(source: SourceName) -> str:
        return f"{rabbitmq.exchange}.log.writer.{source}"

    hosts = _hosts(rabbitmq, "log", part)
    common: dict[str, Any] = {
        "topology": build_topology(settings),
        "is_declaring": rabbitmq.declare,
        "on_differences": partial(show_differences, board, "log"),
        "confirm_deadline_seconds": rabbitmq.confirm_timeout_seconds,
        "ssl_context": rabbitmq.tls.context,
        "on_state": does,
        "on_progress": lambda: board.beat(WRITING_LOG),
    }
    if sharing is not None:
        from bridge.broker.stream.by_source import SourceStreamPublisher  # noqa: PLC0415 - the same

        return StreamSink(
            store.log, SourceStreamPublisher(hosts, lambda: rabbitmq.stream_urls, written=sharing, **common), part
        )
    publisher = StreamPublisher(
        hosts,
        lambda: rabbitmq.stream_urls,
        producer=lambda: name_producer(store.generation),
        sources=dialled,
        name_fence=name_fence,
        **common,
    )
    return StreamSink(store.log, publisher, part)


def needs_streams() -> None:
    """Raise a ``BadConfig`` with the remedy where the package for the stream protocol is not installed."""
    if find_spec("rstream") is None:
        raise BadConfig(
            "rabbitmq.stream_url needs a package that is not installed: pip install 'pbx-account-bridge[stream]'"
        )
