from datetime import timedelta

from prometheus_client.parser import text_string_to_metric_families

from bridge.observability.component_status import Level
from bridge.observability.metrics import FAMILIES, PREFIX, exposition
from bridge.observability.source_status import WalkProgress
from tests.support.boards import NOW, board


def scraped(*, is_all: bool = True) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    told = board()
    part = told.sources["hq"]
    if is_all:
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
