import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from bridge import logs
from bridge.security.secret import hide


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    yield
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_has_its_fields_on_one_line_of_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logs.get_logger("x").info("walk.started", source="hq", accounts=3)
    logs.get_logger("x").debug("walk.detail")
    (line,) = lines(capsys)
    assert (line["event"], line["source"], line["accounts"], line["level"]) == ("walk.started", "hq", 3, "info")


def test_no_secret_is_shown_in_fields_messages_or_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    hide(["pl4nted/s3cret"])
    log = logs.get_logger("x")
    try:
        int("pl4nted/s3cret")
    except ValueError:
        log.exception("failed", url="amqp://u:pl4nted%2Fs3cret@h/", deep={"a": ["pl4nted/s3cret"]})
    logging.getLogger("library").warning("amqp://user:other-password@host said pl4nted/s3cret")
    printed = capsys.readouterr().err
    assert "s3cret" not in printed
    assert "other-password" not in printed
    assert "ValueError" in printed


def test_nobody_can_forge_a_line_or_paint_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logs.get_logger("x").info("seen", name="\x1b[31mred\r\x00")
    printed = capsys.readouterr().err
    assert "\x1b[31m" not in printed
    assert "\r" not in printed
    assert "\x00" not in printed
