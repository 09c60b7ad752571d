import json
from typing import Any

import pytest

from bridge.simulator.modes import Modes
from bridge.simulator.oracle import OracleWatchdog
from bridge.simulator.pbx import CUT, Pbx
from bridge.simulator.session import Close
from tests.support.pbx_reader import Caller, inside


def pbx_like(*words: str, accounts: int = 3) -> Pbx:
    return Pbx(accounts=accounts, seed=5, modes=Modes.parse(words))


def at_the_end(pbx: Pbx) -> tuple[Caller, dict[str, Any]]:
    """Return a caller that has read everything, and where it stands."""
    caller = inside(pbx)
    guid = caller.ask()[0]["guid"]
    cursor: dict[str, Any] = {"guid": guid}
    for _ in range(len(pbx.truth())):
        cursor = {"guid": guid} | _numbers(caller.ask(**cursor)[0])
    return caller, cursor


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("usn", "ausn") if name in row}


def test_a_question_without_a_guid_is_answered_with_it_alone() -> None:
    caller = inside(pbx_like())
    (answer,) = caller.ask()
    assert answer.keys() == {"mt", "api", "src", "guid"}
    assert (answer["mt"], answer["api"], answer["src"]) == ("AccountInfoResult", "PbxAccountApi", "q-1")


def test_nulls_count_as_left_out() -> None:
    """The vendor's own example sends them."""
    caller = inside(pbx_like())
    (answer,) = caller.ask(guid=None, usn=None, ausn=None)
    assert set(answer) == {"mt", "api", "src", "guid"}


def test_a_row_has_what_the_vendor_prints() -> None:
    caller = inside(pbx_like())
    (row,) = caller.ask(guid=caller.ask()[0]["guid"])
    assert row.keys() == {"mt", "api", "src", "usn", "ausn", "account-guid", "account-h323", "info"}
    assert isinstance(row["usn"], str)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("idle-guid", {"guid"}),
        ("idle-bare", set()),
        ("idle-cursor", {"usn", "ausn"}),
        ("idle-empty", {"account-guid"}),
        ("idle-null", {"account-guid"}),
        ("idle-error", {"error", "errorText"}),
        ("idle-repeat", {"usn", "ausn", "account-guid", "account-h323", "info"}),
    ],
)
def test_having_nothing_further_is_told_in_the_mode_s_way(word: str, told: set[str]) -> None:
    caller, cursor = at_the_end(pbx_like(word))
    (answer,) = caller.ask(**cursor)
    assert answer.keys() - {"mt", "api", "src"} == told
    assert answer["src"] == "q-5"


@pytest.mark.parametrize("word", ["idle-silent", "idle-hold"])
def test_having_nothing_further_may_be_told_by_silence(word: str) -> None:
    caller, cursor = at_the_end(pbx_like(word))
    assert caller.ask(**cursor) == []


def test_a_forgotten_question_is_never_answered() -> None:
    pbx = pbx_like("idle-silent")
    caller, cursor = at_the_end(pbx)
    caller.ask(**cursor)
    pbx.touch(pbx.pick())
    assert caller.wait() == []


@pytest.mark.parametrize(
    ("word", "answered"), [("hold-single", ["q-6"]), ("hold-all", ["q-6", "q-5"]), ("hold-queue", ["q-5"])]
)
def test_held_questions_are_answered_when_something_changes(word: str, answered: list[str]) -> None:
    pbx = pbx_like("idle-hold", word)
    caller, cursor = at_the_end(pbx)
    assert caller.ask(**cursor) == []
    assert caller.ask(**cursor) == []
    guid = pbx.rename(pbx.pick())
    told = caller.wait()
    assert [row["src"] for row in told] == answered
    assert {row["account-guid"] for row in told} == {guid}
    assert caller.wait() == []


def test_a_queue_of_held_questions_is_answered_in_order() -> None:
    pbx = pbx_like("idle-hold", "hold-queue")
    caller, cursor = at_the_end(pbx)
    caller.ask(**cursor)
    caller.ask(**cursor)
    told = []
    for _ in range(2):
        pbx.rename(pbx.pick())
        told += caller.wait()
    assert [row["src"] for row in told] == ["q-5", "q-6"]


