import copy
import os
import re
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.errors import FileUnusable
from bridge.security import secret as module
from bridge.security.secret import MAX_SECRET_BYTES, NotThere, Secret, hide, make_public, read_content, scrub


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_known", module._Known())  # noqa: SLF001 - what other tests revealed


def test_no_form_of_printing_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("geheim")
    for secret in (Secret("geheim"), Secret(file=file), copy.copy(Secret("geheim"))):
        assert secret.reveal() == "geheim"
        assert "geheim" not in f"{secret} {secret!r} {[secret]} {secret!s:>50}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b'"pl4nted-s3cret"\n', "is in quotes"),
        (b"'pl4nted-s3cret'", "is in quotes"),
        (b"# of hq\npl4nted-s3cret\n", "has a comment"),
        (b"#of hq\npl4nted-s3cret\n", "has a comment"),
        (b"pl4nted-s3cret # of hq\n", "has a comment"),
        (b"# pl4nted-s3cret\n", "has a comment"),
        (b"pl4nted-s3cret\nsecond\n", "has several lines"),
        (b"pl4nted-s3cret\r\rsecond\n", "has several lines"),
        (b"pl4nted\0s3cret", "has control characters"),
        (b"x" * (MAX_SECRET_BYTES + 1), "has more than"),
    ],
)
def test_a_file_without_a_secret_is_named_and_not_shown(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "pbx.secret"
    file.write_bytes(content)
    with pytest.raises(FileUnusable, match=rf"{re.escape(str(file))} .*{words}") as problem:
        Secret(file=file).reveal()
    assert "pl4nted" not in str(problem.value)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpl4nted-s3cret",
        b"pl4nted-s3cret\r\n",
        b"  pl4nted-s3cret \t\n\n",
        b"\xef\xbb\xbf pl4nted-s3cret\r\n\r\n",
        "\u00a0pl4nted-s3cret\u00a0".encode(),
    ],
)
def test_marks_line_ends_and_blanks_around_it_are_no_part_of_a_secret(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pbx.secret"
    file.write_bytes(content)
    assert Secret(file=file).reveal() == "pl4nted-s3cret"


@pytest.mark.parametrize("odd", ["#begins-so", 'a"b', "it's", "a#b", 'ends"', "two words", "größe", "a=b"])
def test_signs_within_a_secret_are_a_part_of_it(tmp_path: Path, odd: str) -> None:
    file = tmp_path / "pbx.secret"
    file.write_text(odd + "\n", "utf-8")
    assert read_content(file) == odd


def test_a_pipe_or_a_folder_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(NotThere):
            read_content(place)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"amq", b"a\nb", b"\xff"])
def test_while_a_file_is_of_no_use_the_former_content_is_used(tmp_path: Path, content: bytes | None) -> None:
    """Whoever replaces it may be in the middle of that."""

    def check(text: str) -> None:
        if len(text) < 4:
            raise ValueError("is too short")

    file = tmp_path / "pbx.secret"
    file.write_text("first")
    secret = Secret(file=file, check=check)
    assert secret.reveal() == "first"
    assert not secret.trouble
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert secret.reveal() == "first"
    assert str(file) in secret.trouble
    file.write_text("second")
    assert secret.reveal() == "second"
    assert not secret.trouble


def test_what_was_revealed_is_wiped_off_whatever_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "broker.secret"
    file.write_text("amqp://u:fi%2Frst-1@a/,amqp://u:sec,ond@b/\n")
    secret = Secret(file=file)
    secret.reveal()
    file.write_text("r0tated")
    secret.reveal()
    assert scrub("fi/rst-1 fi%2Frst-1 sec,ond r0tated remain") == "*** *** *** *** remain"
    assert scrub("got 'r0tated' or xr0tatedx") == "got '***' or x***x"


def test_while_a_configuration_is_read_in_a_thread_nothing_comes_out_that_is_hidden() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    is_over = threading.Event()
    hide(f"pa$$word-{number}" for number in range(300))

    def keep_reading() -> None:
        while not is_over.is_set():
            make_public(["a name", "another name"])

    reading = threading.Thread(target=keep_reading)
    reading.start()
    try:
        shown = {scrub(f"refused: pa$$word-{number % 300}") for number in range(600)}
    finally:
        is_over.set()
        reading.join()
        sys.setswitchinterval(interval)
    assert shown == {"refused: ***"}


