from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from bridge.observability.cluster_status import ClusterStatus, PeerStatus
from bridge.observability.component_status import Level
from bridge.observability.metrics import FAMILIES, PREFIX, exposition
from bridge.observability.source_status import WalkProgress
from tests.support.boards import NOW, board


def scraped(*, is_all: bool = True, is_leased: bool = True) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    told = board()
    part = told.sources["hq"]
    if is_all:
        told.cluster = ClusterStatus("a", is_leased=is_leased, peers=[PeerStatus("host", "a", 1, 5.0, is_ready=True)])
        part.last_change_at = part.last_confirm_at = part.caught_up_at = part.verified_at = NOW
        part.accounts, part.walk = 412, WalkProgress(NOW, NOW, 17)
        told.broker.last_progress_at = NOW
        told.store_repeats = {"57P01": 1}
        told.watch("store", timedelta(minutes=1))
        part.failed("away", Level.WARN, NOW, cause="pbx_unreachable")
    _, body = exposition(told)()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_every_family_has_a_sample_once_everything_has_happened() -> None:
    names = {name.removesuffix("_total") for name, _ in scraped()}
    assert {PREFIX + name for name in FAMILIES} <= names


def test_who_cannot_reach_the_database_does_not_tell_of_the_others() -> None:
    """What it saw last would be taken for what is: for a bridge that is missed, and for PBXs that two have."""
    names = {name.removesuffix("_total") for name, _ in scraped(is_leased=False)}
    assert {PREFIX + name for name in FAMILIES} - names == {
        PREFIX + name for name in ("bridges", "pbxs_held", "pbxs_without_bridge")
    }


def test_what_has_not_happened_yet_is_absent_and_not_1970() -> None:
    names = {name for name, _ in scraped(is_all=False)}
    assert f"{PREFIX}pbx_verified_timestamp_seconds" not in names
    assert f"{PREFIX}pbx_accounts" not in names


def test_a_problem_is_told_by_place_and_cause() -> None:
    assert scraped()[f"{PREFIX}problem", (("cause", "pbx_unreachable"), ("where", "hq"))] == 1
    assert scraped()[f"{PREFIX}pbx_level", (("level", "warn"), ("pbx", "hq"))] == 1
    assert scraped()[f"{PREFIX}pbx_level", (("level", "ok"), ("pbx", "hq"))] == 0


def test_names_follow_the_conventions() -> None:
    """Base units, seconds and bytes, at the end of the name; https://prometheus.io/docs/practices/naming/."""
    for name in FAMILIES:
        assert name.replace("_", "").isalnum()
        assert not name.endswith(("_total", "_ms", "_minutes", "_mb"))


def of_fleet(*, most: int) -> tuple[list[str], dict[str, float]]:
    """Return the names of PBXs with metrics of their own, and what is told of all, in a fleet with some trouble."""
    told = board(NOW, *(f"p{number:03}" for number in range(300)))
    for number, part in enumerate(told.sources.values()):
        part.accounts = 10
        if number % 10 == 0:
            part.failed("nobody answers", Level.WARN, NOW, cause="pbx_unreachable")
        if number % 50 == 1:
            part.failed("no", Level.ERROR, NOW, cause="pbx_refused_login")
    for name in told.sources:
        told.watch(f"read {name}", timedelta(minutes=1))
    _, body = exposition(told, most)()
    samples = [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]
    named = {label: {s.labels[label] for s in samples if label in s.labels} for label in ("pbx", "where", "task")}
    assert {task.removeprefix("read ") for task in named["task"]} == named["pbx"]
    assert named["where"] <= named["pbx"]
    sums = {
        sample.name.removeprefix(PREFIX) + "".join(sample.labels.values()): sample.value
        for sample in samples
        if sample.name.startswith(f"{PREFIX}pbxs")
    }
    return sorted(named["pbx"]), sums


def test_of_a_fleet_those_in_trouble_have_metrics_of_their_own_and_sums_are_of_all() -> None:
    own, sums = of_fleet(most=250)
    assert len(own) == 36
    assert sums == {
        "pbxsok": 264,
        "pbxswarn": 30,
        "pbxserror": 6,
        "pbxspaused": 0,
        "pbxs_usable": 264,
        "pbxs_waiting_for_turn": 0,
        "pbxs_walking": 0,
        "pbxs_accounts": 3000,
        "pbxs_left_out": 264,
    }


def test_however_many_are_in_trouble_the_series_are_bounded_and_the_worst_have_some() -> None:
    own, sums = of_fleet(most=10)
    assert own == ["p000", "p001", "p010", "p020", "p030", "p051", "p101", "p151", "p201", "p251"]
    assert sums["pbxs_left_out"] == 290


def test_up_to_so_many_pbxs_each_has_metrics_of_its_own() -> None:
    own, sums = of_fleet(most=300)
    assert (len(own), sums["pbxs_left_out"]) == (300, 0)
