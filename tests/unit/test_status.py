import json
from datetime import UTC, datetime, timedelta

import orjson

from bridge.status import MAX_UNSENT_AGE, Board, Level, Part, SourcePart

NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def board() -> Board:
    made = Board("0.1.0", NOW, Part(NOW), {"hq": SourcePart(NOW)})
    made.broker.does("connected", Level.OK, NOW)
    made.sources["hq"].does("up to date", Level.OK, NOW)
    return made


def test_ready_means_that_changes_flow() -> None:
    assert board().is_ready(NOW)


def test_it_is_not_ready_while_a_pbx_or_the_broker_is_away() -> None:
    away = board()
    away.sources["hq"].fails("no connection", Level.WARN, NOW)
    assert not away.is_ready(NOW)
    away = board()
    away.broker.fails("no connection", Level.WARN, NOW)
    assert not away.is_ready(NOW)


def test_it_is_not_ready_while_an_event_waits_for_long() -> None:
    late = board()
    late.unsent, late.oldest_unsent_at = 1, NOW
    assert late.is_ready(NOW + MAX_UNSENT_AGE)
    assert not late.is_ready(NOW + MAX_UNSENT_AGE + timedelta(seconds=1))
    assert late.level(NOW + timedelta(hours=1)) is Level.ERROR


def test_held_deletions_are_a_warning_and_changes_flow_all_the_same() -> None:
    held = board()
    held.sources["hq"].warning = "30 accounts are gone from the PBX"
    held.sources["hq"].verified_at, held.sources["hq"].accounts = NOW, 60
    held.sources["hq"].does("up to date", Level.OK, NOW)
    assert held.is_ready(NOW)
    assert held.level(NOW) is Level.WARN
    assert "30 accounts are gone" in held.sentences(NOW)[1]
    assert "all match" not in held.sentences(NOW)[1]


def test_what_works_again_has_no_problem() -> None:
    part = Part(NOW)
    part.fails("no connection", Level.WARN, NOW)
    part.does("connected", Level.OK, NOW + timedelta(minutes=3))
    assert (part.problem, part.since) == ("", NOW + timedelta(minutes=3))


def test_the_sentences_say_whether_everything_is_sent_and_verified() -> None:
    told = board()
    assert told.sentences(NOW)[0] == "Everything sent."
    assert "Deletions unknown" in told.sentences(NOW)[1]
    told.unsent = 3
    told.sources["hq"].verified_at, told.sources["hq"].accounts, told.sources["hq"].deletions = NOW, 412, "known"
    assert told.sentences(NOW)[0] == "3 events wait to be sent."
    assert "412 accounts, all match, verified" in told.sentences(NOW)[1]


def test_the_board_can_be_written_as_json() -> None:
    content = json.loads(orjson.dumps(board().as_json(NOW)))
    assert content["sources"]["hq"]["doing"] == "up to date"
    assert content["ready"] is True
