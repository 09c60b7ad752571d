from pathlib import Path

import pytest

from bridge.consumer.inbox_sqlite import SqliteInbox
from tests.chaos.applier import opened
from tests.chaos.appliers import SqliteEffects, TextEffects
from tests.chaos.counting import Arrival
from tests.chaos.errors import CannotRunError


def test_a_text_of_effects_is_read_on_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    effects = TextEffects(path, "hq")
    assert effects.read_on(0) == []
    path.write_bytes(b"one\t00000000000000000001\tanna\t1\ntwo\t2\tan")
    assert effects.read_on(3) == [Arrival("one", "hq", 1, "anna", 1, 3)]
    with path.open("ab") as file:
        file.write(b"na\t2\n")
    assert effects.read_on(4) == [Arrival("two", "hq", 2, "anna", 2, 4)]
    assert effects.read_on(5) == []


@pytest.mark.parametrize("line", ["", "one\t1\tanna", "one\tx\tanna\t1", "one\t1\tanna\t"])
def test_a_line_that_is_no_effect_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "effects"
    path.write_text(f"{line}\n")
    with pytest.raises(CannotRunError, match="effects has the line"):
        TextEffects(path, "hq").read_on(0)


def test_a_table_of_effects_is_read_on_behind_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "effects.db"
    effects = SqliteEffects(path)
    assert effects.read_on(0) == [], "there is no file yet"
    database = opened(path)
    SqliteInbox(database).create_tables()
    for number in (1, 2):
        with database:
            database.execute(
                "INSERT INTO effect (event_id, source, sequence, account, revision) VALUES (?, 'hq', ?, 'anna', ?)",
                (f"id-{number}", number, number),
            )
        assert effects.read_on(7) == [Arrival(f"id-{number}", "hq", number, "anna", number, 7)]
    database.close()
