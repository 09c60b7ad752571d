"""Prometheus' own tool, which judges rules: from the package ``prometheus`` of Debian, or anywhere in the path."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

ALERTS = Path(__file__).parents[2] / "bridge" / "observability" / "alerts.yml"


def promtool(*arguments: str) -> str:
    """Run it and return what it prints; skip the test where it cannot be had."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not here; on Debian: apt-get install prometheus")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fires(folder: Path, series: Mapping[str, float | str], expected: Mapping[str, Mapping[str, str]], at: str) -> None:
    """Check that of our alerts exactly *expected* (names, and the labels each has) fire *at* that time.

    *series* are values that stay as they are (or a promtool expression of several) from the beginning.
    """
    every = alert_names()
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": name, "values": value if isinstance(value, str) else f"{value!r}x400"}
                    for name, value in series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count by (alertname, pbx, task) (ALERTS{{alertname="{name}", alertstate="firing"}})',
                        "eval_time": at,
                        "exp_samples": [{"labels": _selector({"alertname": name, **expected[name]}), "value": 1}]
                        if name in expected
                        else [],
                    }
                    for name in every
                ],
            }
        ],
    }
    file = folder / "test.yml"  # JSON is YAML
    file.write_text(json.dumps(test))
    promtool("test", "rules", str(file))


def _selector(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def alert_names() -> list[str]:
    return [
        line.split(":", 1)[1].strip()
        for line in ALERTS.read_text("utf-8").splitlines()
        if line.strip().startswith("- alert:")
    ]
