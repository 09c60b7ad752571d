"""Several bridges on one database: each source has one holder, and who is none writes nothing, whatever he believes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from bridge.delivery.ingest import Ingested, ingest
from bridge.errors import BadConfig, LeaseLost, StoreInUse, StoreOutdated
from bridge.events.normalize import Rules
from bridge.model import SourceName
from bridge.store.lineage import new_lineage
from bridge.store.postgres.shared import SharedStore
from bridge.store.postgres.sql import queries
from bridge.store.postgres.store import PostgresStore, StoreOptions
from bridge.store.postgres.transaction import SharedTransaction
from bridge.store.records import LogContents
from bridge.store.sharing import WISHED_SECONDS
from tests.support.engines import QUICK, PostgresEngine
from tests.support.rows import HQ, batch, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
BRANCH = SourceName("branch")
LEASE_SECONDS = 1.0
OPTIONS = StoreOptions(lease_seconds=LEASE_SECONDS, patience_seconds=20.0, opening_seconds=0.0)
SECONDS = 20.0


@pytest.fixture
def opened(engine: PostgresEngine) -> Iterator[Callable[[], SharedStore]]:
    """Return what opens one more bridge's store on one database."""
    with ExitStack() as stack:

        def open_one() -> SharedStore:
            store = SharedStore(engine.database, OPTIONS)
            stack.enter_context(store)
            store.compare(None)
            return store

        yield open_one


def tell(store: SharedStore, number: int, source: SourceName = HQ) -> Ingested:
    since = store.place(source).cursor
    told = replace(batch(row(f"account {number}", number), since=since), source=source)
    return ingest(store, told, rules=RULES, now=NOW)


def publish(store: SharedStore, source: SourceName = HQ, *, count: int = 100) -> list[int]:
    """Have the exchange confirm what waits of a source, and return its sequences."""
    rows = store.exchange.unpublished({source: 0}, count, count)
    if rows:
        store.exchange.mark_published(rows, NOW)
    return [one.sequence for one in rows]


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def sleep_through_a_lease(store: SharedStore) -> None:
    """Have a bridge say nothing any more, as one that is frozen."""
    assert store.lease is not None
    store.lease._is_closed.set()  # noqa: SLF001 - nobody else may do that


def cut(engine: PostgresEngine, store: SharedStore) -> None:
    """End the connection of a bridge, and return when the server has nothing open of it any more."""
    connection = store.session._connection  # noqa: SLF001 - nobody else may do that
    assert connection is not None
    number = connection.info.backend_pid
    engine.server.run(f"SELECT pg_terminate_backend({number})")
    until(lambda: (number,) not in engine.server.run("SELECT pid FROM pg_stat_activity"))


def bury_all_silent(store: SharedStore) -> None:
    def is_done() -> bool:
        return any(free.name == HQ for free in store.look().free)

    until(is_done)


def test_one_source_has_one_holder_who_goes_on_where_the_last_one_let_go(opened: Callable[[], SharedStore]) -> None:
    first, second = opened(), opened()
    first.add_sources([HQ, BRANCH])
    assert first.claim([HQ]) == [HQ]
    assert second.claim([HQ, BRANCH]) == [BRANCH]
    tell(first, 1)
    tell(second, 1, BRANCH)
    with pytest.raises(LeaseLost):
        tell(second, 2)
    assert publish(first, count=1) == [1]
    tell(first, 2)
    assert first.backlog.rows == 1
    first.give_back(HQ)
    assert first.backlog.rows == 0
    with pytest.raises(LeaseLost):
        tell(first, 3)
    assert first.exchange.unpublished({HQ: 0}, 10, 10) == []
    assert [free.name for free in second.look().free] == [HQ]
    assert second.claim([HQ]) == [HQ]
    assert second.held[HQ].former is None
    assert second.backlog.rows == 2
    tell(second, 3)
    assert publish(second) == [2, 3]


def test_what_was_lost_meanwhile_cannot_be_given_back(opened: Callable[[], SharedStore]) -> None:
    """Something of it may be on its way: who takes it up next has to know that."""
    first = opened()
    first.add_sources([HQ])
    first.claim([HQ])
    tell(first, 1)
    first.lose([HQ])
    with pytest.raises(LeaseLost):
        first.give_back(HQ)
    assert first.claim_again() == [HQ]
    assert [one.is_in_doubt for one in first.exchange.unpublished({HQ: 0}, 10, 10)] == [True]


