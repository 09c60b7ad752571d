import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.delivery.ingest import ingest
from bridge.delivery.reconcile import DeletionLimit, WalkRecord, begin_walk, caught_up, delete_missing
from bridge.errors import StoreOutdated, StoreUnusable
from bridge.events import cloudevents
from bridge.events.normalize import Rules
from bridge.model import Batch, OutboxRow, SourceName
from bridge.store.lineage import new_lineage, read_birth
from bridge.store.records import LogContents
from bridge.store.sqlite.backup import back_up, put_back
from bridge.store.sqlite.store import SqliteStore
from tests.support.outbox import send_all, unsent
from tests.support.rows import HQ, row

NOW = datetime(2026, 11, 23, tzinfo=UTC)
RULES = Rules(key=b"k")
BRANCH = SourceName("branch")


# ---------------------------------------------------------------------- the word itself

moments = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds it
lineages = st.builds(lambda moment: new_lineage(moment, ()), moments)


@given(moments, st.lists(lineages | st.text(max_size=30)))
def test_a_lineage_sorts_behind_all_that_are_known_whatever_the_clock_says(now: datetime, known: list[str]) -> None:
    made = new_lineage(now, known)
    assert read_birth(made) is not None
    assert all(made > one for one in known if read_birth(one) is not None)


@given(st.lists(moments, min_size=2, max_size=20))
def test_lineages_given_one_after_the_other_ascend_though_the_clock_falls(clock: list[datetime]) -> None:
    given: list[str] = []
    for now in clock:
        given.append(new_lineage(now, given))
    assert given == sorted(given)
    assert len(set(given)) == len(given)
    assert {len(one) for one in given} == {24}


