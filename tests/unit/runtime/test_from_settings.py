from datetime import time, timedelta
from pathlib import Path

import pytest

from bridge.runtime.from_settings import (
    build_deletion_limit,
    build_habits,
    build_offer,
    build_pace,
    build_rules,
    build_topology,
)
from tests.support.settings import MINIMUM, load

STREAMS = {"BRIDGE_RABBITMQ_STREAM_URL": "rabbitmq-stream://broker", "BRIDGE_RABBITMQ_LOG_PARTITIONS": "3"}


def test_one_pbx_may_publish_less_than_the_others(tmp_path: Path) -> None:
    one = '[[pbx]]\nname = "{}"\nurl = "wss://x"\napp = "a"\npassword = "p"\n{}\n'
    text = '[rabbitmq]\nurl = "amqp://x/"\n[publish]\nexclude = ["emails"]\nmask = ["numbers"]\n'
    text += one.format("hq", "") + one.format("branch", 'exclude = ["groups"]\nskip_unchanged = true')
    settings = load({}, text, tmp_path)
    hq, branch = (settings.resolve_publish(pbx.name) for pbx in settings.pbx)
    assert (hq.exclude, hq.mask, hq.skip_unchanged) == (("emails",), ("numbers",), False)
    assert (branch.exclude, branch.mask, branch.skip_unchanged) == (("groups",), ("numbers",), True)
    rules = [build_rules(settings, pbx.name, b"k") for pbx in settings.pbx]
    assert ["emails" in judged.projection.fields for judged in rules] == [False, True]
    assert ["groups" in judged.projection.fields for judged in rules] == [True, False]
    assert [judged.skip_unchanged for judged in rules] == [False, True]


@pytest.mark.parametrize(
    ("spacing", "rows_per_second", "apart"), [("0", "0", 0.0), ("0", "4", 0.25), ("1", "4", 1.0), ("0.1", "4", 0.25)]
)
def test_questions_are_as_far_apart_as_the_stricter_of_two_wishes(
    spacing: str, rows_per_second: str, apart: float
) -> None:
    wishes = {"BRIDGE_PBX_MIN_SPACING_SECONDS": spacing, "BRIDGE_PBX_MAX_ROWS_PER_SECOND": rows_per_second}
    assert build_pace(load({**MINIMUM, **wishes}).pbx[0]).min_spacing == apart


def test_a_nightly_walk_may_be_never() -> None:
    assert build_habits(load(MINIMUM)).nightly_at == time(2, 0)
    never = build_habits(load({**MINIMUM, "BRIDGE_WALK_NIGHTLY_AT": "never", "BRIDGE_WALK_QUIET_FROM": "08:00"}))
    assert (never.nightly_at, never.quiet_from, never.after_outage) == (None, time(8, 0), timedelta(minutes=10))


def test_percents_become_a_share() -> None:
    assert build_deletion_limit(load({**MINIMUM, "BRIDGE_WALK_MAX_DELETED_PERCENT": "12.5"})).max_share == 0.125


def test_the_log_is_split_only_where_the_bridge_writes_it() -> None:
    assert build_topology(load(MINIMUM)).log_partitions == 0
    assert build_topology(load({**MINIMUM, **STREAMS})).log_partitions == 3


def test_what_is_offered_names_no_log_where_there_is_none() -> None:
    offer = build_offer(load(MINIMUM))
    assert (offer.vhost, offer.sources, offer.log) == ("/", ["pbx"], "pbx.accounts.log")
    assert build_offer(load({**MINIMUM, "BRIDGE_RABBITMQ_LOG_STREAM": "false"})).log is None