def test_what_a_silent_bridge_had_is_free_when_its_lease_ends_and_in_doubt(
    opened: Callable[[], SharedStore],
) -> None:
    first, second = opened(), opened()
    first.add_sources([HQ])
    first.claim([HQ])
    for number in (1, 2):
        tell(first, number)
    sent = first.exchange.unpublished({HQ: 0}, 10, 10)
    life = first.life
    sleep_through_a_lease(first)
    bury_all_silent(second)
    assert (first.buried, second.buried) == (0, 1)
    assert second.claim([HQ]) == [HQ]
    assert second.held[HQ].former == life
    rows = second.exchange.unpublished({HQ: 0}, 10, 10)
    assert [one.sequence for one in rows] == [1, 2]
    assert all(one.is_in_doubt for one in rows)
    for attempt in (lambda: tell(first, 3), lambda: first.exchange.mark_published(sent, NOW)):
        with pytest.raises(LeaseLost):
            attempt()
    with pytest.raises(LeaseLost):
        first.look()
    second.clear_former(HQ)
    assert second.held[HQ].former is None
    tell(second, 3)
    assert publish(second) == [1, 2, 3]
    first.live_anew()
    assert first.life != life
    assert first.claim([HQ]) == []
    assert not first.held


def test_an_epoch_of_before_counts_no_more(opened: Callable[[], SharedStore]) -> None:
    """Whatever was begun in the first tenure must not end in the second one, though it is the same bridge."""
    store = opened()
    store.add_sources([HQ])
    store.claim([HQ])
    tell(store, 1)
    rows = store.exchange.unpublished({HQ: 0}, 10, 10)
    before = store._epochs.copy()  # noqa: SLF001 - what a part of it might still have
    store.give_back(HQ)
    store.claim([HQ])
    now = store._epochs.copy()  # noqa: SLF001
    assert now != before
    store._epochs.update(before)  # noqa: SLF001
    with pytest.raises(LeaseLost):
        store.exchange.mark_published(rows, NOW)
    with pytest.raises(LeaseLost):
        store.exchange.mark_in_doubt(rows)
    assert store.exchange.unpublished({HQ: 0}, 10, 10) == []
    store._epochs.update(now)  # noqa: SLF001
    assert publish(store) == [1]


def test_nobody_is_buried_by_one_who_could_not_renew_himself(
    engine: PostgresEngine, opened: Callable[[], SharedStore]
) -> None:
    first, second = opened(), opened()
    first.add_sources([HQ])
    first.claim([HQ])
    with psycopg.connect(engine.server.url(engine.name), autocommit=True) as other:
        assert second.lease is not None
        second.lease.tenure.failed(time.clock_gettime(time.CLOCK_BOOTTIME))
        other.execute("UPDATE lease SET until = clock_timestamp() - interval '1 s' WHERE bridge = %s", [first.life])
        assert second.look().free == []
    tell(first, 1)


def test_a_source_that_is_given_away_is_kept_for_who_gets_it(opened: Callable[[], SharedStore]) -> None:
    first, second, third = opened(), opened(), opened()
    first.add_sources([HQ])
    first.claim([HQ])
    first.give_back(HQ, kept_for=second.life)
    assert [(free.name, free.kept_for) for free in third.look().free] == [(HQ, second.life)]
    assert third.claim([HQ]) == []
    assert second.claim([HQ]) == [HQ]


def test_a_clean_stop_leaves_nothing_to_wait_for(engine: PostgresEngine, opened: Callable[[], SharedStore]) -> None:
    first, second = SharedStore(engine.database, OPTIONS), opened()
    with first:
        first.compare(None)
        first.add_sources([HQ])
        first.claim([HQ])
        tell(first, 1)
    began = time.monotonic()
    assert [free.name for free in second.look().free] == [HQ]
    assert second.claim([HQ]) == [HQ]
    assert time.monotonic() - began < LEASE_SECONDS / 2


def test_who_shares_with_nobody_stands_beside_nobody(engine: PostgresEngine, opened: Callable[[], SharedStore]) -> None:
    shared = opened()
    with pytest.raises(StoreInUse):
        PostgresStore(engine.database, OPTIONS).open()
    shared.add_sources([HQ])
    shared.claim([HQ])
    tell(shared, 1)
    sleep_through_a_lease(shared)
    with PostgresStore(engine.database, QUICK) as alone:
        assert alone.place(HQ).sequence == 1
        assert [one.is_in_doubt for one in alone.exchange.unpublished({HQ: 0}, 10, 10)] == [True]
        with pytest.raises(StoreInUse, match="for itself"):
            SharedStore(engine.database, OPTIONS).open()


