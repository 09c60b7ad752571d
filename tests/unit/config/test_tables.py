from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands

from bridge.config.base import short
from bridge.config.tables import check_exchange, check_queue
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'queue = "{"q" * 250}"', ""),
        (
            f'queue = "{"q" * 251}"',
            "has 251 bytes; at most 250 are possible, since the dead letters go to <queue>.dead",
        ),
        (f'queue = "warteschlange-{"ü" * 120}"', "has 254 bytes"),
        ('queue = "büro"', "may have letters from A to Z"),
        ('queue = ""', "may have letters"),
        ('queue = "amq.gen-1"', "keeps for itself"),
        (f'queue = "k"\nkeys = ["{"k" * 255}"]', ""),
        (f'queue = "k"\nkeys = ["{"k" * 256}"]', "keys[0]: has 256 bytes; AMQP carries at most 255"),
        (f'queue = "k"\nkeys = ["a", "{"ü" * 128}"]', "keys[1]: has 256 bytes"),
        ('queue = "k"\ndelivery_limit = 99999999999', "must be at most 1000000"),
    ],
)
def test_names_and_keys_that_amqp_cannot_carry_are_mistakes(text: str, said: str, tmp_path: Path) -> None:
    text = f"[[subscriber]]\n{text}\n"
    if not said:
        assert load(MINIMUM, text, tmp_path).subscriber
        return
    (mistake,) = mistakes(text, tmp_path, MINIMUM)
    assert said in mistake


@pytest.mark.parametrize(("name", "is_well"), [("x" * 107, True), ("x" * 108, False), ("ä", False), ("a b", True)])
def test_an_exchange_leaves_room_for_the_names_that_are_made_of_it(name: str, is_well: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a column
    environment = {**MINIMUM, "BRIDGE_RABBITMQ_EXCHANGE": name}
    if is_well:
        assert load(environment).rabbitmq.exchange == name
        for made in (f"{name}.detour.0123456789ab", f"{name}.dead"):
            commands.Exchange.Declare(exchange=made).marshal()
        commands.Queue.Declare(queue=f"{name}.log.writer.{'x' * 40}").marshal()
    else:
        assert len(mistakes("", tmp_path, environment)) == 1


names = st.text(alphabet=st.one_of(st.sampled_from("aZ9_.:@#,/+- "), st.characters()), max_size=260)


@given(names, st.integers(1, 30))
def test_every_name_that_is_accepted_can_be_sent(word: str, times: int) -> None:
    name = (word * times)[:260]
    if is_accepted(check_queue, name):
        for queue in (name, f"{name}.dead"):
            commands.Queue.Declare(queue=queue).marshal()
    if is_accepted(check_exchange, name):
        for exchange in (name, f"{name}.dead", f"{name}.detour.0123456789ab"):
            commands.Exchange.Declare(exchange=exchange).marshal()
    if is_accepted(short, name):
        commands.Queue.Bind(queue="q", exchange="e", routing_key=name).marshal()


def is_accepted(check: Callable[[str], None], name: str) -> bool:
    try:
        check(name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("sign", ["/", "#", "?", "@", " ", "\\"])
@pytest.mark.parametrize("name", ["RABBITMQ_URL", "RABBITMQ_STREAM_URL", "PBX_URL", "TRACES_ENDPOINT"])
def test_a_password_that_nobody_encoded_is_a_mistake_that_says_so_and_shows_nothing(
    name: str, sign: str, tmp_path: Path
) -> None:
    scheme = {"RABBITMQ_URL": "amqp", "RABBITMQ_STREAM_URL": "rabbitmq-stream", "PBX_URL": "wss"}.get(name, "http")
    environment = {**MINIMUM, f"BRIDGE_{name}": f"{scheme}://user:pl4nted{sign}s3cret@host/"}
    (mistake,) = mistakes("", tmp_path, environment)
    assert "percent-encode the password" in mistake
    assert mistake.startswith(f"BRIDGE_{name}: ")
    assert "pl4nted" not in mistake
    assert "s3cret" not in mistake


@pytest.mark.parametrize("url", ["amqp://h/?auth=external", "amqp://h/?cadata=%%", f"amqp://h/{'v' * 128}"])
def test_a_url_that_the_client_library_trips_over_is_a_mistake(url: str, tmp_path: Path) -> None:
    (mistake,) = mistakes("", tmp_path, {**MINIMUM, "BRIDGE_RABBITMQ_URL": url})
    assert mistake.startswith("BRIDGE_RABBITMQ_URL: rabbitmq.url: ")


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


def test_a_variable_that_should_name_the_file_with_the_token_and_is_empty_is_a_mistake(tmp_path: Path) -> None:
    (mistake,) = mistakes("", tmp_path, {**MINIMUM, "BRIDGE_STATUS_TOKEN_FILE": ""})
    assert mistake.startswith("BRIDGE_STATUS_TOKEN_FILE: status.token_file: the secret in . cannot be read")


def test_a_token_of_sixteen_characters_will_do(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("0123456789abcdef\n")
    assert load({**MINIMUM, "BRIDGE_STATUS_TOKEN": "0123456789abcdef"}).status.secret_token == "0123456789abcdef"
    status = load({**MINIMUM, "BRIDGE_STATUS_TOKEN_FILE": str(secret)}).status
    assert status.secret_token == "0123456789abcdef"


def test_lists_of_the_status_page_come_from_variables_too() -> None:
    status = load({**MINIMUM, "BRIDGE_STATUS_HOSTS": "a, b", "BRIDGE_STATUS_PROXIES": "10.0.0.1,fd00::/8"}).status
    assert (status.hosts, status.proxies) == (("a", "b"), ("10.0.0.1", "fd00::/8"))
