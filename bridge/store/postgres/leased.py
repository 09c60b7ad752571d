"""Which sources of a shared store are ours: lives, leases, epochs, and how a source is claimed and let go of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from bridge.clock import steady_through_sleep
from bridge.errors import LeaseLost
from bridge.logs import get_logger
from bridge.model import Sink, SourceName
from bridge.store.postgres.connecting import Connection
from bridge.store.postgres.errors import life_over, source_taken
from bridge.store.postgres.held_outbox import HeldOutbox
from bridge.store.postgres.lease import Lease
from bridge.store.postgres.opening import begin_life
from bridge.store.postgres.rows import Row
from bridge.store.postgres.session import Session
from bridge.store.postgres.store import PostgresStore
from bridge.store.postgres.wishes import Wishes
from bridge.store.sharing import KEPT_SECONDS, Free, Peer, View
from bridge.store.tables.looking import Looking
from bridge.store.tables.notes import GENERATION, UNSETTLED

NO_EPOCH: Final = -1

BEATS: Final = 3
"""In the time of one lease the bridge says at least once that it works, or the lease is not renewed any more."""

LONGEST_LEASE_SECONDS: Final = 120.0
"""That may be configured: one that lasts longer was given before the clock of the database was set back."""

SHORTEST_ANSWER_SECONDS: Final = 2.0
"""What a renewal waits for its answer at least, before its connection is given up and another one tried."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """A source that is ours."""

    number: int
    epoch: int
    former: str | None = None
    """The life of a holder before us that may still have messages on their way."""


class LeasedStore(PostgresStore):
    """The part of ``SharedStore`` that knows what is ours; *held* are the sources that are."""

    is_shared = True
    exchange: HeldOutbox
    log: HeldOutbox

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.exchange, self.log = HeldOutbox(self, Sink.EXCHANGE), HeldOutbox(self, Sink.LOG)
        self._looking = Looking(self.log)
        self.held: dict[SourceName, Held] = {}
        """By name; changed on the store's thread only."""
        self._epochs: dict[int, int] = {}
        self.wishes = Wishes(self)
        """What is wanted of the holders of sources."""
        self.taken_over = 0
        """How many sources were taken from bridges that did not let go of them."""
        self.buried = 0
        """How many bridges this one took to be dead."""
        self._beat_at: float | None = None
        self._began_at = 0.0

    @property
    def life(self) -> str:
        """The life of this bridge, as the others know it."""
        return self._me

    def beat(self) -> None:
        """Say that the bridge works; from the first time on the lease is not renewed without that."""
        self._beat_at = steady_through_sleep()

    @property
    def is_good(self) -> bool:
        """True while nobody else can have what is ours; may be asked from any thread."""
        lease = self.lease
        return lease is not None and lease.is_good

    # ------------------------------------------------------------------ who lives, and who has what

    def look(self) -> View:
        """See to what dead bridges had, and return who lives and what is free.

        Raises:
            LeaseLost: we are taken to be dead ourselves.

        """
        peers = self.query("peers")
        if any(row["seconds"] > LONGEST_LEASE_SECONDS for row in peers):
            self.session.do("disbelieve_leases", {"seconds": self._options.lease_seconds})
        if all(row["id"] != self._me for row in peers):
            raise LeaseLost(life_over())
        lapsed = [row for row in peers if row["is_lapsed"] and row["id"] != self._me]
        may_bury = self.lease is not None and self.lease.may_bury
        if (lapsed and may_bury) or self.query("held_by_dead")[0]["is_any"]:
            self._bury(lapsed if may_bury else ())
            peers = self.query("peers")
        free = self.query("free_sources")
        if any(not row["is_ready"] for row in peers) and self.query("meta_value", name=UNSETTLED):
            free = []  # that one looks what the log has of what waits, since everything begins anew
        held = next((row["held"] for row in peers if row["id"] == self._me), 0)
        return View(
            [Peer(row["id"], row["age"], row["held"], row["serves"], row["is_ready"], row["name"]) for row in peers],
            [Free(SourceName(row["name"]), row["seconds"], row["kept_for"]) for row in free],
            is_as_believed=held == len(self.held),
        )

    def _bury(self, lapsed: Sequence[Row]) -> None:
        """Take those who are silent to be over, for good, and free what they had."""
        with self.together():
            buried = self.session.rows("bury", {"me": self._me}) if lapsed else ()
            self.session.send("free_buried", {})
        self.buried += len(buried)
        for row in buried:
            log.warning("bridge.buried", bridge=row["name"], life=row["id"])
        if {row["id"] for row in lapsed} - {row["id"] for row in buried} and self.query("cut_stuck"):
            log.warning("bridge.cut", problem="a silent bridge stood still in a transaction")

    def add_sources(self, names: Sequence[SourceName]) -> None:
        """Have all of these known, so that somebody can hold them."""
        told = orjson.dumps(names).decode()
        if self.query("unknown_names", names=told):
            with self.together():
                self.session.send("add_sources", {"names": told, "lineage": self._new_lineage()})

    def claim(self, names: Sequence[SourceName]) -> Sequence[SourceName]:
        """Take these sources, as far as nobody was faster, and return those that are ours now.

        Raises:
            LeaseLost: we are taken to be dead.

        """
        with self.together():
            rows = self.session.rows("claim", {"me": self._me, "names": orjson.dumps(names).decode()})
            for row in rows:
                if row["former"] is not None:
                    self.exchange.doubt_first_of(row["id"])
        self.taken_over += sum(row["former"] is not None for row in rows)
        return self._take_up(rows)

    def claim_again(self) -> Sequence[SourceName]:
        """Take what is still ours under new epochs, after we took it to be lost; return it.

        Raises:
            LeaseLost: we are taken to be dead.

        """
        with self.together():
            rows = self.session.rows("claim_again", {"me": self._me})
            for row in rows:
                self.exchange.doubt_first_of(row["id"])
        self.lose(list(self.held))
        return self._take_up(rows)

    def give_back(self, name: SourceName, kept_for: str | None = None) -> None:
        """Let go of a source of which nothing is on its way; *kept_for* a while for that life.

        Raises:
            LeaseLost: it was not ours any more.

        """
        held = self.held.get(name)
        if held is None:
            raise LeaseLost(source_taken())
        told = {"source_id": held.number, "me": self._me, "epoch": held.epoch}
        with self.together():
            self.own(held.number)
            self.session.send("let_go", {**told, "kept_for": kept_for, "seconds": KEPT_SECONDS})
        self.lose([name])

    def give_all_back(self, in_flight: Collection[SourceName]) -> None:
        """Let go of everything at the end; of those *in_flight* something is on its way.

        Raises:
            LeaseLost: we are taken to be dead.

        """
        numbers = [self.held[name].number for name in in_flight if name in self.held]
        with self.together():
            self.session.send("let_go_all", {"me": self._me, "in_flight": orjson.dumps(numbers).decode()})
        self.lose(list(self.held))

    def lose(self, names: Sequence[SourceName]) -> None:
        """Take these sources not to be ours any more; nothing is written."""
        numbers = [held.number for name in names if (held := self.held.pop(name, None)) is not None]
        for number in numbers:
            self._epochs.pop(number, None)
        for sink in self._sinks_with_rows:
            sink.drop_lanes(numbers)

    def live_anew(self) -> None:
        """Begin another life, since this one is over: nothing is ours.

        Raises:
            StoreUnreachable: the database is away.
            StoreInUse: another bridge has it for itself now.

        """
        self.lose(list(self.held))
        session, lease, self.lease = self.session, self.lease, None
        if lease is not None:
            lease.close()
        session.rollback()
        self._me = self._take()
        session.live_anew(self._me)
        self.lease = self._begin_lease()
        log.warning("bridge.lives_anew", life=self._me)

    def tell_of_us(self, *, is_ready: bool, serves: str, page: str) -> None:
        """Tell the others whether we take sources, for what we are configured, and where we show how we are doing."""
        self.change("tell_of_us", me=self._me, is_ready=is_ready, serves=serves, page=page)

    def waiting(self, source: SourceName) -> int:
        """Return how many events of a source of ours some sink does not have."""
        return sum(sink.waiting(source) for sink in self._sinks)

    # ------------------------------------------------------------------ what an engine adds

    def query(self, name: str, /, **parameters: Any) -> Sequence[Row]:
        """Return the rows of a statement; one who is taken to be dead may look, too."""
        return self.session.look(name, {"me": self._me, **parameters})

    def own(self, source: int) -> None:
        """Make sure, in the open transaction, that a source is ours: it fails where it is not."""
        self.session.send("hold_source", {"source_id": source, "me": self._me, "epoch": self.epoch(source)})

    def lock_free(self, source: int) -> bool:
        """Keep others from a source until the open transaction is over; False where another bridge has it."""
        return bool(self.session.rows("lock_free_source", {"source_id": source, "me": self._me}))

    def epoch(self, source: int) -> int:
        """Return under which epoch a source is held, by its number; none that ever was where it is not."""
        return self._epochs.get(source, NO_EPOCH)

    def close(self) -> None:
        """Say that the stop was clean, and let go; what is ours then is free, too."""
        self.held.clear()
        self._epochs.clear()
        super().close()

    @property
    def _sinks_with_rows(self) -> Sequence[HeldOutbox]:
        sinks: Sequence[HeldOutbox] = super()._sinks_with_rows  # type: ignore[assignment]  # both are made here
        return sinks

    def _begin(self) -> None:
        self._me = self._take()
        options = self._options
        session = Session(
            self._database,
            self._me,
            patience_seconds=options.patience_seconds,
            on_wait=self._waits,
            is_shared=True,
        )
        self._open_session = session
        self.lease = self._begin_lease()

    def _begin_life(self, connection: Connection) -> str:
        self._began_at = steady_through_sleep()
        return begin_life(self._database, connection, self._options.lease_seconds, is_shared=True)

    def _begin_lease(self) -> Lease:
        seconds = self._options.lease_seconds
        return Lease(
            self._database,
            self._me,
            seconds,
            began_at=self._began_at,
            lives=self._works,
            answer_seconds=max(SHORTEST_ANSWER_SECONDS, seconds / 4),
        )

    def _works(self) -> bool:
        return self._beat_at is None or steady_through_sleep() - self._beat_at < self._options.lease_seconds / BEATS

    def _epoch_of(self, source: SourceName) -> int:
        held = self.held.get(source)
        return NO_EPOCH if held is None else held.epoch

    def _take_up(self, rows: Sequence[Row]) -> Sequence[SourceName]:
        """Count what there is of sources that are ours from now on, and return them."""
        if rows:
            self._meta[GENERATION] = bytes(self.query("meta_value", name=GENERATION)[0]["value"])
        taken = []
        for row in rows:
            name, number = SourceName(row["name"]), row["id"]
            self._sources[name] = number
            self._names[number] = name
            self.held[name], self._epochs[number] = Held(number, row["epoch"], row["former"]), row["epoch"]
            taken.append(name)
        for sink in self._sinks_with_rows:
            for row in rows:
                sink.add_lane(row["id"])
        return taken