def test_a_change_nobody_is_to_hear_of_answers_nobody() -> None:
    pbx = pbx_like("idle-hold", "del-none")
    caller, cursor = at_the_end(pbx)
    caller.ask(**cursor)
    pbx.delete(pbx.pick())
    assert caller.wait() == []


@pytest.mark.parametrize(
    ("word", "told"),
    [("stale-newguid", {"guid"}), ("stale-error", {"error", "errorText"}), ("stale-rows", {"guid", "account-guid"})],
)
def test_a_stale_guid_is_answered_in_the_mode_s_way(word: str, told: set[str]) -> None:
    pbx = pbx_like(word)
    caller, cursor = at_the_end(pbx)
    pbx.new_epoch()
    (answer,) = caller.ask(**cursor)
    assert told <= answer.keys()
    assert answer.get("guid", pbx.epoch_guid) == pbx.epoch_guid


def test_a_stale_guid_may_be_met_with_silence() -> None:
    pbx = pbx_like("stale-silent")
    caller, cursor = at_the_end(pbx)
    pbx.new_epoch()
    assert caller.ask(**cursor) == []


def test_a_stale_guid_may_end_the_connection() -> None:
    pbx = pbx_like("stale-close")
    caller, cursor = at_the_end(pbx)
    pbx.new_epoch()
    caller.ask(**cursor)
    assert caller.closed_with == 1008


def test_a_stale_guid_may_go_unnoticed() -> None:
    pbx = pbx_like("stale-ignore")
    caller, cursor = at_the_end(pbx)
    pbx.new_epoch()
    guid = pbx.touch(pbx.pick())
    assert caller.ask(**cursor)[0]["account-guid"] == guid


@pytest.mark.parametrize(
    ("word", "survives"),
    [
        ("guid-db", {"question", "connection", "reboot", "failover"}),
        ("guid-node", {"question", "connection", "reboot"}),
        ("guid-boot", {"question", "connection"}),
        ("guid-session", {"question"}),
        ("guid-request", set()),
    ],
)
def test_a_guid_lives_as_long_as_what_it_stands_for(word: str, survives: set[str]) -> None:
    pbx = pbx_like(word)
    caller = inside(pbx)
    guids = {"start": caller.ask()[0]["guid"], "question": caller.ask()[0]["guid"]}
    guids["connection"] = inside(pbx).ask()[0]["guid"]
    pbx.reboot()
    guids["reboot"] = inside(pbx).ask()[0]["guid"]
    pbx.failover_to_standby()
    guids["failover"] = inside(pbx).ask()[0]["guid"]
    assert {event for event, guid in guids.items() if guid == guids["start"]} - {"start"} == survives


@pytest.mark.parametrize(
    ("word", "mt", "marks"),
    [
        ("del-flag", {"AccountInfoResult"}, {"deleted", "del", "update"}),
        ("del-bare", {"AccountInfoResult"}, {"account-h323"}),
        ("del-mt", {"AccountInfoDel", "AccountDelete"}, {"account-guid"}),
    ],
)
def test_a_deletion_is_told_in_the_mode_s_way(word: str, mt: set[str], marks: set[str]) -> None:
    pbx = pbx_like(word, accounts=9)
    caller, cursor = at_the_end(pbx)
    for _ in range(6):
        gone = pbx.delete(pbx.pick())
        (row,) = caller.ask(**cursor)
        cursor |= _numbers(row)
        assert row["account-guid"] == gone
        assert row["mt"] in mt
        assert marks & row.keys() or word == "del-bare"
        assert not row.get("info")


@pytest.mark.parametrize("word", ["del-none", "del-newguid"])
def test_a_deletion_may_not_be_told_at_all(word: str) -> None:
    pbx = pbx_like(word)
    caller, cursor = at_the_end(pbx)
    pbx.delete(pbx.pick())
    assert "account-guid" not in caller.ask(**cursor)[0]
    assert (caller.ask()[0]["guid"] == cursor["guid"]) is (word == "del-none")


