"""The counting of a chaos run, on histories made by hand: whatever went wrong must be found."""

from dataclasses import replace

from tests.chaos.counting import Arrival, History, Result, count, differing, final_revisions, missing, verdict
from tests.chaos.faults import Fault, Kind, Link

WINDOW = 4
KILL, TERM = Fault(Kind.BRIDGE_SIGKILL), Fault(Kind.BRIDGE_SIGTERM)


def came(*sequences: int, source: str = "hq", fault: int = 1) -> list[Arrival]:
    return [Arrival(f"{source}-{number}", source, number, f"account-{number}", 1, fault) for number in sequences]


def again(arrival: Arrival, *, fault: int = 1, is_redelivered: bool = False, is_marked: bool = True) -> Arrival:
    return arrival._replace(fault=fault, is_redelivered=is_redelivered, is_marked=is_marked)


def judged(
    *arrivals: Arrival,
    faults: tuple[Fault, ...] = (KILL,),
    is_applied: bool = False,
    differing: tuple[str, ...] = (),
) -> Result:
    return count([History("q", arrivals, is_applied=is_applied, differing=differing)], faults, window=WINDOW)


def test_a_whole_history_keeps_the_promise() -> None:
    result = judged(*came(1, 2, 3))
    assert not verdict(result)
    assert result.changes == 3
    assert result.total.counts() == {
        "lost": 0,
        "out_of_order": 0,
        "applied_twice": 0,
        "delivered_twice": 0,
        "delivered_twice_bound": WINDOW,
        "unannounced": 0,
    }


def test_a_loss_is_found_and_the_fault_before_the_next_change_is_blamed() -> None:
    result = judged(*came(1, 2), *came(4, fault=2), faults=(TERM, KILL))
    assert (result.total.lost, result.total.out_of_order) == (1, 0)
    assert (result.by_fault[Kind.BRIDGE_SIGKILL].lost, result.by_fault[Kind.BRIDGE_SIGTERM].lost) == (1, 0)
    assert verdict(result) == ["q: 1 changes or final states of accounts were lost."]


def test_a_loss_at_the_very_end_of_one_queue_is_found_by_what_another_has() -> None:
    whole, short = History("whole", came(1, 2, 3)), History("short", came(1, 2))
    result = count([whole, short], [KILL], window=WINDOW)
    assert (result.by_queue["whole"].lost, result.by_queue["short"].lost) == (0, 1)
    assert result.total.lost == 1


def of_lineage(lineage: str, *sequences: int, fault: int) -> list[Arrival]:
    events = came(*sequences, fault=fault)
    return [each._replace(event_id=f"{lineage}-{each.event_id}", lineage=lineage) for each in events]


def test_what_went_with_a_store_is_no_loss_where_the_other_sink_was_ahead() -> None:
    queue = History("q", [*of_lineage("1", 1, 2, 3, 4, fault=0), *of_lineage("2", 1, fault=1)])
    behind = History("log", [*of_lineage("1", 1, 2, fault=0), *of_lineage("2", 1, fault=1)], is_of_log=True)
    result = count([queue, behind], [Fault(Kind.STORE_LOST, gone=2)], window=WINDOW)
    assert (result.total.lost, result.lost_with_store) == (0, 2)
    assert list(missing([queue, behind])) == [
        "log: 2 of the 4 changes of hq in 1 never came, number 3 to 4; its last is 2"
    ]


def test_with_a_store_goes_no_more_than_that() -> None:
    """Neither what is missing in the midst, nor of one queue, nor more than waited, nor without a reason."""
    whole = History("q", [*of_lineage("1", 1, 2, 3, 4, fault=0), *of_lineage("2", 1, fault=1)])
    with_gap = History("log", [*of_lineage("1", 1, 3, 4, fault=0), *of_lineage("2", 1, fault=1)], is_of_log=True)
    short = [*of_lineage("1", 1, 2, fault=0), *of_lineage("2", 1, fault=1)]
    lost_store, log = [Fault(Kind.STORE_LOST, gone=2)], History("log", short, is_of_log=True)
    assert count([whole, with_gap], lost_store, window=WINDOW).total.lost == 1
    assert count([whole, History("r", short)], lost_store, window=WINDOW).total.lost == 2
    assert count([whole, History("r", short), log], lost_store, window=WINDOW).by_queue["r"].lost == 2
    assert count([whole, log], lost_store, window=WINDOW).by_queue["log"].lost == 0
    assert count([whole, log], [Fault(Kind.STORE_LOST, gone=1)], window=WINDOW).by_queue["log"].lost == 2
    assert count([whole, log], [KILL], window=WINDOW).by_queue["log"].lost == 2
    at_the_end = History("log", of_lineage("1", 1, 2, 3, fault=0), is_of_log=True)
    assert (
        count([History("q", of_lineage("1", 1, 2, 3, 4, fault=0)), at_the_end], lost_store, window=WINDOW).total.lost
        == 1
    )


def test_a_queue_that_received_nothing_lost_everything() -> None:
    result = count([History("whole", came(1, 2, 3)), History("empty", [])], [KILL], window=WINDOW)
    assert result.by_queue["empty"].lost == 3


def test_every_source_is_counted_by_itself() -> None:
    result = judged(*came(1, 2), *came(1, 3, source="branch"))
    assert (result.total.lost, result.total.out_of_order) == (1, 0)


