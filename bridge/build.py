"""The running bridge, put together from the settings."""

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import time, timedelta
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from bridge import __version__
from bridge.broker import Subscription, Topology, connect, declare, verify
from bridge.cloudevents import numbers_in
from bridge.config import PbxTable, Settings
from bridge.delivery.limits import Limits
from bridge.delivery.reconcile import Brake
from bridge.errands import newest_in_log
from bridge.errors import BadConfig
from bridge.frames import APP_ID
from bridge.intake import Told
from bridge.logs import get_logger
from bridge.model import OutboxRow
from bridge.normalize import Projection, Rules
from bridge.publisher import Publisher
from bridge.service import Bridge, Log, Pbx, utc_now
from bridge.source import PbxSource
from bridge.status import Board, Level, LogPart, Part, SourcePart
from bridge.store.sqlite import SqliteStore
from bridge.terminal import TerminalPublisher
from bridge.walk.decisions import Pace
from bridge.walk.schedule import Habits

log = get_logger(__name__)


@contextmanager
def built(
    settings: Settings,
    *,
    shadow: TerminalPublisher | None = None,
    on_told: Callable[[Told], None] = lambda _told: None,
    on_published: Callable[[Sequence[OutboxRow]], None] = lambda _rows: None,
) -> Iterator[Bridge]:
    """Open the store and build a bridge of what *settings* say.

    With *shadow* it hands its events to that, and has a store of its own beside the real one: no broker is touched.

    Raises:
        StoreInUse: another bridge has the store open.
        StoreUnusable: the store cannot be used.
        BadConfig: a file named in the settings cannot be used, or the log cannot be written in another way right now.

    """
    now = utc_now()
    board = Board(version=__version__, started_at=now, broker=Part(since=now))
    board.sources = {pbx.name: SourcePart(since=now) for pbx in settings.pbx}
    path = settings.store.path
    with SqliteStore(path if shadow is None else path.with_name(f"{path.name}.shadow")) as store:
        board.oldest_unsent_at = store.oldest_unpublished_at()
        written_log = log_of(settings, store, board)
        yield Bridge(
            store,
            [
                Pbx(
                    pbx.name, source_of(pbx, board.sources[pbx.name]), pbx.ask_ahead, rules_of(settings, pbx, store.key)
                )
                for pbx in settings.pbx
            ],
            shadow or publisher_of(settings, board.broker),
            rules=Rules(key=store.key),
            board=board,
            window=settings.rabbitmq.window,
            keep=timedelta(days=settings.replay.keep_days),
            brake=brake_of(settings),
            habits=habits_of(settings),
            limits=limits_of(settings),
            written_log=written_log,
            on_told=on_told,
            newest_in_log=partial(newest_numbers, settings)
            if settings.rabbitmq.log_stream and shadow is None
            else None,
            on_published=on_published,
        )


def source_of(pbx: PbxTable, part: SourcePart) -> PbxSource:
    """Return the source that reads *pbx* and tells *part* what it does."""

    def hears_noise(reason: str) -> None:
        part.noise += 1
        if part.noise & (part.noise - 1) == 0:  # the 1st, 2nd, 4th, 8th …: told, but not ten thousand times
            log.warning("source.noise", source=pbx.name, messages=part.noise, reason=reason)

    cap = 1 / pbx.max_rows_per_second if pbx.max_rows_per_second else 0.0
    return PbxSource(
        pbx.full_url,
        app=pbx.app,
        password=pbx.secret.reveal,
        pace=Pace(
            poll_interval=pbx.poll_interval_seconds,
            answer_timeout=pbx.answer_timeout_seconds,
            keepalive=pbx.keepalive_seconds,
            min_spacing=max(pbx.min_spacing_seconds, cap),
        ),
        connect_timeout_seconds=pbx.connect_timeout_seconds,
        max_message_bytes=pbx.max_message_bytes,
        ssl_context=tls(pbx.ca_file),
        server_name=pbx.server_name,
        on_state=lambda doing: part.does(doing, Level.OK if doing == "reading" else Level.WARN, utc_now()),
        on_noise=hears_noise,
    )


def publisher_of(settings: Settings, part: Part) -> Publisher:
    """Return the publisher, which tells *part* what it does."""

    def does(doing: str) -> None:
        part.does(doing, Level.OK if doing == "connected" else Level.WARN, utc_now())
        log.info("broker.state", state=doing)

    rabbitmq = settings.rabbitmq
    return Publisher(
        lambda: rabbitmq.urls,
        topology=topology_of(settings),
        is_declaring=rabbitmq.declare,
        fences=[f"{rabbitmq.exchange}.writer.{pbx.name}" for pbx in settings.pbx],
        confirm_deadline_seconds=rabbitmq.confirm_timeout_seconds,
        ssl_context=tls(rabbitmq.ca_file),
        on_state=does,
    )


