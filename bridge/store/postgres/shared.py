"""The store in a database that several bridges work on: each has some of the sources, and writes nothing of others.

What protects is in the database, twice. Each transaction begins by counting itself in the row of this life, which
fails once the others took it to be over; a burial waits for the transaction that is open. And whatever is about a
source begins by locking its row and comparing holder and epoch. So who slept, was cut off or gave a source away finds
that out with the first thing it wants to write, and nothing of it is written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from bridge.errors import LeaseLost, StoreOutdated
from bridge.model import SourceName
from bridge.store.postgres.errors import source_taken
from bridge.store.postgres.leased import NO_EPOCH, Held, LeasedStore
from bridge.store.postgres.shared_log import refuse_another_log, write_by_source, write_no_more
from bridge.store.postgres.store import CHECKED
from bridge.store.postgres.transaction import SharedTransaction
from bridge.store.records import SourceState
from bridge.store.tables.notes import BY_SOURCE, FLOOR, GENERATION, PARTITIONS, SINCE


class SharedStore(LeasedStore):
    """The contracts of ``store.contract`` for one of several bridges; *held* are the sources that it has."""

    _log_began_with: tuple[str, str] | None = None
    """What was noted about how the log is written when this bridge began with that."""

    def holders(self) -> Mapping[SourceName, str]:
        """Return the name of the bridge that has each source; empty where none has."""
        return {SourceName(row["name"]): row["bridge"] for row in self.query("holders")}

    def source_of_parked(self, position: int) -> SourceName | None:
        """Return whose event waits at *position* for an operator."""
        return next((SourceName(row["source"]) for row in self.query("source_of_parked", position=position)), None)

    # ------------------------------------------------------------------ what former holders may have on their way

    def set_fence(self, queue: str) -> None:
        """Note which queue our connection to the broker holds, before anything goes out on it."""
        self.change("set_fence", me=self._me, fence=queue)

    def former_fence(self, name: SourceName) -> tuple[str, float] | None:
        """Return the queue that the former holder of a source may still have, and for how many seconds it is over.

        ``None`` where there was none, or it let go by itself.
        """
        held = self.held.get(name)
        if held is None or held.former is None:
            return None
        found = self.query("fence_of", life=held.former)
        return (found[0]["fence"], found[0]["seconds"]) if found and found[0]["fence"] else None

    def clear_former(self, name: SourceName) -> None:
        """Note that nothing of former holders is on its way any more.

        Raises:
            LeaseLost: the source is not ours.

        """
        held = self.held.get(name)
        if held is None:
            raise LeaseLost(source_taken())
        if held.former is not None:
            with self.together():
                self.own(held.number)
                self.session.send("clear_former", {"source_id": held.number, "me": self._me, "epoch": held.epoch})
            self.held[name] = Held(held.number, held.epoch)

    # ------------------------------------------------------------------ the log, where bridges write it

    def begin_log(self, partitions: int) -> None:
        """From now on events are for the log, too, which has *partitions*.

        Raises:
            BadConfig: others write it in another way, or events wait that it may have.

        """
        write_by_source(self, partitions, self.exchange.last_given(), self._clock())
        self.log.is_on = True
        self.log.load(())
        self.log.since = int(self.note(SINCE) or 0)
        self._log_began_with = (self.note(PARTITIONS), self.note(BY_SOURCE))

    def end_log(self) -> None:
        """From now on the exchange feeds the log.

        Raises:
            BadConfig: others write it, or something is in the log already and not yet published, or the reverse.

        """
        write_no_more(self)
        self._log_began_with = ("", "")

    def tell_of_us(self, *, is_ready: bool, serves: str, page: str) -> None:
        """Tell the others whether we take sources, for what we are configured, and where we show how we are doing.

        Raises:
            BadConfig: they write the log in another way than we do by now.

        """
        with self.together():
            if self._log_began_with is not None:
                refuse_another_log(self, self._log_began_with)
            super().tell_of_us(is_ready=is_ready, serves=serves, page=page)

    # ------------------------------------------------------------------ what an engine adds

    def tell_confirmed(self, told: Mapping[str, Any], before: int | None) -> None:
        """Append a line about what a sink has; fails with the commit where the source is not ours."""
        lane = told["lane"]
        with self.together():
            mine = {"me": self._me, "epoch": self.epoch(lane)}
            self.session.send("confirm_held", {**told, **mine, "before": NO_EPOCH if before is None else before})

    def place(self, source: SourceName) -> SourceState:
        """Return where *source* stands.

        Raises:
            LeaseLost: it is not ours.

        """
        if source not in self.held:
            raise LeaseLost(source_taken())
        return super().place(source)

    def reload(self) -> None:
        """Read anew what sources there are and what waits of ours."""
        self._read()
        self.held = {name: held for name, held in self.held.items() if name in self._sources}
        for sink in self._sinks_with_rows:
            sink.load([held.number for held in self.held.values()])

    def _load(self) -> None:
        if self._meta.get("open"):  # it had one bridge before, which did not end by itself
            with self.together():
                for number in self._sources.values():
                    self.exchange.doubt_first_of(number)
                self._note("open", b"")
        for sink in self._sinks_with_rows:
            sink.load(())

    def _begin_transaction(self) -> SharedTransaction:
        return SharedTransaction(
            self.session, self._sources, self._sinks, self._new_lineage, me=self._me, epoch_of=self._epoch_of
        )

    def _sources_to_prune(self) -> Sequence[int]:
        free = {row["id"] for row in self.query("free_ids")}
        return [number for number in self._sources.values() if number in self._epochs or number in free]

    def keep_floor(self) -> None:
        """Keep the newest lineage that any bridge gave."""
        self._hear_of_lineages()
        super().keep_floor()

    def _new_lineage(self) -> str:
        self._hear_of_lineages()
        return super()._new_lineage()

    def _hear_of_lineages(self) -> None:
        known = [row["value"] for row in self.query("meta_value", name=FLOOR)]
        self._lineages |= {self.query("newest_lineage")[0]["lineage"], *(bytes(value).decode() for value in known)}

    def _renew(self, why: str) -> None:
        super()._renew(why)
        self.session.send("take_all", {})

    def _reconnected(self) -> None:
        """Stop where the database is another one than it was: others may have lost commits, which we cannot know.

        Raises:
            StoreOutdated: that is so. The next start compares it with the log.

        """
        self.session.is_new = False
        noted = self.query("meta_value", name=CHECKED)
        if self._options.loses_nothing or not noted or bytes(noted[0]["value"]).decode() == self._read_checked():
            return
        raise StoreOutdated(
            f"the store {self._database.place} is another database than it was, or on another timeline (restored, or "
            "failed over). Start the bridge again: it then compares that with the log"
        )

    def _note_set_back(self) -> None:
        """Have the next start begin a new lineage, unless another bridge has done so since.

        Raises:
            StoreOutdated: always.

        """
        noted = self.query("meta_value", name=GENERATION)
        if noted and bytes(noted[0]["value"]) != self._meta[GENERATION]:
            raise StoreOutdated(
                f"the store {self._database.place} has gone back in time, and another bridge has begun a new "
                "lineage. Start this one again"
            )
        super()._note_set_back()
