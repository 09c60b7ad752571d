"""Alert rules and dashboard are held against the metrics there really are, and every alert fires when it should."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.observability.metrics import FAMILIES, PREFIX
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
CAUSES_OF_A_QUEUE = ("event_unroutable", "broker_did_not_confirm")

DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
COMPOSE = (Path(__file__).parents[2] / "compose.yaml").read_text("utf-8")
MOUNTED = re.findall(r"\{source: (\S+), target: (\S+)\}", COMPOSE)
"""Every file that compose.yaml puts into Prometheus and Grafana, and where."""


def _lines(name: str) -> set[tuple[str, str]]:
    return set(re.findall(r"(\w+): (\S+)$", (FOLDER / name).read_text("utf-8"), re.MULTILINE))


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
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))


def test_grafana_is_told_of_the_dashboard_and_finds_its_data() -> None:
    """Grafana is not run here: what it reads is held against what compose.yaml gives it."""
    (datasource,) = [value for key, value in _lines("grafana-datasource.yml") if key == "url"]
    assert datasource == "http://prometheus:9090"
    assert ("uid", "prometheus") in _lines("grafana-datasource.yml")
    variable = DASHBOARD["templating"]["list"][0]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    assert ("type", variable["query"]) in _lines("grafana-datasource.yml"), "what the variable offers is of that type"
    assert ("isDefault", "true") in _lines("grafana-datasource.yml"), "which the variable is filled with at first"
    users = [*DASHBOARD["panels"], *(target for panel in DASHBOARD["panels"] for target in panel["targets"])]
    assert {(user["datasource"]["type"], user["datasource"]["uid"]) for user in users} == {
        (variable["query"], "${datasource}")
    }
    (folder,) = re.findall(r"options: \{path: (\S+)\}", (FOLDER / "grafana-dashboards.yml").read_text("utf-8"))
    home = re.findall(r"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: (\S+)", COMPOSE)
    assert [folder] == [target.rpartition("/")[0] for source, target in MOUNTED if source == "dashboard"]
    assert home == [target for source, target in MOUNTED if source == "dashboard"]


@pytest.mark.parametrize(
    ("source", "file", "folder"),
    [
        ("prometheus", "prometheus.yml", "/etc/prometheus"),
        ("alerts", "alerts.yml", "/etc/prometheus"),
        ("grafana-datasource", "grafana-datasource.yml", "/etc/grafana/provisioning/datasources"),
        ("grafana-dashboards", "grafana-dashboards.yml", "/etc/grafana/provisioning/dashboards"),
        ("dashboard", "dashboard.json", "/etc/dashboards"),
    ],
)
def test_compose_mounts_every_file_where_it_is_looked_for(source: str, file: str, folder: str) -> None:
    assert f"{source}: {{file: ./bridge/observability/{file}}}" in COMPOSE
    assert (FOLDER / file).is_file()
    assert [target.rpartition("/")[0] for name, target in MOUNTED if name == source] == [folder]


def test_prometheus_looks_for_rules_token_and_bridge_where_compose_has_them() -> None:
    text = (FOLDER / "prometheus.yml").read_text("utf-8")
    assert re.findall(r"rule_files: \[(\S+)\]", text) == [target for name, target in MOUNTED if name == "alerts"]
    assert "credentials_file: /run/scrape/token" in text
    assert "- scrape-token:/run/scrape:ro" in COMPOSE
    assert re.findall(r'targets: \["(\S+)"\]', text) == ["bridge:8080"]
    assert '"127.0.0.1:${STATUS_PORT:-8080}:8080"' in COMPOSE


def test_every_panel_has_an_id_and_a_place_of_its_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken), "panels lie over each other"
    assert max(x for x, _ in taken) < 24, "Grafana's grid is 24 wide"
    for panel in panels:
        assert panel["title"]
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names)


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
            {'account_bridge_problem{cause="event_unroutable", where="hq"}': 1},
            1,
            {},
        ),
        (
            "AccountBridgeEventRefused",
            {'account_bridge_problem{cause="broker_did_not_confirm", where="hq"}': 1},
            2,
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
        ("AccountBridgePbxWithoutBridge", {"account_bridge_pbxs_without_bridge": 2}, 2, {}),
        ("AccountBridgePeerMissing", {"account_bridge_bridges": "3x300 2x400"}, 90, {}),
        ("AccountBridgeBridgesDie", {"account_bridge_bridges_buried_total": "0x27 5x400"}, 8, {}),
        ("AccountBridgeDiskLow", {"account_bridge_store_free_bytes": "5000000000-1000000x400"}, 60, {}),
    ],
)
def test_it_fires_in_its_time_and_not_before(
    alert: str, broken: dict[str, Any], minutes: int, labels: dict[str, str], tmp_path: Path
) -> None:
    fires(tmp_path, {**WELL, **broken}, {}, f"{minutes * 60 - 15}s")
    fires(tmp_path, {**WELL, **broken}, {alert: labels}, f"{minutes * 60 + 30}s")


def test_a_broker_that_is_away_is_told_whatever_waits_for_a_queue(tmp_path: Path) -> None:
    waiting = {f'account_bridge_problem{{cause="{cause}", where="hq"}}': 1 for cause in CAUSES_OF_A_QUEUE}
    away = {**WELL, **waiting, "account_bridge_broker_usable": 0}
    fires(tmp_path, away, {"AccountBridgeBrokerAway": {}, "AccountBridgeUnroutable": {}}, "150s")


def test_a_bridge_that_was_started_anew_after_a_crash_leaves_none_missing(tmp_path: Path) -> None:
    """Until its former life is buried it counts twice."""
    fires(tmp_path, {**WELL, "account_bridge_bridges": "3x100 4x2 3x300"}, {}, "60m")


def test_a_bridge_that_is_cut_off_from_the_database_is_missed_by_the_others(tmp_path: Path) -> None:
    """It tells no more how many it saw last; if it did, none would be missing."""
    others = {f'account_bridge_bridges{{instance="{name}"}}': "3x300 2x400" for name in "ab"}
    cut_off = 'account_bridge_bridges{instance="c"}'
    fires(tmp_path, {**WELL, **others, cut_off: "3x700"}, {}, "96m")
    fires(tmp_path, {**WELL, **others, cut_off: "3x300 _x400"}, {"AccountBridgePeerMissing": {}}, "96m")


def test_no_alert_goes_untested() -> None:
    tested = re.findall(r'"(AccountBridge\w+)"', Path(__file__).read_text("utf-8"))
    assert set(tested) == set(alert_names())