async def newest_numbers(settings: Settings, lineage: str) -> Mapping[str, int]:
    """Return the last sequence of each source in the log, as far as events of *lineage* stand at its end.

    Raises:
        BridgeError: the broker cannot be asked.

    """
    rabbitmq, topology = settings.rabbitmq, topology_of(settings)
    async with connect(rabbitmq.urls, client_name=APP_ID, ssl_context=tls(rabbitmq.ca_file)) as connection:
        await (declare if rabbitmq.declare else verify)(connection, topology)
        if topology.log_partitions:
            needs_streams()
            from bridge.log_publisher import provide_log  # noqa: PLC0415 - needs the extra "stream"

            await provide_log(connection, topology, is_declaring=rabbitmq.declare)
        return numbers_in(await newest_in_log(connection, topology), lineage)


def log_of(settings: Settings, store: SqliteStore, board: Board) -> Log | None:
    """Return what writes the log by the stream protocol; ``None`` where the exchange feeds it, or there is none.

    Raises:
        BadConfig: the package for it is missing, or the log was written in another way and not to its end.

    """
    rabbitmq = settings.rabbitmq
    if not rabbitmq.writes_log:
        store.log.end()
        return None
    needs_streams()
    from bridge.log_publisher import LogPublisher, producer_of  # noqa: PLC0415 - needs the extra "stream"

    store.log.begin(rabbitmq.log_partitions)
    part = board.log = LogPart(since=board.started_at, oldest_unsent_at=store.log.oldest_unpublished_at())

    def does(doing: str) -> None:
        part.does(doing, Level.OK if doing == "connected" else Level.WARN, utc_now())
        log.info("log.state", state=doing)

    publisher = LogPublisher(
        lambda: rabbitmq.urls,
        lambda: rabbitmq.stream_urls,
        topology=topology_of(settings),
        producer=lambda: producer_of(store.lineage),
        is_declaring=rabbitmq.declare,
        fences=[f"{rabbitmq.exchange}.log.writer.{pbx.name}" for pbx in settings.pbx],
        confirm_deadline_seconds=rabbitmq.confirm_timeout_seconds,
        ssl_context=tls(rabbitmq.ca_file),
        on_state=does,
    )
    return Log(store.log, publisher, part)


def needs_streams() -> None:
    """Raise a ``BadConfig`` with the remedy where the package for the stream protocol is not installed."""
    if find_spec("rstream") is None:
        raise BadConfig(
            "rabbitmq.stream_url needs a package that is not installed: pip install 'pbx-account-bridge[stream]'"
        )


def topology_of(settings: Settings) -> Topology:
    """Return what *settings* want at the broker."""
    rabbitmq = settings.rabbitmq
    return Topology(
        exchange=rabbitmq.exchange,
        has_log=rabbitmq.log_stream,
        log_max_age=rabbitmq.log_max_age,
        log_max_bytes=rabbitmq.log_max_bytes,
        log_partitions=rabbitmq.log_partitions if rabbitmq.writes_log else 0,
        subscriptions=[
            Subscription(wanted.queue, wanted.keys, wanted.delivery_limit, wanted.queue_type)
            for wanted in settings.subscriber
        ],
    )


def rules_of(settings: Settings, pbx: PbxTable, key: bytes) -> Rules:
    """Return how rows of *pbx* are judged; *key* is the store's."""
    publish = settings.publish_of(pbx.name)
    projection = Projection.of(include=publish.include, exclude=publish.exclude, mask=publish.mask)
    return Rules(key=key, projection=projection, skip_unchanged=publish.skip_unchanged)


def brake_of(settings: Settings) -> Brake:
    """Return when deletions are believed."""
    walk = settings.walk
    return Brake(walk.deletion_walks, walk.max_deleted_accounts, walk.max_deleted_percent / 100)


def limits_of(settings: Settings) -> Limits:
    """Return how much may wait to be sent."""
    store = settings.store
    return Limits(store.max_unsent_events, store.max_unsent_bytes, store.min_free_bytes)


def habits_of(settings: Settings) -> Habits:
    """Return when full walks begin by themselves."""
    walk = settings.walk

    def moment(text: str | None) -> time | None:
        return time.fromisoformat(text) if text and text != "never" else None

    return Habits(
        nightly_at=moment(walk.nightly_at),
        after_outage=timedelta(minutes=walk.after_outage_minutes),
        quiet_from=moment(walk.quiet_from),
        quiet_until=moment(walk.quiet_until),
    )


@cache  # the CAs of a system are half a megabyte, which a thousand PBXs had better share
def tls(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies, against the system's CAs or those in *ca_file*.

    Raises:
        BadConfig: the file cannot be read or holds no certificate.

    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as problem:
        raise BadConfig(f"ca_file {ca_file} cannot be used: {problem.strerror or problem}") from problem