def test_one_that_stands_still_in_a_transaction_holds_nothing_up(opened: Callable[[], SharedStore]) -> None:
    """In a pipeline the server waits for it for ever, and it has its row locked, and that of a source."""
    first, second = opened(), opened()
    first.add_sources([HQ])
    first.claim([HQ])
    with pytest.raises(LeaseLost), first.transaction() as transaction:
        transaction.place(HQ)
        sleep_through_a_lease(first)
        began = time.monotonic()
        bury_all_silent(second)
        assert second.claim([HQ]) == [HQ]
        assert time.monotonic() - began < LEASE_SECONDS + 3
    tell(second, 1)


def test_the_log_is_written_in_one_way_by_all(opened: Callable[[], SharedStore]) -> None:
    first, second = opened(), opened()
    for store in (first, second):  # both are on their way up
        store.begin_log(1)
        store.tell_of_us(is_ready=True, serves="", page="")
    with pytest.raises(BadConfig, match="in another way"):
        second.begin_log(2)
    with pytest.raises(BadConfig, match="in another way"):
        second.end_log()
    assert second.note("log_partitions") == "1"


def test_who_takes_over_counts_as_done_what_the_log_has(opened: Callable[[], SharedStore]) -> None:
    first, second = opened(), opened()
    for store in (first, second):
        store.begin_log(1)
    first.add_sources([HQ])
    first.claim([HQ])
    for number in (1, 2, 3):
        tell(first, number)
    rows = first.log.unpublished({HQ: 0}, 10, 10)
    assert [one.sequence for one in rows] == [1, 2, 3]
    first.log.mark_published(rows[:1], NOW)
    first.give_back(HQ)
    second.claim([HQ])
    assert second.log.backlog.rows == 2
    second.log.count_written(HQ, rows[1].position, NOW)
    assert second.log.backlog.rows == 1
    assert [one.sequence for one in second.log.unpublished({HQ: 0}, 10, 10)] == [3]
    second.log.mark_published(rows, NOW)  # read before that was known
    assert second.log.backlog.rows == 0
    with pytest.raises(StoreOutdated):
        second.log.count_written(HQ, rows[2].position + 1, NOW)
    with pytest.raises(LeaseLost):
        first.log.mark_published(rows, NOW)


def test_one_bridge_goes_on_with_a_log_that_several_wrote_once_all_is_written(
    engine: PostgresEngine, opened: Callable[[], SharedStore]
) -> None:
    with SharedStore(engine.database, OPTIONS) as shared:
        shared.compare(None)
        shared.begin_log(1)
        shared.add_sources([HQ])
        shared.claim([HQ])
        tell(shared, 1)
    with pytest.raises(BadConfig, match="1 events wait"):
        PostgresStore(engine.database, QUICK).open()
    again = opened()
    again.begin_log(1)
    again.claim([HQ])
    again.log.mark_published(again.log.unpublished({HQ: 0}, 10, 10), NOW)
    again.close()
    with PostgresStore(engine.database, QUICK) as alone:
        alone.begin_log(1)
        assert alone.log.backlog.rows == 0
        assert alone.exchange.backlog.rows == 1


def test_a_retired_source_stays_as_long_as_another_bridge_has_it(opened: Callable[[], SharedStore]) -> None:
    """Its configuration may be an older one: what it writes must not be about a source that is no more."""
    first, second = opened(), opened()
    first.add_sources([HQ])
    first.claim([HQ])
    with second.together():
        second.leavers.retire(HQ, NOW, is_ended=False)
    assert second.leavers.remove_retired() == []
    first.give_back(HQ)
    assert second.leavers.remove_retired() == [HQ]