@given(moments, st.integers(0, 999))
def test_two_lineages_of_one_millisecond_ascend(now: datetime, later: int) -> None:
    """The text ends with the millisecond, and what follows is by chance."""
    first = new_lineage(now, ())
    assert new_lineage(now.replace(microsecond=now.microsecond // 1000 * 1000 + later), [first]) > first


@pytest.mark.parametrize(
    "word", ["", "x", "20261123T190002418Z", "20261123T190002418Z-9F3C", "20261323T190002418Z-9f3c"]
)
def test_what_is_no_lineage_has_no_birth(word: str) -> None:
    assert read_birth(word) is None


def test_a_lineage_behind_which_none_could_come_is_none() -> None:
    assert read_birth("99991231T235959999Z-ffff") is None


# ---------------------------------------------------------------------- stores that are lost, copied and put back


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "here" / "bridge.db"
    made.parent.mkdir()
    return made


def opened(path: Path, *, now: datetime = NOW) -> SqliteStore:
    return SqliteStore(path, clock=lambda: now)


def tell(store: SqliteStore, *usns: int, account: str = "anna", source: SourceName = HQ) -> None:
    """Have *account* change once for every number."""
    for usn in usns:
        told = row(account, usn, e164=str(usn))
        ingest(store, Batch(source, store.place(source).cursor, told.cursor, [told]), rules=RULES, now=NOW)


def verify(store: SqliteStore, source: SourceName = HQ, *, now: datetime = NOW) -> None:
    """Have a full walk proven."""
    begin_walk(store, source)
    caught_up(store, source, None, ends_initial=True, rules=RULES, now=NOW)
    delete_missing(store, source, WalkRecord(now), rules=RULES, now=now, deletion_limit=DeletionLimit())


def numbers(rows: Sequence[OutboxRow], lineage: str) -> list[tuple[int, int, str]]:
    """Return sequence, revision and change of each event of *lineage*; its row must say the same."""
    events = [
        (found, cloudevents.decode(found.body)) for found in rows if found.event_type == cloudevents.ACCOUNT_CHANGED
    ]
    assert all((found.sequence, found.event_id) == (event.sequence, event.event_id) for found, event in events)
    return [(event.sequence, event.revision, event.kind) for _, event in events if event.lineage == lineage]


def lineage_of(store: SqliteStore, source: SourceName = HQ) -> str:
    return store.place(source).lineage


def log_of(store: SqliteStore) -> LogContents:
    """Return a log that has everything this store has made."""
    places = {source: store.place(source) for source in (HQ, BRANCH) if store.count_accounts(source)}
    return LogContents({source: (place.lineage, place.sequence, 0) for source, place in places.items()})


@pytest.fixture
def older(path: Path) -> Path:
    """A copy of the whole folder from when two events were made and one was sent; the store has come further since."""
    with opened(path) as store:
        tell(store, 1)
        verify(store)
        send_all(store.exchange, NOW)
        tell(store, 2)
    copy = path.parent.with_name("older")
    shutil.copytree(path.parent, copy)
    with opened(path) as store:
        tell(store, 3, 4)
        send_all(store.exchange, NOW)
    return copy / path.name


def test_each_source_has_a_lineage_of_its_own_from_the_first_time_it_is_met(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1)
        tell(store, 1, source=BRANCH)
        assert lineage_of(store) < lineage_of(store, BRANCH)
        before = lineage_of(store), lineage_of(store, BRANCH), store.generation
    for _ in range(3):
        with opened(path) as store:
            assert not store.compare(log_of(store))
            assert (lineage_of(store), lineage_of(store, BRANCH), store.generation) == before
            assert store.restored == ""
            assert store.is_proven


def test_a_source_met_in_a_transaction_that_failed_was_never_met(path: Path) -> None:
    with opened(path) as store:
        with pytest.raises(LookupError), store.transaction() as transaction:
            transaction.place(BRANCH)
            raise LookupError
        tell(store, 1)
        tell(store, 1, source=BRANCH)
        assert [found.source for found in unsent(store.exchange)] == [HQ, BRANCH]


def test_a_kill_between_two_lives_is_no_restored_copy(path: Path, older: Path) -> None:
    del older
    lock = path.with_name("bridge.db.lock")
    lock.write_text(f"{lock.read_text().strip()} 0123456789abcdef")
    with opened(path) as store:
        assert store.restored == ""


def test_an_older_file_put_back_by_hand_begins_a_new_lineage(path: Path, older: Path) -> None:
    with opened(path) as store:
        before, generation = lineage_of(store), store.generation
    shutil.copyfile(older, path)
    with opened(path, now=NOW - timedelta(days=3000)) as store:
        lineage = lineage_of(store)
        assert lineage > before, "although the clock fell"
        assert store.generation > generation
        assert "another file than the one that was last open here" in store.restored
        assert store.is_proven, "no log can have a lineage that is new"
        assert store.verified_at(HQ) is None
        assert (store.place(HQ).cursor.is_start, store.place(HQ).is_initial, store.place(HQ).is_complete) == (
            True,
            True,
            False,
        )
        assert store.count_accounts(HQ) == 0
        tell(store, 5, 6)
        waiting = unsent(store.exchange)
        assert numbers(waiting, before) == [(2, 2, "updated")], "what the copy had not sent goes out as it is"
        assert [found.is_in_doubt for found in waiting] == [True, False, False]
        assert numbers(waiting, lineage) == [(1, 1, "initial"), (2, 2, "updated")]
    with opened(path) as store:
        assert lineage_of(store) == lineage, "that happens once"


def test_a_copy_made_while_the_bridge_ran_is_known_after_a_kill(path: Path) -> None:
    """It has the same life as the file that it replaces; the lock file knows how far that one was."""
    lock = path.with_name("bridge.db.lock")
    with opened(path) as store:
        tell(store, 1)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - so that a plain copy has everything
        shutil.copyfile(path, path.with_name("hot"))
        tell(store, 2)
        before, killed = lineage_of(store), lock.read_bytes()
        shutil.copyfile(path, path.with_name("killed"))
        shutil.copyfile(f"{path}-wal", path.with_name("killed-wal"))
    for name, is_renewed in (("killed", False), ("hot", True)):
        lock.write_bytes(killed)
        shutil.copyfile(path.with_name(name), path)
        if name == "killed":
            shutil.copyfile(path.with_name("killed-wal"), f"{path}-wal")
        with opened(path) as store:
            assert (lineage_of(store) > before) is is_renewed, name
            tell(store, 3)
    with opened(path) as store:
        assert store.place(HQ).sequence == 1, "that happens once"


def test_a_copy_is_known_once_more_where_its_new_lineage_was_not_yet_durable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = path.with_name("bridge.db.lock")
    with opened(path) as store:
        tell(store, 1)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - so that a plain copy has everything
        shutil.copyfile(path, path.with_name("hot"))
        tell(store, 2)
        before, killed = lineage_of(store), lock.read_bytes()
    shutil.copyfile(path.with_name("hot"), path)
    lock.write_bytes(killed)

    def killed_in_between(store: SqliteStore, _why: str) -> None:
        store._new_lineage()  # noqa: SLF001 - the first thing that renewing does
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SqliteStore, "_renew", killed_in_between)
        opened(path).open()
    with opened(path) as store:
        assert lineage_of(store) > before


def test_a_copy_made_while_the_bridge_ran_is_known_after_a_clean_stop(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001 - so that a plain copy has everything
        shutil.copyfile(path, path.with_name("hot"))
        tell(store, 2)
        before = lineage_of(store)
    shutil.copyfile(path.with_name("hot"), path)
    with opened(path) as store:
        assert lineage_of(store) > before


def test_a_machine_set_back_is_known_by_the_log(older: Path) -> None:
    with opened(older) as store:
        before = lineage_of(store)
        assert not store.is_proven
        assert store.compare(LogContents({HQ: (before, 4, 0)}))
        lineage = lineage_of(store)
        assert lineage > before
        assert f"later numbers: hq 4 of {before} instead of 2 of {before}" in store.restored
        tell(store, 9)
        assert numbers(unsent(store.exchange), lineage) == [(1, 1, "initial")]


def test_a_log_that_gets_ahead_while_numbers_are_given_ends_the_bridge_and_the_next_start_begins_anew(
    path: Path,
) -> None:
    with opened(path) as store:
        assert not store.compare(LogContents({}))
        tell(store, 1)
        before = lineage_of(store)
        with pytest.raises(StoreOutdated, match=r"hq 9 of .* instead of 1 of .*start the bridge again"):
            store.compare(LogContents({HQ: (before, 9, 0)}))
        assert lineage_of(store) == before
    with opened(path) as store:
        assert lineage_of(store) > before
        assert "it is an older state of itself" in store.restored


def test_one_source_of_which_the_log_knows_more_makes_all_of_them_begin_anew(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1)
        tell(store, 1, source=BRANCH)
    with opened(path) as store:
        before = lineage_of(store), lineage_of(store, BRANCH)
        assert store.compare(LogContents({HQ: (before[0], 1, 0), BRANCH: (before[1], 2, 0)}))
        assert {lineage_of(store), lineage_of(store, BRANCH)} == {store.generation}
        assert store.generation > max(before)


def test_a_log_with_a_younger_lineage_makes_the_store_an_older_one(older: Path) -> None:
    younger = new_lineage(NOW + timedelta(days=900), ())
    with opened(older) as store:
        assert store.compare(LogContents({HQ: (younger, 1, 0)}))
        assert lineage_of(store) > younger


def test_a_source_of_which_another_bridge_told_begins_anew_when_it_is_followed_again_and_alone(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1)
        tell(store, 1, source=BRANCH)
    with opened(path) as store:
        before = lineage_of(store), lineage_of(store, BRANCH)
        younger = new_lineage(NOW + timedelta(days=900), ())
        assert not store.compare(LogContents({HQ: (before[0], 1, 0)}, others={BRANCH: (younger, 7, 0)}))
        assert not store.compare(LogContents({HQ: (before[0], 1, 0)})), "whatever is read later"
        assert (lineage_of(store), store.restored) == (before[0], "")
    with opened(path) as store:
        assert store.place(BRANCH).lineage > younger
        assert store.place(BRANCH).cursor.is_start
        begun = lineage_of(store, BRANCH)
        tell(store, 1, source=BRANCH)
        assert lineage_of(store, BRANCH) == begun == store.place(BRANCH).lineage, "once"


def test_a_source_of_which_nobody_else_told_goes_on(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1, source=BRANCH)
    with opened(path) as store:
        before = lineage_of(store, BRANCH)
        older = new_lineage(NOW - timedelta(days=900), ())
        assert not store.compare(LogContents({}, others={BRANCH: (before, 1, 0), HQ: (older, 9, 0)}))
        assert store.place(BRANCH).lineage == before


def test_a_source_that_only_the_log_knows_gets_a_lineage_behind_that(path: Path) -> None:
    younger = new_lineage(NOW + timedelta(days=900), ())
    with opened(path) as store:
        assert not store.compare(LogContents({BRANCH: (younger, 7, 0)}))
        assert store.restored == ""
    with opened(path) as store:
        tell(store, 1, source=BRANCH)
        assert lineage_of(store, BRANCH) > younger


def test_nonsense_in_the_log_frightens_nobody(older: Path) -> None:
    with opened(older) as store:
        assert not store.compare(LogContents({HQ: ("99999", 7, 0), BRANCH: ("", 1, 0)}))


def test_a_log_that_cannot_be_read_proves_nothing(older: Path) -> None:
    with opened(older) as store:
        before = lineage_of(store)
        assert store.compare(None, "the log did not answer")
        assert "the log did not answer" in store.restored
        assert lineage_of(store) > before
        again = lineage_of(store)
        assert store.compare(None, "the log did not answer")
        assert lineage_of(store) == again, "it is the newest state of itself by now"


def test_a_new_store_gives_no_number_before_the_log_was_asked(path: Path) -> None:
    """The clock may be behind the log of a store that is lost; and where nobody can tell, there is nothing to doubt."""
    with opened(path) as store:
        proven = [store.is_proven]
        assert not store.compare(None, "the log did not answer")
        assert [*proven, store.is_proven] == [False, True]
        assert not store.restored


def test_a_missing_store_whose_lock_file_knows_one_is_refused_with_a_sentence(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1)
        before = lineage_of(store)
    path.unlink()
    for _ in range(2):
        with pytest.raises(
            StoreUnusable, match=r"is missing, although.*run account-bridge restore.*delete bridge\.db\.lock"
        ):
            opened(path).open()
        assert not path.exists()
    path.with_name("bridge.db.lock").unlink()
    with opened(path, now=NOW + timedelta(seconds=1)) as store:
        tell(store, 1)
        assert lineage_of(store) > before


def test_a_store_begun_anew_in_the_place_of_another_goes_on_behind_its_lineage_whatever_the_clock_says(
    path: Path,
) -> None:
    with opened(path) as store:
        tell(store, 1)
        before = lineage_of(store)
    path.write_bytes(b"")
    with opened(path, now=NOW - timedelta(days=1)) as store:
        tell(store, 1)
        assert lineage_of(store) > before


def test_a_copy_says_so_until_a_new_lineage_began(path: Path, older: Path) -> None:
    copy = path.with_name("copy.db")
    back_up(older, copy, NOW)
    with opened(copy) as store:
        first = lineage_of(store)
        assert "it is the copy of 2026-11-23T00:00:00Z" in store.restored
    with opened(copy) as store:
        assert lineage_of(store) == first


def test_it_is_talked_of_until_every_source_is_told_anew(path: Path, older: Path) -> None:
    shutil.copyfile(older, path)
    with opened(path) as store:
        tell(store, 1)
        tell(store, 1, source=BRANCH)
        verify(store)
    with opened(path) as store:
        assert store.restored
        verify(store, BRANCH)
    with opened(path) as store:
        assert store.restored == ""


def test_the_first_certificate_of_a_lineage_completes_it_and_no_other_does(path: Path, older: Path) -> None:
    shutil.copyfile(older, path)
    with opened(path) as store:
        send_all(store.exchange, NOW)
        tell(store, 1)
        for _ in range(2):
            verify(store)
        certificates = [
            orjson.loads(f.body) for f in unsent(store.exchange) if f.event_type == cloudevents.SOURCE_VERIFIED
        ]
        assert [found["data"]["completes_lineage"] for found in certificates] == [True, False]
        assert {found["lineage"] for found in certificates} == {lineage_of(store)}


class Fate:
    """Stores lost, copied, put back by hand, by command and as a whole machine, and pruned, under a clock that jumps.

    The log has everything that was ever made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "here" / "bridge.db"
        self.path.parent.mkdir()
        self.copies: list[Path] = []
        self.given: dict[str, bytes] = {}
        self.log: dict[SourceName, tuple[str, int, int]] = {}
        self.now = NOW

    def move(self, step: str, number: int) -> None:
        self.now += timedelta(seconds=(number - 4) * 1000)
        copy = self.copies[number % len(self.copies)] if self.copies else None
        if step == "lose":
            shutil.rmtree(self.path.parent)
            self.path.parent.mkdir()
        elif step == "put back by hand" and copy is not None:
            shutil.copyfile(copy / self.path.name, self.path)
        elif step == "set back" and copy is not None:
            shutil.rmtree(self.path.parent)
            shutil.copytree(copy, self.path.parent)
        elif step == "restore" and copy is not None:
            put_back(copy / self.path.name, self.path, self.now)
        elif step == "copy":
            self.copies.append(self.path.parent.with_name(f"copy-{len(self.copies)}"))
            shutil.copytree(self.path.parent, self.copies[-1])
        with opened(self.path, now=self.now) as store:
            store.compare(LogContents(self.log))
            self.work(store, step, number)

    def work(self, store: SqliteStore, step: str, number: int) -> None:
        source = (HQ, BRANCH)[number % 2]
        if step == "tell":
            tell(store, number + 1, source=source)
        elif step == "certify":
            verify(store, source, now=self.now)
        for found in unsent(store.exchange):
            assert self.given.setdefault(found.event_id, found.body) == found.body
            event = orjson.loads(found.body)
            place = (event["lineage"], found.sequence, event["data"].get("walk", 0))
            self.log[found.source] = max(place, self.log.get(found.source, place))
        if step in {"send", "prune"}:
            send_all(store.exchange, self.now)
        if step == "prune":
            store.prune(self.now + timedelta(days=1), 100)


steps = st.sampled_from(
    ["tell", "tell", "certify", "certify", "send", "prune", "copy", "put back by hand", "set back", "restore", "lose"]
)


@example([("certify", 0), ("certify", 0), ("copy", 0), ("certify", 0), ("set back", 0), ("certify", 0)])
@given(st.lists(st.tuples(steps, st.integers(0, 9)), max_size=20))
def test_no_id_is_ever_given_to_two_things(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, int]]
) -> None:
    fate = Fate(tmp_path_factory.mktemp("fate"))
    fate.move("tell", 0)
    for step, number in moves:
        fate.move(step, number)
    lineages = [orjson.loads(body)["lineage"] for body in fate.given.values()]
    assert all(read_birth(lineage) is not None for lineage in lineages)


def test_a_certificate_that_only_the_log_knows_makes_the_store_an_older_one(path: Path) -> None:
    """It took a position and the number of a walk, and no sequence."""
    with opened(path) as store:
        tell(store, 1)
        verify(store)
    with opened(path) as store:
        lineage, sequence = lineage_of(store), store.place(HQ).sequence
        assert not store.compare(LogContents({HQ: (lineage, sequence, 1)}))
    with opened(path) as store:
        assert store.compare(LogContents({HQ: (lineage, sequence, 2)}))
        assert f"the certificate of walk 2 behind {sequence} of {lineage}" in store.restored


def test_a_store_that_has_given_numbers_already_ends_where_the_log_is_ahead_of_it(path: Path) -> None:
    """What it made since then has numbers that were given before: the next start begins a new lineage."""
    with opened(path) as store:
        assert not store.compare(LogContents({}))
        tell(store, 1)
        lineage = lineage_of(store)
        with pytest.raises(StoreOutdated, match="start the bridge again"):
            store.compare(LogContents({HQ: (lineage, 99, 0)}))
    with opened(path) as store:
        assert "later numbers: hq 99 of" in store.restored
        assert lineage_of(store) > lineage


def test_what_is_told_for_the_first_time_comes_behind_what_the_log_has_though_the_clock_was_set_back(
    path: Path,
) -> None:
    """A new store in place of one that is lost, which PBXs dial before the log was read."""
    before = new_lineage(NOW, ())
    with opened(path, now=NOW - timedelta(hours=5)) as store:
        for source in (HQ, BRANCH):
            assert lineage_of(store, source) < before
        assert not store.compare(LogContents({HQ: (before, 99, 0)}))
        assert lineage_of(store) > before
        tell(store, 1)
        assert not store.compare(LogContents({HQ: (lineage_of(store), 1, 0)}))


def test_a_position_that_only_the_broker_of_the_log_knows_makes_the_store_an_older_one(path: Path) -> None:
    """What is tried again takes a position, and neither a sequence nor a walk."""
    with opened(path) as store:
        tell(store, 1)
        given = store.log.last_given()
    with opened(path) as store:
        newest = {HQ: (lineage_of(store), store.place(HQ).sequence, 0)}
        assert not store.compare(LogContents(newest, last_position=given))
    with opened(path) as store:
        assert store.compare(LogContents(newest, last_position=given + 1))
        assert f"the position {given + 1}, and none above {given}" in store.restored


def test_a_store_without_its_lock_file_and_without_a_log_may_be_an_older_one(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1)
        before = lineage_of(store)
    path.with_name(f"{path.name}.lock").unlink()
    with opened(path):
        pass  # a command, say, which asks no log: the doubt stays
    with opened(path) as store:
        assert store.compare(None)
        assert "its lock file is missing" in store.restored
        assert lineage_of(store) > before


def test_a_log_that_was_read_answers_for_a_lock_file_that_is_missing(path: Path) -> None:
    with opened(path) as store:
        tell(store, 1)
        newest = {HQ: (lineage_of(store), store.place(HQ).sequence, 0)}
    path.with_name(f"{path.name}.lock").unlink()
    with opened(path) as store:
        assert not store.compare(LogContents(newest))
    with opened(path) as store:
        assert not store.compare(None)
