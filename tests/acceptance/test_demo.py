"""What the README shows first."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support.process import run
from tests.support.rabbit import PrivateBroker

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "account-changed.v1.schema.json").read_text("utf-8"))


@pytest.mark.parametrize("with_broker", [False, True], ids=["terminal", "broker"])
def test_every_account_and_change_is_delivered_once(with_broker: bool, request: pytest.FixtureRequest) -> None:  # noqa: FBT001 - a parameter of the test
    broker: Any = request.getfixturevalue("broker") if with_broker else None
    options = ["--amqp-url", broker.url] if isinstance(broker, PrivateBroker) else []
    code, demo = run("demo", "--once", "--accounts", "2000", "--changes", "500", "--json", *options)
    assert code == 0, demo.printed
    *lines, summary = map(json.loads, demo.out)
    assert {name: summary[name] for name in ("published", "received", "applied", "lost", "duplicates")} == {
        "published": 2500,
        "received": 2500,
        "applied": 2500,
        "lost": 0,
        "duplicates": 0,
    }
    validator = Draft202012Validator(SCHEMA)
    for line in lines:
        validator.validate(line)
    assert len({line["id"] for line in lines}) == 2500
    assert [int(line["sequence"]) for line in lines] == list(range(1, 2501))


def test_without_a_broker_it_says_how_to_get_one() -> None:
    code, demo = run("demo", "--once", "--accounts", "3", "--changes", "2")
    assert code == 0
    assert "docker run" in demo.printed
    assert "lost 0  duplicates 0" in demo.out[-1]


def test_a_broker_that_is_not_there_is_waited_for_with_a_sentence() -> None:
    from tests.support.process import Command  # noqa: PLC0415 - only this test holds it

    with Command("demo", "--once", "--amqp-url", "amqp://127.0.0.1:1/") as demo:
        waiting = demo.wait_for_log("subscriber.failed")
        assert "127.0.0.1:1" in waiting["problem"]
        assert demo.terminate() in {0, 1}
        assert "Traceback" not in demo.printed
