"""How far ``tail`` has shown the log, across lost connections and restarts."""

from pathlib import Path

import pytest

from bridge.cli.tail import LogPlace
from bridge.errors import BridgeError


def test_what_was_shown_is_not_shown_again_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "place"
    place = LogPlace("first", file)
    assert str(place.start) == "first"
    place.passed(41)
    assert [place.start, LogPlace("first", file).start] == [42, 42]


def test_nor_after_a_lost_connection_where_no_file_is_kept() -> None:
    place = LogPlace("first")
    place.passed(41)
    assert place.start == 42


def test_a_queue_and_a_log_in_parts_have_no_one_place() -> None:
    queue, parts = LogPlace(None), LogPlace("first", has_parts=True)
    for place in (queue, parts):
        place.passed(41)
    queue.passed(None)
    assert (queue.start, parts.start) == (None, "first")


def test_a_place_that_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "place").write_text("nonsense")
    with pytest.raises(BridgeError, match="has no place in the log"):
        LogPlace("first", tmp_path / "place")
    with pytest.raises(BridgeError, match="cannot be written: No such file or directory"):
        LogPlace("first", tmp_path / "none" / "place").passed(1)
