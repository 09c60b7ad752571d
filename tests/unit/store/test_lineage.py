import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import cloudevents
from bridge.cloudevents import numbers_in, renumbered
from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import Brake, WalkRecord, begin_walk, sweep
from bridge.model import Batch, Cursor, OutboxRow, Token
from bridge.normalize import Rules
from bridge.store.sqlite import SqliteStore
from tests.support.events import change
from tests.support.rows import HQ, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "here" / "bridge.db"


def tell(store: SqliteStore, *usns: int, account: str = "anna") -> None:
    """Have *account* change once for every number."""
    for usn in usns:
        told = row(account, usn, e164=str(usn))
        ingest(store, Batch(HQ, store.place(HQ).cursor, told.cursor, [told]), rules=RULES, now=NOW)


def send_all(store: SqliteStore) -> Sequence[OutboxRow]:
    rows = store.unpublished(0, 100)
    store.mark_published(rows, NOW)
    return rows


def numbers(rows: Sequence[OutboxRow], lineage: str) -> list[tuple[int, int]]:
    """Return sequence and revision of each event of *lineage*; its row must say the same."""
    events = [(found, cloudevents.decode(found.body)) for found in rows]
    assert all(found.sequence == event.sequence for found, event in events)
    return [(event.sequence, event.revision) for _, event in events if event.lineage == lineage]


@pytest.fixture
def older(path: Path) -> Path:
    """A copy of the whole folder from when two events were made and one was sent; the store has come further since."""
    path.parent.mkdir()
    with SqliteStore(path) as store:
        tell(store, 1)
        send_all(store)
        store.check({}, NOW)
        tell(store, 2)
    copy = path.parent.with_name("older")
    shutil.copytree(path.parent, copy)
    with SqliteStore(path) as store:
        store.check({"hq": 1}, NOW)
        tell(store, 3, 4)
        send_all(store)
    return copy / path.name


def test_a_restart_goes_on_in_the_same_lineage(path: Path, older: Path) -> None:
    del older
    with SqliteStore(path) as store:
        before = store.lineage
        store.check({"hq": 4}, NOW)
    for _ in range(3):
        with SqliteStore(path) as store:
            assert (store.lineage, store.restored) == (before, "")
            assert not store.check({"hq": 4}, NOW)


def test_a_kill_between_two_lives_is_no_restored_copy(path: Path, older: Path) -> None:
    del older
    lock = path.with_name("bridge.db.lock")
    pid, life = lock.read_text().split()
    lock.write_text(f"{pid} {life} 0123456789abcdef")
    with SqliteStore(path) as store:
        assert store.restored == ""


def test_an_older_file_put_back_by_hand_begins_a_new_lineage(path: Path, older: Path) -> None:
    with SqliteStore(path) as store:
        before = store.lineage
    shutil.copyfile(older, path)
    with SqliteStore(path) as store:
        assert store.lineage != before
        assert "another file than the one that was last open here" in store.restored
        assert before in store.restored
        assert store.is_checked, "no log can have a lineage that is new"
        assert store.verified_at(HQ) is None
        lineage = store.lineage
        tell(store, 5, 6)
        unsent = store.unpublished(0, 10)
        assert numbers(unsent, before) == [(2, 2)], "what the copy had not sent goes out as it is"
        assert [found.is_in_doubt for found in unsent] == [True, False, False]
        assert numbers(unsent, lineage) == [(1, 1), (2, 2)]
    with SqliteStore(path) as store:
        assert store.lineage == lineage, "that happens once"


def test_a_copy_made_while_the_bridge_ran_is_known_after_a_clean_stop(path: Path) -> None:
    path.parent.mkdir()
    with SqliteStore(path) as store:
        tell(store, 1)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - so that a plain copy has everything
        shutil.copyfile(path, path.with_name("hot"))
        tell(store, 2)
        before = store.lineage
    shutil.copyfile(path.with_name("hot"), path)
    with SqliteStore(path) as store:
        assert store.lineage != before


