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
