"""Cursor, mirror and outbox in the tables that both engines have.

An engine adds how a statement is run, how changes become durable together, who may write, and how it knows whether it
is the newest state of itself.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson

from bridge.errors import BadConfig, StoreOutdated
from bridge.model import Certificate, Numbers, SourceName
from bridge.store.lineage import find_beyond, find_lead, read_birth
from bridge.store.records import Backlog, Forgotten, LogContents, Parked, Pause
from bridge.store.tables.core import Tables
from bridge.store.tables.erasure import forget
from bridge.store.tables.leavers import ELSEWHERE
from bridge.store.tables.moments import as_moment
from bridge.store.tables.notes import COPIED, DOUBT, GENERATION, PARTITIONS, PLACES, RENEWED, SINCE, UNSETTLED
from bridge.store.tables.reader import PAUSED, pauses_in
from bridge.store.tables.sentences import MAY_BE_IN_THE_LOG, NOT_YET_EVERYWHERE, OTHER_PARTITIONS


class TableStore(Tables):
    """The contracts of ``store.contract``; opened by ``with``, or by ``open`` and ``close``."""

    # ------------------------------------------------------------------ is this the newest state of itself?

    def note_looked_for(self, after: int) -> int:
        """Note the next events behind *after* (0: begin) that an earlier generation may have written to the log.

        Returns how far that is, and 0 behind the last.
        """
        return self._looking.note(after, self._unsettled())

    def _unsettled(self) -> int:
        """Return up to which position an earlier generation may have written, whoever noted that; 0: nothing."""
        found = self.query("meta_value", name=UNSETTLED) if self.log.is_on else ()
        return int(bytes(found[0]["value"])) if found else 0

    def found_in_log(self, ids: Sequence[str]) -> None:
        """Take the news that the log has the events with these ids: what is noted of them is not written again."""
        self._looking.found(ids, self._clock())

    def log_places(self) -> Mapping[str, tuple[int, str]]:
        """Return where the log was read to its end last, by stream."""
        return {name: (at, mark) for name, (at, mark) in orjson.loads(self._meta.get(PLACES, b"{}")).items()}

    def compare(self, log: LogContents | None, doubt: str = "") -> bool:
        """Compare with what the log has, and return whether everything is told anew, under a new lineage.

        *log* is ``None`` where it could not be read to its end, and *doubt* says why: that proves nothing, so a store
        that is not proven begins a new lineage, as it does where the log is ahead of it. One that has given no number
        needs none.

        Raises:
            StoreOutdated: the log is ahead of a store that has given numbers already. The next start sees to that.

        """
        with self.together():
            if log is not None:
                found = (*log.newest.values(), *log.others.values())
                self._lineages |= {lineage for lineage, _, _ in found if read_birth(lineage) is not None}
                if not self.exchange.last_given():
                    self._begin_behind(log)
            last = self.exchange.last_given()
            in_doubt = (doubt or self._meta.get(DOUBT, b"").decode()) if last else ""
            ahead = in_doubt if log is None else find_lead(log, self.given(), last)
            if log is not None:
                for source in find_beyond(log.others, self.given()):
                    self._note(f"{ELSEWHERE}{source}", log.others[source][0].encode())
                self.keep_floor()
                self.note_places(log)
                if not ahead and self._looking.is_for_all(self._unsettled()):
                    self._drop(UNSETTLED)
            if ahead and not self.is_proven:
                self._renew(ahead)
            elif ahead and log is not None:
                self._note(COPIED, orjson.dumps({"why": f"an older state of itself: {ahead}"}))
            self._drop(DOUBT)
        if ahead and log is not None and self.is_proven:
            raise StoreOutdated(
                f"{ahead}. Another state of this store was at work; start the bridge again: it then tells everything "
                "anew, under a new lineage"
            )
        self._looking.end()
        if self.log.is_on:
            self.log.release_freed(self._clock())
        self._read()
        self.is_proven = True
        self._proven()
        return RENEWED in self._meta

    def _begin_behind(self, log: LogContents) -> None:
        """Have all that is told here come behind what *log* has; nothing is told yet, and the clock may be behind."""
        for source in find_beyond(log.newest, self.given()):
            for row in self.query("source", name=source):
                self.change("begin_lineage", source_id=row["id"], lineage=self._new_lineage())

    def given(self) -> Mapping[SourceName, Numbers]:
        """Return the highest numbers that were given, by source."""
        rows = self.query("source_ids")
        return {SourceName(row["name"]): (row["lineage"], row["sequence"], row["certified"]) for row in rows}

    def note_places(self, log: LogContents) -> None:
        """Record how far the log was read."""
        self._note(PLACES, orjson.dumps(log.places))

    def _renew(self, why: str) -> None:
        """Begin a new lineage for all sources, in the open transaction."""
        lineage, last = self._new_lineage(), self.exchange.last_given()
        with self.erasing():
            self.change("renew_sources", lineage=lineage, position=last)
            self.change("empty_mirror")
        self._note(GENERATION, lineage.encode())
        for name in (UNSETTLED, SINCE):
            self._note(name, str(last).encode())
        told = {"at": self._clock(), "why": why, "lineage": lineage}
        self._note(RENEWED, orjson.dumps(told, option=orjson.OPT_UTC_Z))
        self._drop(COPIED)

    def _recognise(self, why: str, doubt: str) -> None:
        """Begin a new lineage where *why* says that this is an older state of itself.

        *doubt*: only the log can tell.
        """
        copied = self._meta.get(COPIED)
        if copied is not None:
            why = f"it is {orjson.loads(copied)['why']}"
        with self.together():
            if RENEWED in self._meta and not self.incomplete():
                self._drop(RENEWED)
            if GENERATION not in self._meta:
                self._note(GENERATION, self._new_lineage().encode())
            if why:
                self._renew(why)
            elif doubt:
                self._note(DOUBT, doubt.encode())
        self.is_proven = bool(why)
        self._read()

    # ------------------------------------------------------------------ the log, where the bridge writes it

    def begin_log(self, partitions: int) -> None:
        """From now on events are for the log, too. *partitions* of it, for good.

        Raises:
            BadConfig: events wait that the log may have in another way.

        """
        before = int(self._meta.get(PARTITIONS, b"0"))
        self.log.is_on = True
        self.log.load(())
        if not before:
            self._refuse_while_waiting(self.exchange.backlog, MAY_BE_IN_THE_LOG)
            self.log.begin_behind(self.exchange.last_given(), self._clock())
            self._note(SINCE, str(self.exchange.last_given()).encode())
            self.log.load(())
        elif before != partitions:
            self._refuse_while_waiting(self.log.backlog, OTHER_PARTITIONS, before=before, wanted=partitions)
            self._note(SINCE, str(self.exchange.last_given()).encode())
        self._note(PARTITIONS, str(partitions).encode())
        self.log.since = int(self._meta.get(SINCE, b"0"))

    def end_log(self) -> None:
        """From now on the exchange feeds the log.

        Raises:
            BadConfig: something is in the log already and not yet published, or the other way round.

        """
        if PARTITIONS not in self._meta:
            return
        for sink in self._sinks_with_rows:
            self._refuse_while_waiting(sink.backlog, NOT_YET_EVERYWHERE)
        self._drop(PARTITIONS)

    def _refuse_while_waiting(self, backlog: Backlog, sentence: str, **words: int) -> None:
        if waiting := backlog.rows + backlog.held_rows:
            raise BadConfig(sentence.format(events=waiting, **words))

    # ------------------------------------------------------------------ what operators decide

    def parked(self) -> Sequence[Parked]:
        """Return the parked events, the oldest first."""
        return [found for sink in self._sinks_with_rows for found in sink.parked()]

    def parked_by_source(self) -> Mapping[SourceName, int]:
        """Return how many events are parked, by source."""
        return sum((Counter(sink.parked_by_source) for sink in self._sinks_with_rows), Counter[SourceName]())

    def unpark(self, position: int) -> bool:
        """Have a parked event tried once more, and return whether there was one at *position*.

        Raises:
            BridgeError: what came before it is parked, too, and has to go first.

        """
        found = [sink.unpark(position, self._clock()) for sink in self._sinks_with_rows]
        return any(found)

    def discard(self, position: int, reason: str, at: datetime) -> bool:
        """Never send a parked event, let go what waits behind it, and return whether there was one at *position*."""
        found = [sink.discard(position, reason, at) for sink in self._sinks_with_rows]
        return any(found)

    def paused(self) -> Mapping[SourceName, Pause]:
        """Return the PBXs that an operator wants not to be read."""
        return pauses_in(self.query("meta_values", pattern=f"{PAUSED}*"))

    def pause(self, source: SourceName, pause: Pause) -> None:
        """Record that *source* is not to be read, until ``resume``."""
        self._note(f"{PAUSED}{source}", orjson.dumps(pause))

    def resume(self, source: SourceName) -> bool:
        """Record that *source* may be read again, and return whether it was paused."""
        return self._drop(f"{PAUSED}{source}")

    def forget(self, key: str, at: datetime, *, discard_unsent: bool) -> Forgotten:
        """Take the personal data of an account out of mirror and events; see ``erasure``.

        It is in no file any more once ``empty_write_ahead`` has been, too.
        """
        return forget(key, at, self._sinks_with_rows, self, discard_unsent=discard_unsent)

    # ------------------------------------------------------------------ what the board shows

    def verified_at(self, source: SourceName) -> datetime | None:
        """Return when the last full walk of the present epoch was proven, if one was."""
        row = next(iter(self.query("verified_at", name=source)), None)
        return as_moment(row["verified_at"]) if row and row["verified_at"] else None

    def certificate(self, source: SourceName) -> Certificate | None:
        """Return what the last proven full walk of the present epoch found, if there was one."""
        row = next(iter(self.query("certificate", name=source)), None)
        if row is None or not row["certificate"]:
            return None
        told = orjson.loads(row["certificate"])
        moments = {name: datetime.fromisoformat(told[name]) for name in ("started_at", "verified_at")}
        return Certificate(**{**told, **moments})

    def count_accounts(self, source: SourceName) -> int:
        """Return how many accounts *source* has at present."""
        rows = self.query("source", name=source)
        return int(self.query("count_accounts", source_id=rows[0]["id"], missed=0)[0][0]) if rows else 0

    def prune(self, before: datetime, limit: int) -> int:
        """Forget up to *limit* events that every sink has had since before that time, and return how many that were."""
        self.leavers.remove_retired()
        pruned = 0
        for source in self._sources_to_prune():
            through = min(sink.confirmed_before(source, before, self._clock()) for sink in self._sinks)
            if through and pruned < limit:
                with self.together():
                    told = {"source_id": source, "through": through}
                    count = self.change("prune_events", **told, limit=limit - pruned)
                    if count:
                        self.change("prune_aside", **told)
                        for sink in self._sinks:
                            sink.prune_lines(source, through)
                    pruned += count
        return pruned

    def _sources_to_prune(self) -> Sequence[int]:
        """Return the numbers of the sources whose events are ours to forget."""
        return list(self._sources.values())
