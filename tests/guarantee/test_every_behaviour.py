"""Whatever a PBX does and whatever breaks: after the dust settles the mirror is the truth, and the events led there.

Each case is a number. It chooses how the PBX behaves (out of every mode), what happens to it, and what breaks when.
``--thorough`` plays ten times as many; ``python -m tests.guarantee.table`` plays each mode alone and prints a table.
"""

import random
import shutil
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.events.cloudevents import AccountChanged
from bridge.events.normalize import account_key
from bridge.model import ChangeKind
from bridge.simulator.modes import ALL_WORDS, Modes
from bridge.simulator.pbx import Pbx, SavedState
from bridge.store.records import LogContents
from bridge.store.sqlite.backup import put_back
from bridge.store.sqlite.store import SqliteStore
from bridge.store.tables.store import TableStore
from tests.support.world import EPOCH, World, hurried

CASES = 5000
THOROUGHLY = 10
SHARES = 20

EVENTS: dict[str, Callable[[Pbx, SavedState], object]] = {
    "reboot": lambda pbx, _: pbx.reboot(),
    "config_restore": lambda pbx, snapshot: pbx.config_restore(snapshot),
    "vm_rollback": lambda pbx, snapshot: pbx.vm_rollback(snapshot),
    "failover": lambda pbx, _: pbx.failover_to_standby(),
    "failback": lambda pbx, _: pbx.fail_back() if pbx.has_standby else pbx.failover_to_standby(),
    "failback_as_it_was": lambda pbx, _: pbx.fail_back_as_it_was() if pbx.has_standby else pbx.failover_to_standby(),
    "delete": lambda pbx, _: pbx.delete(pbx.pick()),
    "looks_the_same": lambda pbx, _: looks_the_same(pbx),
    "slave_resync": lambda pbx, _: pbx.slave_resync(),
    "template_edit": lambda pbx, _: pbx.template_edit(),
    "forget_history": lambda pbx, _: pbx.forget_history(),
    "new_epoch": lambda pbx, _: pbx.new_epoch(),
    "recreate": lambda pbx, _: pbx.recreate(pbx.pick()),
    "move": lambda pbx, _: pbx.move(pbx.pick(), "branch"),
}


def looks_the_same(pbx: Pbx) -> None:
    """Set the machine of the PBX back to where an account looked as it does now, under numbers of its own."""
    who = pbx.pick()
    pbx.toggle_group(who)
    snapshot = pbx.take_snapshot()
    pbx.toggle_group(who)
    pbx.toggle_group(who)
    pbx.vm_rollback(snapshot)


UNREADABLE = {("err-close", "guid-session"), ("err-close", "guid-request"), ("err-close", "idle-error")}
"""Connections of five questions on which nobody could read a list to its end that begins anew with each."""


UNCOUNTED = {
    *("guid-node", "guid-boot", "guid-session", "guid-request"),  # a new epoch repeats, and repetitions are not told
    *("push-row", "dup-late"),  # rows nobody asked for are not told as such
    *("info-delta", "del-bare"),  # one row may be two things
    *("walk-table", "ord-walk"),  # a change behind the reader is handed to a full walk alone
}
"""Where the number of rows handed out is not the number of changes."""


def can_be_read(modes: Modes) -> bool:
    words = set(modes.words())
    return not any(set(pair) <= words for pair in UNREADABLE) and modes.scope != "scope-own"


def can_be_proven(modes: Modes) -> bool:
    """Tell whether some answer ever says that the list is at its end."""
    if modes.src != "src-echoed":
        return False  # an answer and its repetition, or one that comes late, cannot be told apart
    return modes.idle not in {"idle-silent", "idle-hold", "idle-error"} and modes.error == "err-none"


def some_modes(chance: random.Random) -> Modes:
    for _ in range(20):
        modes = Modes.parse(chance.sample(ALL_WORDS, chance.randint(0, 5)))
        if can_be_read(modes):
            return modes
    return Modes()


