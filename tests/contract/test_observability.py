"""Alert rules and dashboard are held against the metrics there really are, and every alert fires when it should."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.metrics import FAMILIES, PREFIX
from tests.support.promtool import ALERTS, alert_names, fires, promtool

FOLDER = ALERTS.parent
REAL = {PREFIX + name for name in FAMILIES} | {
    f"{PREFIX}{name}_total" for name, (kind, _, _) in FAMILIES.items() if "Counter" in kind.__name__
}
FOREIGN = {"up", "process_resident_memory_bytes"}
"""Prometheus' own, and the process collector's."""

WELL = {
    'up{job="account-bridge"}': 1,
    "account_bridge_ready": 1,
    "account_bridge_broker_usable": 1,
    "account_bridge_outbox_events": 0,
    "account_bridge_outbox_oldest_age_seconds": 0,
    "account_bridge_outbox_max_age_seconds": 300,
    "account_bridge_outbox_full": 0,
    "account_bridge_outbox_parked_events": 0,
    "account_bridge_store_free_bytes": 5e9,
    'account_bridge_pbx_usable{pbx="hq"}': 1,
    'account_bridge_pbx_level{level="ok", pbx="hq"}': 1,
    'account_bridge_pbx_level{level="warn", pbx="hq"}': 0,
    'account_bridge_pbx_level{level="error", pbx="hq"}': 0,
    'account_bridge_pbx_deletions_held{pbx="hq"}': 0,
    'account_bridge_pbx_walk_stalled{pbx="hq"}': 0,
    'account_bridge_pbx_verified_timestamp_seconds{pbx="hq"}': 0,
    'account_bridge_task_progress_age_seconds{task="publish"}': 1,
    'account_bridge_task_limit_seconds{task="publish"}': 300,
}
HQ = {"pbx": "hq"}


def metrics_in(text: str) -> set[str]:
    return set(re.findall(rf"\b(?:{PREFIX}|process_)\w+", text))


def test_the_rules_are_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(ALERTS))


def test_the_configuration_of_prometheus_is_one(tmp_path: Path) -> None:
    text = (FOLDER / "prometheus.yml").read_text("utf-8").replace("/etc/prometheus/alerts.yml", str(ALERTS))
    token = tmp_path / "token"
    token.write_text("x")
    file = tmp_path / "prometheus.yml"
    file.write_text(text.replace("/run/scrape/token", str(token)))
    promtool("check", "config", str(file))


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_every_metric_they_name_exists(name: str) -> None:
    named = metrics_in((FOLDER / name).read_text("utf-8"))
    assert len(named) > 10
    assert named <= REAL | FOREIGN


def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    """As the expression of a rule it is judged by Prometheus itself."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))


def test_every_alert_says_what_to_do_and_how_bad_it_is() -> None:
    text = ALERTS.read_text("utf-8")
    assert text.count("severity:") == text.count("summary:") == text.count("description:") == len(alert_names())


def test_while_all_is_well_no_alert_fires(tmp_path: Path) -> None:
    fires(tmp_path, WELL, {}, "90m")


@pytest.mark.parametrize(
    ("alert", "broken", "minutes", "labels"),
    [
        ("AccountBridgeDown", {'up{job="account-bridge"}': 0}, 1, {}),
        (
            "AccountBridgeTaskStuck",
            {'account_bridge_task_progress_age_seconds{task="publish"}': 301},
            1,
            {"task": "publish"},
        ),
        (
            "AccountBridgePbxAway",
            {'account_bridge_pbx_usable{pbx="hq"}': 0, 'account_bridge_pbx_level{level="warn", pbx="hq"}': 1},
            5,
            HQ,
        ),
        (
            "AccountBridgePbxNeedsAttention",
            {'account_bridge_pbx_usable{pbx="hq"}': 0, 'account_bridge_pbx_level{level="error", pbx="hq"}': 1},
            1,
            HQ,
        ),
        ("AccountBridgeBrokerAway", {"account_bridge_broker_usable": 0}, 2, {}),
        (
            "AccountBridgeBrokerBlocked",
            {
                "account_bridge_broker_usable": 0,
                'account_bridge_problem{cause="broker_blocked", where="broker"}': 1,
            },
            2,
            {},
        ),
        (
            "AccountBridgeUnroutable",
            {
                "account_bridge_broker_usable": 0,
                'account_bridge_problem{cause="event_unroutable", where="broker"}': 1,
            },
            1,
            {},
        ),
        ("AccountBridgeEventsLate", {"account_bridge_outbox_oldest_age_seconds": 301}, 1, {}),
        ("AccountBridgeOutboxGrowing", {"account_bridge_outbox_events": "1001+5x400"}, 10, {}),
        ("AccountBridgeOutboxFull", {"account_bridge_outbox_full": 1}, 1, {}),
        ("AccountBridgeEventsParked", {"account_bridge_outbox_parked_events": 2}, 1, {}),
        ("AccountBridgeWalkStuck", {'account_bridge_pbx_walk_stalled{pbx="hq"}': 1}, 1, HQ),
        (
            "AccountBridgeNotVerified",
            {'account_bridge_pbx_verified_timestamp_seconds{pbx="hq"}': -2.1 * 86400},
            60,
            HQ,
        ),
        ("AccountBridgeDeletionsHeld", {'account_bridge_pbx_deletions_held{pbx="hq"}': 30}, 1, HQ),
        ("AccountBridgeDiskLow", {"account_bridge_store_free_bytes": "5000000000-1000000x400"}, 60, {}),
    ],
)
def test_it_fires_in_its_time_and_not_before(
    alert: str, broken: dict[str, Any], minutes: int, labels: dict[str, str], tmp_path: Path
) -> None:
    fires(tmp_path, {**WELL, **broken}, {}, f"{minutes * 60 - 15}s")
    fires(tmp_path, {**WELL, **broken}, {alert: labels}, f"{minutes * 60 + 30}s")


def test_no_alert_goes_untested() -> None:
    tested = re.findall(r'"(AccountBridge\w+)"', Path(__file__).read_text("utf-8"))
    assert set(tested) == set(alert_names())
