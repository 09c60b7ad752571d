from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from bridge.security.urls import read_url, read_vhost, secrets_in, split_urls, without_password

AWKWARD = st.text(alphabet="aZ9/#?@:,%&=[]\\ \t\"'*+~é\u202e{}", min_size=1, max_size=12)


def read(url: str) -> object:
    return read_url(url, ("amqp", "amqps"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://u:p@h:5672/v", "amqp://u:***@h:5672/v"),
        ("amqp://h/", "amqp://h/"),
        ("amqp://u@h/", "amqp://u@h/"),
        ("amqp://u:p%40ss@h/", "amqp://u:***@h/"),
        ("amqp://u:p@[::1]:5672/", "amqp://u:***@[::1]:5672/"),
        ("http://h/path?key=s3cret", "http://h/path?***"),
        ("amqp://u:p@a,amqp://u:p@b/x", "amqp://u:***@a,amqp://u:***@b/x"),
        ("amqp://u:p,q@a , amqps://u:p@b", "amqp://u:***@a,amqps://u:***@b"),
        ("amqp://u:p#q@a", "amqp://***"),
        ("amqp://u:p/q@a", "amqp://***"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        *(f"amqp://u:p{sign}s3cret@h/" for sign in "/#?@ \t\n\\"),
        "amqp://u:12/34@h/",
        "amqp://u:s3cret/x",
        "amqp://h:x/",
        "amqp://h:0/",
        "amqp://h:65536/",
        "amqp://h:/",
        "amqp:///v",
        "amqp://",
        "amqp:h",
        "h:5672",
        "",
        "http://h",
        "AMQP://h",
        "amqp://a..b/",
        "amqp://-a/",
        f"amqp://{'a' * 64}/",
        f"amqp://{'a.' * 127}a/",
        "amqp://a b/",
        "amqp://büro/",
        "amqp://[::1/",
        "amqp://[::g]/",
        "amqp://h/v#x",
        "amqp://u:p@a,v:q@b/",
    ],
)
def test_what_leaves_room_for_doubt_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no|has a port") as problem:
        read(url)
    assert "s3cret" not in str(problem.value)
    assert "s3cret" not in without_password(url)


@given(AWKWARD, st.sampled_from(["", "@h", "@h:5672/v", "/x@h", "?q@h", ":1/"]))
def test_whatever_stands_where_a_password_belongs_is_never_shown(word: str, rest: str) -> None:
    password = f"Xs3cret{word}s3cretX"
    url = f"amqp://user:{password}{rest}"
    assert "s3cret" not in without_password(url)
    assert any("s3cret" in secret for secret in secrets_in(url))


@given(AWKWARD, st.sampled_from(["h", "rabbit_1.example.com", "127.0.0.1", "[::1]"]), st.integers(1, 65535), AWKWARD)
def test_what_is_accepted_means_the_same_to_everybody_who_reads_it(word: str, host: str, port: int, vhost: str) -> None:
    """What connects, the client libraries, reads the same text with other parsers."""
    url = f"amqp://u:{quote(word, safe='')}@{host}:{port}/{quote(vhost, safe='')}"
    ours = read_url(url, ("amqp",))
    others, third = urlsplit(url), URL(url)
    assert unquote(ours.password or "") == unquote(others.password or "") == third.password == word
    assert ours.host == others.hostname == third.host
    assert ours.port == others.port == third.port
    assert read_vhost(ours) == vhost == unquote(others.path[1:])


@given(st.text(alphabet="aZ9/#?@:,.%[]-_ ü", max_size=30))
def test_a_text_is_refused_or_can_be_read_by_everybody(text: str) -> None:
    try:
        ours = read_url(f"amqp://{text}", ("amqp",))
    except ValueError:
        return
    assert urlsplit(f"amqp://{text}").port == URL(f"amqp://{text}").explicit_port == ours.port
    assert URL(f"amqp://{text}").host == ours.host.lower()


def test_a_comma_separates_urls_only_where_another_one_begins() -> None:
    assert split_urls(" amqp://u:a,b@h/ , amqps://x/ ") == ["amqp://u:a,b@h/", "amqps://x/"]
