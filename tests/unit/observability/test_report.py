import json
from concurrent.futures import Future
from datetime import datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import StoreUnusable
from bridge.model import Certificate, Cursor, SourceName, Token
from bridge.observability.component_status import Level
from bridge.observability.report import (
    as_json,
    headline,
    in_local_words,
    liveness,
    plural,
    problems,
    sentences,
    without_people,
)
from bridge.observability.source_status import LastChange, WalkProgress
from bridge.observability.status import ListenerStatus
from bridge.store.records import Left
from tests.support.boards import NOW, board, wait
from tests.support.rows import HQ


def test_somebody_in_a_hurry_reads_three_sentences() -> None:
    well = board()
    well.sources["hq"].last_change = LastChange(NOW, "Erika Mustermann", "new extension")
    told = [in_local_words(sentence) for sentence in headline(well, NOW + timedelta(seconds=20))]
    assert told[0] == "Everything sent."
    assert told[1] == f"Last change {NOW.astimezone():%H:%M}, Erika Mustermann, new extension."
    assert told[2] == "Last answer from hq 20 s ago."


def test_a_certificate_of_ours_that_ends_is_a_warning_of_the_door() -> None:
    shown = board()
    shown.listener = ListenerStatus("wss://x", certificate_trouble="The certificate that PBXs are shown ends soon")
    assert [(problem.where, problem.cause, problem.level) for problem in problems(shown, NOW)] == [
        ("door", "file_unusable", Level.WARN)
    ]
    assert "The certificate that PBXs are shown ends soon." in sentences(shown, NOW)


def test_of_several_pbxs_the_longest_silent_one_and_the_latest_change_are_told() -> None:
    several = board(NOW, "hq", "branch")
    several.sources["branch"].last_progress_at = NOW - timedelta(minutes=5)
    for name, minutes in (("hq", 2), ("branch", 9)):
        several.sources[name].last_change = LastChange(NOW - timedelta(minutes=minutes), f"of {name}", "deleted")
    told = " ".join(in_local_words(sentence) for sentence in headline(several, NOW))
    assert "of hq, deleted" in told
    assert "Last answer from branch 5 min ago." in told


def test_sent_is_not_claimed_where_a_pbx_is_not_read() -> None:
    deaf = board(NOW, "hq", "branch")
    deaf.sources["branch"].failed("no connection", Level.WARN, NOW)
    assert headline(deaf, NOW)[0] == ("branch is not read; everything heard is sent.",)
    deaf.sources["hq"].failed("no connection", Level.WARN, NOW)
    assert headline(deaf, NOW)[0] == ("hq and branch are not read; everything heard is sent.",)
    deaf.unsent = 1
    assert headline(deaf, NOW)[0] == ("hq and branch are not read; 1 event waits to be sent.",)
    deaf.broker.failed("no connection", Level.WARN, NOW)
    deaf.held = 4
    assert headline(deaf, NOW)[0] == (
        "The broker takes nothing at the moment; hq and branch are not read; 5 events wait to be sent.",
    )


def test_what_matters_is_said_before_what_is_well() -> None:
    """Also where nothing waits: a broker that is down, a pause and a full outbox are never behind 'everything sent'."""
    told = board(NOW, "hq", "branch")
    told.broker.failed("no connection", Level.WARN, NOW)
    assert headline(told, NOW)[0] == ("The broker takes nothing at the moment; everything heard is sent.",)
    told = board(NOW, "hq", "branch")
    told.full = "the outbox is full"
    assert headline(told, NOW)[0] == ("No PBX is read until there is room; everything heard is sent.",)
    told = board(NOW, *(f"pbx{number}" for number in range(40)))
    for number in range(28):
        told.sources[f"pbx{number}"].failed("the password is wrong", Level.ERROR, NOW, cause="pbx_refused_login")
    assert headline(told, NOW)[0] == ("28 of 40 PBXs are not read; everything heard is sent.",)


def test_many_pbxs_with_one_reason_are_one_box() -> None:
    told = board(NOW, *(f"pbx{number:02}" for number in range(40)))
    for number in range(28):
        part = told.sources[f"pbx{number:02}"]
        part.failed("The password is wrong", Level.ERROR, NOW, cause="pbx_refused_login")
    told.sources["pbx39"].failed("no connection", Level.WARN, NOW, cause="pbx_unreachable")
    told.broker.failed("no connection", Level.WARN, NOW, cause="broker_unreachable")
    found = as_json(told, NOW)["boxes"]
    assert [(box.where, box.cause, len(box.names)) for box in found] == [
        ("28 PBXs", "pbx_refused_login", 28),
        ("broker", "broker_unreachable", 1),
        ("pbx39", "pbx_unreachable", 1),
    ]
    words = "28 PBXs refuse the login: pbx00, pbx01, pbx02 and 25 more. pbx00: The password is wrong"
    assert found[0].words == words
    assert f"{words}." in sentences(told, NOW)
    assert len(as_json(told, NOW)["problems"]) == 30, "machines get each of them"


