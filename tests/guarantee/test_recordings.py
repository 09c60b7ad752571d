"""A recorded PBX, played again: whatever it does, the bridge reads it to its end. Drop a recording into the folder."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bridge.events.normalize import account_key
from bridge.model import AccountGuid
from bridge.ops.observe.observation import conclude_from
from bridge.pbx.recording.frames import Recording, read
from bridge.pbx.recording.pseudonyms import Pseudonyms
from bridge.simulator.modes import Modes
from bridge.simulator.pbx import Pbx
from bridge.simulator.playing import connect
from bridge.simulator.recorded import RecordedPbx
from bridge.store.tables.store import TableStore
from tests.support import world as world_of
from tests.support.enemies import EnemyConnection
from tests.support.enemy import Enemy
from tests.support.recordings import EnemyWorld, RecordedWorld, accounts_at_the_end, told
from tests.support.world import World

FOLDER = Path(__file__).parents[1] / "data" / "recordings"
SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/recording.v1.schema.json").read_text("utf-8"))
RECORDINGS = sorted(FOLDER.glob("*.jsonl"))
PSEUDONYMS = Pseudonyms(b"w" * 32)


def load(file: Path) -> Recording:
    with file.open(encoding="utf-8") as lines:
        return read(lines)


PLAYED_AGAIN = (
    *(
        "idle-guid",
        "idle-bare",
        "idle-cursor",
        "idle-repeat",
        "idle-silent",
        "guid-session",
        "guid-request",
        "rowguid-present",
    ),
    *("cursor-number", "cursor-huge", "ord-indep", "err-prop", "err-mt", "del-mt", "info-missing", "shape-l", "log"),
    *(
        "slow",
        "src-dropped",
        "api-dropped",
        "optional-null",
        "json-shuffled",
        "pbxinfo-after",
        "push-row",
        "walk-table",
    ),
)
"""Behaviours of which a recording is played again."""


UNLIKE_RECORDED = {
    **dict.fromkeys(("NumbersAreLists", "GuidNever", "GuidIsAnObject"), "a bridge can read none of its accounts"),
    "NumbersRestart": "its answers depend on what it told before, and a recorded question is known by its place alone",
    **dict.fromkeys(
        ("AnswersLate", "AnswersOutOfOrder", "EndIsSilentOnceThenTold"),
        "which of its answers are late or missing depends on their count",
    ),
}
"""Enemies that are not played, and why."""
PLAYED_ENEMIES = [habit for habit in Enemy.habits if habit not in UNLIKE_RECORDED]


def play(store: TableStore, recording: Recording, name: str = "played") -> tuple[World, RecordedPbx]:
    pbx = RecordedPbx(recording)
    world = World(store, name, pbx, random.Random(1))  # noqa: S311 - no secret
    world.run(pbx.script.ended_at - pbx.script.began_at + 400)
    world.settle()
    return world, pbx


def there(world: World) -> set[str]:
    return {key for key, known in world.mirror().items() if not known.is_deleted}


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_every_line_of_a_recording_fits_the_schema(file: Path) -> None:
    for line in file.read_text("utf-8").splitlines():
        Draft202012Validator(SCHEMA).validate(json.loads(line))


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_a_recorded_pbx_is_read_to_its_end(store: TableStore, file: Path) -> None:
    recording = load(file)
    world, pbx = play(store, recording)
    assert pbx.unknown_questions == [], "nothing is asked that was not asked when it was recorded"
    expected, uncertain = accounts_at_the_end(recording)
    keys = {account_key(AccountGuid(guid)) for guid in expected}
    unsure = {account_key(AccountGuid(guid)) for guid in uncertain}
    assert keys - unsure <= there(world), "no account is missing"
    if world.certificates:
        assert there(world) - unsure == keys - unsure, "and none is there that is gone"
    events = world.events()
    assert len({event.event_id for event in events}) == len(events)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_a_recorded_pbx_that_is_read_on_tells_nothing_twice(store: TableStore, file: Path) -> None:
    world, _ = play(store, load(file))
    before = len(world.events())
    world.crash()
    world.settle()
    assert len(world.events()) == before


@pytest.mark.parametrize("file", [file for file in RECORDINGS if load(file).header.modes], ids=lambda file: file.stem)
def test_a_recording_says_of_the_pbx_what_it_said_when_it_was_made(file: Path) -> None:
    """Whoever changes how behaviour is told apart sees here what becomes of what was seen before."""
    recording = load(file)
    assert conclude_from(recording.frames).words == recording.header.modes
    word = file.stem.removeprefix("pretend-")
    assert file.stem == word or word in recording.header.modes


@pytest.mark.parametrize("word", PLAYED_AGAIN)
def test_what_a_bridge_recorded_leads_another_to_the_same_events(store: TableStore, word: str) -> None:
    pbx = Pbx(accounts=9, seed=5, modes=Modes.parse([word]))
    world = RecordedWorld(store, "recorded", pbx, random.Random(1), PSEUDONYMS)  # noqa: S311 - no secret
    world.run(130)
    whom = pbx.pick()
    for change in (pbx.change_display_name, pbx.toggle_group, pbx.rename, pbx.change_extension):
        world.do(lambda change=change: change(whom))  # type: ignore[misc]
        world.run(130)
    created = pbx.create()
    world.run(130)
    world.do(lambda: pbx.delete(created))
    world.run(300)
    again, played = play(store, world.recording)
    assert played.unknown_questions == []
    expected = [(PSEUDONYMS.text(guid), kind, changed) for guid, kind, changed in told(world)]
    assert list(told(again)) == expected


def enemies_too(pbx: Any, **options: Any) -> Any:
    return EnemyConnection(pbx) if isinstance(pbx, Enemy) else connect(pbx, **options)


@pytest.mark.parametrize("habit", PLAYED_ENEMIES)
def test_a_recorded_enemy_leads_a_bridge_to_the_same_events(
    store: TableStore, habit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose habits no word of the pretend PBX says: the answers themselves are in the recording."""
    monkeypatch.setattr(world_of, "connect", enemies_too)
    enemy: Any = Enemy.habits[habit](10)
    world = EnemyWorld(store, "recorded", enemy, random.Random(1), PSEUDONYMS)  # noqa: S311 - no secret
    world.run(130)
    for act in ("rename", "group", "create", "delete"):
        world.do(lambda act=act: enemy.act(act))  # type: ignore[misc]
        world.run(200)
    world.run(400)
    again, played = play(store, world.recording)
    expected = [(PSEUDONYMS.text(guid), kind, changed) for guid, kind, changed in told(world)]
    assert expected
    assert list(told(again)) == expected
    assert played.unknown_questions == []
