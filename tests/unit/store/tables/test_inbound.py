from datetime import UTC, datetime, timedelta

from bridge.model import SourceName
from bridge.store.records import Admission, InboundPbx, Newcomers
from bridge.store.tables.inbound import MAX_ADDRESSES
from bridge.store.tables.store import TableStore
from tests.support.engines import Engine

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=365)
HQ = InboundPbx(SourceName("example-com-hq-1"), "example.com", "hq", "192.0.2.1", "a" * 32)
ANYBODY = Newcomers()


def caller(number: int, **more: str) -> InboundPbx:
    return InboundPbx(SourceName(f"source-{number}"), "example.com", f"pbx {number}", **more)


def elsewhere(address: str = "198.51.100.9", guid: str = "a" * 32) -> InboundPbx:
    return InboundPbx(HQ.source, HQ.domain, HQ.pbx, address, guid)


def test_a_pbx_is_new_once_and_known_afterwards(store: TableStore) -> None:
    assert [store.book.register_inbound(HQ, NOW, ANYBODY) for _ in range(2)] == [Admission.NEW, Admission.KNOWN]
    assert store.book.known(NOW) == [HQ]
    assert store.book.known(NOW + timedelta(seconds=1)) == []


def test_a_name_that_is_anothers_is_refused_and_stays_with_its_first_bearer(store: TableStore) -> None:
    store.book.register_inbound(HQ, NOW, ANYBODY)
    for other in (InboundPbx(HQ.source, "example.com", "other"), InboundPbx(HQ.source, "other.com", "hq")):
        assert store.book.register_inbound(other, NOW, ANYBODY) is Admission.NAME_TAKEN
    twin = InboundPbx(SourceName("another-source"), HQ.domain, HQ.pbx)
    assert store.book.register_inbound(twin, NOW, ANYBODY) is Admission.NAME_TAKEN
    assert store.book.known(LONG_AGO) == [HQ]


def test_new_ones_are_bounded_by_the_hour_and_known_ones_are_not(store: TableStore) -> None:
    few = Newcomers(per_hour=2)
    assert [store.book.register_inbound(caller(number), NOW, few) for number in range(3)] == [
        Admission.NEW,
        Admission.NEW,
        Admission.TOO_MANY_NEW,
    ]
    assert store.book.register_inbound(caller(1), NOW, few) is Admission.KNOWN
    assert store.book.register_inbound(caller(2), NOW + timedelta(hours=1, seconds=1), few) is Admission.NEW


def test_new_ones_are_bounded_in_all_by_those_that_still_dial(store: TableStore) -> None:
    few = Newcomers(total=2, remembered=timedelta(days=30))
    assert [store.book.register_inbound(caller(number), LONG_AGO, few) for number in range(2)] == [Admission.NEW] * 2
    assert [store.book.register_inbound(caller(number), NOW, few) for number in (2, 3, 4)] == [
        Admission.NEW,
        Admission.NEW,
        Admission.TOO_MANY,
    ]
    assert store.book.register_inbound(caller(0), NOW, few) is Admission.KNOWN


def test_a_clock_that_was_ahead_shuts_nobody_out(store: TableStore) -> None:
    store.book.register_inbound(caller(0), NOW + timedelta(days=400), Newcomers(per_hour=1, total=1))
    assert store.book.register_inbound(caller(1), NOW, Newcomers(per_hour=1, total=1)) is Admission.NEW


def test_where_the_operator_is_asked_a_new_one_waits_and_a_yes_is_kept(engine: Engine) -> None:
    asking = Newcomers(is_asking=True)
    with engine.store() as store:
        assert store.book.register_inbound(HQ, NOW, asking) is Admission.WAITS
        assert not store.book.known(LONG_AGO), "and leaves no trace"
        assert store.book.admit(HQ, NOW)
        assert store.book.admit(HQ, NOW), "twice is once"
        assert not store.book.admit(InboundPbx(SourceName("x"), HQ.domain, HQ.pbx), NOW)
    with engine.store() as store:
        assert store.book.register_inbound(HQ, NOW, asking) is Admission.KNOWN


