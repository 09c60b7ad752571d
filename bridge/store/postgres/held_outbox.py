"""The outbox of a bridge that shares the store: it has a lane for each source that the bridge holds, and no others.

In the log, too: who holds a source writes it there under a name of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from bridge.errors import StoreOutdated
from bridge.model import MAX_WINDOW_ROWS, OutboxRow, Sink, SourceName
from bridge.store.records import Backlog
from bridge.store.tables.outbox import Database, TableOutbox, bare


class Holding(Database, Protocol):
    """A store that has some of the sources."""

    def epoch(self, source: int) -> int:
        """Return under which epoch a source is held, by its number; none that ever was where it is not."""


class HeldOutbox(TableOutbox):
    """The outbox contract for one *sink*, over what *database* holds."""

    def __init__(self, database: Holding, sink: Sink) -> None:
        super().__init__(database, sink)
        self._holding = database
        self._has_one_lane = False

    def load(self, sources: Sequence[int]) -> None:
        """Count what there is of *sources*, which are held."""
        if self._given_before is None:
            self._given_before = self.last_given()
        self._through, self._lines = {}, {}
        self._backlog, self._parked, self._waiting = Backlog(), Counter(), Counter()
        for source in sources:
            self.add_lane(source)

    def add_lane(self, source: int) -> None:
        """Take up a source that is held from now on."""
        self._through[source] = self._progress_of(source)
        (unsent,) = self._unsent("count_unsent", source)
        (aside,) = self._database.query("aside_of_source", sink=self.sink, source_id=source)
        self._count(unsent["rows"], unsent["bytes"])
        before = self._backlog
        self._backlog = Backlog(
            before.rows,
            before.bytes,
            before.held_rows + aside["rows"],
            before.held_bytes + aside["bytes"],
            before.parked,
        )
        self._count_parked(source, aside["parked"])
        self._waiting[source] = unsent["rows"] + aside["rows"]

    def drop_lanes(self, sources: Sequence[int]) -> None:
        """Let go of sources that are not held any more."""
        is_counted = any(self._waiting[source] for source in sources)
        for source in sources:
            for known in (self._through, self._lines, self._waiting, self._parked):
                known.pop(source, None)
        if is_counted:
            self.load(list(self._through))

    def doubt_first_of(self, source: int) -> None:
        """Take to be in doubt what a former holder may have had on its way, in the open transaction."""
        told = {"lane": source, "after": self._progress_of(source), "limit": MAX_WINDOW_ROWS}
        self._database.change("doubt_first", **told)

    def mark_published(self, rows: Sequence[OutboxRow], at: datetime) -> None:
        """Record that the sink has *rows*, as far as it was not found out already that it has."""
        news = [row for row in rows if row.position > self._through.get(self._lane(row.source), 0)]
        if news:
            super().mark_published(news, at)

    def mark_sent(self, positions: Sequence[int], at: datetime) -> None:
        """Record that the sink had what is at *positions* before, whoever holds their sources."""
        super().mark_sent(positions, at)
        self.load(list(self._through))

    def mark_in_doubt(self, rows: Sequence[OutboxRow]) -> None:
        """Record that *rows* may have reached the sink although no confirm came; the log is asked, and knows."""
        if self.sink is not Sink.LOG:
            super().mark_in_doubt(rows)

    def count_written(self, source: SourceName, last: int, at: datetime) -> None:
        """Count as done all of *source* up to the position *last*, which the log has.

        Raises:
            StoreOutdated: that was never given here.
            LeaseLost: the source is another bridge's.

        """
        lane = self._database.source_id(source)
        if last > self.last_given():
            raise StoreOutdated(
                f"the log has events of {source} up to number {last}, which this store never gave: another state of it "
                "was at work. Start the bridge again: it then tells everything anew, under a new lineage"
            )
        if last <= self._through.get(lane, last):
            return
        (before,) = self._unsent("count_unsent", lane)
        self._confirm({lane: last}, at)
        (after,) = self._unsent("count_unsent", lane)
        self._count(after["rows"] - before["rows"], after["bytes"] - before["bytes"])
        self._waiting[lane] += after["rows"] - before["rows"]

    def unsent_through(self, position: int, *, after: int = 0, limit: int = -1) -> Sequence[OutboxRow]:
        """Return what is to be sent behind *after* and up to *position*, of all sources, without bodies."""
        told = {"sink": self.sink, "after": after, "through": position, "limit": limit}
        return list(map(bare, self._database.query("unsent_ids_by_source", **told)))

    def through_of(self, source: int) -> int:
        """Return up to which position everything of a source is confirmed, as far as it is not aside."""
        through = self._through.get(source)
        return self._progress_of(source) if through is None else through

    def count_added(self, added: Mapping[int, tuple[int, int]], held: tuple[int, int] = (0, 0)) -> None:
        """Count what was added, as far as it is of sources that are held."""
        super().count_added({source: counted for source, counted in added.items() if source in self._through}, held)

    def _progress_of(self, source: int) -> int:
        return int(self._database.query("progress_of_lane", sink=self.sink, lane=source)[0]["through"])

    def _unsent(self, query: str, lane: int, *, after: int | None = None, limit: int = 0) -> Sequence[Any]:
        if query != "unsent":
            return super()._unsent(query, lane, after=after, limit=limit)
        behind = self.through_of(lane) if after is None else after
        told = {"sink": self.sink, "lane": lane, "after": behind, "limit": limit, "epoch": self._holding.epoch(lane)}
        return self._database.query("unsent_of_held", **told)