def play(  # noqa: PLR0913 - what makes a case
    store: TableStore,
    number: int,
    modes: Modes | None = None,
    *,
    label: str = "case",
    pbx_dials: bool = False,
    files: "StoreFiles | None" = None,
) -> World:
    """Play case *number*, of a PBX that behaves as *modes* say or as the number chooses; once per label and store.

    With *files* something may happen to those of the store, too; then the store is for this case alone.
    """
    chance = random.Random(number)  # noqa: S311 - a case, no secret
    behaviour = modes or some_modes(chance)
    pbx = Pbx(accounts=chance.randint(0, 7), seed=number, modes=behaviour, with_odd_names=number % 5 == 0)
    world = World(store, f"{label}-{number}", pbx, chance, pbx_dials=pbx_dials)
    snapshot = pbx.take_snapshot()
    for _ in range(chance.randint(1, 14)):
        world.run(chance.choice([0.005, 0.05, 0.5, 30, 61, 200, 900]))
        what = chance.choices(
            ["mutate", "event", "cut", "crash", "snapshot", "ask", "store"], [50, 18, 10, 8, 7, 7, 8 if files else 0]
        )[0]
        if what == "mutate":
            for _ in range(chance.randint(1, 3)):
                world.do(pbx.random_mutation)
        elif what == "event" and any(record.kind == "user" for record in pbx.truth().values()):
            world.is_calm = False
            event = EVENTS[chance.choice(sorted(EVENTS))]
            world.do(lambda event=event, snapshot=snapshot: event(pbx, snapshot))  # type: ignore[misc]
        elif what == "snapshot":
            snapshot = pbx.take_snapshot()
        elif what == "store" and files is not None:
            files.do(world, chance)
        else:
            {"cut": world.cut, "crash": world.crash, "ask": world.schedule.ask}.get(what, world.note_truth)()
    world.settle()
    # After all that, reading goes on in the right place: what changes now is told without any full walk.
    for guid in [guid for guid, record in sorted(pbx.truth().items()) if record.kind == "user"][:2]:
        world.do(lambda guid=guid: pbx.change_display_name(guid))  # type: ignore[misc]
    world.run(900)
    return world


def check(world: World) -> None:
    assert not world.pbx.oracle.mistakes
    assert world.pbx.oracle.load.max_parallel_probes <= 1
    if can_be_proven(world.pbx.modes):  # elsewhere questions may be given up, and count as waiting for ever
        assert world.pbx.oracle.load.max_parallel <= 1, "one question at a time"
    check_events(world, world.events())
    check_mirror(world)
    check_subscribers(world)


def check_subscribers(world: World) -> None:
    """Whatever happened to PBX, bridge and store: who applied what was published has what the mirror has."""
    present = {key: known.account for key, known in world.mirror().items() if not known.is_deleted}
    if world.pbx.modes.error == "err-close" and not world.is_calm:
        return  # see check_mirror
    for subscriber in world.subscribers:
        if world.renewals and not world.store.certificate(world.name):
            # Nothing was proven since: who is gone from before is not known, who is told is as told.
            assert {key: subscriber.people.get(key) for key in present} == present
        else:
            assert subscriber.people == present, type(subscriber).__name__


def check_mirror(world: World) -> None:
    pbx, modes = world.pbx, world.pbx.modes
    events, mirror = world.events(), world.mirror()
    if modes.error == "err-close" and not world.is_calm:
        return  # on connections of five questions no full walk gets through that could repair anything
    truth = {account_key(guid): record for guid, record in pbx.truth().items()}  # type: ignore[arg-type]  # a guid
    present = {key: known for key, known in mirror.items() if not known.is_deleted}
    assert truth.keys() <= present.keys(), "no account is missing"
    if can_be_proven(modes):
        assert present.keys() == truth.keys(), "and none is there that is gone"
        assert world.certificates, "which is certified"
        assert world.certificates[-1].accounts == len(truth)
    if modes.info == "info-full":
        for key, record in truth.items():
            assert present[key].account == world.published_of(record), "every account is as the PBX has it"
    latest = [event for event in events if event.lineage == world.lineage]
    for key, last in {account_key(event.account_guid): event for event in latest}.items():
        assert (last.kind is ChangeKind.DELETED) == mirror[key].is_deleted, "events end where the mirror stands"
        assert last.revision == mirror[key].revision
        assert {**last.account, "guid": ""} == {**mirror[key].account, "guid": ""}
    if world.is_calm and not UNCOUNTED & set(modes.words()):
        check_rows(world, events)


