import json
from typing import Any

import orjson
import pytest

from bridge.pbx.inbound.authentication import Verdict
from bridge.pbx.inbound.refusals import INTERVAL_SECONDS, MAX_CHARACTERS, MAX_REASONS, OTHER, RefusalLog, brief


def test_the_same_refusal_is_told_once_in_a_while_with_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr("bridge.pbx.inbound.refusals.log.warning", lambda _event, **fields: lines.append(fields))
    record = RefusalLog(lambda: now)
    for _ in range(1000):
        record.refused("wrong password", "192.0.2.1")
    record.refused("a browser", "192.0.2.1")
    now = INTERVAL_SECONDS
    record.refused("wrong password", "192.0.2.2")
    assert [(line["reason"], line["count"]) for line in lines] == [
        ("wrong password", 1),
        ("a browser", 1),
        ("wrong password", 1000),
    ]
    assert record.refusals == {"wrong password": 1001, "a browser": 1}


def test_reasons_are_plain_text_for_json() -> None:
    record = RefusalLog(lambda: 0.0)
    record.refused(Verdict.USER, "192.0.2.1")
    assert json.loads(orjson.dumps(dict(record.refusals))) == {Verdict.USER.value: 1}


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x1b[2Jb", "a\x00b", "a\u2028b", "a\u202eb", "x" * 10_000])
def test_nothing_that_could_forge_or_flood_a_line_gets_into_it(text: str) -> None:
    cleaned = brief(text)
    assert cleaned.isprintable()
    assert len(cleaned) <= MAX_CHARACTERS


def test_reasons_that_the_other_end_may_choose_are_bounded() -> None:
    record = RefusalLog(lambda: 0.0)
    for number in range(MAX_REASONS + 100):
        record.refused(f"a name: {number}", "192.0.2.1")
    assert len(record.refusals) == MAX_REASONS + 1
    assert record.refusals[OTHER] == 100
