"""The outbox as one sink sees it: what it does not have yet, how far it has it, and what it does not get in its turn.

An event is written once and never changed. That a sink has it is told by an appended line, "everything of this lane
through that position"; what it refuses for good (parked) and what comes behind that (held) stands in a table of its
own, and tried again is a copy at the end, with the same id. So positions are sent in ascending order, progress never
goes back, and the position can be the publishing id of the log.

The exchange has a lane for each source, so that one that cannot go on holds up no other. The log has one lane for all,
since its publishing ids have to ascend over all that its producer writes: of a source that cannot go on there, all that
waits is put aside (fenced), and goes out as copies once it can.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final, Protocol

import orjson

from bridge.errors import BridgeError
from bridge.model import MAX_WINDOW_ROWS, OutboxRow, Sink, SourceName
from bridge.store.records import Backlog, Parked
from bridge.store.tables.moments import as_moment, as_text

_SECOND: Final = len("2026-11-23T20:31:07")

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)

ALL: Final = SourceName("")
"""The name of the one lane that is all sources."""


class Database(Protocol):
    """What an outbox needs of the store it is part of."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def together(self) -> Any:
        """Return a context in which all changes become durable together, or none does."""

    def tell_confirmed(self, told: Mapping[str, Any], before: int | None) -> None:
        """Append a line about what a sink has, or have the one that tells of *before* tell that."""

    def own(self, source: int) -> None:
        """Make sure, in the open transaction, that a source is ours to change."""

    def has_source(self, name: SourceName) -> bool:
        """Tell whether a source is known."""

    def source_id(self, name: SourceName) -> int:
        """Return the number of a source that is known."""

    def source_name(self, number: int) -> SourceName:
        """Return the name of a source by its number."""


