"""Whatever stands behind an option or in the place of an argument: a result, or a sentence and an exit code."""

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from bridge.cli.main import commands, main
from bridge.errors import BridgeError
from tests.support.commands import commands_in

AWKWARD = [
    "",
    "-1",
    "0",
    "9" * 40,
    "1e308",
    "nan",
    "inf",
    "ä" * 130,
    "a" * 5000,
    "a\nb",
    "\x1b[31m",
    "\udcff",
    "..",
    "/",
    "/dev/null",
    "/proc/self/mem",
    "http://u:s3cret#1@h",
    "amqp://u:s3cret/1@h:x/",
    "amqp://u:s3cret@h:99999/",
    "ws://u:s3cret?1@h",
    "0001-01-01",
    "9999-12-31T23:59:59-12:00",
    "[",
]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that lead to it."""
    for name, command in commands_in(group).items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*path, name), command


def lines(words: tuple[str, ...], command: click.Command, value: str) -> Iterator[list[str]]:
    """Yield command lines with *value* at each place in turn, where the other places have something usual."""
    usual = {"queue": "q", "since": "2026-11-23T20:00", "reason": "r", "position": "1", "guid": "g", "who": "w"}
    usual |= {"source": "hq", "name": "berlin", "file": "/none/file", "target": "sqlite:///new.db"}
    arguments = [each for each in command.params if isinstance(each, click.Argument) and each.required]
    needed = [each for each in command.params if isinstance(each, click.Option) and each.required]
    options = [each for each in command.params if isinstance(each, click.Option) and not each.is_flag]
    for place in (*arguments, *options):
        told = [*words, *(["--yes"] if any(each.name == "yes" for each in command.params) else [])]
        wanted = dict.fromkeys([*needed, *([place] if isinstance(place, click.Option) else [])])
        told += [f"{each.opts[0]}={value if each is place else usual[each.name or '']}" for each in wanted]
        told.append("--")
        told += [value if each is place else usual[each.name or ""] for each in arguments]
        yield told


LEAVES = dict(leaves(commands))


def played(work: Coroutine[Any, Any, Any]) -> Any:
    """Play *work* for a moment, which is enough to trip over its values."""

    async def briefly() -> Any:
        async with asyncio.timeout(0.02):
            return await work

    try:
        return asyncio.run(briefly())
    except TimeoutError:
        raise BridgeError("it would have gone on") from None


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_no_value_of_any_option_ends_in_a_traceback(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("URL", "ws://127.0.0.1:1"), ("APP", "app"), ("PASSWORD", "pl4nted-s3cret")):
        monkeypatch.setenv(f"BRIDGE_PBX_{name}", value)
    monkeypatch.setenv("BRIDGE_RABBITMQ_URL", "amqp://u:pl4nted-s3cret@127.0.0.1:1/")
    monkeypatch.setenv("BRIDGE_STATUS_PORT", "0")
    for module in [each for name, each in sys.modules.items() if name.startswith("bridge.cli.")]:
        if hasattr(module, "run_now"):
            monkeypatch.setattr(module, "run_now", played)
    for value in AWKWARD:
        for line in lines(words, LEAVES[words], value):
            monkeypatch.setattr(sys, "argv", ["account-bridge", *line])
            try:
                main()
                code: Any = 0
            except SystemExit as ended:
                code = ended.code
            told = capsys.readouterr()
            assert "Traceback" not in told.err, (line, told.err)
            assert "s3cret" not in told.out + told.err, line
            assert code in {0, 1, 2}, (line, code)
            (tmp_path / "bridge.db").unlink(missing_ok=True)
