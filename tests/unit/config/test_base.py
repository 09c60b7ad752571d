from pathlib import Path

import pytest

from bridge.errors import BadConfig, FileUnusable
from tests.support.settings import MINIMUM, load, mistakes, without_broker


def test_a_secret_may_be_a_file_which_is_read_at_every_use(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("first\n")
    settings = load({**MINIMUM, "BRIDGE_PBX_PASSWORD_FILE": str(secret)})
    assert settings.pbx[0].secret.reveal() == "first"
    secret.write_text("second\n")
    assert settings.pbx[0].secret.reveal() == "second"


@pytest.mark.parametrize(("text", "words"), [
    ('[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nfingerprint = "ab"\n', "must be a SHA-256 fingerprint"),
    (
        f'[[pbx]]\nurl = "wss://x"\napp = "a"\npassword = "x"\nfingerprint = "{"ab" * 32}"\ninsecure = true\n',
        "fingerprint and insecure: only one of them can decide",
    ),
    ('[rabbitmq]\nkey_file = "/none"\n', "certificate_file is missing: key_file alone proves nothing"),
])  # fmt: skip
def test_mistakes_about_tls_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfig) as problem:
        without_broker(tmp_path, text)
    assert words in str(problem.value)


def test_a_file_that_is_not_there_yet_is_the_trouble_of_whoever_needs_it_and_no_mistake(tmp_path: Path) -> None:
    """One of many PBXs must not keep the others from being read."""
    empty = tmp_path / "empty"
    empty.touch()
    settings = load(
        {},
        '[[pbx]]\nname = "a"\nurl = "wss://x"\napp = "a"\npassword_file = "/none"\n'
        '[[pbx]]\nname = "b"\nurl = "wss://x"\napp = "a"\npassword = "x"\nca_file = "/none.pem"\n'
        f'[[pbx]]\nname = "c"\nurl = "wss://x"\napp = "a"\npassword = "x"\ncertificate_file = "{empty}"\n'
        '[[pbx]]\nname = "well"\nurl = "wss://x"\napp = "a"\npassword = "x"\n'
        f'[rabbitmq]\nurl_file = "{empty}"\nstream_url_file = "/nowhere"\n',
        tmp_path,
    )
    troubles = list(settings.troubles())
    assert [who for who, _ in troubles] == ["PBX a", "PBX b", "PBX c", "broker", "broker"]
    for (_, words), said in zip(
        troubles,
        ("the secret in /none cannot be read: No such file", "ca_file: /none.pem", f"{empty}", "is empty", "/nowhere"),
        strict=True,
    ):
        assert said in words
    with pytest.raises(FileUnusable, match="is empty"):
        _ = settings.rabbitmq.urls
    assert "url" not in settings.redacted()["rabbitmq"]


@pytest.mark.parametrize(("content", "words"), [
    ("'amqp://u:pl4nted-s3cret@h/'", "is in quotes"),
    ("# the broker\namqp://u:pl4nted-s3cret@h/", "has a comment"),
    ("amqp://u:pl4nted-s3cret@h/\namqp://u:pl4nted-s3cret@i/", "has several lines"),
    ("amqp://u:pl4nted/s3cret@h/", "percent-encode the password"),
    ("amqp://u:pl4nted-s3cret@h:port/", "must look like amqp://"),
])  # fmt: skip
def test_a_file_with_something_else_in_it_is_a_mistake_and_is_not_shown(
    tmp_path: Path, content: str, words: str
) -> None:
    file = tmp_path / "url.secret"
    file.write_text(content)
    (told,) = mistakes("", tmp_path, {**MINIMUM, "BRIDGE_RABBITMQ_URL_FILE": str(file)})
    assert told.startswith("BRIDGE_RABBITMQ_URL_FILE: rabbitmq.url_file: the secret in /url.secret ")
    assert words in told
    assert "pl4nted" not in told


def test_the_former_url_is_used_while_its_file_is_half_written(tmp_path: Path) -> None:
    file = tmp_path / "url.secret"
    file.write_text("\ufeffamqp://u:p@h/\r\n", "utf-8")
    settings = load({**MINIMUM, "BRIDGE_RABBITMQ_URL_FILE": str(file)})
    assert settings.rabbitmq.urls == ["amqp://u:p@h/"]
    file.write_text("amq")
    assert settings.rabbitmq.urls == ["amqp://u:p@h/"]
    assert "must look like amqp://" in next(settings.troubles())[1]


@pytest.mark.parametrize(("line", "words"), [
    ("[replay]\nkeep_days = 1e300", "replay.keep_days: must be at most 3650"),
    ("[walk]\nafter_outage_minutes = 1e300", "walk.after_outage_minutes: must be at most 525600"),
    ("[rabbitmq]\nconfirm_timeout_seconds = inf", "rabbitmq.confirm_timeout_seconds: must be a number"),
    ("[store]\nmax_unsent_bytes = 9223372036854775807", "store.max_unsent_bytes: must be at most"),
    ('[store]\nurl = "sqlite:///a\\u0000b"', "store.url: has control characters"),
    ('[status]\nhost = "a b"', "status.host: is no name of a host"),
    ('[[pbx]]\npassword = "a\\nb"', "pbx[0].password: has control characters"),
])  # fmt: skip
def test_what_no_clock_no_file_and_no_host_can_be_is_a_mistake(tmp_path: Path, line: str, words: str) -> None:
    assert any(words in mistake for mistake in mistakes(line, tmp_path))
