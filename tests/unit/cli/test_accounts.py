"""What commands say while everything is told anew and a PBX has not been read to its end since."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from bridge.cli import replay
from bridge.cli.main import commands
from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.model import OutboxRow
from bridge.store.sqlite.backup import back_up
from bridge.store.sqlite.store import SqliteStore
from tests.support.boards import NOW
from tests.support.outbox import send_all
from tests.support.rows import HQ, batch, row

UNTOLD = "hq has not been read to its end in this lineage yet."


class Taking:
    """Takes whatever is sent."""

    def __init__(self) -> None:
        self.confirmed = 0

    async def send(self, rows: Iterable[OutboxRow]) -> None:
        self.confirmed += len(list(rows))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copy of a store in which an account was sent; nothing is read into it yet."""
    with SqliteStore(tmp_path / "first.db") as store:
        ingest(store, batch(row("anna", 1, e164="1001")), rules=Rules(key=store.key), now=NOW)
        send_all(store.exchange, NOW)
    back_up(tmp_path / "first.db", tmp_path / "bridge.db", NOW)
    with SqliteStore(tmp_path / "bridge.db") as store:
        assert store.restored

    @asynccontextmanager
    async def sender(*_: object) -> AsyncIterator[Taking]:
        yield Taking()

    monkeypatch.setattr(replay, "_sender", sender)
    monkeypatch.setenv("BRIDGE_STORE_URL", f"sqlite:///{tmp_path / 'bridge.db'}")
    monkeypatch.setenv("BRIDGE_RABBITMQ_URL", "amqp://127.0.0.1:1/")
    return tmp_path / "bridge.db"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(commands, arguments)


def read_again(path: Path) -> None:
    """Let somebody else be read, and not to the end."""
    with SqliteStore(path) as store:
        ingest(store, batch(row("bernd", 2, e164="1002")), rules=Rules(key=store.key), now=NOW)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("who", ["1001", "anna"])
def test_a_trace_finds_what_the_events_of_former_lineages_tell(who: str) -> None:
    told = run("trace", who)
    assert told.exit_code == 0, told.output
    assert "anna was an account of hq in a former lineage" in told.output
    assert UNTOLD in told.output
    (event,) = orjson.loads(run("trace", who, "--json").output)["accounts"][0]["events"]
    assert run("trace", event["event"]).output == told.output


@pytest.mark.usefixtures("path")
def test_nobody_is_found_only_as_far_as_is_known() -> None:
    told = run("trace", "nobody")
    assert told.exit_code == 1
    assert "none did in the events that are kept" in told.output
    assert UNTOLD in told.output


def test_accounts_say_that_not_all_are_known(path: Path) -> None:
    told = run("accounts")
    assert told.output.startswith("No account is known. Everything is told anew since ")
    assert UNTOLD in told.output
    assert UNTOLD in run("accounts", "--find", "anna").output
    read_again(path)
    told = run("accounts", "--source", HQ)
    assert ("bernd" in told.output, UNTOLD in told.output) == (True, True)
    assert "bernd" in run("accounts", "--json").output
    assert UNTOLD not in run("accounts", "--json").output


def test_a_snapshot_says_that_it_is_not_whole(path: Path) -> None:
    told = run("snapshot", "--queue", "crm")
    assert (told.exit_code, "nothing was sent" in told.output, UNTOLD in told.output) == (1, True, True)
    read_again(path)
    told = run("snapshot", "--queue", "crm")
    assert told.exit_code == 1
    assert "1 accounts were sent to crm, and confirmed. Everything is told anew since" in told.output
    assert UNTOLD in orjson.loads(run("snapshot", "--queue", "crm", "--json").output)["unfinished"]


def test_at_the_first_reading_what_was_sent_is_a_snapshot(tmp_path: Path, path: Path) -> None:
    assert path.exists()
    environment = {"BRIDGE_STORE_URL": f"sqlite:///{tmp_path / 'first.db'}"}
    told = CliRunner(env=environment).invoke(commands, ["snapshot", "--queue", "crm"])
    assert (told.exit_code, told.output) == (0, "1 accounts were sent to crm, and confirmed\n")


@pytest.mark.usefixtures("path")
def test_who_is_not_known_yet_is_not_suggested_instead() -> None:
    told = run("forget", "nobody", "--yes")
    assert "did you mean" not in str(told.exception)
    assert UNTOLD in str(told.exception)


def test_who_is_known_from_a_former_lineage_only_is_forgotten(path: Path) -> None:
    told = run("forget", "anna", "--yes")
    assert told.exit_code == 0, told.output
    assert b"1001" not in path.read_bytes()