def test_a_machine_set_back_is_known_by_the_log_and_what_was_made_since_is_numbered_anew(older: Path) -> None:
    with SqliteStore(older) as store:
        before = store.lineage
        assert store.restored == ""
        tell(store, 5)
        tell(store, 7, account="bob")
    with SqliteStore(older) as store:  # the broker is away for so long that the bridge is restarted meanwhile
        tell(store, 8)
        begin_walk(store, HQ, is_new_epoch=False)
        sweep(store, HQ, WalkRecord(NOW), rules=RULES, now=NOW, brake=Brake())
        assert numbers(store.unpublished(0, 10)[:4], before) == [(2, 2), (3, 3), (4, 1), (5, 4)]
        assert store.check({"hq": 4}, NOW)
        assert store.lineage != before
        assert "later numbers: hq 4 instead of 2" in store.restored
        assert store.verified_at(HQ) is None
        unsent = store.unpublished(0, 10)
        assert numbers(unsent, before) == [(2, 2)]
        assert numbers(unsent, store.lineage) == [(1, 1), (2, 1), (3, 2)]
        assert store.backlog.rows == len(unsent) == 4, "an unsent certificate of the old lineage is void"
        assert [orjson.loads(found.body)["id"] for found in unsent] == [found.event_id for found in unsent]
        tell(store, 9)
        assert numbers(store.unpublished(0, 10), store.lineage)[-1] == (4, 3)


def test_a_restored_copy_is_talked_of_until_every_pbx_was_verified(path: Path, older: Path) -> None:
    shutil.copyfile(older, path)
    for _ in range(2):
        with SqliteStore(path) as store:
            assert store.restored
    with SqliteStore(path) as store:
        begin_walk(store, HQ, is_new_epoch=False)
        sweep(store, HQ, WalkRecord(NOW), rules=RULES, now=NOW, brake=Brake())
    with SqliteStore(path) as store:
        assert store.restored == ""
        begin_walk(store, HQ, is_new_epoch=True)
    with SqliteStore(path) as store:
        assert store.restored == "", "a new epoch is another story"


def test_a_log_that_is_not_ahead_proves_the_store(older: Path) -> None:
    with SqliteStore(older) as store:
        before = store.lineage
        assert not store.check({"hq": 2}, NOW)
        assert store.is_checked
        assert (store.lineage, store.restored) == (before, "")


def test_nothing_is_published_twice_as_news_after_a_copy_was_put_back(path: Path, older: Path) -> None:
    with SqliteStore(path) as store:
        sent = {found.event_id for found in store.unpublished(0, 10)}
        sent |= {row["event_id"] for row in store._db.execute("SELECT event_id FROM outbox")}  # noqa: SLF001 - a test looks inside
    shutil.copyfile(older, path)
    with SqliteStore(path) as store:
        tell(store, 3, 4)  # the PBX tells what the copy does not know
        assert {found.event_id for found in store.unpublished(0, 10)} <= sent, "an inbox has seen each of them"


texts = (
    st.text(max_size=20)
    | st.just('"sequence":"00000000000000000001","lineage":"x"')
    | st.just('"revision":1,"cursor":')
)


@given(texts, texts, st.integers(1, 10**12), st.integers(1, 10**9))
def test_other_numbers_change_nothing_else(name: str, former: str, sequence: int, revision: int) -> None:
    told = change("anna", 3)._replace(
        account={"guid": "anna", "display_name": name},
        previous={"display_name": former},
        cursor=Cursor(Token('"g"'), Token("123456789012345678901234567890"), Token("4.20")),
    )
    body = cloudevents.encode(told, identity="i", sequence=7, lineage="20261123T190002418Z-9f3c", time=NOW)
    made = renumbered(body, lineage="20261124T080000000Z-0a1b", sequence=sequence, revision=revision)
    again = cloudevents.encode(
        told._replace(revision=revision), identity="i", sequence=sequence, lineage="20261124T080000000Z-0a1b", time=NOW
    )
    assert made == again


def test_the_last_numbers_of_a_lineage_are_found_among_others() -> None:
    from tests.support.events import body  # noqa: PLC0415 - next to its use

    bodies = [
        body(change("anna", 1), sequence=4),
        body(change("bob", 1), sequence=3),
        body(change("carl", 1, source="branch"), sequence=9),
        body(change("dora", 1), lineage="20261124T080000000Z-0a1b", sequence=99),
        b"{}",
        b"no event",
    ]
    assert numbers_in(bodies, "20261123T190002418Z-9f3c") == {"hq": 4, "branch": 9}
