import re
import sys
from collections.abc import Sequence
from types import ModuleType

import click
import pytest

from bridge.__main__ import main
from bridge.cli.main import commands


class Pressed:
    """Ctrl-C at the moment when the command line is loaded."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> None:
        if name == "bridge.cli.main":
            raise KeyboardInterrupt


def test_ctrl_c_while_it_is_being_loaded_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bridge.cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Pressed, *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_of_every_password_on_a_command_line_the_help_says_who_sees_it_and_what_is_better() -> None:
    options = [
        (name, option)
        for name, command in commands.commands.items()
        for option in command.params
        if isinstance(option, click.Option) and set(option.opts) & {"--password", "--amqp-url", "--token", "--secret"}
    ]
    assert {name for name, _ in options} == {"demo", "simulate", "tail"}
    for name, option in options:
        assert "list of processes" in str(option.help), name
        assert re.search(r"--password-file|BRIDGE_\w+_FILE", str(option.help)), name