def check_rows(world: World, events: list[AccountChanged]) -> None:
    """Compare the rows that were handed out with what was told.

    What a full walk alone was handed is told only where a published field differs.
    """
    told = [event for event in events if event.kind is not ChangeKind.DELETED]
    rows = {(row.account_guid, row.usn, row.ausn): row for row in world.pbx.oracle.deliveries if not row.is_deleted}
    assert len(told) <= len(rows), "no row is told twice"
    if len(told) < len(rows):
        assert world.certificates, "each row is, unless a walk looked at it"
    if world.pbx.modes.info == "info-full":
        states = [(event.account_guid, event.account) for event in told]
        for row in rows.values():
            assert (row.account_guid, world.published_of(row.record)) in states, "and so is every state"


def check_events(world: World, events: list[AccountChanged]) -> None:
    by_lineage: dict[str, list[AccountChanged]] = defaultdict(list)
    for event in events:
        by_lineage[event.lineage].append(event)
    assert list(by_lineage) == sorted(by_lineage), "a lineage is over when the next one begins"
    assert len(by_lineage) <= world.renewals + 1
    for told in by_lineage.values():
        check_lineage(world, told)


def check_lineage(world: World, events: list[AccountChanged]) -> None:
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    by_account: dict[str, list[AccountChanged]] = defaultdict(list)
    for event in events:
        by_account[account_key(event.account_guid)].append(event)
    for key, told in by_account.items():
        assert [event.revision for event in told] == list(range(1, len(told) + 1))
        before: AccountChanged | None = None
        for event in told:
            is_there = before is not None and before.kind is not ChangeKind.DELETED
            assert (event.kind in {ChangeKind.INITIAL, ChangeKind.CREATED}) == (not is_there)
            assert event.kind is not ChangeKind.INITIAL or before is None, "only the first thing told can be initial"
            if event.kind is ChangeKind.DELETED:
                assert key in world.ever_absent, "nothing is told to be gone that never was"
            elif world.pbx.modes.info == "info-full":
                states = [world.published_of(record) for record in world.versions[key]]
                assert event.account in states, "every state told was one"
            if event.kind is ChangeKind.UPDATED and before is not None:
                assert event.changed or is_news_of_numbers(world, before, event), "nothing is told twice"
                was, now = dict[str, Any](before.account), dict[str, Any](event.account)
                assert {name for name in now if now[name] != was.get(name)} - {"guid"} == set(event.changed)
            before = event


def is_news_of_numbers(world: World, before: AccountChanged, event: AccountChanged) -> bool:
    """Tell whether the PBX gave new numbers, which is a change even where nothing differs."""
    is_exact = world.pbx.modes.cursor != "cursor-huge"  # read back as floating point, and so not exactly
    # A PBX that was set back gives numbers once more; what the mirror took in silence between is in no event.
    return event.cursor != before.cursor or not is_exact or not world.is_calm


@pytest.mark.parametrize("share", range(SHARES))
def test_the_mirror_becomes_the_truth_and_the_events_led_there(
    store: TableStore, share: int, pytestconfig: pytest.Config
) -> None:
    cases = CASES * THOROUGHLY if pytestconfig.getoption("--thorough") else CASES
    for number in range(share, cases, SHARES):
        world = play(store, number)
        assert_right(world, number)


@pytest.mark.parametrize("share", range(SHARES))
def test_the_same_holds_where_the_pbx_dials(store: TableStore, share: int, pytestconfig: pytest.Config) -> None:
    """A tenth of the cases, and the same cases: who dialled makes no difference above the login."""
    cases = CASES if pytestconfig.getoption("--thorough") else CASES // THOROUGHLY
    for number in range(share, cases, SHARES):
        assert_right(play(store, number, label="dials", pbx_dials=True), number)


