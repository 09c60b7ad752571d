"""The outbox against a model that is a few lists, for both sinks at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

import orjson
import pytest
from hypothesis import strategies as st

from bridge.delivery.ingest import ingest
from bridge.errors import BridgeError
from bridge.events.cloudevents import ACCOUNT_CHANGED, encode, event_id, routing_key
from bridge.events.normalize import Rules
from bridge.model import MAX_WINDOW_ROWS, Batch, NewEvent, OutboxRow, Sink, SourceName
from bridge.pbx.wire.messages import AccountRow
from bridge.pbx.wire.parser import read_message
from bridge.store.tables.outbox import TableOutbox
from bridge.store.tables.store import TableStore
from tests.support.engines import Engine
from tests.support.events import LINEAGE, change
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LONG_AFTER = NOW + timedelta(days=30)
BRANCH = SourceName("branch")
SOURCES = (HQ, BRANCH)
CERTIFICATE = orjson.dumps({"lineage": LINEAGE})


def add(store: TableStore, source: SourceName, *accounts: str | None) -> list[str]:
    """Append an event of each of these accounts (``None``: a certificate), and return their ids."""
    given = store.exchange.last_given()
    events = []
    for number, account in enumerate(accounts, given + 1):
        identity = event_id(LINEAGE, source, number)
        if account is None:
            events.append(NewEvent(number, identity, "pbx.source.verified", None, "key", CERTIFICATE, NOW))
            continue
        told = change(account, 1, source=source)
        body = encode(told, identity=identity, sequence=number, lineage=LINEAGE, time=NOW)
        events.append(NewEvent(number, identity, ACCOUNT_CHANGED, account, routing_key(told), body, NOW))
    with store.transaction() as transaction:
        transaction.place(source)
        transaction.add_events(source, events)
    return [event.event_id for event in events]


@dataclass
class Model:
    """What one sink does not have: in its order, and aside."""

    waiting: list[tuple[SourceName, str | None, str]] = field(default_factory=list)
    """Source, account and id."""
    aside: list[tuple[SourceName, str | None, str, bool]] = field(default_factory=list)
    """The same, and whether it is parked (and not just held)."""
    made: list[str] = field(default_factory=list)
    """All ids, in the order in which they were made."""

    def add(self, source: SourceName, account: str | None, identity: str) -> None:
        self.made.append(identity)
        if self._is_held(source, account):
            self.aside.append((source, account, identity, False))
        else:
            self.waiting.append((source, account, identity))

    def park(self, identity: str) -> None:
        at = next(at for at, found in enumerate(self.waiting) if found[2] == identity)
        source, account, _ = self.waiting.pop(at)
        self.aside.append((source, account, identity, True))
        for found in self.waiting[at:]:
            if found[0] == source and self._is_held(source, found[1]):
                self.waiting.remove(found)
                self.aside.append((*found, False))

    def has_older_parked(self, identity: str) -> bool:
        """Tell whether something is parked that has to go before a parked one."""
        source, account, *_ = next(one for one in self.aside if one[2] == identity)
        beside = [one for one in self.aside if one[3] and one[0] == source and account in {None, one[1]}]
        return min(beside, key=lambda one: self.made.index(one[2]))[2] != identity

    def decide(self, identity: str, *, is_sent: bool) -> None:
        """Try a parked one again, or let it go."""
        found = next(found for found in self.aside if found[2] == identity and found[3])
        self.aside.remove(found)
        released = [found] if is_sent else []
        parked = [one for one in self.aside if one[3]]
        for one in list(self.aside):
            holds = [other for other in parked if other[0] == one[0] and one[1] in {None, other[1]}]
            if one[0] == found[0] and not one[3] and not holds:
                self.aside.remove(one)
                released.append(one)
        released.sort(key=lambda one: self.made.index(one[2]))
        self.waiting += [one[:3] for one in released]

    def _is_held(self, source: SourceName, account: str | None) -> bool:
        return any(one[3] and one[0] == source and account in {None, one[1]} for one in self.aside)


class Played:
    """A store and the model of each of its sinks."""

    def __init__(self, store: TableStore) -> None:
        self.store = store
        self.sinks = {outbox: Model() for outbox in (store.exchange, store.log)}

    def play(self, move: str, number: int, which: int) -> None:
        outbox = (self.store.exchange, self.store.log)[which]
        model, waiting = self.sinks[outbox], unsent(outbox)
        if move == "add":
            source, account = SOURCES[number % 2], ("a", "b", None)[number % 3]
            (identity,) = add(self.store, source, account)
            for each in self.sinks.values():
                each.add(source, account, identity)
        elif move == "confirm" and waiting:
            self._confirm(outbox, model, waiting[: 1 + number % len(waiting)])
        elif move == "park" and waiting:
            row = waiting[number % len(waiting)]
            outbox.park(row, "why", NOW)
            model.park(row.event_id)
        elif move in {"retry", "discard"} and (parked := outbox.parked()):
            self._decide(outbox, model, parked[number % len(parked)].position, move)
        elif move == "prune":
            self.store.prune(LONG_AFTER, number)

    @staticmethod
    def _confirm(outbox: TableOutbox, model: Model, rows: Sequence[OutboxRow]) -> None:
        outbox.mark_published(rows, NOW)
        done = [row.event_id for row in rows]
        for identity in done:
            model.waiting.remove(next(one for one in model.waiting if one[2] == identity))

    def _decide(self, outbox: TableOutbox, model: Model, position: int, move: str) -> None:
        found = next(row for row in outbox.parked() if row.position == position)
        if move == "discard":
            assert outbox.discard(position, "why", NOW)
        elif model.has_older_parked(found.event_id):
            with pytest.raises(BridgeError, match="decide about that first"):
                outbox.unpark(position, NOW)
            return
        else:
            assert outbox.unpark(position, NOW)
        model.decide(found.event_id, is_sent=move == "retry")

    def check(self) -> None:
        for outbox, model in self.sinks.items():
            rows = unsent(outbox)
            assert [row.position for row in rows] == sorted({row.position for row in rows})
            lanes = [(found[0] if outbox.sink is Sink.EXCHANGE else "", found[2]) for found in model.waiting]
            for lane, expected in groupby(sorted(lanes, key=lambda one: one[0]), key=lambda one: one[0]):
                there = [row.event_id for row in rows if lane in {"", row.source}]
                assert there == [identity for _, identity in expected]
            assert len(rows) == len(model.waiting)
            assert {row.event_id for row in outbox.parked()} == {one[2] for one in model.aside if one[3]}
            backlog = outbox.backlog
            assert (backlog.rows, backlog.bytes) == (len(rows), sum(len(row.body) for row in rows))
            assert (backlog.held_rows, backlog.parked) == (len(model.aside), sum(one[3] for one in model.aside))
            if outbox.sink is Sink.EXCHANGE:
                of = Counter(one[0] for one in (*model.waiting, *model.aside))
                assert [outbox.waiting(source) for source in SOURCES] == [of[source] for source in SOURCES]


moves = st.tuples(
    st.sampled_from(["add", "add", "add", "confirm", "park", "retry", "discard", "prune"]),
    st.integers(0, 30),
    st.integers(0, 1),
)


def play_all(engine: Engine, steps: Sequence[tuple[str, int, int]]) -> None:
    """Hold both sinks of a store against their models after each of *steps*, and when it is opened again."""
    with engine.emptied().store() as store:
        store.begin_log(1)
        played = Played(store)
        for move, number, which in steps:
            played.play(move, number, which)
            played.check()
        before = store.exchange.backlog, store.log.backlog
    with engine.store() as again:
        again.begin_log(1)
        assert (again.exchange.backlog, again.log.backlog) == before
        played.sinks = dict(zip((again.exchange, again.log), played.sinks.values(), strict=True))
        played.check()
        for outbox in (again.exchange, again.log):
            for parked in outbox.parked():
                outbox.discard(parked.position, "why", NOW)
            send_all(outbox, NOW)
        again.prune(LONG_AFTER, 1000)
        for source in SOURCES:
            add(again, source, "z")
        for outbox in (again.exchange, again.log):
            assert len(unsent(outbox)) == len(SOURCES)
            send_all(outbox, NOW)
        again.prune(LONG_AFTER, 1000)
    left = [engine.select(f"SELECT count(*) FROM {table}")[0][0] for table in ("aside", "outbox")]  # noqa: S608
    assert left[0] <= left[1] <= 1 + len(SOURCES), "nothing is kept for ever"


def test_what_is_put_back_is_a_copy_with_the_same_id_and_bytes_behind_everything(store: TableStore) -> None:
    add(store, HQ, "a", "b")
    first = unsent(store.exchange)[0]
    store.exchange.park(first, "too large", NOW)
    assert store.unpark(first.position)
    rows = unsent(store.exchange)
    assert [row.position for row in rows] == [2, 3]
    assert replace(rows[1], position=1, is_in_doubt=False) == first


@pytest.mark.parametrize("said", [
    {"account-guid": "acc\0ount"},
    {"account-guid": "e\u0301-\u2028"},
    {"guid": "\0", "usn": "1\0"},
    {"account-h323": "x\0y", "info": '{"cn": "a\\u0000", "emails": [{"email": "\\u0000@b"}]}'},
])  # fmt: skip
def test_whatever_a_pbx_says_is_kept_sent_and_tried_again(store: TableStore, said: dict[str, object]) -> None:
    whole = {
        "mt": "AccountInfoResult",
        "guid": "g",
        "usn": "1",
        "ausn": "1",
        "account-guid": "one",
        "account-h323": "x",
    } | said
    read = read_message(orjson.dumps(whole))
    assert isinstance(read, AccountRow)
    since = store.place(HQ).cursor
    for _ in range(2):
        ingest(store, Batch(HQ, since, read.row.cursor, [read.row]), rules=Rules(key=b"k"), now=NOW)
        since = read.row.cursor
    (first,) = unsent(store.exchange)
    assert b"\\u00" not in first.body
    store.exchange.park(first, "too large", NOW)
    assert store.unpark(first.position)
    (again,) = unsent(store.exchange)
    assert (again.event_id, again.body) == (first.event_id, first.body)
    assert store.place(HQ).cursor == read.row.cursor


def test_a_certificate_waits_for_what_was_tried_again_and_refused_once_more(store: TableStore) -> None:
    """Or else it would tell that everything before it is told, and a subscriber would drop who is not."""
    add(store, HQ, "a", "b", None)
    for row in unsent(store.exchange)[:2]:
        store.exchange.park(row, "too large", NOW)
    assert store.unpark(1)
    (again,) = unsent(store.exchange)
    store.exchange.park(again, "too large", NOW)
    assert store.unpark(2)
    assert [row.account for row in unsent(store.exchange)] == ["b"]
    assert store.unpark(again.position)
    assert [row.account for row in unsent(store.exchange)] == ["b", "a", None]


def test_what_came_first_is_decided_about_first(store: TableStore) -> None:
    """A row may be known to be too large while the one before it is on its way, and then that is refused as well."""
    add(store, HQ, "a", "a", "b", None)
    first, second, _, certificate = unsent(store.exchange)
    for row in (certificate, second, first):
        store.exchange.park(row, "too large", NOW)
    for later in (second, certificate):
        with pytest.raises(BridgeError, match="event 1 came before it"):
            store.unpark(later.position)
    assert store.discard(1, "why", NOW)
    assert store.unpark(2)
    assert store.unpark(4)
    assert [row.account for row in unsent(store.exchange)] == ["b", "a", None]


def test_what_is_put_off_goes_out_as_copies_in_order_and_nothing_of_it_before_them(store: TableStore) -> None:
    store.begin_log(1)
    add(store, HQ, "a", "b", "a")
    store.log.park(unsent(store.log)[0], "too large", NOW)
    assert store.log.put_off(HQ, 0, "a second bridge", NOW)
    assert not unsent(store.log)
    add(store, HQ, "c")
    assert store.log.put_off_sources() == [HQ]
    assert store.unpark(1), "an operator may decide meanwhile"
    store.log.let_go(HQ, NOW)
    assert [row.account for row in unsent(store.log)] == ["a", "b", "a", "c"]
    assert not store.log.put_off_sources()
    assert (store.log.backlog.rows, store.log.backlog.held_rows) == (4, 0)


def test_a_certificate_stays_behind_what_it_covers_and_before_what_came_later(store: TableStore) -> None:
    store.begin_log(1)
    add(store, HQ, "a", "b")
    given = store.log.last_given()
    with store.transaction() as transaction:
        transaction.place(HQ)
        transaction.add_events(HQ, [NewEvent(given, "verified", "pbx.source.verified", None, "key", CERTIFICATE, NOW)])
    add(store, HQ, "c")
    assert store.log.put_off(HQ, 0, "a second bridge", NOW)
    store.log.let_go(HQ, NOW)
    assert [row.account for row in unsent(store.log)] == ["a", "b", None, "c"]


def test_what_waited_aside_and_is_in_the_log_after_all_is_not_sent_again(store: TableStore) -> None:
    """A later state of the store let it go, and then this one was put back."""
    store.begin_log(1)
    first, _, held, other = add(store, HQ, "a", "b", "a", "a")
    store.log.park(unsent(store.log)[0], "too large", NOW)
    send_all(store.log, NOW)
    position = {row.event_id: row.position for row in store.log.undone_through(9)}
    assert position.keys() == {first, held, other}
    store.log.mark_sent([position[first], position[held]], NOW)
    assert not unsent(store.log), "the rest of the log may have that as well"
    store.log.release_freed(NOW)
    assert [row.event_id for row in unsent(store.log)] == [other]
    assert (store.log.backlog.rows, store.log.backlog.held_rows, store.log.backlog.parked) == (1, 0, 0)


def test_what_may_have_been_sent_is_not_put_off(store: TableStore) -> None:
    store.begin_log(1)
    add(store, HQ, "a", "b")
    assert not store.log.put_off(HQ, 1, "a second bridge", NOW)
    assert len(unsent(store.log)) == 2
    assert store.log.put_off(HQ, None, "a second bridge", NOW), "nothing of it is on its way any more"
    assert store.log.backlog.held_rows == 2
    assert store.exchange.put_off(HQ, 0, "it has a lane of its own", NOW)
    assert len(unsent(store.exchange)) == 2


def test_only_what_is_parked_can_be_decided_about_and_only_once(store: TableStore) -> None:
    add(store, HQ, "a", "a")
    store.exchange.park(unsent(store.exchange)[0], "why", NOW)
    assert store.exchange.parked_by_source == {HQ: 1}
    assert not store.unpark(2), "it is only held"
    assert not store.discard(9, "why", NOW)
    assert store.unpark(1)
    assert store.exchange.parked_by_source == {}
    assert not store.unpark(1)
    assert not store.discard(1, "why", NOW)
    assert len(unsent(store.exchange)) == 2


def test_a_sink_that_parked_something_keeps_it_from_being_pruned_although_the_other_has_it(store: TableStore) -> None:
    store.begin_log(1)
    add(store, HQ, "a", "b")
    send_all(store.exchange, NOW)
    store.log.park(unsent(store.log)[0], "too large", NOW)
    send_all(store.log, NOW)
    assert store.prune(LONG_AFTER, 100) == 1
    assert store.unpark(1)
    assert [row.account for row in unsent(store.log)] == ["a"]
    assert not unsent(store.exchange), "a copy is for the sink that refused it"


def test_only_what_may_have_been_sent_is_in_doubt_after_an_unclean_stop(engine: Engine) -> None:
    store = engine.store()
    store.open()
    add(store, HQ, *["a"] * (MAX_WINDOW_ROWS + 10))
    add(store, BRANCH, "x")
    engine.kill(store)
    with engine.store() as again:
        doubtful = [row for row in unsent(again.exchange) if row.is_in_doubt]
        assert len(doubtful) == MAX_WINDOW_ROWS + 1
        assert again.exchange.doubtful() == {HQ: MAX_WINDOW_ROWS, BRANCH: 1}


def test_forgetting_discards_for_both_sinks_and_lets_go_what_waited(store: TableStore) -> None:
    store.begin_log(1)
    add(store, HQ, "a", None, "b")
    for outbox in (store.exchange, store.log):
        outbox.park(unsent(outbox)[0], "too large", NOW)
    for outbox in (store.exchange, store.log):
        assert outbox.wants(1, "parked")
        assert not outbox.wants(1, "discarded")
        outbox.forget(1, "parked", "its account was forgotten", NOW)
        with store.together():
            outbox.release(store.source_id(HQ), NOW)
        outbox.load([store.source_id(HQ)])
        assert [orjson.loads(row.body).get("subject") for row in unsent(outbox)] == ["b", None]
