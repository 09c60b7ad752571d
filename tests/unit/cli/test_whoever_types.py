"""What people's terminals, keyboards and habits bring along."""

import json
import os
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from rich.text import Text

from bridge.cli.control import fitting
from bridge.cli.main import commands
from bridge.delivery.ingest import ingest
from bridge.events.normalize import Rules
from bridge.simulator.modes import Modes
from bridge.simulator.scenario import names
from bridge.store.sqlite.store import SqliteStore
from tests.support.boards import NOW
from tests.support.commands import commands_in
from tests.support.outbox import send_all
from tests.support.rows import batch, row

NAME = "Jürgen Müller → Ω"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with SqliteStore(tmp_path / "bridge.db") as store:
        ingest(store, batch(row("anna", 1, cn=NAME, dn=NAME)), rules=Rules(key=store.key), now=NOW)
        send_all(store.exchange, NOW)
    monkeypatch.setenv("BRIDGE_STORE_URL", f"sqlite:///{tmp_path / 'bridge.db'}")
    return tmp_path


def run(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(commands, arguments, input=typed)


def options(command: click.Command, name: str = "account-bridge") -> Iterator[tuple[str, click.Option]]:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield f"{name} {parameter.opts[0]}", parameter
    for under, each in (commands_in(command) if isinstance(command, click.Group) else {}).items():
        yield from options(each, f"{name} {under}")


def test_every_option_says_what_it_is_for() -> None:
    assert [name for name, option in options(commands) if not option.help] == []


def test_the_settings_may_be_named_in_front_of_a_command_behind_it_and_behind_its_own_commands(path: Path) -> None:
    file = path / "bridge.toml"
    file.write_text('[rabbitmq]\nexchange = "mine"\n')
    for words in (
        ["--config", str(file), "config", "show"],
        ["config", "--config", str(file), "show"],
        ["config", "show", "--config", str(file)],
    ):
        assert 'exchange = "mine"' in run(*words).output, words
    other = path / "other.toml"
    other.write_text('[rabbitmq]\nexchange = "other"\n')
    assert 'exchange = "other"' in run("--config", str(file), "config", "show", "--config", str(other)).output
    assert "BRIDGE_CONFIG" not in os.environ
    for words in (["parked", "--config", str(file)], ["--config", str(file), "parked"]):
        assert run(*words).output == "No event is parked.\n"


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_no_name_is_too_foreign_for_a_terminal(encoding: str) -> None:
    """What it cannot show comes as a question mark; as JSON everything stays what it is."""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = [sys.executable, "-m", "bridge", "accounts"]
    told = subprocess.run(words, capture_output=True, env=environment, check=True).stdout.decode(encoding)
    assert NAME.encode(encoding, "replace").decode(encoding) in told
    text = subprocess.run([*words, "--json"], capture_output=True, env=environment, check=True).stdout.decode(encoding)
    assert json.loads(text)["account"]["common_name"] == NAME


@pytest.mark.usefixtures("path")
def test_a_name_is_found_however_its_letters_are_put_together() -> None:
    """A Mac hands over an ü as a u and two dots."""
    typed = unicodedata.normalize("NFD", "Jürgen")
    assert typed != "Jürgen"
    assert NAME in run("accounts", "--find", typed).output
    assert NAME in run("trace", unicodedata.normalize("NFD", NAME)).output


@pytest.mark.usefixtures("path")
def test_nobody_is_asked_about_an_account_that_is_not_there() -> None:
    told = run("forget", "nobody", typed="y\n")
    assert "cannot be undone" not in told.output
    assert told.exit_code == 1
    asked = run("forget", "anna", typed="n\n")
    assert "cannot be undone" in asked.output
    assert asked.exit_code == 1


def test_modes_and_scenarios_are_listed_by_a_command() -> None:
    told = run("simulate", "--list").output
    for words in Modes.offered().values():
        assert " ".join(words) in told
    for name in names():
        assert name in told


def test_what_is_watched_keeps_its_top_and_no_word_is_cut_in_two() -> None:
    console = Console(width=80, height=24, force_terminal=True)
    sentences = [f"pbx{number:03}: {' '.join(['answers', 'regularly', 'nevertheless'] * 4)}." for number in range(50)]
    shown = fitting(Text("\n".join(["Everything sent.", *sentences])), console).plain.split("\n")
    assert shown[0] == "Everything sent."
    assert len(shown) == 23
    assert all(len(line) <= 80 for line in shown)
    words = {word for line in shown[1:-1] for word in line.split()}
    assert words <= {"answers", "regularly", "nevertheless", "nevertheless.", *(f"pbx{n:03}:" for n in range(50))}
    assert "more: account-bridge status" in shown[-1]


def test_what_fits_is_shown_whole() -> None:
    console = Console(width=80, height=24, force_terminal=True)
    assert fitting(Text("a\nb"), console).plain == "a\nb"


def test_a_run_in_the_background_of_a_shell_hears_an_interrupt_all_the_same() -> None:
    """A shell starts it with SIGINT ignored, and whatever a test starts would inherit that."""
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    program = "import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