def test_of_many_pbxs_those_in_trouble_are_told_and_the_others_counted() -> None:
    told = board(NOW, *(f"pbx{number:02}" for number in range(40)))
    told.sources["pbx07"].warning = "3 accounts are gone"
    told.sources["pbx33"].failed("the password is wrong", Level.ERROR, NOW)
    said = [sentence.partition(":")[0] for sentence in sentences(told, NOW)]
    assert said[-4:] == ["Broker", "pbx33", "pbx07", "Also"]
    assert sentences(told, NOW)[-1] == "Also: 38 well. account-bridge status --all lists them."


def test_few_pbxs_are_told_one_by_one_and_those_in_trouble_first() -> None:
    told = board(NOW, "a", "b", "c")
    told.sources["c"].failed("the password is wrong", Level.ERROR, NOW)
    said = [sentence.partition(":")[0] for sentence in sentences(told, NOW)]
    assert said[-3:] == ["c", "a", "b"]


def test_a_pbx_that_is_not_followed_any_more_is_told_and_counts_nowhere() -> None:
    told = board(NOW, "hq")
    told.left = {
        SourceName("branch"): Left(12, is_waiting=True, is_retired=False),
        HQ: Left(1, is_waiting=False, is_retired=False),
    }
    (said,) = [sentence for sentence in sentences(told, NOW) if "not followed" in sentence]
    assert said.startswith("branch: not followed any more. The store still has 12 accounts of it, and events of it are")
    assert (told.level(NOW), told.is_ready(NOW)) == (Level.OK, True)
    assert {name: left["sentence"] for name, left in as_json(told, NOW)["left"].items()} == {"branch": said}
    told.left = {SourceName("branch"): Left(0, is_waiting=True, is_retired=True)}
    assert "branch: retired, and gone as soon as everything of it is sent." in sentences(told, NOW)


def test_a_pbx_whose_events_nobody_takes_says_so_first_and_since_when() -> None:
    told = board(NOW, "hq", "branch")
    part, why = told.sources["hq"], "no queue takes events with the routing key 'hq.account.initial'"
    told.unsent = part.unsent = 6
    part.is_held_back(why, "event_unroutable", NOW)
    part.is_held_back(why, "event_unroutable", NOW + timedelta(seconds=2))
    later = NOW + timedelta(seconds=8)
    said = sentences(told, later)
    assert f"hq: 6 events wait, the first for 8 s: {why}." in said
    assert not [sentence for sentence in said if sentence.startswith("branch: 0")]
    (problem,) = as_json(told, later)["problems"]
    assert (problem.where, problem.cause, problem.since) == ("hq", "event_unroutable", NOW)
    part.goes_out()
    assert (why in " ".join(sentences(told, later)), problems(told, later)) == (False, [])


def test_a_pbx_for_which_a_second_bridge_sends_is_red_once_it_cannot_be_our_own_last_connection() -> None:
    told = board(NOW, "hq", "branch")
    part, why = told.sources["hq"], "another connection publishes for this source"
    part.is_fenced("broker", why, NOW)
    part.is_fenced("log", why, NOW + timedelta(seconds=5))
    soon, late = NOW + timedelta(seconds=60), NOW + timedelta(seconds=61)
    assert [told.assess(part, at) for at in (soon, late)] == [Level.WARN, Level.ERROR]
    told.ready_share = 1.0
    assert not told.is_ready(soon)
    assert told.assess(told.sources["branch"], late) is Level.OK
    (problem,) = problems(told, late)
    assert (problem.where, problem.cause, problem.since) == ("hq", "fence_held", NOW)
    assert sentences(told, late).count(f"hq: {why}.") == 1
    part.is_unfenced("log")
    assert told.assess(part, late) is Level.ERROR
    part.is_unfenced("broker")
    assert (told.assess(part, late), told.is_ready(late), problems(told, late)) == (Level.OK, True, [])


def test_control_characters_in_a_name_reach_no_terminal() -> None:
    evil = board()
    evil.sources["hq"].last_change = LastChange(NOW, "\x1b[31mred\x07", "new name")
    assert "\x1b" not in "\n".join(sentences(evil, NOW))


