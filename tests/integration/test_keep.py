"""Commands on the store of a stopped bridge, as an operator types them."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.store.sqlite.reader import StoreReader
from bridge.store.sqlite.store import SqliteStore
from tests.support.process import run
from tests.support.rows import HQ, batch, row

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store in which anna is gone and bob is there; anna's two events are not sent."""
    rows = [row("anna", 1), row("bob", 2), row("anna", 3, is_deleted=True)]
    with SqliteStore(tmp_path / "bridge.db") as store:
        ingest(store, batch(*rows), rules=Rules(key=b"k"), now=NOW)
    return tmp_path / "bridge.db"


@pytest.fixture
def environment(path: Path) -> dict[str, str]:
    return {
        "BRIDGE_STORE_URL": f"sqlite:///{path}",
        "BRIDGE_PBX_NAME": "hq",
        "BRIDGE_PBX_URL": "ws://127.0.0.1:1",
        "BRIDGE_PBX_APP": "app",
        "BRIDGE_PBX_PASSWORD": "pl4nted-s3cret",
    }


def done(environment: dict[str, str], *arguments: str) -> Any:
    code, command = run(*arguments, "--json", environment=environment)
    assert code == 0, command.printed
    return json.loads("\n".join(command.out))


def refused(environment: dict[str, str], *arguments: str) -> str:
    code, command = run(*arguments, environment=environment)
    assert code == 1, command.printed
    assert not command.out
    return command.err[-1]


def test_a_pause_is_kept_in_the_store_of_a_stopped_bridge(path: Path, environment: dict[str, str]) -> None:
    assert "hq is paused" in done(environment, "pause", "hq", "--reason", "why")["message"]
    with StoreReader(path) as store:
        assert store.paused()[HQ].reason == "why"
    assert "hq is read again" in done(environment, "resume", "hq")["message"]
    assert "hq was not paused" in done(environment, "resume", "hq")["message"]
    assert "Did you mean 'hq'?" in refused(environment, "pause", "hqq")


def test_a_backup_is_told_and_put_back(path: Path, environment: dict[str, str]) -> None:
    copy = str(path.with_name("copy.db"))
    assert done(environment, "backup", copy)["bytes"] > 0
    assert "is there already" in refused(environment, "backup", copy)
    kept = done(environment, "restore", "--yes", copy)["kept"]
    assert Path(kept).exists()
    code, command = run("restore", copy, environment=environment)
    assert code != 0, "nobody said yes"
    assert "Put this copy in the place of the store?" in command.printed


def test_forgetting_refuses_what_is_not_sent_unless_told(path: Path, environment: dict[str, str]) -> None:
    words = refused(environment, "forget", "anna", "--yes")
    assert "2 events of the account are not sent yet" in words
    assert "Run the bridge until that is done, or add --discard-unsent" in words
    assert done(environment, "forget", "ANNA", "--yes", "--discard-unsent")["events"] == 2
    with StoreReader(path) as store:
        assert len(store.unsent()) == 1
    code, command = run("trace", "anna", environment=environment)
    assert code == 0
    assert "its account was forgotten" in command.printed


def test_an_account_that_is_there_keeps_its_entry(environment: dict[str, str]) -> None:
    code, command = run("forget", "bob", "--yes", "--discard-unsent", environment=environment)
    assert code == 0
    assert "hq still has the account" in command.printed


def test_a_guid_that_is_not_there_suggests_one(environment: dict[str, str]) -> None:
    assert "no account has the guid '403'; did you mean" in refused(environment, "forget", "403", "--yes")
    assert "account-bridge accounts lists them" in refused(environment, "forget", "xyzzy", "--yes")


@pytest.mark.parametrize("decision", [["retry", "7"], ["discard", "7", "--yes", "--reason", "why"]])
def test_the_settings_may_be_named_before_what_is_decided_and_behind_it(path: Path, decision: list[str]) -> None:
    file, other = path.with_name("bridge.toml"), path.with_name("other.toml")
    file.write_text(f'[store]\nurl = "sqlite:///{path}"\n')
    other.write_text('[store]\nurl = "sqlite:///nowhere.db"\n')
    by_variable = {"BRIDGE_CONFIG": str(other)}
    for arguments in (["--config", str(file), *decision], [*decision, "--config", str(file)]):
        assert "no event is parked at position 7" in refused(by_variable, "parked", *arguments)
