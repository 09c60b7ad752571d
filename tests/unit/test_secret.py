import copy
from pathlib import Path

import pytest

from bridge.errors import BadConfig
from bridge.secret import Secret, scrub
from bridge.urls import without_password


def test_no_form_of_printing_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("geheim")
    for secret in (Secret("geheim"), Secret(file=file), copy.copy(Secret("geheim"))):
        assert secret.reveal() == "geheim"
        assert "geheim" not in f"{secret} {secret!r} {[secret]} {secret!s:>50}"


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_without_a_secret_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "s"
    file.write_bytes(content)
    with pytest.raises(BadConfig, match=words):
        Secret(file=file).reveal()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:p@h:5672/v", "amqp://u:***@h:5672/v"),
        ("amqp://h/", "amqp://h/"),
        ("amqp://u@h/", "amqp://u@h/"),
        ("amqp://u:p%40ss@h/", "amqp://u:***@h/"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_what_was_revealed_is_wiped_off_whatever_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "broker.secret"
    file.write_text("amqp://u:fi%2Frst@a/,amqp://u:second@b/\n")
    secret = Secret(file=file)
    secret.reveal()
    file.write_text("rotated")
    secret.reveal()
    assert scrub("fi/rst fi%2Frst second rotated remain") == "*** *** *** *** remain"


def test_text_of_strangers_forges_no_line_and_paints_no_terminal() -> None:
    assert scrub("a\x1b[31m\rb\n") == "a\ufffd[31m\ufffdb\n"