def test_the_sentences_say_whether_everything_is_sent_and_verified() -> None:
    told = board()
    assert told_about("hq", told).endswith("Deletions unknown: no full walk was proven yet.")
    part = told.sources["hq"]
    part.verified_at, part.accounts, part.deletions = NOW, 412, "known"
    assert "412 accounts, all match, verified" in told_about("hq", told)
    part.warning = "30 accounts are gone from the PBX"
    assert "30 accounts are gone from the PBX." in told_about("hq", told)
    assert "all match" not in told_about("hq", told)
    part.failed("no connection to it", Level.WARN, NOW)
    assert "no connection to it. 412" in told_about("hq", told)


def certificate(*, accounts: int, absent: int = 0, held: int = 0, at: datetime = NOW) -> Certificate:
    return Certificate(HQ, 1, at, at, accounts, repaired=0, deleted=0, held=held, absent=absent, sequence=1)


@pytest.mark.parametrize(
    ("absent", "held", "words"),
    [
        (0, 0, "250 accounts, all match, verified"),
        (50, 0, "200 match, 50 were not seen; a second walk at {at} decides, verified"),
        (1, 0, "249 match, 1 was not seen; a second walk at {at} decides, verified"),
        (50, 50, "200 match, 50 were not seen, whose deletion is held, verified"),
        (
            50,
            30,
            "200 match, 20 were not seen; a second walk at {at} decides; 30 were not seen, whose deletion is held",
        ),
    ],
)
def test_that_all_match_is_said_only_where_all_were_seen(absent: int, held: int, words: str) -> None:
    told = board()
    part = told.sources["hq"]
    part.certified(certificate(accounts=250, absent=absent, held=held))
    part.second_look_at = NOW + timedelta(minutes=10) if absent > held else None
    at = f"{(NOW + timedelta(minutes=10)).astimezone():%H:%M}"
    assert words.format(at=at) in told_about("hq", told)
    assert ("all match" in told_about("hq", told)) == (absent == 0)
    assert as_json(told, NOW)["sources"]["hq"]["completeness"] in told_about("hq", told)


@given(accounts=st.integers(0, 999), absent=st.integers(0, 999), held=st.integers(0, 999), warning=st.booleans())
def test_nothing_that_is_absent_held_or_doubtful_matches(accounts: int, absent: int, held: int, warning: bool) -> None:  # noqa: FBT001
    told, absent = board(), min(absent, accounts)
    told.sources["hq"].certified(certificate(accounts=accounts, absent=absent, held=min(held, absent)))
    told.sources["hq"].warning = "the store is an older copy" if warning else ""
    assert ("all match" in " ".join(sentences(told, NOW))) == (absent == 0 and not warning)


def test_a_second_walk_that_has_begun_or_cannot_begin_is_told_as_that() -> None:
    told = board()
    part = told.sources["hq"]
    part.certified(certificate(accounts=250, absent=50))
    part.second_look_at = NOW - timedelta(minutes=1)
    assert "a second walk decides as soon as it can begin" in told_about("hq", told)
    part.walk = WalkProgress(NOW, NOW)
    assert "a second walk is under way" in told_about("hq", told)


def test_what_was_certified_of_another_list_is_told_no_more() -> None:
    told = board()
    part = told.sources["hq"]
    part.certified(certificate(accounts=250, absent=50))
    part.begins_anew()
    assert told_about("hq", told).endswith("Deletions unknown: no full walk was proven yet.")


def test_a_moment_that_lies_in_the_future_is_told_as_what_it_is() -> None:
    told = board()
    told.sources["hq"].certified(certificate(accounts=250, at=NOW + timedelta(days=1500)))
    assert "(in the future: the clock was wrong when it was written)" in told_about("hq", told)
    told.sources["hq"].certified(certificate(accounts=250))
    assert "future" not in told_about("hq", told)


def told_about(name: str, told: object) -> str:
    (found,) = (line for line in sentences(told, NOW) if line.startswith(f"{name}: "))  # type: ignore[arg-type]
    return found