def test_a_wrong_final_state_is_a_loss() -> None:
    result = judged(*came(1, 2), differing=("anna",))
    assert result.total.lost == 1
    assert verdict(result)


def test_a_first_appearance_behind_a_later_change_is_found() -> None:
    result = judged(*came(1, 3, 2, 4))
    assert (result.total.out_of_order, result.total.lost) == (1, 0)
    assert result.by_fault[Kind.BRIDGE_SIGKILL].out_of_order == 1
    assert verdict(result) == ["q: 1 changes came for the first time behind a later one."]


def test_a_repetition_is_not_out_of_order() -> None:
    first, second, third = came(1, 2, 3)
    result = judged(first, second, again(first), again(second), third)
    assert result.total.out_of_order == 0
    assert result.total.delivered_twice == 2
    assert not verdict(result)


def test_a_double_effect_is_found_once_for_each_event() -> None:
    first, second = came(1, 2)
    result = judged(first, second, first, first, is_applied=True)
    assert (result.total.applied_twice, result.total.delivered_twice) == (1, 0)
    assert result.by_fault[Kind.BRIDGE_SIGKILL].applied_twice == 1
    assert verdict(result) == ["q: 1 changes were applied more than once."]


def test_what_the_broker_calls_a_redelivery_was_not_published_twice() -> None:
    (first,) = came(1)
    assert judged(first, again(first, is_redelivered=True)).total.delivered_twice == 0


def test_a_change_that_comes_twice_after_a_stop_in_good_order_breaks_the_promise() -> None:
    (first,) = came(1)
    result = judged(first, again(first, fault=2), faults=(KILL, TERM))
    assert result.by_fault[Kind.BRIDGE_SIGTERM].delivered_twice == 1
    assert verdict(result) == ["bridge_sigterm: 1 changes were published twice, 0 is what may be after 1 of them."]
    assert result.by_queue["q"].delivered_twice_bound == WINDOW, "of the kill, which is no excuse"


def test_where_nothing_may_repeat_a_single_repetition_breaks_the_promise() -> None:
    (first,) = came(1)
    result = count([History("log", [first, again(first)], may_repeat=False)], [KILL], window=WINDOW)
    assert verdict(result) == ["log: 1 changes came twice, 0 may."]


def test_a_fault_of_the_way_to_the_pbx_allows_no_repetition() -> None:
    (first,) = came(1)
    for link, bound in ((Link.PBX, 0), (Link.BROKER, WINDOW)):
        result = judged(first, again(first), faults=(Fault(Kind.HALF_OPEN, link),))
        assert result.by_fault[Kind.HALF_OPEN].delivered_twice_bound == bound


def test_more_than_a_window_after_one_fault_breaks_the_promise() -> None:
    arrivals = came(1, 2, 3, 4, 5)
    result = judged(*arrivals, *map(again, arrivals), faults=(KILL, KILL, KILL))
    assert result.total.delivered_twice < result.total.delivered_twice_bound
    assert result.most_after_one_fault == 5
    assert verdict(result) == ["After one fault 5 changes came twice, more than a window."]


def test_what_waited_in_a_store_that_was_put_back_may_come_twice_beside_a_window() -> None:
    arrivals = came(*range(1, WINDOW + 4))
    for unsent, beyond in ((3, 0), (2, 1)):
        put_back = Fault(Kind.STORE_SET_BACK, unsent=unsent)
        result = judged(*arrivals, *map(again, arrivals), faults=(put_back, KILL, KILL))
        assert result.most_after_one_fault == WINDOW + beyond
        assert len(verdict(result)) == 2 * beyond, "neither more than after all of them, nor more after one"


def test_a_repetition_that_nobody_announced_is_found() -> None:
    (first,) = came(1)
    result = judged(first, again(first, is_marked=False))
    assert (result.total.delivered_twice, result.total.unannounced) == (1, 1)
    assert verdict(result) == ["1 changes came twice without a mark of the bridge or the broker."]


def test_what_is_published_twice_counts_by_the_worst_queue_and_what_is_lost_by_all() -> None:
    first, second, third = came(1, 2, 3)
    histories = [History("one", [first, again(first), third]), History("two", [first, again(first), second, third])]
    total = count([*histories, replace(histories[0], name="three")], [KILL], window=WINDOW).total
    assert (total.delivered_twice, total.lost) == (1, 2)


def test_a_run_in_which_nothing_happened_does_not_pass() -> None:
    assert verdict(count([History("q", [])], [KILL], window=WINDOW)) == ["No change was made, so nothing was shown."]
    assert verdict(judged(*came(1), faults=(TERM,))) == ["Nothing was killed, so nothing was shown."]


def test_accounts_differ_where_one_side_has_them_and_the_other_not() -> None:
    assert differing({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}) == ["b", "c", "d"]


def test_an_account_stands_where_its_last_effect_left_it() -> None:
    anna = came(1)[0]._replace(account="anna")
    assert final_revisions([anna, anna._replace(revision=2), *came(2)]) == {"anna": 2, "account-2": 1}


def test_the_json_has_every_count_in_total_by_fault_and_by_queue() -> None:
    told = judged(*came(1)).as_json()
    assert {"changes", "bridge_kills", "broker_kills", "lost", "by_fault", "by_queue"} <= told.keys()
    assert told["bridge_kills"] == told["by_fault"]["bridge_sigkill"]["injected"] == 1
    assert told["by_fault"].keys() == set(Kind)
