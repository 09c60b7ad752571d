from pathlib import Path

import pytest

from tests.support.settings import MINIMUM, load, mistakes


def test_the_log_is_written_by_us_where_a_stream_port_is_named(tmp_path: Path) -> None:
    settings = load(
        {**MINIMUM, "BRIDGE_RABBITMQ_STREAM_URL": "rabbitmq-stream://u:str3am-s3cret@a,rabbitmq-stream://b"}
    )
    assert settings.rabbitmq.stream_urls == ["rabbitmq-stream://u:str3am-s3cret@a", "rabbitmq-stream://b"]
    assert settings.rabbitmq.writes_log
    assert "str3am-s3cret" not in str(settings.redacted())
    assert not load(MINIMUM).rabbitmq.writes_log
    secret = tmp_path / "stream"
    secret.write_text("rabbitmq-stream+tls://u:p@a:5551/vhost\n")
    settings = load({**MINIMUM, "BRIDGE_RABBITMQ_STREAM_URL_FILE": str(secret)})
    assert settings.rabbitmq.stream_urls == ["rabbitmq-stream+tls://u:p@a:5551/vhost"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('stream_url = "amqp://host/"', "must look like rabbitmq-stream://"),
        ("log_partitions = 3", "log_partitions needs stream_url"),
    ],
)
def test_mistakes_about_the_log_are_named(line: str, said: str, tmp_path: Path) -> None:
    (mistake,) = mistakes(f"[rabbitmq]\n{line}\n", tmp_path, MINIMUM)
    assert said in mistake


@pytest.mark.parametrize("token", ["", " ", "short", "fifteen-letters", " padded-to-16   "])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - where strangers are
def test_a_token_that_can_be_guessed_is_refused_however_it_is_given(token: str, host: str, tmp_path: Path) -> None:
    """An empty one would open the page to everybody who says so."""
    secret = tmp_path / "token"
    secret.write_text(f"{token}\n")
    ways = (
        (f'[status]\nhost = "{host}"\ntoken = "{token}"\n', MINIMUM),
        (f'[status]\nhost = "{host}"\ntoken_file = "{secret}"\n', MINIMUM),
        ("", {**MINIMUM, "BRIDGE_STATUS_HOST": host, "BRIDGE_STATUS_TOKEN": token}),
        ("", {**MINIMUM, "BRIDGE_STATUS_HOST": host, "BRIDGE_STATUS_TOKEN_FILE": str(secret)}),
    )
    for text, environment in ways:
        told = mistakes(text, tmp_path, environment)
        assert any("can be guessed" in mistake or "is empty" in mistake for mistake in told), (text, told)


def test_a_token_of_sixteen_characters_will_do(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("0123456789abcdef\n")
    assert load({**MINIMUM, "BRIDGE_STATUS_TOKEN": "0123456789abcdef"}).status.secret_token == "0123456789abcdef"
    status = load({**MINIMUM, "BRIDGE_STATUS_TOKEN_FILE": str(secret)}).status
    assert status.secret_token == "0123456789abcdef"


def test_lists_of_the_status_page_come_from_variables_too() -> None:
    status = load({**MINIMUM, "BRIDGE_STATUS_HOSTS": "a, b", "BRIDGE_STATUS_PROXIES": "10.0.0.1,fd00::/8"}).status
    assert (status.hosts, status.proxies) == (("a", "b"), ("10.0.0.1", "fd00::/8"))