def assert_right(world: World, number: int) -> None:
    try:
        check(world)
    except AssertionError as wrong:
        raise AssertionError(f"case {number}, modes {world.pbx.modes.words()}: {wrong}") from wrong


class StoreFiles:
    """What may happen to the files of a store in *folder*."""

    def __init__(self, folder: Path, worlds: list[World]) -> None:
        self._folder = folder
        self._worlds = worlds
        self._copies: list[Path] = []

    def do(self, world: World, chance: random.Random) -> None:
        self._worlds[:] = [world]
        moves = [
            self.copy,
            self.restore,
            self.put_by_hand,
            self.set_back,
            self.lose,
            self.prune,
            self.jump,
            self.no_log,
        ]
        chance.choice(moves)(world, chance)

    def copy(self, world: World, _chance: random.Random) -> None:
        """Copy all files of the store, stopped for a moment: a snapshot of the machine."""
        copy = self._folder / f"copy-{len(self._copies)}"
        world.replace_store(lambda: shutil.copytree(self._live, copy))
        self._copies.append(copy)

    def restore(self, world: World, chance: random.Random) -> None:
        """Put a backup back with the command that is there for it."""
        if self._copies:
            copy = chance.choice(self._copies) / "bridge.db"
            world.replace_store(lambda: put_back(copy, self._live / "bridge.db", world.clock))

    def put_by_hand(self, world: World, chance: random.Random) -> None:
        """Put an older file in the place of the store, and nothing beside it."""
        if self._copies:
            copy = chance.choice(self._copies) / "bridge.db"
            world.replace_store(lambda: shutil.copy(copy, self._live / "bridge.db"))

    def set_back(self, world: World, chance: random.Random) -> None:
        """Set the machine back as a whole: store and lock file are as they were."""
        if self._copies:
            copy = chance.choice(self._copies)
            world.replace_store(lambda: shutil.copytree(copy, self._emptied(), dirs_exist_ok=True))

    def lose(self, world: World, _chance: random.Random) -> None:
        """Lose the store and all that is beside it."""
        world.replace_store(self._empty)

    def prune(self, world: World, _chance: random.Random) -> None:
        world.prune()

    def jump(self, world: World, chance: random.Random) -> None:
        """Let the clock of the bridge be wrong from now on."""
        world.clock_error = timedelta(days=chance.choice([-4000, -1, 0, 1, 1500]))

    def no_log(self, world: World, _chance: random.Random) -> None:
        """Start once where the log cannot be read."""
        world.replace_store(lambda: None, is_log_read=False)

    def _emptied(self) -> Path:
        self._empty()
        return self._live

    def _empty(self) -> None:
        shutil.rmtree(self._live)
        self._live.mkdir()

    @property
    def _live(self) -> Path:
        return self._folder / "live"


@pytest.mark.parametrize("share", range(SHARES))
def test_the_same_holds_whatever_becomes_of_the_store(tmp_path: Path, share: int, pytestconfig: pytest.Config) -> None:
    """Lost, copied, put back, set back with its machine, pruned, its clock jumping, beside a log that outlives it."""
    cases = CASES if pytestconfig.getoption("--thorough") else CASES // THOROUGHLY
    for number in range(share, cases, SHARES):
        folder = tmp_path / str(number)
        (folder / "live").mkdir(parents=True)
        worlds: list[World] = []
        with SqliteStore(folder / "live" / "bridge.db", clock=partial(clock_of, worlds)) as store:
            hurried(store)
            store.compare(LogContents({}))
            assert_right(play(store, number, label="store", files=StoreFiles(folder, worlds)), number)
        shutil.rmtree(folder)


def clock_of(worlds: list[World]) -> datetime:
    """Return the time of the bridge in the world that there is, or before there is one."""
    return worlds[0].clock if worlds else EPOCH