def test_another_address_or_guid_is_told_until_somebody_says_yes(engine: Engine) -> None:
    with engine.store() as store:
        store.book.register_inbound(HQ, NOW, ANYBODY)
        assert store.book.oddity(HQ.source) == ""
        assert store.book.register_inbound(elsewhere(guid="b" * 32), NOW, ANYBODY) is Admission.KNOWN
        store.book.register_inbound(HQ, NOW + timedelta(hours=1), ANYBODY)
    with engine.store() as store:
        told = store.book.oddity(HQ.source)
        assert "another address than before (198.51.100.9) and with another App object" in told
        assert "2026-11-28T12:00" in told, "since when"
        assert [known.oddity for known in store.book.known(NOW)] == [told]
        assert store.book.acknowledge(HQ.source)
        assert store.book.oddity(HQ.source) == ""
        store.book.register_inbound(elsewhere(guid="b" * 32), NOW, ANYBODY)
        store.book.register_inbound(elsewhere("192.0.2.1", guid="B" * 32), NOW, ANYBODY)
        assert store.book.oddity(HQ.source) == "", "both addresses are known now, and the new guid"
        store.book.register_inbound(HQ, NOW, ANYBODY)
        assert "another App object" in store.book.oddity(HQ.source)
    assert "b" * 32 not in told, "no word of what was proven"


def test_what_a_pbx_never_told_is_not_odd_when_it_does(store: TableStore) -> None:
    store.book.register_inbound(InboundPbx(HQ.source, HQ.domain, HQ.pbx), NOW, ANYBODY)
    store.book.register_inbound(HQ, NOW, ANYBODY)
    assert store.book.oddity(HQ.source) == ""
    store.book.register_inbound(elsewhere("192.0.2.1", guid="c" * 32), NOW, ANYBODY)
    assert store.book.oddity(HQ.source) != ""


def test_a_login_that_leaves_the_known_guid_out_is_told_until_somebody_says_yes(store: TableStore) -> None:
    """Whoever does not know it, and comes from the same address, would pass unseen."""
    without = InboundPbx(HQ.source, HQ.domain, HQ.pbx, HQ.address, "")
    store.book.register_inbound(HQ, NOW, ANYBODY)
    store.book.register_inbound(without, NOW, ANYBODY)
    assert "with another App object than before" in store.book.oddity(HQ.source)
    store.book.acknowledge(HQ.source)
    store.book.register_inbound(without, NOW, ANYBODY)
    assert store.book.oddity(HQ.source) == ""


def test_a_later_address_does_not_hide_an_earlier_one(store: TableStore) -> None:
    store.book.register_inbound(HQ, NOW, ANYBODY)
    for address in ("203.0.113.66", "198.51.100.9", "203.0.113.66"):
        store.book.register_inbound(elsewhere(address), NOW, ANYBODY)
    assert "(198.51.100.9, 203.0.113.66)" in store.book.oddity(HQ.source)
    store.book.acknowledge(HQ.source)
    store.book.register_inbound(elsewhere("198.51.100.9"), NOW, ANYBODY)
    store.book.register_inbound(elsewhere("203.0.113.66"), NOW, ANYBODY)
    assert store.book.oddity(HQ.source) == "", "a yes is for what was told"
    for number in range(2 * MAX_ADDRESSES):
        store.book.register_inbound(elsewhere(f"192.0.2.{number}"), NOW, ANYBODY)
    assert store.book.oddity(HQ.source).count("192.0.2.") == MAX_ADDRESSES


def test_addresses_that_are_known_are_bounded(store: TableStore) -> None:
    store.book.register_inbound(HQ, NOW, ANYBODY)
    for number in range(MAX_ADDRESSES):
        store.book.register_inbound(elsewhere(f"198.51.100.{number}"), NOW, ANYBODY)
        store.book.acknowledge(HQ.source)
    store.book.register_inbound(elsewhere("192.0.2.1"), NOW, ANYBODY)
    assert "192.0.2.1" in store.book.oddity(HQ.source), "the oldest is forgotten"


def test_nobody_can_say_yes_to_who_never_dialled(store: TableStore) -> None:
    assert not store.book.acknowledge(HQ.source)
    assert store.book.oddity(HQ.source) == ""
