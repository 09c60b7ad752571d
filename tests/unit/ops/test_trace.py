from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.model import Cursor, SourceName
from bridge.ops.trace import EventState, Live, Trace, as_told, former, has_usn, is_meant, near, trace, unfinished
from bridge.store.records import KnownAccount, Pause, RecordedEvent
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.store import SqliteStore
from tests.support.events import LINEAGE
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, chain, row

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RULES = Rules(key=b"k")
WELL = Live(
    is_running=True,
    is_broker_usable=True,
    broker="connected",
    sources={"hq": {"is_usable": True, "doing": "up to date", "problem": "", "last_progress_at": None}},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store in which a changed twice and b once."""
    with SqliteStore(tmp_path / "bridge.db") as store:
        for number, batch in enumerate(
            chain([[row("anna", 1, e164="403")], [row("bob", 2, e164="404")], [row("anna", 3, e164="405")]])
        ):
            ingest(store, batch, rules=RULES, now=NOW + timedelta(minutes=number))
    return tmp_path / "bridge.db"


def explained(path: Path, live: Live = WELL, **options: Any) -> Trace:
    with StoreReader(path) as store:
        known = store.account(HQ, "anna")
        assert known is not None
        return trace(known, store.list_events(HQ, "anna"), store.sources()[0], live, **options)


def words(found: Trace) -> str:
    return " ".join(found.sentences)


def test_what_the_broker_confirmed_is_told_with_id_key_and_times(path: Path) -> None:
    with SqliteStore(path) as store:
        send_all(store.exchange, NOW + timedelta(hours=1))
    found = explained(path)
    assert [event.state for event in found.events] == [EventState.CONFIRMED] * 2
    assert found.events[1].changed == ["numbers"]
    assert f"sent as event {found.events[1].event} with routing key hq.account.updated" in words(found)
    assert "the broker confirmed it" in words(found)
    assert "account-bridge replay --queue QUEUE --since" in words(found)
    assert "--account anna" in words(found)


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        (Live(), "no bridge runs on this store"),
        (Live(is_running=True, broker="no connection to the broker", sources=WELL.sources), "no connection to the"),
        (WELL, "it waits for its turn"),
    ],
)
def test_what_is_not_sent_says_why(path: Path, live: Live, reason: str) -> None:
    found = explained(path, live)
    assert "NOT SENT yet" in words(found)
    assert reason in words(found)
    assert ("hq is being read; its PBX told nothing else" in words(found)) is live.is_running
    assert found.events[0].confirmed_at is None


def test_what_was_sent_without_a_confirm_says_that_it_is_sent_again(path: Path) -> None:
    with SqliteStore(path) as store:
        store.exchange.mark_in_doubt(unsent(store.exchange)[:1])
    first, later = explained(path).events
    assert (first.state, later.state) == (EventState.IN_DOUBT, EventState.WAITING)
    assert "no confirm came; it is sent again with the same id" in first.why


@pytest.mark.parametrize(
    "why", ["no queue takes events with the routing key 'hq.account.updated'", "the broker refused"]
)
def test_what_the_exchange_does_not_take_says_so(path: Path, why: str) -> None:
    """Held back as a whole: the event asked for may be the one that is not taken, or wait behind it."""
    with SqliteStore(path) as store:
        store.exchange.mark_in_doubt(unsent(store.exchange)[:1])
    held = replace(WELL, sources={"hq": {**WELL.sources["hq"], "held_back": why}})
    first, later = explained(path, held).events
    assert first.why.startswith(
        "it may have been sent; it is sent again with the same id, and what waits of hq does not go"
    )
    assert later.why == f"what waits of hq does not go out: {why}"
    away = replace(held, is_broker_usable=False, broker="no connection")
    assert explained(path, away).events[1].why == "nothing goes out at present: no connection"


def test_a_parked_event_that_was_tried_again_is_told_once(path: Path) -> None:
    with SqliteStore(path) as store:
        store.exchange.park(unsent(store.exchange)[0], "it is too large", NOW)
        assert store.unpark(1)
        assert [event.state for event in explained(path).events] == [EventState.WAITING] * 2
        send_all(store.exchange, NOW + timedelta(hours=1))
    found = explained(path).events
    assert [(event.state, event.sequence) for event in found] == [(EventState.CONFIRMED, 1), (EventState.CONFIRMED, 3)]


def test_what_waits_behind_a_parked_event_says_so(path: Path) -> None:
    with SqliteStore(path) as store:
        store.exchange.park(unsent(store.exchange)[0], "it is too large", NOW)
    parked, held = explained(path).events
    assert (parked.state, held.state) == (EventState.PARKED, EventState.HELD)
    assert "it is too large" in parked.why
    assert f"account-bridge parked retry {1}" in parked.why
    assert "parked at position 1" in held.why


def test_what_was_discarded_is_never_said_to_be_on_its_way(path: Path) -> None:
    with SqliteStore(path) as store:
        store.exchange.park(unsent(store.exchange)[2], "it is too large", NOW)
        store.discard(3, "nobody needs it", NOW)
        send_all(store.exchange, NOW)
    found = explained(path)
    assert "NOT SENT: " in words(found)
    assert "nobody needs it" in words(found)


def test_a_row_without_a_difference_is_told_as_that(path: Path) -> None:
    with SqliteStore(path) as store:
        rules = Rules(key=b"k", skip_unchanged=True)
        since = store.place(HQ).cursor
        (later,) = chain([[row("anna", 9, e164="405")]])
        ingest(store, type(later)(HQ, since, later.until, later.rows), rules=rules, now=NOW)
    assert 'told of it again (usn "9"), and no published field differed' in words(explained(path))


def test_an_event_without_a_difference_is_told_as_that(path: Path) -> None:
    with SqliteStore(path) as store:
        since = store.place(HQ).cursor
        (later,) = chain([[row("anna", 9, e164="405")]])
        ingest(store, type(later)(HQ, since, later.until, later.rows), rules=RULES, now=NOW)
        send_all(store.exchange, NOW + timedelta(hours=1))
    assert "(updated: nothing published differs)" in words(explained(path))


def test_a_name_that_is_long_does_not_fill_the_terminal(path: Path) -> None:
    with StoreReader(path) as store:
        known = store.account(HQ, "anna")
        assert known is not None
        found = trace(
            replace(known, account={**known.account, "display_name": "x" * 1024}), [], store.sources()[0], WELL
        )
    assert len(found.sentences[0]) < 300
    assert len(found.name) == 1024


def test_a_paused_pbx_and_one_that_is_away_are_named(path: Path) -> None:
    away = {"is_usable": False, "doing": "waiting", "problem": "no connection", "last_progress_at": NOW.isoformat()}
    found = explained(path, Live(is_running=True, is_broker_usable=True, sources={"hq": away}))
    assert found.sentences[1].startswith("NOT READ: hq is not heard at the moment")
    assert "no connection. Its last answer came" in found.sentences[1]
    asked = Live(is_running=True, is_broker_usable=True, sources={"hq": {**away, "problem": "Is it up?"}})
    assert "Is it up? Its last answer came" in words(explained(path, asked))
    assert "is being read" not in words(found)
    with StoreReader(path) as store:
        source = replace(store.sources()[0], paused=Pause(NOW, "maintenance"))
        known = store.account(HQ, "anna")
        assert known is not None
        found = trace(known, [], source, WELL)
    assert "NOT READ: hq is paused since" in found.sentences[1], "before what was confirmed, which is old news"
    assert "maintenance" in words(found)
    assert "longer ago than events are kept" in words(found)


def test_what_the_configuration_keeps_back_is_named(path: Path) -> None:
    assert "shows nowhere: emails" in words(explained(path, unpublished=["emails"]))


def test_an_account_of_a_former_lineage_is_told_of_from_its_events(path: Path) -> None:
    with SqliteStore(path) as store:
        send_all(store.exchange, NOW + timedelta(hours=1))
    renewed = {"at": NOW.isoformat(), "why": "it is a copy", "lineage": "later"}
    with StoreReader(path) as store:
        events = store.list_events(HQ, "anna")
        known = as_told(events[-1])
        assert known == store.account(HQ, "anna")
        anew = replace(store.sources()[0], lineage="later", is_complete=False)
    found = trace(known, events, anew, WELL, renewed=renewed)
    assert found.sentences[0].startswith("anna was an account of hq in a former lineage (user name anna; extension 405")
    since = f"{NOW.astimezone():%Y-%m-%d %H:%M:%S}"
    assert found.sentences[1] == (
        f"Everything is told anew since {since}, and hq has not been read to its end in this lineage yet."
    )
    assert "Its last change was seen" in words(found)
    for untrue in ("full walk", "told nothing else"):
        assert untrue not in words(found)
    gone = trace(known, events, replace(anew, is_complete=True), WELL)
    assert gone.sentences[1] == "When everything was told anew, hq did not have it any more."


def test_what_is_not_read_to_its_end_is_named_and_since_when_it_is_told_anew(path: Path) -> None:
    with StoreReader(path) as store:
        (hq,) = store.sources()
    assert unfinished([hq], None) == "hq has not been read to its end yet."
    assert unfinished([hq, replace(hq, name=SourceName("branch"))], None) == (
        "hq and branch have not been read to their end yet."
    )
    assert not unfinished([replace(hq, is_complete=True)], {"at": NOW.isoformat()})


def test_the_full_walk_that_saw_it_is_named(path: Path) -> None:
    assert "No full walk of hq was proven yet." in words(explained(path))
    with StoreReader(path) as store:
        known = store.account(HQ, "anna")
        verified = replace(store.sources()[0], verified_at=NOW, is_complete=True)
    assert known is not None
    assert "found it as it was published" in words(trace(known, [], verified, WELL))


@pytest.mark.parametrize("who", ["405", "anna", "ANNA", "Anna"])
def test_accounts_are_found_by_what_people_call_them(path: Path, who: str) -> None:
    with StoreReader(path) as store:
        assert [known.key for known in store.accounts() if is_meant(known.account, who)] == ["anna"]


def test_guids_are_found_whatever_their_spelling() -> None:
    assert is_meant({"guid": "2A4D-009C"}, "2a4d009c")
    assert not is_meant({"guid": "2A4D-009C"}, "2a4d009")


def test_accounts_are_found_by_the_number_of_the_pbx(path: Path) -> None:
    with StoreReader(path) as store:
        assert [known.key for known in store.accounts() if has_usn(known, "3")] == ["anna"]


def test_a_former_extension_leads_to_whom_it_was_taken_from(path: Path) -> None:
    with StoreReader(path) as store:
        events = [event for page in store.events() for event in page]
    assert [event.account_key for event in events if former(event, "403")] == ["anna", "anna"]
    assert not [event for event in events if former(event, "40")]


def test_a_name_that_is_not_there_suggests_near_ones(path: Path) -> None:
    with StoreReader(path) as store:
        assert near(store.accounts(), "40") == ["405", "404"]
        assert set(near(store.accounts(), "ana")) == {"anna"}
        assert near(store.accounts(), "xyzzy") == []


def test_awkward_names_are_found_and_keep_their_characters() -> None:
    for name in ("[bold]x[/bold]", "שלום עולם", "👩‍👩‍👧 Ω", 'quo"te \\ back', "\x1b[2J"):
        known = KnownAccount(
            source=SourceName("hq"),
            key="k",
            cursor=Cursor(),
            account={"guid": "k", "display_name": name},
            revision=1,
            is_deleted=False,
            last_walk=0,
            missed=0,
            lineage=LINEAGE,
            sequence=1,
        )
        assert is_meant(known.account, name)
        body = b'{"data":{"account":{"guid":"k","display_name":' + orjson.dumps(name) + b'},"previous":{}}}'
        event = RecordedEvent(1, HQ, 1, "e", "t", "k", "r", body, NOW, None, False, False, None, None, None)  # noqa: FBT003 - the same
        assert former(event, name)


def test_an_account_of_which_nothing_but_the_guid_is_published_is_traced(path: Path) -> None:
    with StoreReader(path) as store:
        known = store.account(HQ, "anna")
        assert known is not None
        found = trace(replace(known, account={"guid": "anna"}), [], store.sources()[0], WELL)
    assert found.sentences[0] == "anna is an account of hq (guid anna)."
