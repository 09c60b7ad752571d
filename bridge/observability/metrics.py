"""What Prometheus asks for, made from the board at the moment it asks: publishing and reading pay nothing for it.

Moments are given as seconds since 1970 (``…_timestamp_seconds``) and absent until they come; counters count from the
start of the bridge. ``FAMILIES`` names every metric once; alert rules and dashboard are held against it by a test.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from bridge.clock import utc_now
from bridge.observability.boxes import by_trouble
from bridge.observability.component_status import Level
from bridge.observability.report import problems
from bridge.observability.source_status import SourceStatus
from bridge.observability.status import BridgeStatus

PREFIX: Final = "account_bridge_"

MOST_PBXS: Final = 250
"""PBXs that have metrics of their own."""

READING: Final = "read "
"""What the names of tasks begin with that read a PBX."""

_PBX: Final = ("pbx",)

_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]

FAMILIES: Final[Mapping[str, tuple[_Kind, str, tuple[str, ...]]]] = {
    "ready": (GaugeMetricFamily, "1 while changes flow: both ends usable, nothing waiting for too long", ()),
    "level": (GaugeMetricFamily, "1 for how the bridge is doing altogether: ok, warn, paused or error", ("level",)),
    "problem": (GaugeMetricFamily, "1 for each problem there is, by where it is and its cause", ("where", "cause")),
    "task_progress_age_seconds": (GaugeMetricFamily, "Since the last progress of a task", ("task",)),
    "task_limit_seconds": (GaugeMetricFamily, "A task without progress for longer than this is stuck", ("task",)),
    "event_loop_lag_seconds": (GaugeMetricFamily, "How late the event loop was at the last look", ()),
    "broker_usable": (GaugeMetricFamily, "1 while events can be published", ()),
    "broker_level": (GaugeMetricFamily, "1 for how the broker is doing", ("level",)),
    "broker_last_confirm_timestamp_seconds": (GaugeMetricFamily, "When the broker last confirmed an event", ()),
    "events_published": (CounterMetricFamily, "Events the broker confirmed", ()),
    "publish_lag_seconds": (
        GaugeMetricFamily,
        "From hearing of a change to the broker's confirm, for the events confirmed last",
        (),
    ),
    "outbox_events": (GaugeMetricFamily, "Events that are to be sent, held ones not among them", ()),
    "outbox_bytes": (GaugeMetricFamily, "Size of the events that are to be sent", ()),
    "outbox_oldest_age_seconds": (GaugeMetricFamily, "How long the oldest of them has waited; 0 where none waits", ()),
    "outbox_max_age_seconds": (GaugeMetricFamily, "The bridge is not ready where an event waits for longer", ()),
    "outbox_held_events": (GaugeMetricFamily, "Events that wait for an operator, parked ones among them", ()),
    "outbox_parked_events": (GaugeMetricFamily, "Events that the broker refused for good", ()),
    "outbox_in_doubt_events": (GaugeMetricFamily, "Events that may have reached the broker unconfirmed", ()),
    "outbox_full": (GaugeMetricFamily, "1 while a limit of the store is reached and no PBX is read", ()),
    "bridges": (GaugeMetricFamily, "Bridges that share the PBXs and live, as this one sees it", ()),
    "pbxs_held": (GaugeMetricFamily, "PBXs that this bridge has, where several share them", ()),
    "pbxs_without_bridge": (GaugeMetricFamily, "PBXs of its configuration that no bridge has", ()),
    "pbxs_taken_over": (CounterMetricFamily, "PBXs taken over from bridges that did not let go of them", ()),
    "bridges_buried": (CounterMetricFamily, "Bridges that this one took to be dead", ()),
    "store_free_bytes": (GaugeMetricFamily, "Left on the disk of the store, where that can be seen", ()),
    "store_commit_seconds": (GaugeMetricFamily, "How long the last commit of the store took", ()),
    "store_repeats": (CounterMetricFamily, "What the store had to repeat, by its database's code", ("code",)),
    "pbxs": (GaugeMetricFamily, "PBXs, by how they are doing", ("level",)),
    "pbxs_usable": (GaugeMetricFamily, "PBXs that answer", ()),
    "pbxs_waiting_for_turn": (GaugeMetricFamily, "PBXs that are not read yet, since so many others are", ()),
    "pbxs_walking": (GaugeMetricFamily, "PBXs of which a full walk is under way", ()),
    "pbxs_accounts": (GaugeMetricFamily, "Accounts at the last proven full walk of each, of all PBXs together", ()),
    "pbxs_left_out": (GaugeMetricFamily, "PBXs without metrics of their own (status.max_pbxs_in_metrics)", ()),
    "pbx_usable": (GaugeMetricFamily, "1 while a PBX answers", _PBX),
    "pbx_level": (GaugeMetricFamily, "1 for how a PBX is doing", ("pbx", "level")),
    "pbx_last_answer_timestamp_seconds": (GaugeMetricFamily, "When a PBX last answered", _PBX),
    "pbx_last_change_timestamp_seconds": (GaugeMetricFamily, "When a change of a PBX was last heard", _PBX),
    "pbx_last_confirm_timestamp_seconds": (GaugeMetricFamily, "When an event of a PBX was last confirmed", _PBX),
    "pbx_caught_up_timestamp_seconds": (GaugeMetricFamily, "When the end of its list was last reached, proven", _PBX),
    "pbx_verified_timestamp_seconds": (GaugeMetricFamily, "End of its last proven full walk", _PBX),
    "pbx_accounts": (GaugeMetricFamily, "Accounts at the last proven full walk", _PBX),
    "pbx_rows": (CounterMetricFamily, "Rows a PBX delivered", _PBX),
    "pbx_changes": (CounterMetricFamily, "Changes among them that are published", _PBX),
    "pbx_unreadable_messages": (CounterMetricFamily, "Messages of a PBX that could not be read", _PBX),
    "pbx_unsent_events": (GaugeMetricFamily, "Its events that are not done", _PBX),
    "pbx_parked_events": (GaugeMetricFamily, "Its events that the broker refused for good", _PBX),
    "pbx_in_doubt_events": (GaugeMetricFamily, "Its events that may have reached the broker unconfirmed", _PBX),
    "pbx_unseen_accounts": (GaugeMetricFamily, "Its accounts that a full walk missed, and another decides about", _PBX),
    "pbx_deletions_held": (GaugeMetricFamily, "Its accounts that are gone, too many to delete unasked", _PBX),
    "pbx_walk_running": (GaugeMetricFamily, "1 during a full walk", _PBX),
    "pbx_walk_accounts": (GaugeMetricFamily, "Accounts the full walk under way has read", _PBX),
    "pbx_walk_stalled": (GaugeMetricFamily, "1 where a full walk has read nothing for too long", _PBX),
    "pbx_walk_progress_timestamp_seconds": (GaugeMetricFamily, "When the full walk last read an account", _PBX),
}
"""Kind, help and labels of every metric, by its name without the prefix; counters get ``_total`` behind it."""

_Samples = Iterator[tuple[str, tuple[str, ...], float]]


class StatusCollector(Collector):
    """Turns *board* into metrics whenever it is asked.

    Each PBX has metrics of its own where there are *most* at most; where there are more, those have that are in
    trouble, the worst first and no more than that.
    """

    def __init__(self, board: BridgeStatus, clock: Callable[[], datetime] = utc_now, most: int = MOST_PBXS) -> None:
        self._board = board
        self._most = most
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Return every metric as it is now."""
        families = {name: kind(PREFIX + name, words, labels=labels) for name, (kind, words, labels) in FAMILIES.items()}
        for name, labels, value in self._samples(self._clock()):
            families[name].add_metric(labels, value)
        info = InfoMetricFamily(PREFIX[:-1], "Version of the bridge")
        info.add_metric((), {"version": self._board.version})
        return [info, *families.values()]

    def describe(self) -> Iterable[Metric]:
        """Return nothing: asking for values just to learn the names would be a waste."""
        return ()

    def _samples(self, now: datetime) -> _Samples:
        board = self._board
        levels = {name: board.assess(part, now) for name, part in board.sources.items()}
        own = self._choose(levels)
        left_out = levels.keys() - own
        yield "ready", (), board.is_ready(now)
        yield from _levels("level", (), board.level(now))
        found = dict.fromkeys((each.where, each.cause) for each in problems(board, now) if each.where not in left_out)
        yield from (("problem", key, 1) for key in found)
        for name, task in board.tasks.items():
            if name.removeprefix(READING) in left_out and not task.is_stuck(board.steady()):
                continue
            yield "task_progress_age_seconds", (name,), task.age(board.steady()).total_seconds()
            yield "task_limit_seconds", (name,), task.limit.total_seconds()
        yield "event_loop_lag_seconds", (), board.loop_lag_seconds
        yield from self._delivery(board, now)
        yield from self._all(levels)
        if board.cluster is not None and board.cluster.is_leased:  # otherwise what it saw last is not so any more
            yield "bridges", (), len(board.cluster.peers)
            yield "pbxs_held", (), sum(peer.held for peer in board.cluster.peers if peer.life == board.cluster.life)
            yield "pbxs_without_bridge", (), len(board.cluster.without_bridge)
        if board.cluster is not None:
            yield "pbxs_taken_over", (), board.cluster.taken_over
            yield "bridges_buried", (), board.cluster.buried
        yield "pbxs_left_out", (), len(left_out)
        for name in own:
            yield from self._source((name,), board.sources[name], now)

    def _choose(self, levels: Mapping[str, Level]) -> Sequence[str]:
        """Return the PBXs that have metrics of their own."""
        if len(levels) <= self._most:
            return list(levels)
        return [name for name in by_trouble(levels) if levels[name] is not Level.OK][: self._most]

    def _all(self, levels: Mapping[str, Level]) -> _Samples:
        parts, counts = self._board.sources.values(), Counter(levels.values())
        yield from (("pbxs", (level.value,), counts[level]) for level in Level)
        yield "pbxs_usable", (), sum(part.is_usable for part in parts)
        yield "pbxs_waiting_for_turn", (), sum(part.waits_for_turn for part in parts)
        yield "pbxs_walking", (), sum(part.walk is not None for part in parts)
        yield "pbxs_accounts", (), sum(part.accounts or 0 for part in parts)

    def _delivery(self, board: BridgeStatus, now: datetime) -> _Samples:
        yield "broker_usable", (), board.broker.is_usable
        yield from _levels("broker_level", (), board.broker.level)
        yield from _moment("broker_last_confirm_timestamp_seconds", (), board.broker.last_progress_at)
        yield "events_published", (), board.published
        yield "publish_lag_seconds", (), board.last_lag_seconds
        yield "outbox_events", (), board.unsent
        yield "outbox_bytes", (), board.unsent_bytes
        waited = (now - board.oldest_unsent_at).total_seconds() if board.oldest_unsent_at is not None else 0.0
        yield "outbox_oldest_age_seconds", (), max(0.0, waited)
        yield "outbox_max_age_seconds", (), board.max_unsent_age.total_seconds()
        yield "outbox_held_events", (), board.held
        yield "outbox_parked_events", (), board.parked
        yield "outbox_in_doubt_events", (), board.in_doubt
        yield "outbox_full", (), bool(board.full)
        if board.free_bytes is not None:
            yield "store_free_bytes", (), board.free_bytes
        yield "store_commit_seconds", (), board.commit_seconds
        yield from (("store_repeats", (code,), count) for code, count in board.store_repeats.items())

    def _source(self, pbx: tuple[str], part: SourceStatus, now: datetime) -> _Samples:
        yield "pbx_usable", pbx, part.is_usable
        yield from _levels("pbx_level", pbx, self._board.assess(part, now))
        yield from _moments(pbx, part)
        if part.accounts is not None:
            yield "pbx_accounts", pbx, part.accounts
        yield "pbx_rows", pbx, part.rows
        yield "pbx_changes", pbx, part.changes
        yield "pbx_unreadable_messages", pbx, part.unreadable_messages
        yield "pbx_unsent_events", pbx, part.unsent
        yield "pbx_parked_events", pbx, part.parked
        yield "pbx_in_doubt_events", pbx, part.in_doubt
        yield "pbx_unseen_accounts", pbx, part.unseen
        yield "pbx_deletions_held", pbx, part.deletions_held
        yield "pbx_walk_running", pbx, part.walk is not None
        yield "pbx_walk_stalled", pbx, self._board.is_stalled(part, now)
        if part.walk is not None:
            yield "pbx_walk_accounts", pbx, part.walk.accounts
            yield from _moment("pbx_walk_progress_timestamp_seconds", pbx, part.walk.progress_at)


def exposition(board: BridgeStatus, most_pbxs: int = MOST_PBXS) -> Callable[[], tuple[str, bytes]]:
    """Return what answers a scrape: content type and body; *most_pbxs* as for ``StatusCollector``."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(board, most=most_pbxs))
    ProcessCollector(registry=registry)
    return lambda: (CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry))


def _levels(name: str, labels: tuple[str, ...], level: Level) -> _Samples:
    return ((name, (*labels, each.value), each is level) for each in Level)


def _moments(pbx: tuple[str], part: SourceStatus) -> _Samples:
    yield from _moment("pbx_last_answer_timestamp_seconds", pbx, part.last_progress_at)
    yield from _moment("pbx_last_change_timestamp_seconds", pbx, part.last_change_at)
    yield from _moment("pbx_last_confirm_timestamp_seconds", pbx, part.last_confirm_at)
    yield from _moment("pbx_caught_up_timestamp_seconds", pbx, part.caught_up_at)
    yield from _moment("pbx_verified_timestamp_seconds", pbx, part.verified_at)


def _moment(name: str, labels: tuple[str, ...], at: datetime | None) -> _Samples:
    if at is not None:
        yield name, labels, at.timestamp()
