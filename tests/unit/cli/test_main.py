import re
from importlib import import_module
from pkgutil import iter_modules

import click

from bridge import cli
from bridge.cli.main import commands
from tests.support.commands import commands_in


def test_of_every_password_on_a_command_line_the_help_says_who_sees_it_and_what_is_better() -> None:
    options = [
        (name, option)
        for name, command in commands_in(commands).items()
        for option in command.params
        if isinstance(option, click.Option) and set(option.opts) & {"--password", "--amqp-url", "--token", "--secret"}
    ]
    assert {name for name, _ in options} == {"demo", "simulate", "tail"}
    for name, option in options:
        assert "list of processes" in str(option.help), name
        assert re.search(r"--password-file|BRIDGE_\w+_FILE", str(option.help)), name


def test_every_command_of_every_module_can_be_called() -> None:
    """What a module offers is loaded by name, from a table that has to know it."""
    modules = (import_module(f"bridge.cli.{found.name}") for found in iter_modules(cli.__path__))
    offered = [command.name for module in modules for command in getattr(module, "COMMANDS", ())]
    assert sorted(filter(None, offered)) == sorted(commands_in(commands))
