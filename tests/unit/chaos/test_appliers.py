from pathlib import Path

import pytest

from bridge.model import ChangeKind
from tests.chaos.applier import Crm, opened
from tests.chaos.appliers import SqliteEffects, TextEffects
from tests.chaos.counting import Arrival
from tests.chaos.errors import CannotRunError
from tests.chaos.readers import comparable
from tests.support.events import LATER_LINEAGE, change, event, verified


def test_a_text_of_effects_is_read_on_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    effects = TextEffects(path)
    assert effects.read_on(0) == []
    path.write_bytes(b"one\t/pbx/hq\tL\t00000000000000000001\tanna\t1\ntwo\t/pbx/hq\tL\t2\tan")
    assert effects.read_on(3) == [Arrival("one", "hq", 1, "anna", 1, 3, lineage="L")]
    with path.open("ab") as file:
        file.write(b"na\t2\n")
    assert effects.read_on(4) == [Arrival("two", "hq", 2, "anna", 2, 4, lineage="L")]
    assert effects.read_on(5) == []


@pytest.mark.parametrize("line", ["", "L\t1\tanna", "L\tx\tanna\t1", "L\t1\tanna\t", "L\t1\tanna\t1\t{}\t"])
def test_a_line_that_is_no_effect_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "effects"
    path.write_text(f"one\t/pbx/hq\t{line}\n" if line else "\n")
    with pytest.raises(CannotRunError, match="effects has the line"):
        TextEffects(path).read_on(0)


def test_a_table_of_effects_is_read_on_behind_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "effects.db"
    effects = SqliteEffects(path)
    assert effects.read_on(0) == [], "there is no file yet"
    database = opened(path)
    for number in (1, 2):
        with database:
            database.execute(
                "INSERT INTO effect (event_id, source, sequence, account, revision, lineage) "
                "VALUES (?, 'hq', ?, 'anna', ?, 'L')",
                (f"id-{number}", number, number),
            )
        assert effects.read_on(7) == [Arrival(f"id-{number}", "hq", number, "anna", number, 7, lineage="L")]
    database.close()


def test_a_text_may_tell_how_each_account_stands(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    effects = TextEffects(path)
    path.write_text(
        'one\t/pbx/hq\tL\t1\tanna\t1\t{"h323": "a", "guid": "anna"}\ntwo\t/pbx/hq\tL\t2\tbert\t1\t{"guid": "bert"}\n'
    )
    assert len(effects.read_on(0)) == 2
    assert effects.states() == {"its rule": {"anna": b'{"guid":"anna","h323":"a"}', "bert": b'{"guid":"bert"}'}}
    with path.open("a") as file:
        file.write("three\t/pbx/hq\tL\t3\tanna\t2\t\n")
    effects.read_on(0)
    assert effects.states() == {"its rule": {"bert": b'{"guid":"bert"}'}}


async def test_both_rules_lead_to_the_same_state(tmp_path: Path) -> None:
    path = tmp_path / "effects.db"
    database = opened(path)
    crm = Crm(database)
    for each in (event("anna"), event("bert", 1), event("bert", 1)):
        await crm.apply(each)
    # An event of a lineage and place of its own has an id of its own.
    await crm.apply(event("anna", lineage=LATER_LINEAGE, kind=ChangeKind.INITIAL))
    for _ in range(2):
        await crm.verified(verified(lineage=LATER_LINEAGE))
    database.close()
    state = {"anna": comparable(change("anna").account)}
    assert SqliteEffects(path).states() == {"inbox": state, "ids": state}
    assert [effect.account for effect in SqliteEffects(path).read_on(0)] == ["anna", "bert", "anna"]
