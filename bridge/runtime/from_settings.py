"""What settings want, as values that the parts understand."""

from datetime import time, timedelta
from pathlib import Path

from bridge.broker.errors import name_vhost
from bridge.broker.topology import Subscription, Topology
from bridge.config.pbx_tables import PaceTable
from bridge.config.settings import Settings
from bridge.config.store_table import SQLITE, StoreTable, is_postgres
from bridge.delivery.limits import Limits
from bridge.delivery.reconcile import DeletionLimit
from bridge.errors import BadConfig, FileUnusable
from bridge.events.asyncapi import Offer
from bridge.events.normalize import Projection, Rules
from bridge.model import SourceName
from bridge.pbx.walk.actions import Pace
from bridge.pbx.walk.schedule import Habits
from bridge.runtime.options import Options
from bridge.security.database_url import read_database_url
from bridge.store.places import SqlitePlace, StorePlace, postgres_place


def build_store_place(table: StoreTable) -> StorePlace:
    """Return where the store is.

    Raises:
        BadConfig: the package for its engine is not installed, or bridges were to share a file.
        FileUnusable: the file with its URL holds none.

    """
    if not is_postgres(url := table.read_url()):
        if table.shared:
            raise BadConfig(
                "store.shared needs a database: set store.url to one of PostgreSQL, or take store.shared out"
            )
        return SqlitePlace(Path(url.removeprefix(SQLITE)))
    return postgres_place(
        lambda: dict(read_database_url(table.read_url()).parameters()),
        table.shown,
        is_pooled=table.through_pooler,
        lease_seconds=table.lease_seconds,
        loses_nothing=table.failover_loses_nothing,
        is_shared=table.shared,
    )


def build_pace(table: PaceTable) -> Pace:
    """Return how patiently and how often a PBX is asked."""
    cap = 1 / table.max_rows_per_second if table.max_rows_per_second else 0.0
    return Pace(
        poll_interval=table.poll_interval_seconds,
        answer_timeout=table.answer_timeout_seconds,
        keepalive=table.keepalive_seconds,
        min_spacing=max(table.min_spacing_seconds, cap),
    )


def build_topology(settings: Settings) -> Topology:
    """Return what *settings* want at the broker."""
    rabbitmq = settings.rabbitmq
    return Topology(
        exchange=rabbitmq.exchange,
        has_log=rabbitmq.log_stream,
        log_max_age=rabbitmq.log_max_age,
        log_max_bytes=rabbitmq.log_max_bytes,
        log_partitions=rabbitmq.log_partitions if rabbitmq.writes_log else 0,
        subscriptions=[
            Subscription(wanted.queue, wanted.keys, wanted.delivery_limit, wanted.queue_type, wanted.ordered)
            for wanted in settings.subscriber
        ],
    )


def build_offer(settings: Settings) -> Offer:
    """Return what subscribers of a bridge with *settings* can rely on."""
    rabbitmq, topology = settings.rabbitmq, build_topology(settings)
    try:
        urls = rabbitmq.urls
    except FileUnusable:  # whoever connects says so; the file that comes later may name another host, and no document
        urls = []
    return Offer(
        exchange=rabbitmq.exchange,
        vhost=name_vhost(urls[0]) if urls else "/",
        sources=[pbx.name for pbx in settings.pbx],
        projections=[build_projection(settings, pbx.name) for pbx in settings.pbx] or [Projection()],
        log=topology.log if rabbitmq.log_stream else None,
        queues=[(wanted.queue, wanted.keys) for wanted in settings.subscriber],
        is_traced=settings.traces.enabled,
    )


def build_projection(settings: Settings, name: SourceName | None) -> Projection:
    """Return which fields leave of the PBX of that name, or of one without a table of its own."""
    publish = settings.publish if name is None else settings.resolve_publish(name)
    return Projection.of(include=publish.include, exclude=publish.exclude, mask=publish.mask)


def build_rules(settings: Settings, name: SourceName | None, key: bytes) -> Rules:
    """Return how rows of a PBX are judged, or of one without a table of its own; *key* is the store's."""
    publish = settings.publish if name is None else settings.resolve_publish(name)
    return Rules(key=key, projection=build_projection(settings, name), skip_unchanged=publish.skip_unchanged)


def build_deletion_limit(settings: Settings) -> DeletionLimit:
    """Return when deletions are believed."""
    walk = settings.walk
    return DeletionLimit(walk.deletion_walks, walk.max_deleted_accounts, walk.max_deleted_percent / 100)


def build_limits(settings: Settings) -> Limits:
    """Return how much may wait to be sent."""
    store = settings.store
    return Limits(store.max_unsent_events, store.max_unsent_bytes, store.min_free_bytes)


def build_habits(settings: Settings) -> Habits:
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


def build_options(settings: Settings, key: bytes) -> Options:
    """Return how a bridge with *settings* works; *key* is the secret of its store."""
    return Options(
        rules=build_rules(settings, None, key),
        window=settings.rabbitmq.window,
        keep=timedelta(days=settings.replay.keep_days),
        deletion_limit=build_deletion_limit(settings),
        habits=build_habits(settings),
        limits=build_limits(settings),
        max_rows_ahead=settings.walk.max_rows_ahead,
    )