def test_a_lost_deletion_is_told_only_to_those_who_were_there() -> None:
    pbx = pbx_like("del-lost")
    caller, cursor = at_the_end(pbx)
    caller.hang_up()
    pbx.delete(pbx.pick())
    caller = inside(pbx)
    caller.hang_up()
    assert "account-guid" not in inside(pbx).ask(**cursor)[0]


def test_a_new_account_of_an_old_name_may_be_told_before_the_end_of_the_old() -> None:
    pbx = pbx_like("del-then-recreate")
    caller, cursor = at_the_end(pbx)
    old = pbx.pick()
    new = pbx.recreate(old)
    first = caller.ask(**cursor)[0]
    second = caller.ask(**cursor | _numbers(first))[0]
    assert (first["account-guid"], second["account-guid"]) == (new, old)


@pytest.mark.parametrize(
    ("word", "kind"),
    [("cursor-string", str), ("cursor-number", int), ("cursor-hex", str), ("cursor-zeros", str), ("cursor-huge", int)],
)
def test_numbers_have_the_mode_s_type_and_must_come_back_in_it(word: str, kind: type) -> None:
    pbx = pbx_like(word)
    caller, cursor = at_the_end(pbx)
    assert type(cursor["usn"]) is kind
    assert not pbx.oracle.mistakes
    other = str(cursor["usn"]) + "." if kind is str else str(cursor["usn"])
    caller.ask(**cursor | {"usn": other})
    assert "as it got them" in pbx.oracle.mistakes[0]


@pytest.mark.parametrize(("word", "beyond"), [("cursor-big", 2**53), ("cursor-huge", 2**64)])
def test_numbers_may_be_beyond_what_others_can_count(word: str, beyond: int) -> None:
    _, cursor = at_the_end(pbx_like(word))
    assert cursor["usn"] > beyond


def test_a_constant_ausn_may_be_left_out() -> None:
    _, cursor = at_the_end(pbx_like("ord-absent"))
    assert cursor.keys() == {"guid", "usn"}


def test_a_partial_info_has_what_changed() -> None:
    pbx = pbx_like("info-delta")
    caller, cursor = at_the_end(pbx)
    pbx.change_display_name(pbx.pick(), "New")
    assert caller.ask(**cursor)[0]["info"] == {"dn": "New"}


def test_info_may_be_missing() -> None:
    caller = inside(pbx_like("info-missing"))
    assert "info" not in caller.ask(guid=caller.ask()[0]["guid"])[0]


def test_a_push_is_a_row_nobody_asked_for() -> None:
    pbx = pbx_like("push-row")
    caller, _ = at_the_end(pbx)
    guid = pbx.touch(pbx.pick())
    (row,) = caller.wait()
    assert row["account-guid"] == guid
    assert "src" not in row


def test_an_older_row_may_come_after_the_newer() -> None:
    pbx = pbx_like("dup-late")
    caller, cursor = at_the_end(pbx)
    guid = pbx.change_extension(pbx.pick(), "9999")
    newer, older = caller.ask(**cursor)
    assert newer["account-guid"] == older["account-guid"] == guid
    assert (newer["info"]["e164"], older["info"]["e164"] == "9999") == ("9999", False)


def test_a_row_may_come_again_after_a_new_connection() -> None:
    pbx = pbx_like("dup-chain")
    _, cursor = at_the_end(pbx)
    again = inside(pbx).ask(**cursor)[0]
    assert _numbers(again) == _numbers(cursor)


def test_two_changes_between_two_questions_are_one_row() -> None:
    pbx = pbx_like("coalesce")
    caller, cursor = at_the_end(pbx)
    guid = pbx.pick()
    pbx.change_extension(guid, "1")
    pbx.change_extension(guid, "2")
    row = caller.ask(**cursor)[0]
    assert row["info"]["e164"] == "2"
    assert "account-guid" not in caller.ask(**cursor | _numbers(row))[0]


