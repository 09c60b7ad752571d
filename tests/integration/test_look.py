"""``trace`` and ``accounts`` on a store, as an operator types them."""

import time
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.store.sqlite.store import SqliteStore
from tests.support.process import PATIENCE_SECONDS, Command, run
from tests.support.rows import batch, row

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
AWKWARD = {
    "markup": "[bold red]Erika[/] <b>&amp;",
    "rtl": "\u202eevil \u05e9\u05dc\u05d5\u05dd",
    "emoji": "👩\u200d👩\u200d👧 Ω",
    "control": "\x1b[2J\x1b]0;pwned\x07 \x9b31m",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A stopped store with 10 000 accounts, awkward ones and one of 64 KiB among them."""
    path = tmp_path_factory.mktemp("store") / "bridge.db"
    rows = [row(f"user{number}", number, e164=str(10_000 + number)) for number in range(10_000)]
    rows += [row(guid, 20_000 + number, dn=name) for number, (guid, name) in enumerate(AWKWARD.items())]
    rows.append(row("huge", 30_000, dn="huge", e164="77", x="y" * 65_536, email=["a@b.example"] * 2000))
    with SqliteStore(path) as store:
        ingest(store, batch(*rows), rules=Rules(key=b"k"), now=NOW)
    return {"BRIDGE_STORE_URL": f"sqlite:///{path}"}


def published(name: str) -> str:
    """Return *name* without the control characters, which do not leave."""
    return "".join(character for character in name if unicodedata.category(character) != "Cc")


def is_harmless(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


def test_the_change_of_an_extension_is_explained(environment: dict[str, str]) -> None:
    code, command = run("trace", "10403", environment=environment)
    assert code == 0, command.printed
    assert "User403" in command.out[0] or "user403" in command.out[0]
    assert "NOT SENT yet" in command.printed
    assert "no bridge runs on this store, so nothing is sent: start account-bridge run" in command.printed


def test_who_does_not_say_yes_gets_nothing_done(environment: dict[str, str]) -> None:
    code, command = run("forget", "user403", environment=environment)
    assert code == 130
    assert command.err[-1] == "account-bridge: nothing was done"


def test_ctrl_c_in_the_middle_does_not_say_that_nothing_was_done(environment: dict[str, str]) -> None:
    """Half of a replay, say, may have been sent."""
    with Command("status", "--watch", environment=environment) as command:
        until = time.monotonic() + PATIENCE_SECONDS
        while "no bridge answers" not in command.printed:
            assert time.monotonic() < until
            time.sleep(0.02)
        command.interrupt()
        assert command.wait() == 130
    assert "nothing was done" not in command.printed
    assert "Traceback" not in command.printed


def test_the_log_is_not_waited_for_where_there_is_none(environment: dict[str, str]) -> None:
    broker = {"BRIDGE_RABBITMQ_URL": "amqp://127.0.0.1:1/", "BRIDGE_RABBITMQ_LOG_STREAM": "false"}
    code, command = run("tail", "--from", "first", environment={**environment, **broker})
    assert (code, "rabbitmq.log_stream is false" in command.printed) == (2, True)


def test_every_command_is_listed_with_its_whole_sentence() -> None:
    code, command = run("--help")
    assert code == 0
    assert "..." not in command.printed.partition("Commands:")[2]
    assert "Tell what became of an account's changes, and why one was not sent." in " ".join(command.printed.split())


def test_a_trace_as_json_has_every_event(environment: dict[str, str]) -> None:
    code, command = run("trace", "user403", "--json", environment=environment)
    assert code == 0
    (found,) = orjson.loads("\n".join(command.out))["accounts"]
    assert found["events"][0]["routing_key"] == "hq.account.initial"
    code, command = run("trace", found["events"][0]["event"], "--json", environment=environment)
    assert orjson.loads("\n".join(command.out))["accounts"] == [found]


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize("guid", list(AWKWARD))
def test_no_name_reaches_the_terminal_raw(environment: dict[str, str], guid: str, options: list[str]) -> None:
    for command in (["trace", guid], ["accounts", "--find", guid]):
        code, printed = run(*command, *options, environment=environment)
        assert code == 0, printed.printed
        assert is_harmless(printed.printed)
        if options:
            told = orjson.loads("\n".join(printed.out))
            name = told["accounts"][0]["name"] if command[0] == "trace" else told["account"]["display_name"]
            assert name == published(AWKWARD[guid])
    if guid == "markup" and not options:
        assert AWKWARD[guid] in printed.printed


def test_nobody_is_found_with_suggestions_and_an_exit_code(environment: dict[str, str]) -> None:
    code, command = run("trace", "user10403x", environment=environment)
    assert code == 1
    assert "No account answers to 'user10403x'" in command.out[0]
    assert "Did you mean 'user" in command.printed
    assert "hq has 10005 accounts; no full walk of it was proven yet." in command.printed
    code, command = run("accounts", "--find", "nobody-at-all", environment=environment)
    assert code == 0
    assert "No account has 'nobody-at-all'" in command.printed
    code, command = run("accounts", "--source", "no", environment=environment)
    assert code == 1
    assert "no PBX in this store is called 'no'; there is hq" in command.printed


def test_accounts_lists_them_all(environment: dict[str, str]) -> None:
    code, command = run("accounts", environment=environment)
    assert code == 0
    assert len(command.out) == 10_005
    code, command = run("accounts", "--deleted", environment=environment)
    assert command.out == ["No account is deleted."]


def test_where_no_store_is_it_is_said(tmp_path: Path) -> None:
    for command in (["trace", "403"], ["accounts"]):
        code, printed = run(*command, environment={"BRIDGE_STORE_URL": f"sqlite:///{tmp_path / 'none.db'}"})
        assert code == 1
        assert "there is no store" in printed.err[-1]
    assert not list(tmp_path.iterdir())