def test_a_retired_source_that_another_bridge_is_about_to_take_stays_and_nobody_waits(
    opened: Callable[[], SharedStore],
) -> None:
    first, second = opened(), opened()
    first.add_sources([HQ])
    with second.together():
        second.leavers.retire(HQ, NOW, is_ended=False)
    with first.together():
        first.session.rows("claim", {"me": first._me, "names": '["hq"]'})  # noqa: SLF001 - as it is in the midst of it
        began = time.monotonic()
        assert second.leavers.remove_retired() == []
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("does", ["tells", "keeps"])
def test_what_another_bridge_did_with_a_retired_source_a_moment_ago_counts(
    opened: Callable[[], SharedStore], monkeypatch: pytest.MonkeyPatch, does: str
) -> None:
    """It had looked whether anything waits before that."""
    first, second = opened(), opened()
    first.add_sources([HQ])
    with second.together():
        second.leavers.retire(HQ, NOW, is_ended=False)
    lock_free = second.lock_free

    def meanwhile(source: int) -> bool:
        if does == "keeps":
            first.leavers.keep(HQ)
        else:
            first.claim([HQ])
            tell(first, 1)
            first.give_back(HQ)
        return lock_free(source)

    monkeypatch.setattr(second, "lock_free", meanwhile)
    assert second.leavers.remove_retired() == []
    first.claim([HQ])
    assert publish(first) == ([1] if does == "tells" else [])


@pytest.mark.parametrize("alone", [False, True])
def test_a_renewal_that_waits_for_a_burial_comes_too_late(
    engine: PostgresEngine, opened: Callable[[], SharedStore], *, alone: bool
) -> None:
    first = opened()
    sleep_through_a_lease(first)
    ending = "end_lapsed" if alone else "bury"
    renewed: list[int] = []
    with (
        closing(engine.database.connect(to_write=True)) as heir,
        closing(engine.database.connect(to_write=True)) as late,
    ):
        told = {"me": first.life, "seconds": 60.0}

        def renew() -> None:
            renewed.append(late.execute(queries()["renew_lease"], told).rowcount)

        is_lapsed = "SELECT 1 FROM lease WHERE until < clock_timestamp()"
        until(lambda: bool(engine.select(is_lapsed)))
        with heir.transaction():
            heir.execute(queries()[ending], {} if alone else {"me": "00000000-0000-0000-0000-000000000000"})
            renewing = threading.Thread(target=renew)
            renewing.start()
            number = late.info.backend_pid
            until(lambda: (number,) in engine.server.run("SELECT pid FROM pg_locks WHERE NOT granted"))
        renewing.join()
    assert renewed == [0]