def test_of_two_secrets_the_longer_one_leaves_nothing_behind() -> None:
    hide(["abc-1", "abc-1-and-more-2"])
    assert scrub("abc-1-and-more-2") == "***"


def test_forms_that_a_secret_takes_in_other_texts_are_wiped_off_too() -> None:
    password = "q\"x\\y'ü-1"
    hide([password])
    assert "ü-1" not in scrub(repr(password) + repr([password]))
    assert "x" not in scrub('{"p": "q\\"x\\\\y\'\\u00fc-1"}').replace("***", "")


def test_a_password_that_is_a_word_is_no_hole_in_innocent_sentences() -> None:
    """What is missing there would tell what the password is."""
    hide(["account", "2026", "account-bridge", "event"])
    sentence = "account-bridge: 3 events of account 2026; run account-bridge check for the first event"
    assert scrub(sentence) == sentence
    assert scrub("invalid literal for int() with base 10: 'account'") == "invalid literal for int() with base 10: '***'"
    assert scrub("amqp://account:account@host/ password=account") == "amqp://account:***@host/ password=***"


def test_a_password_that_is_somebodys_name_is_hidden_as_a_password_only() -> None:
    hide(["Cr4zy-Name"])
    make_public(["amqp://Cr4zy-Name:***@host/"])
    assert scrub("logged in as Cr4zy-Name (app 'Cr4zy-Name')") == "logged in as Cr4zy-Name (app 'Cr4zy-Name')"
    assert scrub('amqp://Cr4zy-Name:Cr4zy-Name@host/ "password": "Cr4zy-Name"') == (
        'amqp://Cr4zy-Name:***@host/ "password": ***'
    )
    make_public([])
    assert scrub("Cr4zy-Name") == "***"


@pytest.mark.parametrize(
    "text",
    [
        "amqp://u:pl4nted/s3cret@h/",
        "amqp://u:pl4nted#s3cret@h/",
        "amqp://u:pl4nted@s3cret@h/",
        "wss://u:pl4nted?s3cret@h/",
        "password=s3cret",
        "PBX_PASSWORD='s3cret of two words'",
        'token="s3cret"',
        "{'password': 's3cret'}",
        '{"token":"s3cret"}',
        "http://127.0.0.1:8080/?token=s3cret&x=y",
    ],
)
def test_values_are_hidden_where_values_stand_whether_they_were_revealed_or_not(text: str) -> None:
    assert "s3cret" not in scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "refused user and password. Set the right ones in rabbitmq.url",
        "pbx[0].password_file: is missing, and so is password (BRIDGE_PBX_PASSWORD_FILE or BRIDGE_PBX_PASSWORD)",
        "the page is at http://127.0.0.1:8080/",
        "token is missing: make one by openssl rand -hex 32",
    ],
)
def test_sentences_about_secrets_stay_readable(text: str) -> None:
    assert scrub(text) == text


@given(st.text(alphabet="aB3-_.!/é", min_size=3, max_size=20), st.text(alphabet=" aB3:=,", max_size=10))
def test_what_is_no_word_is_in_nothing_that_was_scrubbed(password: str, around: str) -> None:
    assume(not module._is_word(password))  # noqa: SLF001 - the rule that it is about
    hide([password])
    assert password not in scrub(f"{around}{password}{around}")


def test_text_of_strangers_forges_no_line_and_paints_no_terminal() -> None:
    assert scrub("a\x1b[31m\rb\n") == "a\ufffd[31m\ufffdb\n"


def test_a_file_that_this_user_may_not_read_says_who_that_is(tmp_path: Path) -> None:
    """In a container the user has a number that nobody on the host thinks of."""
    file = tmp_path / "password"
    file.write_text("nothing of worth")
    file.chmod(0)
    before = os.geteuid()
    user = before or 10001
    os.seteuid(user)
    try:
        with pytest.raises(NotThere, match=f"cannot be read by user {user}: Permission denied"):
            read_content(file)
    finally:
        os.seteuid(before)
