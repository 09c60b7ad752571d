import re

import click

from bridge.cli.main import commands


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