def test_a_log_tells_every_change_with_its_content() -> None:
    pbx = pbx_like("log")
    caller, cursor = at_the_end(pbx)
    guid = pbx.pick()
    pbx.change_extension(guid, "1")
    pbx.change_extension(guid, "2")
    told = []
    for _ in range(2):
        row = caller.ask(**cursor)[0]
        cursor |= _numbers(row)
        told.append(row["info"]["e164"])
    assert told == ["1", "2"]


@pytest.mark.parametrize(("word", "is_told"), [("hist-full", True), ("hist-gap", False)])
def test_a_cursor_older_than_the_history_starts_over_or_skips(word: str, *, is_told: bool) -> None:
    pbx = pbx_like(word)
    caller, cursor = at_the_end(pbx)
    pbx.touch(pbx.pick())
    pbx.forget_history()
    assert ("account-guid" in caller.ask(**cursor)[0]) is is_told


def test_a_cursor_older_than_the_history_may_end_the_epoch() -> None:
    pbx = pbx_like("hist-newguid")
    caller, cursor = at_the_end(pbx)
    pbx.touch(pbx.pick())
    pbx.forget_history()
    (answer,) = caller.ask(**cursor)
    assert answer["guid"] == pbx.epoch_guid != cursor["guid"]


def test_a_snapshot_tells_what_was_when_the_walk_began() -> None:
    pbx = pbx_like("walk-snapshot")
    caller = inside(pbx)
    guid = caller.ask()[0]["guid"]
    first = caller.ask(guid=guid)[0]
    others = pbx.truth().keys() - {first["account-guid"]}
    for other in others:
        pbx.change_extension(other, "9999")
    told, cursor = [], {"guid": guid} | _numbers(first)
    for _ in range(4):
        row = caller.ask(**cursor)[0]
        cursor |= _numbers(row)
        told.append(row["info"]["e164"] == "9999")
    assert told == [False, False, True, True]


@pytest.mark.parametrize("word", ["ord-walk", "walk-table"])
def test_a_table_is_not_in_the_order_of_changes(word: str) -> None:
    pbx = pbx_like(word, accounts=20)
    at_the_end(pbx)
    usns = [delivery.usn for delivery in pbx.oracle.deliveries]
    assert len(set(usns)) == 20
    assert usns != sorted(usns)


@pytest.mark.parametrize(("word", "told"), [("err-prop", "AccountInfoResult"), ("err-mt", "Error")])
def test_every_fifth_question_gets_the_mode_s_error(word: str, told: str) -> None:
    caller = inside(pbx_like(word))
    answers = [caller.ask()[0] for _ in range(5)]
    assert [answer for answer in answers if "error" in answer] == answers[4:]
    assert (answers[4]["mt"], answers[4]["src"]) == (told, "q-5")


@pytest.mark.parametrize(("word", "code"), [("err-silent", None), ("err-close", 1008)])
def test_an_error_may_be_silence_or_the_end(word: str, code: int | None) -> None:
    caller = inside(pbx_like(word))
    assert [len(caller.ask()) for _ in range(5)] == [1, 1, 1, 1, 0]
    assert caller.closed_with == code


def test_a_removed_api_is_an_error_until_it_is_back() -> None:
    pbx = pbx_like()
    caller = inside(pbx)
    pbx.api_removed()
    assert "error" in caller.ask()[0]
    pbx.api_restored()
    assert "guid" in caller.ask()[0]


def test_src_and_api_may_be_dropped() -> None:
    answer = inside(pbx_like("src-dropped", "api-dropped")).ask()[0]
    assert answer.keys() == {"mt", "guid"}


def test_api_may_be_the_vendor_s_slip() -> None:
    assert inside(pbx_like("api-impersonation")).ask()[0]["api"] == "PbxImpersonation"


@pytest.mark.parametrize("src", ["a", 7, None, 'quo"te', ["list"]])
def test_src_is_repeated_as_it_came(src: Any) -> None:
    answer = inside(pbx_like()).say(mt="AccountInfo", api="PbxAccountApi", src=src)[0]
    assert answer.get("src") == src


