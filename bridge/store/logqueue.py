"""What is still to be written to the log: a second position over the one outbox, with numbers of its own.

The broker drops what a producer sends with a publishing id that is not above its last one, so a number must be given
in the order of writing, never twice, and never to two different events. An event's ``sequence`` is no such number: a
parked event is written long after those with higher sequences. So each event gets its number when it is added to the
outbox, in the same transaction, and what was held back gets a new one when it is let go, behind all that were given
before. That is safe because what is held was never sent under its old number: the only thing the log refuses for
good, an event larger than a frame, is refused on our side before anything of it or behind it leaves.

Numbers count within the lineage of the store, and the producer's name contains the lineage, so a new store begins
anew. What is left is a store that is an older copy of itself: it would give numbers to other events that the broker
has already, and those would be dropped without a word. Such a store begins a new lineage (see ``lineage``), mostly
before it sends anything. Should nothing else give it away, the broker's last number does: the highest one that the
store had given when it was opened (``unchecked``) is kept, durably, until the broker was asked, and where that knows
a higher one, another copy of this store has written since (``StoreOutdated``).

What waited when a lineage ended may have been written under its name, before or after the copy was made. So the
lineage is remembered, with how far it reached (``former``), and the next session asks the broker for the last number
of that name, too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from bridge.errors import BadConfig, StoreOutdated
from bridge.model import Backlog, OutboxRow, Parked, SourceName

_MODE: Final = "log_partitions"
_UNCHECKED: Final = "log_unchecked"
_CONFIRMED: Final = "log_confirmed"
_FORMER: Final = "log_former"
_NUMBERS: Final = (_MODE, _UNCHECKED, _CONFIRMED, _FORMER)


class Database(Protocol):
    """What the queue needs of the store it is part of."""

    def query(self, name: str, /, **parameters: Any) -> Sequence[Any]:
        """Return the rows of a statement."""

    def change(self, name: str, /, **parameters: Any) -> int:
        """Run a statement, and return how many rows it changed."""

    def transaction(self) -> AbstractContextManager[object]:
        """Return a transaction."""

    def begin_lineage(self, why: str) -> None:
        """Go on under a new lineage."""


class LogQueue:
    """The store contract of a ``Drain``, over the rows that the log still wants; a row's position is its number.

    Only where the log is written by the stream protocol; otherwise nothing is ever in it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._backlog = Backlog()
        self._ceiling = 0
        """No number above this one can have been sent by this store: not before it was opened, nor since."""
        self.is_on = False

    def __repr__(self) -> str:
        return f"<LogQueue, {self._backlog.rows} to write>"

    @property
    def backlog(self) -> Backlog:
        """What the log still wants; counted along, so asking costs nothing."""
        return self._backlog

    def begin(self, partitions: int) -> None:
        """From now on every event is also put into this queue. *partitions* of the log, for good.

        Raises:
            BadConfig: it cannot be told what the log has of the events that wait.

        """
        before = self._meta(_MODE)
        with self._database.transaction():
            if before is None:
                (in_doubt,) = self._database.query("count_in_doubt")[0]
                if in_doubt:
                    raise BadConfig(_MAY_BE_IN_THE_LOG.format(events=in_doubt))
                self._database.change("log_add_unsent")
            elif before != partitions and self._count().rows + self._count().held_rows:
                raise BadConfig(_OTHER_PARTITIONS.format(before=before, wanted=partitions))
            self._set_meta(_MODE, partitions)
            if self._meta(_UNCHECKED) is None:
                self._set_meta(_UNCHECKED, self._last_number())
        self._ceiling = self._meta(_UNCHECKED) or 0
        self._backlog = self._count()
        self.is_on = True

    def end(self) -> None:
        """From now on the exchange feeds the log.

        Raises:
            BadConfig: something is in the log already and not yet published, or the other way round.

        """
        if self._meta(_MODE) is None:
            return
        (unpublished,) = self._database.query("count_undone")[0]
        waiting = max(unpublished, self._count().rows + self._count().held_rows)
        if waiting:
            raise BadConfig(_NOT_YET_EVERYWHERE.format(events=waiting))
        with self._database.transaction():
            for name in _NUMBERS:
                self._database.change("drop_meta_value", name=name)

    def lineage_began(self, before: str, behind: int) -> None:
        """Remember the lineage *before*, under which events up to position *behind* may have been written.

        To be called in the transaction in which a new one begins.
        """
        if self._meta(_MODE) is None:
            return
        former = {"lineage": before, "position": behind, "number": self._last_number()}
        value = orjson.dumps([*self._formers(), former])
        self._database.change("set_meta_value", name=_FORMER, value=value)
        for name in (_CONFIRMED, _UNCHECKED):
            self._database.change("drop_meta_value", name=name)

    def former(self) -> Sequence[str]:
        """Return the lineages under which something that still waits may have been written."""
        return [str(former["lineage"]) for former in self._formers()]

    def settle_former(self, has: Callable[[str, OutboxRow], bool]) -> int:
        """Count as done what the log has under a former lineage, as *has* tells, and return how many that were."""
        settled = 0
        for former in self._formers():
            reach = {name: former[name] for name in ("position", "number")}
            numbers = {row["number"] for row in self._database.query("log_former", **reach)}
            rows = [row for row in self.unpublished(0, 1 << 30) if row.position in numbers] if numbers else []
            done = [row for row in rows if has(str(former["lineage"]), row)]
            self._finish(done)
            settled += len(done)
        if self._formers():
            self._database.change("drop_meta_value", name=_FORMER)
        return settled

    def check(self, last: int) -> str:
        """Compare with the *last* number that the broker has of this store; called before anything is sent.

        Return what is wrong with the log although nothing will be dropped; empty where nothing is.

        Raises:
            StoreOutdated: it has numbers that this store never sent; a new lineage has begun.

        """
        if last > self._ceiling:
            why = _OUTDATED.format(last=last, ceiling=self._ceiling)
            self._database.begin_lineage(why)
            raise StoreOutdated(f"the store is an older copy of itself: {why}. It goes on under a new lineage")
        if self._meta(_UNCHECKED) is not None:
            self._database.change("drop_meta_value", name=_UNCHECKED)
        confirmed = self._meta(_CONFIRMED) or 0
        return _FORGETFUL.format(last=last, confirmed=confirmed) if last < confirmed else ""

    def release(self) -> None:
        """Let go what nothing holds any more, after something was taken out of the queue by other hands."""
        if self.is_on:
            with self._changing():
                self._database.change("log_release")

    def recount(self) -> None:
        """Look at the queue once more, after something was taken out of it by other hands."""
        if self.is_on:
            self._backlog = self._count()

    def added(self, rows: int, size: int) -> None:
        """Count events that were added to the queue."""
        self._backlog = self._count() if self._backlog.parked else self._less(-rows, -size)

    def unpublished(self, after: int, limit: int) -> Sequence[OutboxRow]:
        """Return the rows to be written behind number *after*, in order."""
        rows = [
            OutboxRow(
                position=row["number"],
                source=SourceName(row["source"]),
                sequence=row["sequence"],
                event_id=row["event_id"],
                event_type=row["event_type"],
                routing_key=row["routing_key"],
                body=row["body"],
                created_at=datetime.fromisoformat(row["created_at"]),
                account=row["account"],
            )
            for row in self._database.query("log_rows", after=after, limit=limit)
        ]
        if rows:
            self._ceiling = max(self._ceiling, rows[-1].position)
        return rows

    def mark_published(self, rows: Sequence[OutboxRow], _at: datetime) -> None:
        """Record that the log has *rows*."""
        self._finish(rows, confirmed=rows[-1].position if rows else 0)

    def _finish(self, rows: Sequence[OutboxRow], *, confirmed: int = 0) -> None:
        if not rows:
            return
        with self._database.transaction():
            self._database.change("log_done", numbers=orjson.dumps([row.position for row in rows]).decode())
            if confirmed:
                self._set_meta(_CONFIRMED, max(self._meta(_CONFIRMED) or 0, confirmed))
        self._backlog = self._less(len(rows), sum(len(row.body) for row in rows))

    def mark_in_doubt(self, rows: Sequence[OutboxRow]) -> None:
        """Do nothing: the next session asks the broker, and knows."""

    def park(self, row: OutboxRow, reason: str, at: datetime) -> None:
        """Put *row* aside, and hold whatever comes behind it and is about the same account."""
        with self._changing():
            self._database.change("log_park", number=row.position, reason=reason, parked_at=at.isoformat())
            self._database.change("log_hold")

    def unpark(self, position: int) -> bool:
        """Have a parked row tried once more, with a new number; *position* is that in the outbox."""
        with self._changing():
            is_found = self._database.change("log_unpark", position=position) == 1
            self._database.change("log_release")
        return is_found

    def discard(self, position: int) -> bool:
        """Never write a parked row, and let go what waits behind it."""
        with self._changing():
            is_found = self._database.change("log_discard", position=position) == 1
            self._database.change("log_release")
        return is_found

    def parked(self) -> Sequence[Parked]:
        """Return the parked rows, the oldest first."""
        return [
            Parked(
                position=row["position"],
                source=SourceName(row["source"]),
                sequence=row["sequence"],
                event_id=row["event_id"],
                routing_key=row["routing_key"],
                body=row["body"],
                created_at=datetime.fromisoformat(row["created_at"]),
                parked_at=datetime.fromisoformat(row["parked_at"]),
                reason=row["parked_reason"],
                waiting=row["waiting"],
                refused_by="log",
            )
            for row in self._database.query("log_parked")
        ]

    def oldest_unpublished_at(self) -> datetime | None:
        """Return when the oldest event was made that is still to be written."""
        found = self._database.query("log_oldest")
        return datetime.fromisoformat(found[0]["created_at"]) if found else None

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._database.transaction():
            yield
        self._backlog = self._count()

    def _count(self) -> Backlog:
        row = self._database.query("log_count")[0]
        waiting, size = row["rows"] - row["held_rows"], row["bytes"] - row["held_bytes"]
        return Backlog(waiting, size, row["held_rows"], row["held_bytes"], row["parked"])

    def _less(self, rows: int, size: int) -> Backlog:
        return replace(self._backlog, rows=self._backlog.rows - rows, bytes=self._backlog.bytes - size)

    def _last_number(self) -> int:
        found = self._database.query("log_number")
        return int(found[0]["seq"]) if found else 0

    def _formers(self) -> Sequence[Any]:
        found = self._database.query("meta_value", name=_FORMER)
        return orjson.loads(found[0]["value"]) if found else ()

    def _meta(self, name: str) -> int | None:
        found = self._database.query("meta_value", name=name)
        return int(found[0]["value"]) if found else None

    def _set_meta(self, name: str, value: int) -> None:
        self._database.change("set_meta_value", name=name, value=str(value).encode())


_MAY_BE_IN_THE_LOG: Final = (
    "{events} events may have reached the log through the exchange or not, which nobody can tell any more, so "
    "they could be in it twice. Start once more without rabbitmq.stream_url, until account-bridge status says "
    "that everything is sent, and set it then"
)
_OTHER_PARTITIONS: Final = (
    "{before} partitions of the log were written so far, now {wanted} are wanted (rabbitmq.log_partitions), and "
    "events still wait for one of the former. Start once more with {before}, until account-bridge status says "
    "that everything is sent"
)
_NOT_YET_EVERYWHERE: Final = (
    "{events} events are not yet both published and in the log, and would be missing in it or be in it twice. "
    "Start once more with rabbitmq.stream_url set, until account-bridge status says that everything is sent and "
    "nothing is parked; remove it then"
)
_OUTDATED: Final = "the log has events of it up to number {last}, and it had given none above {ceiling}"
_FORGETFUL: Final = (
    "the log remembers events of this store up to number {last} only, and had confirmed {confirmed}: it was "
    "deleted, or its broker was put back from a backup. What it lost is not written again; readers begin anew "
    "with the first entry"
)