def test_a_claim_that_is_repeated_on_another_connection_takes_nothing_that_another_took_meanwhile(
    engine: PostgresEngine, opened: Callable[[], SharedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = opened(), opened()
    first.add_sources([HQ])
    rows = first.session.rows

    def meanwhile(name: str, told: Any) -> Any:
        found = rows(name, told)
        monkeypatch.undo()
        cut(engine, first)
        assert second.claim([HQ]) == [HQ]
        return found

    monkeypatch.setattr(first.session, "rows", meanwhile)
    with pytest.raises(LeaseLost):
        first.claim([HQ])
    assert not first.held
    tell(second, 1)


def test_what_is_written_is_not_repeated_on_another_connection_once_the_source_was_taken(
    engine: PostgresEngine, opened: Callable[[], SharedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody took this bridge to be dead: everything began anew, as after a restored backup."""
    first, second = opened(), opened()
    first.add_sources([HQ])
    first.claim([HQ])
    move = SharedTransaction.move

    def meanwhile(self: SharedTransaction, *arguments: Any) -> bool:
        is_moved = move(self, *arguments)
        monkeypatch.undo()
        cut(engine, first)
        with second.together():
            second._renew("as after a restored backup")  # noqa: SLF001 - only a start does that
        return is_moved

    monkeypatch.setattr(SharedTransaction, "move", meanwhile)
    with pytest.raises(LeaseLost):
        tell(first, 1)
    assert engine.select("SELECT count(*) FROM outbox") == [(0,)]
    assert engine.select("SELECT count(*) FROM account") == [(0,)]


def test_a_source_is_not_removed_on_another_connection_once_another_bridge_told_of_it(
    engine: PostgresEngine, opened: Callable[[], SharedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was free and nothing waited, when that was looked at; the lock went with the connection."""
    first, second = opened(), opened()
    first.add_sources([HQ])
    with second.together():
        second.leavers.retire(HQ, NOW, is_ended=False)
    change = second.change

    def meanwhile(name: str, /, **told: Any) -> int:
        if name == "drop_aside":
            monkeypatch.undo()
            cut(engine, second)
            first.claim([HQ])
            tell(first, 1)
            first.give_back(HQ)
        return change(name, **told)

    monkeypatch.setattr(second, "change", meanwhile)
    with suppress(LeaseLost):
        second.leavers.remove_retired()
    first.claim([HQ])
    assert publish(first) == [1]


def test_a_lineage_is_newer_than_what_any_bridge_gave_to_a_source_that_is_gone(
    engine: PostgresEngine, opened: Callable[[], SharedStore]
) -> None:
    """The clock of the other one is hours ahead, and who removes the source never heard of that lineage."""
    first, second = opened(), opened()
    first._clock = lambda: datetime.now(UTC) + timedelta(hours=5)  # noqa: SLF001 - as it is given at the start
    first.add_sources([HQ])
    lineage = "SELECT lineage FROM source"
    before = engine.select(lineage)
    with second.together():
        second.leavers.retire(HQ, NOW, is_ended=False)
    assert second.leavers.remove_retired() == [HQ]
    second.add_sources([HQ])
    assert str(engine.select(lineage)) > str(before)


def test_what_the_log_may_have_is_looked_for_by_each_bridge_that_finds_it_not_settled(engine: PostgresEngine) -> None:
    """One that has read the log, but looked for nothing there, does not say that nothing is left to be found."""
    with SharedStore(engine.database, OPTIONS) as store:
        store.compare(None)
        store.begin_log(1)
        store.add_sources([HQ])
        store.claim([HQ])
        tell(store, 1)
        (waiting,) = store.log.unpublished({HQ: 0}, 10, 10)
        log = LogContents({HQ: (store.place(HQ).lineage, 2, 0)})
    first, second = SharedStore(engine.database, OPTIONS), SharedStore(engine.database, OPTIONS)
    with first, second:
        for bridge in (first, second):
            bridge.begin_log(1)
            assert not bridge.note_looked_for(0)
        assert first.compare(log), "the log is ahead"
        second.compare(log)
        for bridge in (second, first):
            assert bridge.note_looked_for(0) == waiting.position
            assert not bridge.note_looked_for(waiting.position)
        second.found_in_log([waiting.event_id])
        second.compare(log)
        assert not second.note_looked_for(0)
        second.claim([HQ])
        assert not second.log.unpublished({HQ: 0}, 10, 10)


def test_a_pbx_that_dials_before_any_bridge_has_read_the_log_is_told_behind_what_that_has(
    engine: PostgresEngine,
) -> None:
    """In a new database in place of one that is lost, where the clock of one bridge is behind."""
    before = new_lineage(NOW, ())
    late, right = (
        SharedStore(engine.database, OPTIONS, clock=lambda at=at: at) for at in (NOW - timedelta(hours=5), NOW)
    )
    with late, right:
        late.add_sources([HQ])
        assert late.given()[HQ][0] < before
        for store in (right, late):
            assert not store.compare(LogContents({HQ: (before, 99, 0)}))
        assert late.claim([HQ]) == [HQ]
        assert late.place(HQ).lineage > before


def test_who_began_beside_a_bridge_that_writes_the_log_in_another_way_does_not_go_on(
    opened: Callable[[], SharedStore],
) -> None:
    """Neither of them was ready when the other one began, so that nobody was refused."""
    first, second, third = opened(), opened(), opened()
    first.begin_log(1)
    third.end_log()
    second.begin_log(2)
    second.tell_of_us(is_ready=True, serves="", page="")
    for other in (first, third):
        with pytest.raises(BadConfig, match="in another way"):
            other.tell_of_us(is_ready=True, serves="", page="")
    second.tell_of_us(is_ready=True, serves="", page="")


def test_a_wish_is_forgotten_by_holders_when_nobody_waits_for_it_any_more(
    engine: PostgresEngine, opened: Callable[[], SharedStore]
) -> None:
    """Whoever asked may have been killed, and an operator may have decided otherwise long ago."""
    first, second = opened(), opened()
    first.add_sources([HQ])
    number = first.wishes.ask(HQ, "pause", {"reason": "moving house"})
    second.claim([HQ])
    assert [wish.number for wish in second.wishes.for_us()] == [number]
    with psycopg.connect(engine.server.url(engine.name), autocommit=True) as other:
        other.execute("UPDATE wish SET asked_at = asked_at - make_interval(secs => %s)", [WISHED_SECONDS])
    assert second.wishes.for_us() == []


def test_what_the_log_lacks_of_a_source_waits_though_the_exchange_has_all(opened: Callable[[], SharedStore]) -> None:
    store = opened()
    store.begin_log(1)
    store.add_sources([HQ])
    store.claim([HQ])
    tell(store, 1)
    publish(store)
    assert store.waiting(HQ) == 1
    store.log.mark_published(store.log.unpublished({HQ: 0}, 10, 10), NOW)
    assert store.waiting(HQ) == 0