def test_every_problem_has_a_place_a_cause_and_a_sentence_and_the_worst_comes_first() -> None:
    bad = board()
    bad.broker.failed("no connection to the broker", Level.WARN, NOW, cause="broker_unreachable")
    bad.sources["hq"].warning = "30 accounts are gone"
    bad.sources["hq"].walk = WalkProgress(NOW, NOW - timedelta(hours=1), accounts=17)
    bad.unsent, bad.oldest_unsent_at = 1, NOW - timedelta(minutes=7)
    bad.held, bad.parked = 3, 1
    bad.full = "the outbox is full"
    bad.watch("prune", timedelta(minutes=1))
    wait(bad, timedelta(minutes=2))
    found = [(problem.level, problem.where, problem.cause) for problem in problems(bad, NOW)]
    assert found == [
        ("error", "bridge", "task_stuck"),
        ("error", "outbox", "events_late"),
        ("paused", "outbox", "outbox_full"),
        ("warn", "broker", "broker_unreachable"),
        ("warn", "outbox", "events_parked"),
        ("warn", "hq", "walk_stalled"),
        ("warn", "hq", "deletions_held"),
    ]
    words = " ".join(problem.words for problem in problems(bad, NOW))
    for part in ("The task 'prune'", "waited for 7 min; more than 5 min is too long", "refused 1 event for good"):
        assert part in words
    assert "17 accounts were read, and none for 60 min" in " ".join(sentences(bad, NOW))


def test_a_pause_is_told_once_and_not_by_every_pbx() -> None:
    full = board(NOW, "hq", "branch")
    full.full = "the outbox is full"
    for part in full.sources.values():
        part.failed(full.full, Level.PAUSED, NOW)
    assert [problem.where for problem in problems(full, NOW)] == ["outbox"]


def test_a_pbx_that_an_operator_paused_is_no_fault_and_is_told() -> None:
    paused = board(NOW, "hq", "branch")
    part = paused.sources["branch"]
    part.is_paused = True
    part.set_doing("paused by an operator (firmware)", Level.PAUSED, NOW)
    assert paused.is_ready(NOW)
    assert headline(paused, NOW)[0] == ("branch is paused; everything heard is sent.",)
    (problem,) = problems(paused, NOW)
    assert (problem.cause, problem.level) == ("pbx_paused", "paused")
    assert problem.words == "Paused by an operator (firmware). To read it again: account-bridge resume branch"


def test_a_blocked_broker_is_told_in_words_although_nothing_failed() -> None:
    blocked = board()
    blocked.broker.set_doing("blocked: the broker has a memory or disk alarm", Level.WARN, NOW)
    assert problems(blocked, NOW)[0].words == "Blocked: the broker has a memory or disk alarm"


def test_alive_is_told_with_the_reason() -> None:
    assert liveness(board()) == (True, "the event loop turns, and every task makes progress")
    stuck = board()
    stuck.watch("store", timedelta(minutes=1))
    wait(stuck, timedelta(minutes=2))
    assert not liveness(stuck)[0]


def test_the_board_can_be_written_as_json_with_ages_and_the_cursor_as_the_pbx_wrote_it() -> None:
    told = board()
    part = told.sources["hq"]
    part.cursor = Cursor(Token('"9e10"'), Token("12345678901234567890"))
    part.last_confirm_at = NOW - timedelta(seconds=90)
    told.watch("store", timedelta(minutes=1))
    gone = Future[None]()
    gone.set_exception(StoreUnusable("the disk is full"))
    told.expect("publish", gone)
    content = json.loads(orjson.dumps(as_json(told, NOW)))
    source = content["sources"]["hq"]
    assert (source["doing"], source["level"], content["ready"]) == ("up to date", "ok", True)
    assert source["cursor"] == {"guid": "9e10", "usn": 12345678901234567890}
    assert (source["ages"]["confirm"], source["ages"]["change"]) == (90.0, None)
    assert (content["alive"], content["ended"]) == (False, ["the task 'publish' has ended: the disk is full"])
    assert content["tasks"]["store"] == {"progress_age_seconds": 0.0, "limit_seconds": 60.0, "is_stuck": False}


def test_what_is_sent_to_a_helper_names_nobody() -> None:
    told = board()
    told.sources["hq"].last_change = LastChange(NOW, "Erika Mustermann", "new extension")
    whole = orjson.loads(orjson.dumps(as_json(told, NOW)))
    assert "Erika" in str(whole)
    kept = without_people(whole)
    assert "Erika" not in str(kept)
    assert kept["sources"]["hq"]["doing"] == "up to date"


def test_held_events_do_not_wait_for_the_broker() -> None:
    held = board()
    held.held = held.parked = 1
    assert headline(held, NOW)[0] == ("All but 1 event sent, which is held back.",)


def test_one_takes_no_s() -> None:
    assert (plural(1, "event"), plural(2, "event")) == ("1 event", "2 events")