class TableOutbox:
    """The outbox contract of ``store.contract`` for one *sink*."""

    def __init__(self, database: Database, sink: Sink) -> None:
        self._database = database
        self.sink = sink
        self._has_one_lane = sink is Sink.LOG
        self._through: dict[int, int] = {}
        """By lane: everything up to there is confirmed, as far as it is not aside."""
        self._lines: dict[int, tuple[int, str]] = {}
        """By lane: the last line that was appended here, and its second."""
        self._parked: Counter[int] = Counter()
        """By source: how many of its events are parked."""
        self._waiting: Counter[int] = Counter()
        """By source, where lanes are by source: how many of its events are not done, those that are aside included."""
        self._backlog = Backlog()
        self._given_before: int | None = None
        """The highest position that was given before the store was opened."""
        self.is_on = sink is Sink.EXCHANGE
        """False where nobody takes what is for this sink."""
        self.since = 0
        """Nothing up to this position was given to the sink under its present name."""

    def __repr__(self) -> str:
        return f"<TableOutbox of the {self.sink.name.lower()}, {self._backlog.rows} to send>"

    @property
    def backlog(self) -> Backlog:
        """What this sink does not have; counted along, so asking costs nothing."""
        return self._backlog

    def load(self, sources: Sequence[int]) -> None:
        """Count what there is; *sources* are all that may have something."""
        if self._given_before is None:
            self._given_before = self.last_given()
        lanes = [0] if self._has_one_lane else sources
        progress = {row["lane"]: row["through"] for row in self._database.query("progress", sink=self.sink)}
        self._through = {lane: progress.get(lane, 0) for lane in lanes}
        waiting = [row for lane in lanes for row in self._unsent("count_unsent", lane)]
        (held,) = self._database.query("count_aside", sink=self.sink)
        rows, size = sum(row["rows"] for row in waiting), sum(row["bytes"] for row in waiting)
        self._backlog = Backlog(rows, size, held["rows"], held["bytes"], held["parked"])
        aside = self._aside()
        self._parked = Counter({row["lane"]: row["parked"] for row in aside})
        in_turn = Counter({lane: row["rows"] for lane, row in zip(lanes, waiting, strict=True)})
        self._waiting = in_turn + Counter({row["lane"]: row["rows"] for row in aside})

    def doubt_first(self) -> None:
        """After an unclean stop: take to be in doubt what may have been on its way."""
        for name in self.lanes():
            lane = self._lane(name)
            self._database.change("doubt_first", lane=lane, after=self._through[lane], limit=MAX_WINDOW_ROWS)

    def unpublished(self, after: Mapping[SourceName, int], limit: int, share: int) -> Sequence[OutboxRow]:
        """Return the next events of these lanes behind the positions given (0: the confirmed end), lane after lane.

        No more than *limit* in all and *share* of each. A lane of which fewer come than would have fitted has no more.
        """
        found: list[OutboxRow] = []
        for name, position in after.items():
            if len(found) >= limit:
                break
            if not self._has_one_lane and not self._database.has_source(name):
                continue  # it was retired, and its rows are gone: whoever relays may still have its lane
            lane = self._lane(name)
            behind = max(position, self._through.get(lane, 0))
            rows = self._unsent("unsent", lane, after=behind, limit=min(share, limit - len(found)))
            found += [
                OutboxRow(at, source, sequence, identity, kind, key, body, as_moment(made), bool(is_in_doubt), account)
                for at, source, sequence, identity, kind, account, key, body, made, is_in_doubt in rows
            ]
        return found

    def lanes(self) -> Sequence[SourceName]:
        """Return the lanes in which something may wait."""
        return [self._name(lane) for lane in self._through if self._unsent("unsent", lane, limit=1)]

    def find_lane(self, source: SourceName) -> SourceName:
        """Return in which lane the events of a source are."""
        return ALL if self._has_one_lane else source

    def mark_published(self, rows: Sequence[OutboxRow], at: datetime) -> None:
        """Record that the sink has *rows*, the next ones of their lanes, and with them all before them."""
        reached: dict[int, int] = {}
        for source, position in {row.source: row.position for row in rows}.items():
            lane = self._lane(self.find_lane(source))
            reached[lane] = max(position, reached.get(lane, 0))
        self._confirm(reached, at)
        self._count(-len(rows), -sum(len(row.body) for row in rows))
        for source, count in Counter(row.source for row in rows).items():
            self._waiting[self._database.source_id(source)] -= count

    def _confirm(self, reached: Mapping[int, int], at: datetime) -> None:
        moment = as_text(at)
        with self._database.together():
            for lane, through in reached.items():
                told = {"sink": self.sink, "lane": lane, "through": through, "at": moment}
                before, second = self._lines.get(lane, (0, ""))
                # A line a second: more of them would tell nobody anything, and there would be millions in a week.
                is_same_line = second == moment[:_SECOND]
                self._database.tell_confirmed(told, before if is_same_line else None)
        self._through |= reached
        self._lines |= {lane: (through, moment[:_SECOND]) for lane, through in reached.items()}

    def mark_in_doubt(self, rows: Sequence[OutboxRow]) -> None:
        """Record that *rows* may have reached the sink although no confirm came; the log is asked, and knows."""
        if self._has_one_lane:
            return
        reached = {self._lane(row.source): row.position for row in rows}
        with self._database.together():
            for lane, through in reached.items():
                self._database.own(lane)
                self._database.change("doubt", lane=lane, through=through)

    def park(self, row: OutboxRow, reason: str, at: datetime) -> None:
        """Put *row* aside, and hold whatever comes behind it and is about the same account."""
        source = self._database.source_id(row.source)
        found = {one["sink"]: one["state"] for one in self._database.query("aside_of_event", position=row.position)}
        with self._database.together():
            self._database.own(source)
            self.set_aside(row.position, "parked", reason, at)
            held = self.hold(source, row.position, at)
        if self.sink in found:  # it was not waiting any more, whoever had it put aside
            self.load(list(self._through))
            return
        self._count_held(held)
        self._count_held((1, len(row.body)))
        self._count_parked(source, 1)

    def put_off(self, source: SourceName, sent_through: int | None, reason: str, at: datetime) -> bool:
        """Put aside what waits of *source*, so that its lane goes on without it; nothing where it has one of its own.

        False, and nothing is done, where some of it has a position up to *sent_through*, or was there when the store
        was opened: it may have been sent. ``None``: nothing of it is on its way any more.
        """
        known = self._database.query("source", name=source)
        if not self._has_one_lane or not known:
            return True
        number = known[0]["id"]
        if sent_through is not None:
            reach = {"after": self.through, "through": max(sent_through, self._given_before or 0)}
            if self._database.query("first_unsent", sink=self.sink, source_id=number, **reach):
                return False
        self._put_off(number, reason, at)
        return True

    def put_off_sources(self) -> Sequence[SourceName]:
        """Return the sources of which something is put off."""
        return [SourceName(row["name"]) for row in self._database.query("fenced_sources", sink=self.sink)]

    def undone_through(self, position: int, *, after: int = 0, limit: int = -1) -> Sequence[OutboxRow]:
        """Return what is to be sent, in its turn or not, behind *after* and up to *position*, without bodies.

        Only of the log; the first *limit* of them.
        """
        reach = {"after": after, "through": position, "limit": limit}
        aside = map(bare, self._database.query("aside_ids", sink=self.sink, **reach))
        unsent = self.unsent_through(position, after=after, limit=limit)
        found = sorted([*unsent, *aside], key=attrgetter("position"))
        return found if limit < 0 else found[:limit]

    def let_go(self, source: SourceName, at: datetime) -> None:
        """Have what was put off of *source* sent, as copies behind everything else, and in order."""
        if source not in self.put_off_sources():
            return
        number = self._database.source_id(source)
        with self._database.together():
            self._put_off(number, None, at)  # what came last must not overtake the rest
            self._database.change("free_fenced", sink=self.sink, source_id=number, at=as_text(at))
            self.release(number, at)
        self.load(list(self._through))

    def _put_off(self, source: int, reason: str | None, at: datetime) -> None:
        told = {"sink": self.sink, "source_id": source, "after": self.through}
        (found,) = self._database.query("count_to_put_off", **told)
        if found["rows"]:
            self._database.change("put_off", **told, reason=reason, at=as_text(at))
            self._count_held((found["rows"], found["bytes"]))

    def parked(self) -> Sequence[Parked]:
        """Return the parked events, the oldest first."""
        return [
            Parked(
                position=row["position"],
                source=SourceName(row["source"]),
                sequence=row["sequence"],
                event_id=row["event_id"],
                routing_key=row["routing_key"],
                body=row["body"],
                created_at=as_moment(row["created_at"]),
                parked_at=as_moment(row["parked_at"]),
                reason=row["reason"],
                waiting=row["waiting"],
                refused_by=self.sink.name.lower(),
            )
            for row in self._database.query("parked_rows", sink=self.sink)
        ]

    def unpark(self, position: int, at: datetime) -> bool:
        """Have a parked event tried once more, and return whether there was one at *position*.

        Raises:
            BridgeError: what came before it is parked, too, and has to go first.

        """
        beside = self._database.query("parked_beside", sink=self.sink, position=position)
        first = min(map(_made, beside), default=None)
        if first is not None and first[-1] != position:
            raise BridgeError(f"event {first[-1]} came before it and is parked as well: decide about that first")
        return self._decide(position, "again", None, at)

    def discard(self, position: int, reason: str, at: datetime) -> bool:
        """Never send a parked event, let go what waits behind it, and return whether there was one at *position*."""
        return self._decide(position, "discarded", reason, at)

    def forget(self, position: int, state: str | None, reason: str, at: datetime) -> None:
        """Never send the event at *position*, whose *state* here is that."""
        if self.wants(position, state):
            self.set_aside(position, "discarded", reason, at)

    def wants(self, position: int, state: str | None) -> bool:
        """Tell whether the event at *position*, whose *state* here is that, is still to be sent, now or later."""
        if state is not None:
            return state in {"parked", "held", "fenced"}
        lane = 0 if self._has_one_lane else self._database.query("source_of_position", position=position)[0][0]
        return position > self.through_of(lane)

    def set_aside(self, position: int, state: str, reason: str | None, at: datetime) -> None:
        """Record that the sink does not get the event at *position* in its turn; see ``aside`` in the tables."""
        told = {"sink": self.sink, "position": position, "state": state, "reason": reason}
        self._database.change("set_aside", **told, at=as_text(at))

    def release(self, source: int, at: datetime) -> tuple[int, int]:
        """Send what nothing holds any more, as copies behind everything else, in order; in the open transaction.

        Returns how many events that are, and their bytes.
        """
        lane = {"sink": self.sink, "source_id": source}
        self._database.change("free_held", **lane)
        (found,) = self._database.query("count_again", **lane)
        if found["rows"]:
            self._database.change("copy_again", **lane)
            self._database.change("mark_moved", **lane, at=as_text(at))
        return found["rows"], found["bytes"]

    def is_holding(self, source: int) -> bool:
        """Tell whether something of this source is parked, so that what is added may have to be held."""
        return self._parked[source] > 0

    @property
    def parked_by_source(self) -> Mapping[SourceName, int]:
        """How many events are parked, by source; counted along, so asking costs nothing."""
        return {self._database.source_name(source): count for source, count in self._parked.items() if count}

    def hold(self, source: int, behind: int, at: datetime) -> tuple[int, int]:
        """Hold what was added behind that position and is about an account of which something is parked.

        Returns how many events that are, and their bytes.
        """
        told = {"sink": self.sink, "source_id": source, "after": behind}
        (found,) = self._database.query("count_to_hold", **told)
        if found["rows"]:
            self._database.change("hold", **told, at=as_text(at))
        return found["rows"], found["bytes"]

    def count_added(self, added: Mapping[int, tuple[int, int]], held: tuple[int, int] = (0, 0)) -> None:
        """Count what was added, once that is durable: rows and bytes by source, and what of all of them is *held*."""
        for source, (rows, size) in added.items():
            self._through.setdefault(0 if self._has_one_lane else source, 0)
            self._count(rows, size)
            self._waiting[source] += rows
        self._count_held(held)

    def waiting(self, source: SourceName) -> int:
        """Return how many events of a source are not done; of a sink with lanes by source."""
        return self._waiting[self._database.source_id(source)] if self._database.has_source(source) else 0

    def doubtful(self) -> Mapping[SourceName, int]:
        """Return how many events may have reached the sink although no confirm came, by source."""
        counted = {self._name(lane): self._unsent("count_doubtful", lane)[0][0] for lane in self._through}
        return {name: count for name, count in counted.items() if count}

    def oldest_unpublished_at(self) -> datetime | None:
        """Return when the oldest event was made that is still to be sent."""
        first = [rows[0]["created_at"] for lane in self._through if (rows := self._unsent("unsent", lane, limit=1))]
        return as_moment(min(first)) if first else None

    def through_of(self, source: int) -> int:
        """Return up to which position everything of a source is confirmed, as far as it is not aside."""
        return self._through.get(0 if self._has_one_lane else source, 0)

    def confirmed_before(self, source: int, before: datetime, now: datetime) -> int:
        """Return up to which position this sink has had the events of a source since before that time."""
        lane = 0 if self._has_one_lane else source
        (row,) = self._database.query(
            "confirmed_before", sink=self.sink, lane=lane, before=as_text(before), now=as_text(now)
        )
        return int(row["through"] or 0)

    def last_given(self) -> int:
        """Return the highest position that was ever given."""
        given = self._database.query("positions_given")
        return int(given[0]["seq"]) if given else 0

    def unsent_through(self, position: int, *, after: int = 0, limit: int = -1) -> Sequence[OutboxRow]:
        """Return what is to be sent behind *after* and up to *position*, without bodies; only of the log."""
        behind = max(after, self.through)
        rows = self._database.query("unsent_ids", sink=self.sink, after=behind, through=position, limit=limit)
        return list(map(bare, rows))

    def newest_confirmed(self, limit: int) -> Sequence[OutboxRow]:
        """Return the newest rows that the sink has confirmed, without their bodies; only of the log."""
        reach = {"after": self.since, "through": self.through}
        rows = self._database.query("confirmed_ids", sink=self.sink, **reach, limit=limit)
        return list(map(bare, rows))

    def mark_sent(self, positions: Sequence[int], at: datetime) -> None:
        """Record that the sink had what is at *positions* before, wherever that is in its order."""
        size = 0
        sent: Counter[int] = Counter()
        was_aside = False
        with self._database.together():
            for position in positions:
                told = {"sink": self.sink, "position": position}
                for row in self._database.query("bytes_waiting", **told):
                    self.set_aside(position, "sent", None, at)
                    size += row["bytes"]
                    sent[row["source_id"]] += 1
                was_aside |= self._database.change("aside_is_sent", **told, at=as_text(at)) == 1
        self._count(-sent.total(), -size)
        self._waiting.subtract(sent)
        if was_aside:
            self.load(list(self._through))

    def release_freed(self, at: datetime) -> None:
        """Send what is held and nothing holds any more, since what held it turned out to be with the sink."""
        with self._database.together():
            for row in self._database.query("sources_with_held", sink=self.sink):
                self.release(row["source_id"], at)
        self.load(list(self._through))

    def prune_lines(self, source: int, through: int) -> None:
        """Forget lines about events that were pruned, those of a source up to *through*."""
        lane = 0 if self._has_one_lane else source
        self._database.change("prune_confirmed", sink=self.sink, lane=lane, through=through)

    def begin_behind(self, position: int, at: datetime) -> None:
        """Take everything up to *position* to be with the sink, which had it in another way."""
        self._confirm(dict.fromkeys(self._through or [0], position), at)

    @property
    def through(self) -> int:
        """Up to where everything is confirmed, in the lane that is furthest behind."""
        return min(self._through.values(), default=0)

    def _decide(self, position: int, state: str, reason: str | None, at: datetime) -> bool:
        decision = {"sink": self.sink, "position": position, "state": state, "reason": reason, "at": as_text(at)}
        with self._database.together():
            if self._database.change("change_parked", **decision) != 1:
                return False
            (row,) = self._database.query("source_of_position", position=position)
            self._database.own(row["source_id"])
            rows, size = self.release(row["source_id"], at)
        self._count_held((-rows, -size))
        self._count_parked(row["source_id"], -1)
        if state == "discarded":  # it was held, and is nothing of what was let go
            before = self._backlog
            left = {"held_rows": before.held_rows - 1, "held_bytes": before.held_bytes - row["bytes"]}
            self._backlog = replace(before, **left)
            self._waiting[row["source_id"]] -= 1
        return True

    def _count_held(self, held: tuple[int, int]) -> None:
        """Count rows and bytes that do not wait in their turn any more, but for an operator."""
        before, (rows, size) = self._backlog, held
        self._backlog = Backlog(
            before.rows - rows, before.bytes - size, before.held_rows + rows, before.held_bytes + size, before.parked
        )

    def _count_parked(self, source: int, count: int) -> None:
        self._parked[source] += count
        self._backlog = replace(self._backlog, parked=self._backlog.parked + count)

    def _aside(self) -> Sequence[Any]:
        return self._database.query("aside_by_source", sink=self.sink)

    def _unsent(self, query: str, lane: int, *, after: int | None = None, limit: int = 0) -> Sequence[Any]:
        name = query if query == "count_doubtful" else f"{query}_of_{'all' if self._has_one_lane else 'source'}"
        behind = self._through.get(lane, 0) if after is None else after
        wanted = {"sink": self.sink, "lane": lane, "after": behind, "limit": limit}
        return self._database.query(name, **wanted)

    def _count(self, rows: int, size: int) -> None:
        self._backlog = replace(self._backlog, rows=self._backlog.rows + rows, bytes=self._backlog.bytes + size)

    def _lane(self, name: SourceName) -> int:
        return 0 if self._has_one_lane else self._database.source_id(name)

    def _name(self, lane: int) -> SourceName:
        return ALL if self._has_one_lane else self._database.source_name(lane)


def _made(row: Any) -> tuple[str, int, bool, int]:
    """Return what the events of a source were made in the order of; the last is the position."""
    lineage = orjson.loads(row["body"]).get("lineage", "")
    return lineage, row["sequence"], row["account"] is None, row["position"]


def bare(row: Any) -> OutboxRow:
    """Return a row without what only sending needs."""
    return OutboxRow(
        row["position"], SourceName(row["source"]), 0, row["event_id"], "", "", b"", _NEVER, account=row["account"]
    )