@pytest.mark.parametrize(("word", "value"), [("optional-null", None), ("optional-empty", "")])
def test_what_has_no_value_may_be_written_down_nevertheless(word: str, value: str | None) -> None:
    answer = inside(pbx_like(word)).ask()[0]
    assert {answer[name] for name in ("usn", "ausn", "account-guid", "account-h323")} == {value}


def test_the_speed_is_told_as_a_delay() -> None:
    for word, delays in (("fast", {0.0}), ("slow", {1.0})):
        caller = inside(pbx_like(word))
        caller.delays.clear()
        caller.ask(guid=caller.ask()[0]["guid"])
        assert set(caller.delays) == delays


def test_a_burst_releases_everything_at_once() -> None:
    pbx = pbx_like("burst")
    callers = [inside(pbx) for _ in range(3)]
    due = []
    for number, caller in enumerate(callers):
        caller.now = 100.0 + number / 10
        asked_at = caller.now + 0.01
        caller.ask()
        due.append(round(asked_at + caller.delays[-1], 6))
    assert len(set(due)) == 1


def test_who_asks_too_fast_is_thrown_out() -> None:
    pbx = Pbx(accounts=3, modes=Modes.parse(["throttle-close"]), throttle_per_second=10)
    caller = inside(pbx)
    caller.now = 200.0
    for _ in range(10):
        caller.ask()
    assert caller.closed_with is None
    caller.ask()
    assert caller.closed_with == 1008


def test_questions_that_overlap_are_counted() -> None:
    pbx = pbx_like()
    caller = inside(pbx, round_trip_seconds=1.0)
    guid = caller.ask()[0]["guid"]
    caller.now += 5
    caller.ask(guid=guid)
    assert pbx.oracle.load.max_parallel == 1
    caller.ask(guid=guid)
    assert pbx.oracle.load.max_parallel == 2
    assert pbx.oracle.load.max_parallel_probes == 1
    caller.ask()
    caller.ask()
    assert pbx.oracle.load.max_parallel_probes == 2
    assert "twice at once" in pbx.oracle.mistakes[0]


def test_the_watchdog_bites_who_asks_too_much_at_once() -> None:
    pbx = Pbx(accounts=3, modes=Modes.parse(["slow"]), watchdog=OracleWatchdog(max_parallel=2))
    caller = inside(pbx)
    guid = caller.ask()[0]["guid"]
    caller.now += 10
    answers = [
        caller.connection.receive(json.dumps({"mt": "AccountInfo", "api": "PbxAccountApi", "guid": guid}), caller.now)
        for _ in range(3)
    ]
    assert Close(CUT) in answers[2]
    assert pbx.oracle.load.watchdog_reboots == 1


def test_a_bite_of_the_watchdog_is_rare_where_questions_are_single() -> None:
    pbx = Pbx(accounts=30, watchdog=OracleWatchdog(max_parallel=1))
    at_the_end(pbx)
    assert pbx.oracle.load.watchdog_reboots == 0


def test_modes_may_change_while_a_question_is_held() -> None:
    pbx = pbx_like("idle-hold")
    caller, cursor = at_the_end(pbx)
    caller.ask(**cursor)
    pbx.modes = Modes.parse(["idle-guid"])
    assert caller.wait()[0]["guid"] == cursor["guid"]


def test_another_api_is_not_answered() -> None:
    pbx = pbx_like()
    assert inside(pbx).say(mt="AccountInfo", src="1") == []
    assert "another api" in pbx.oracle.mistakes[0]


@pytest.mark.parametrize("word", ["json-shuffled", "json-escaped", "json-extra"])
def test_json_may_be_written_oddly_and_mean_the_same(word: str) -> None:
    plain, odd = at_the_end(pbx_like())[0], at_the_end(pbx_like(word))[0]
    for one, other in zip(plain.heard[2:], odd.heard[2:], strict=True):
        assert one.items() <= {name: value for name, value in other.items() if not name.startswith("x-")}.items() or (
            one == {name: value for name, value in other.items() if not name.startswith("x-")}
        )
